"""Keep what ADD promised for each attachment, so that DEL, CHECK and GC need no search.

On disk::

    <stateDir>/                              0700
    └── <network>/                           0700
        ├── <containerID>@<ifname>           0600  JSON; an attachment, written before ADD acts
        ├── .<containerID>@<ifname>          one being written
        ├── gone                             0600  attachments removed lately, one per line
        ├── rehearsed                        0600  JSON; see rehearsed.py
        ├── collected                        0600  empty; its time is that of the last GC
        └── boot                             0600  JSON; see ipam/reclaim.py

Written under the network's lock (ipam/leases.py), by a temporary name and a rename, so that
readers see a whole record or none. Nothing is synced: a record describes links and addresses
that a reboot takes away, and reclaim.py sweeps what an earlier boot left, torn files included.
"""

import os
from collections.abc import Iterator, Mapping

from cni_faasm.attachment import files
from cni_faasm.attachment.files import io_error
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import INVALID_ENVIRONMENT, CniError

VERSION = 1

_LIMIT = 1 << 20  # a record is below 4 KiB; more than this is none
_GONE = "gone"
_COLLECTED = "collected"
_GONE_LIMIT = 32_768  # bytes, some 400 attachments

_boot_id = ""


def path(state_dir: str, network: str, container_id: str, ifname: str) -> str:
    """Return the path of a record."""
    return f"{state_dir}/{network}/{_name(container_id, ifname)}"


def _name(container_id: str, ifname: str) -> str:
    """Return the file name. The protocol layer has checked both; this is the second lock."""
    name = f"{container_id}@{ifname}"
    if (
        files.traverses(container_id)
        or files.traverses(ifname)
        or container_id.startswith(".")
        or "@" in container_id
    ):
        raise CniError(
            INVALID_ENVIRONMENT,
            f"{name!r} cannot name an attachment",
            "CNI_CONTAINERID begins with a letter or digit and has only letters, digits, "
            "'_', '.' and '-'; CNI_IFNAME has no '/'",
        )
    return name


def write(
    state_dir: str, network: str, container_id: str, ifname: str, fields: Mapping[str, object]
) -> None:
    """Write a record, replacing an older one.

    `version`, `bootID`, `network`, `containerID` and `ifname` are added to the fields.
    Raises: CniError 5.
    """
    name = _name(container_id, ifname)
    document = {
        **fields,
        "version": VERSION,
        "bootID": fields.get("bootID") or boot_id(),
        "network": network,
        "containerID": container_id,
        "ifname": ifname,
    }
    folder = files.open_folder(state_dir, network, create=True, mode=0o700)
    try:
        files.replace_at(folder, name, "." + name, jsonio.dumps(document), 0o600)
    except OSError as error:
        raise io_error(error, "cannot write the record", f"{state_dir}/{network}/{name}") from None
    finally:
        files.close(folder)


def read(state_dir: str, network: str, container_id: str, ifname: str) -> dict[str, object] | None:
    """Return a record; None when it is absent, torn, garbage or another attachment's.

    A later version's record is returned as it is: readers take the keys they know.
    Raises: CniError 5 when the host is out of descriptors or memory.
    """
    name = _name(container_id, ifname)
    document = read_document(state_dir, network, name)
    if document is None:
        return None
    version = document.get("version")
    if (
        not isinstance(version, int)
        or version < 1
        or document.get("containerID") != container_id
        or document.get("ifname") != ifname
        or not isinstance(document.get("bootID"), str)
    ):
        return None
    return document


def read_document(state_dir: str, network: str, name: str) -> dict[str, object] | None:
    """Return the JSON object in a file of the network's folder; None when there is none."""
    folder = files.open_folder(state_dir, network, create=False, mode=0o700)
    if folder < 0:
        return None
    try:
        document = jsonio.loads(files.read_at(folder, name, _LIMIT))
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in files.EXHAUSTED:
            raise io_error(error, "cannot read", f"{state_dir}/{network}/{name}") from None
        return None  # a symlink, a folder, bad sectors: no record that anybody can use
    except CniError:
        return None
    finally:
        files.close(folder)
    return document if isinstance(document, dict) else None


def write_document(state_dir: str, network: str, name: str, document: Mapping[str, object]) -> None:
    """Write a JSON object into the network's folder. Raises: CniError 5."""
    folder = files.open_folder(state_dir, network, create=True, mode=0o700)
    try:
        files.replace_at(folder, name, "." + name, jsonio.dumps(dict(document)), 0o600)
    except OSError as error:
        raise io_error(error, "cannot write", f"{state_dir}/{network}/{name}") from None
    finally:
        files.close(folder)


def exists(state_dir: str, network: str, container_id: str, ifname: str) -> bool:
    """Say whether there is a record, readable or not. Raises: CniError 5."""
    path = f"{state_dir}/{network}/{_name(container_id, ifname)}"
    try:
        os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise io_error(error, "cannot look at the record", path) from None
    return True


def remove(
    state_dir: str,
    network: str,
    container_id: str,
    ifname: str,
    doubts: list[str] | None = None,
) -> bool:
    """Remove a record (the last act of DEL); say whether there was one.

    The attachment is noted as gone, for `was_removed`. doubts: as files.open_folder.
    Raises: CniError 5.
    """
    name = _name(container_id, ifname)
    folder = files.open_folder(state_dir, network, create=False, mode=0o700, doubts=doubts)
    if folder < 0:
        return False
    try:
        files.unlink_at(folder, "." + name)  # left by an ADD that was killed while writing it
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            return False
        _note_gone(folder, name)
    except OSError as error:
        raise io_error(error, "cannot remove the record", f"{state_dir}/{network}/{name}") from None
    finally:
        files.close(folder)
    return True


def _note_gone(folder: int, name: str) -> None:
    """Append to the list of attachments removed lately; a hint, so failures are dropped."""
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(_GONE, flags, 0o600, dir_fd=folder)
        try:
            status = os.fstat(descriptor)
            if status.st_nlink != 1:
                return  # another name of a file that is none of ours
            line = name.encode() + b"\n"
            os.write(descriptor, line)
            size = status.st_size + len(line)
            if size > _GONE_LIMIT:
                kept = os.pread(descriptor, _GONE_LIMIT // 2, size - _GONE_LIMIT // 2)
                kept = kept.partition(b"\n")[2]
                files.replace_at(folder, _GONE, "." + _GONE, kept, 0o600)
        finally:
            files.close(descriptor)
    except OSError:
        return


def note_collected(state_dir: str, network: str) -> None:
    """Note that garbage was collected just now; for metrics alone, so failures are dropped."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        folder = files.open_folder(state_dir, network, create=False, mode=0o700)
        if folder < 0:
            return  # nothing was attached ever
        try:
            descriptor = os.open(_COLLECTED, flags, 0o600, dir_fd=folder)
            try:
                os.utime(descriptor)
            finally:
                files.close(descriptor)
        finally:
            files.close(folder)
    except (OSError, CniError):
        return


def last_collected(state_dir: str, network: str) -> float | None:
    """Return when a GC of the network was over last, in seconds since 1970."""
    try:
        return os.stat(f"{state_dir}/{network}/{_COLLECTED}", follow_symlinks=False).st_mtime
    except OSError:
        return None


def was_removed(state_dir: str, network: str, container_id: str, ifname: str) -> bool:
    """Say whether this attachment's record was removed lately, hence nothing of it is left.

    containerd's CRI calls DEL twice. The second time there is no record, and without this
    note every lease would have to be read to know that none is the attachment's.
    """
    name = _name(container_id, ifname)
    folder = files.open_folder(state_dir, network, create=False, mode=0o700)
    if folder < 0:
        return False
    try:
        lines = b"\n" + files.read_at(folder, _GONE, 2 * _GONE_LIMIT)
    except OSError:
        return False
    finally:
        files.close(folder)
    return b"\n" + name.encode() + b"\n" in lines


def list_network(state_dir: str, network: str) -> Iterator[tuple[str, str]]:
    """Yield (container id, ifname) of every record of a network, readable or not.

    Raises: CniError 5.
    """
    for name in _names(state_dir, network):
        container_id, at, ifname = name.partition("@")
        if at and container_id and not name.startswith(".") and not files.traverses(ifname):
            yield container_id, ifname


def sweep_temporary(state_dir: str, network: str) -> int:
    """Remove the half-written first records of ADDs that were killed; return how many.

    Call it under the network's lock, which a first record is written under. One beside a
    whole record stays: its ADD may be writing it anew just now; `remove` takes both.
    """
    names = set(_names(state_dir, network))
    half_written = [name for name in names if name.startswith(".") and name[1:] not in names]
    if not half_written:
        return 0
    folder = files.open_folder(state_dir, network, create=False, mode=0o700)
    if folder < 0:
        return 0
    try:
        return sum(files.unlink_at(folder, name) for name in half_written)
    finally:
        files.close(folder)


def _names(state_dir: str, network: str) -> list[str]:
    folder = files.open_folder(state_dir, network, create=False, mode=0o700)
    if folder < 0:
        return []
    try:
        return os.listdir(folder)
    except OSError as error:
        raise io_error(error, "cannot list", f"{state_dir}/{network}") from None
    finally:
        files.close(folder)


def networks(state_dir: str) -> list[str]:
    """Return the names of the networks that have a folder, sorted. Raises: CniError 5."""
    try:
        with os.scandir(state_dir) as entries:
            return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise io_error(error, "cannot list", state_dir) from None


def find_anywhere(state_dir: str, container_id: str, ifname: str) -> list[str]:
    """Return the networks that have a record of this attachment.

    For a DEL whose configuration no longer says which network it is about.
    """
    name = _name(container_id, ifname)
    found = []
    for network in networks(state_dir):
        try:
            os.stat(f"{state_dir}/{network}/{name}", follow_symlinks=False)
        except OSError:
            continue
        found.append(network)
    return found


def boot_id() -> str:
    """Return the kernel's id of this boot. Raises: CniError 5."""
    global _boot_id  # noqa: PLW0603 - it cannot change while we run
    if not _boot_id:
        source = "/proc/sys/kernel/random/boot_id"
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
            try:
                _boot_id = os.read(descriptor, 64).decode("ascii", "replace").strip()
            finally:
                files.close(descriptor)
        except OSError as error:
            raise io_error(error, "cannot read", source) from None
    return _boot_id
