"""Remember that a whole attachment could be made, so that STATUS need not try it each time.

kubelet has containerd call STATUS every five seconds. What a trial shows can change only with the
configuration, the executable, its capabilities, the boot, or the modules that are loaded; what else
can change is looked at each time. A trial has loaded the modules that it needed, so it holds for as
long as all that were loaded then still are: others that come do no harm, and whatever goes has it
done anew. Only success is kept. An ADD that the kernel refuses has it forgotten.

On disk: `<stateDir>/<network>/rehearsed`, JSON, beside the records (record.py).
"""

import os

from cni_faasm import __version__
from cni_faasm.attachment import accepted, files, record
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import CniError

_NAME = "rehearsed"
_MODULES = "/proc/modules"  # absent where the kernel has everything built in
_SELF = "/proc/self/status"
_EXECUTABLE = "/proc/self/exe"


def holds(config: NetworkConfig, document: dict[str, object]) -> bool:
    """Say whether a trial of this configuration went well, and would do so now."""
    kept = record.read_document(config.state_dir, config.name, _NAME)
    if kept is None:
        return False
    modules = kept.pop("modules", None)
    loaded = _loaded()
    return (
        isinstance(modules, list)
        and loaded is not None
        and kept == _surroundings(document)
        and all(name in loaded for name in modules)
    )


def note(config: NetworkConfig, document: dict[str, object]) -> None:
    """Keep that a trial of this configuration went well just now.

    A hint: where it cannot be written, the next STATUS tries again.
    """
    loaded = _loaded()
    kept = _surroundings(document)
    if loaded is None or kept is None:
        return
    data = jsonio.dumps({**kept, "modules": sorted(loaded)})
    folder = files.open_folder(config.state_dir, config.name, create=True, mode=0o700)
    try:
        # Others may be writing it, too: no lock is held here.
        files.replace_at(folder, _NAME, f".{_NAME}.{os.getpid()}", data, 0o600)
    except OSError:
        return
    finally:
        files.close(folder)


def forget(config: NetworkConfig) -> None:
    """Have the next STATUS try again. Never fails: it is called where something else has."""
    try:
        folder = files.open_folder(config.state_dir, config.name, create=False, mode=0o700)
    except CniError:
        return  # STATUS will say so
    if folder >= 0:
        files.unlink_at(folder, _NAME)
        files.close(folder)


def _surroundings(document: dict[str, object]) -> dict[str, object] | None:
    """Return what a trial holds for; None when that cannot be told."""
    text = accepted.text_of(document)
    capabilities = _capabilities()
    if not text or not capabilities:
        return None
    try:
        executable = os.stat(_EXECUTABLE)
    except OSError:
        return None
    return {
        "bootID": record.boot_id(),
        "version": __version__,
        "executable": [executable.st_dev, executable.st_ino, executable.st_mtime_ns],
        "capabilities": capabilities,
        "config": text,
    }


def _capabilities() -> str:
    """Return the effective capabilities of this process, "" when they cannot be read. See proc(5)."""
    for line in (_contents(_SELF) or "").split("\n"):
        key, _, value = line.partition(":")
        if key == "CapEff":
            return value.strip()
    return ""


def _loaded() -> set[str] | None:
    """Return the names of the modules that can be used; None when that cannot be told.

    A line: name, size, users, who uses it, state, address. See proc(5).
    """
    text = _contents(_MODULES)
    if text is None:
        return None
    lines = [line.split(" ") for line in text.split("\n")]
    return {line[0] for line in lines if len(line) > 4 and line[4] == "Live"}


def _contents(path: str) -> str | None:
    """Return what a file of /proc holds, "" when it is absent, None when it cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    except OSError:
        return None
    found = b""
    try:
        while chunk := os.read(descriptor, 1 << 16):
            found += chunk
    except OSError:
        return None
    finally:
        files.close(descriptor)
    return found.decode("utf-8", "replace")
