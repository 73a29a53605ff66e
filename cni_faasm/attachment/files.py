"""Open, read and replace the small files that a root tool keeps, distrusting what it finds.

Used by the lease store and the attachment records. Everything below a folder is reached
through the folder's descriptor, with O_NOFOLLOW and O_NONBLOCK: a planted symlink is never
followed, a planted FIFO never waited for.
"""

import errno
import os

from cni_faasm.spec.errors import INVALID_CONFIG, IO_FAILURE, CniError

# What reading answers where no regular file stands: a symlink, a folder, a socket, a FIFO
# that somebody holds open, a device.
NOT_A_FILE = frozenset(
    (errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EAGAIN)
)

# What says nothing about the file asked for: any other would have failed as well.
EXHAUSTED = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EBADF))

_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
# Of a file of ours. To make room for a megabyte, and take it back, costs more than to read.
_USUAL_BYTES = 16 << 10
_OPEN_WRITE = os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_OPEN_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_REMEDIES = {
    errno.ENOSPC: "free space or inodes on that file system",
    errno.EDQUOT: "raise the quota or free space on that file system",
    errno.EROFS: "the file system is read-only: remount it, or choose dataDir and stateDir elsewhere",
    errno.EACCES: "run as root, and look for a security module (AppArmor, SELinux) that forbids it",
    errno.EPERM: "run as root, and look for an immutable attribute (lsattr) or a security module",
    errno.EIO: "look at the kernel log: the disk or the file system is damaged",
    errno.EUCLEAN: "look at the kernel log: the file system is damaged, check it with fsck",
    errno.EMFILE: "too many open files in this process: raise the runtime's LimitNOFILE",
    errno.ENFILE: "too many open files on this host: raise fs.file-max",
    errno.ENOMEM: "the host is out of memory",
    errno.ENAMETOOLONG: "the network name or the container id is too long for a file name",
    errno.ELOOP: "a symbolic link stands where a file of ours belongs: remove it",
    errno.ENOTDIR: "something stands where a folder belongs: remove it or move it away",
    errno.EISDIR: "a folder stands where a file belongs: remove it",
    errno.ENOLCK: "the file system has no locks: choose a local one for dataDir",
}


def io_error(error: OSError, doing: str, path: str) -> CniError:
    """Return the CNI error (code 5) for a failed call: what, where, why, and what to do."""
    number = error.errno or 0
    msg = f"{doing} {path}: {error.strerror or error}"
    return CniError(IO_FAILURE, msg, _REMEDIES.get(number, ""))


def traverses(name: str) -> bool:
    """Say whether a name could lead out of its folder, or is none at all."""
    return name in ("", ".", "..") or "/" in name or "\0" in name


class UntrustedFolderError(CniError):
    """A folder in which somebody else than root could have planted files."""


def open_folder(
    base: str, name: str, *, create: bool, mode: int, doubts: list[str] | None = None
) -> int:
    """Open base/name and return its descriptor, or -1 when it is absent and not to be made.

    mode is that of the folders made, `base` and `base/name`; ancestors of `base` get 0755.
    doubts: receives why the folder is not to be trusted, where that is no reason to stop.
    Raises: CniError 7 for a name that is no folder's name; CniError 5 for a symlink;
    UntrustedFolderError when the folder belongs to somebody else or can be written by others:
    whoever can plant files there can take addresses over.
    """
    path = base + "/" + name
    if traverses(name) or "\0" in base:
        raise CniError(INVALID_CONFIG, f"{name!r} in {base!r} cannot be a folder of a network")
    try:
        try:
            folder = os.open(path, _OPEN_FOLDER)
        except FileNotFoundError:
            if not create:
                return -1
            _make_folders(base, mode)
            _make_folders(path, mode)
            folder = os.open(path, _OPEN_FOLDER)
    except OSError as error:
        raise io_error(error, "cannot open the folder", path) from None
    try:
        _demand_ours(os.fstat(folder), path)
        above = os.stat(base)
        # In a sticky folder (/tmp) others may write, but not replace what is ours.
        if not above.st_mode & 0o1000:
            _demand_ours(above, base)
    except UntrustedFolderError as error:
        if doubts is None:
            close(folder)
            raise
        text = f"{error.msg}; {error.details}"
        if text not in doubts:
            doubts.append(text)
    except OSError as error:
        close(folder)
        raise io_error(error, "cannot examine the folder", path) from None
    return folder


def close(descriptor: int) -> None:
    """Release a descriptor that was only read or locked: whatever the answer, it is gone."""
    try:
        os.close(descriptor)
    except OSError:
        return


def _demand_ours(status: os.stat_result, path: str) -> None:
    if status.st_uid and status.st_uid != os.geteuid():
        why = f"it belongs to user {status.st_uid}"
    elif status.st_mode & (0o022 if status.st_gid else 0o002):
        why = f"others may write in it (mode {status.st_mode & 0o7777:04o})"
    else:
        return
    raise UntrustedFolderError(
        IO_FAILURE,
        f"the folder {path} is not to be trusted: {why}",
        f"give it to root and close it for others: chown root {path}; chmod go-w {path}",
    )


def _make_folders(path: str, mode: int) -> None:
    """Make a folder and its ancestors; those that exist are left as they are."""
    try:
        os.mkdir(path, mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        parent = path.rstrip("/").rpartition("/")[0]
        if not parent:
            raise
        _make_folders(parent, 0o755)
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            return


def read_at(folder: int, name: str, limit: int) -> bytes:
    """Return the first `limit` bytes of a file. Raises: OSError."""
    descriptor = os.open(name, _OPEN_READ, dir_fd=folder)
    try:
        data = os.read(descriptor, min(limit, _USUAL_BYTES))
        return data if len(data) < _USUAL_BYTES else data + os.read(descriptor, limit - len(data))
    finally:
        close(descriptor)


def create_at(folder: int, name: str, data: bytes, mode: int) -> None:
    """Create a file that must not exist, with its contents; on failure nothing stays.

    Raises: OSError; FileExistsError when something of that name stands there.
    """
    descriptor = os.open(name, _OPEN_NEW, mode, dir_fd=folder)
    try:
        try:
            done = os.write(descriptor, data)
            while done < len(data):  # a full disk takes a part, then answers ENOSPC
                done += os.write(descriptor, data[done:])
        finally:
            os.close(descriptor)
    except OSError:
        unlink_at(folder, name)
        raise


def replace_at(folder: int, name: str, temporary: str, data: bytes, mode: int) -> None:
    """Put new contents under a name in one step: readers see the old or the new, never half.

    No fsync: the callers' files mean nothing after a reboot. Raises: OSError.
    """
    try:
        create_at(folder, temporary, data, mode)
    except FileExistsError:  # left by a process that was killed here, or planted
        os.unlink(temporary, dir_fd=folder)
        create_at(folder, temporary, data, mode)
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        unlink_at(folder, temporary)
        raise


def overwrite_at(folder: int, name: str, data: bytes) -> bool:
    """Write over all of a short file at once, where one stands there that is no longer.

    For hints: who reads without a lock may see a part of either. A new file under an old name, as by
    replace_at, has ext4 begin to write to the disk: a tenth of an ADD.
    Returns: whether it was done; not where something else has that name. Raises: OSError.
    """
    try:
        descriptor = os.open(name, _OPEN_WRITE, dir_fd=folder)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
        is_file = status.st_mode & 0o170000 == 0o100000
        if not is_file or status.st_nlink != 1 or status.st_size > len(data):
            return False
        return os.write(descriptor, data) == len(data)
    finally:
        os.close(descriptor)


def demand_room(path: str) -> None:
    """Look whether files can be made in a folder, without making one.

    Raises: CniError 5 when it is absent, cannot be written, or its file system is full.
    """
    try:
        space = os.statvfs(path)
    except OSError as error:
        raise io_error(error, "cannot look at", path) from None
    number = 0
    if not os.access(path, os.W_OK | os.X_OK):
        number = errno.EROFS if space.f_flag & os.ST_RDONLY else errno.EACCES
    elif not space.f_bavail or (space.f_files and not space.f_favail):
        number = errno.ENOSPC
    if number:
        raise io_error(OSError(number, os.strerror(number)), "cannot write in", path)


def unlink_at(folder: int, name: str) -> bool:
    """Remove a name if it can be; say whether it was there and is gone. Never raises OSError."""
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True


def is_regular(folder: int, name: str) -> bool:
    """Say whether the name is a regular file (and not a link to one)."""
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode & 0o170000 == 0o100000
    except OSError:
        return False
