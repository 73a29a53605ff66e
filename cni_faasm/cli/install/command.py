"""Put the bundle where container runtimes look for plugins, and take it away again.

    /usr/lib/cni-faasm/              the bundle: plugin, tool, _internal/
    /opt/cni/bin/faasm               -> the plugin
    /usr/lib/cni/faasm, /usr/libexec/cni/faasm   the same, where the distribution has that folder
    /usr/libexec/netavark/faasm      the same, where podman 5's netavark is
    /usr/bin/cni-faasm               -> the tool
    /etc/cni/net.d/10-faasm.conflist the network; an operator's changes are never touched
    /usr/lib/systemd/system/         units that an operator may enable: gc, metrics
    /usr/lib/udev/rules.d/85-cni-faasm.rules, /usr/lib/systemd/network/00-cni-faasm.network
                                     so that nobody else configures the host's ends
    /usr/share/man/man8/, and the folders of bash's, zsh's and fish's completions

The folder is exchanged for a new one in a single step, so that a runtime finds either the
old plugin or the new one, and links need not change. Links are relative: they are right
inside a --destdir, too. The bundle keeps a copy of the configuration as it was delivered,
which is how changes to the one in /etc are noticed, and a list of the folders that the
installation had to make, which uninstalling removes when nothing else is in them.
"""

import ctypes
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

from cni_faasm import __version__
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.install import systemd
from cni_faasm.cli.install.filing import put_file, read

FOLDER = "usr/lib/cni-faasm"
PLUGIN = "opt/cni/bin/faasm"
TOOL = "usr/bin/cni-faasm"
# Where the plugins of Debian's and of Fedora's packages lie: their container runtimes are set up to
# look there, Debian's containerd nowhere else.
DISTRIBUTION_FOLDERS = ("usr/lib/cni", "usr/libexec/cni")
# Where podman looks for drivers of networks, a folder that no package brings; and its netavark.
NETAVARK_FOLDER = "usr/libexec/netavark"
_NETAVARK_IN = ("lib/podman", "libexec/podman", "local/libexec/podman", "local/lib/podman", "bin")
CONFIG = "etc/cni/net.d/10-faasm.conflist"
# Of systemd and udev. An operator's changes go to /etc, where files of the same names count more.
UNITS = "usr/lib/systemd/system"
SLOTS_UNIT = "cni-faasm-slots.service"
OTHER_UNITS = (
    *(f"cni-faasm-{what}.{kind}" for what in ("gc", "metrics") for kind in ("service", "timer")),
    SLOTS_UNIT,
)
RULES = "usr/lib/udev/rules.d/85-cni-faasm.rules"
NETWORK = "usr/lib/systemd/network/00-cni-faasm.network"
# Where each file comes from in the bundle. zsh looks in the first of its two folders where it is
# Debian's, in the second elsewhere.
SYSTEM_FILES = {
    **{f"{UNITS}/{name}": f"_internal/systemd/{name}" for name in OTHER_UNITS},
    RULES: "_internal/systemd/85-cni-faasm.rules",
    NETWORK: "_internal/systemd/00-cni-faasm.network",
    "usr/share/man/man8/cni-faasm.8.gz": "_internal/man/cni-faasm.8.gz",
    "usr/share/man/man8/faasm.8.gz": "_internal/man/faasm.8.gz",
    "usr/share/bash-completion/completions/cni-faasm": "_internal/completion/cni-faasm.bash",
    "usr/share/zsh/vendor-completions/_cni-faasm": "_internal/completion/_cni-faasm",
    "usr/share/zsh/site-functions/_cni-faasm": "_internal/completion/_cni-faasm",
    "usr/share/fish/vendor_completions.d/cni-faasm.fish": "_internal/completion/cni-faasm.fish",
}

# Of version 0.1.0: a service that did calls for others, which nobody asks any more.
FORMER_UNIT = "usr/lib/systemd/system/cni-faasm.service"

DELIVERED_CONFIG = "_internal/conf/10-faasm.conflist"
NOTES = "installed.json"  # in FOLDER
PACKAGE = "var/lib/dpkg/info/cni-faasm.list"  # where dpkg has installed it
_PACKAGED = (
    "cni-faasm was installed here by its Debian package",
    "update it by apt install ./cni-faasm_VERSION_ARCH.deb, remove it by apt remove cni-faasm",
)

AT_FDCWD = -100
RENAME_EXCHANGE = 2


class Step(NamedTuple):
    """Tell what happened to one path."""

    path: str
    action: str  # installed, removed, kept
    note: str = ""


def bundle_folder() -> str:
    """Return the folder of the bundle that this tool is part of. Raises: ToolError."""
    if not getattr(sys, "frozen", False):
        raise ToolError(
            "this cni-faasm is a Python package; what gets installed is the bundle",
            "make it with ./build.sh, then run dist/faasm/cni-faasm install",
        )
    return os.path.dirname(os.path.realpath(sys.executable))


def install(bundle: str, destdir: str = "/") -> Iterator[Step]:
    """Install the bundle below destdir. Yields: what was done, as it is done.

    Raises: ToolError before anything is changed when a path is taken by somebody else;
    OSError.
    """
    folder, plugin, tool, config, *system_files = _targets(destdir)
    if _is_package(destdir):
        if os.path.realpath(bundle) != os.path.realpath(folder):
            raise ToolError(*_PACKAGED)
        # Called by the package itself: the files are dpkg's, and daemons are to read them.
        yield from (_tell(path, is_new=True) for path in system_files)
        yield from _remove_former_unit(destdir)
        return
    plugins = [plugin, *_links_of_distribution(destdir)]
    for link in (*plugins, tool):
        if os.path.lexists(link) and not _is_ours(link, folder):
            raise ToolError(
                f"{link} exists and was not put there by cni-faasm", "move it away and try again"
            )
    made = _folders_made(folder)
    for path in (folder, *plugins, tool, config, *system_files):
        made += _make_parents(path, destdir)
    known_config = read(os.path.join(folder, DELIVERED_CONFIG))
    if os.path.realpath(bundle) != os.path.realpath(folder):
        _replace_folder(bundle, folder, {"version": __version__, "folders": sorted(set(made))})
    yield Step(folder, "installed", f"version {__version__}")
    for link in plugins:
        yield _link(link, os.path.join(folder, "faasm"))
    yield _link(tool, os.path.join(folder, "cni-faasm"))
    yield _install_config(os.path.join(folder, DELIVERED_CONFIG), config, known_config)
    for path, delivered in zip(system_files, SYSTEM_FILES.values(), strict=True):
        yield _install_system_file(os.path.join(folder, delivered), path)
    yield from _remove_former_unit(destdir)


def uninstall(destdir: str = "/") -> Iterator[Step]:
    """Remove what install put below destdir. Yields: what was done, as it is done.

    Leases, records and running containers stay. The folder goes last, because the tool
    may be running from there. Raises: ToolError where it is a package's; OSError.
    """
    if _is_package(destdir):
        raise ToolError(*_PACKAGED)
    folder, plugin, tool, config, *system_files = _targets(destdir)
    made = _folders_made(folder)
    yield from _remove_former_unit(destdir)
    for path in system_files:
        if os.path.lexists(path):
            yield _remove_system_file(path)
    for link in (plugin, *_links_of_distribution(destdir), tool):
        if os.path.lexists(link):
            if _is_ours(link, folder):
                os.unlink(link)
                yield Step(link, "removed")
            else:
                yield Step(link, "kept", "not put there by cni-faasm")
    found = read(config)
    if found is not None:
        if found == read(os.path.join(folder, DELIVERED_CONFIG)):
            os.unlink(config)
            yield Step(config, "removed")
        else:
            yield Step(config, "kept", "changed since it was installed, or not put there by us")
    if os.path.isdir(folder):
        yield Step(folder, "removed")
        # Out of its place first: a folder half removed would still be found.
        grave = tempfile.mkdtemp(prefix=".cni-faasm.", dir=os.path.dirname(folder))
        shutil.move(folder, os.path.join(grave, "old"))
        shutil.rmtree(grave)
    # Longest first: folders inside of folders. What is in use by others is not empty.
    for path in sorted(made, key=len, reverse=True):
        try:
            os.rmdir(os.path.join(destdir, path))
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT, errno.EBUSY):
                raise


def _targets(destdir: str) -> list[str]:
    top = os.path.abspath(destdir)
    return [os.path.join(top, path) for path in (FOLDER, PLUGIN, TOOL, CONFIG, *SYSTEM_FILES)]


def _is_package(destdir: str) -> bool:
    return os.path.lexists(os.path.join(destdir, PACKAGE))


def _links_of_distribution(destdir: str) -> list[str]:
    """Return the plugin's links in those folders of others that are there, or are looked into."""
    top = os.path.abspath(destdir)
    folders = [os.path.join(top, path) for path in (*DISTRIBUTION_FOLDERS, NETAVARK_FOLDER)]
    # One that is a link leads to where the plugin is already, or to what is somebody's own affair.
    found = [path for path in folders if os.path.isdir(path) and not os.path.islink(path)]
    netavark = folders[-1]
    if not os.path.lexists(netavark) and any(
        os.path.exists(os.path.join(top, "usr", path, "netavark")) for path in _NETAVARK_IN
    ):
        found.append(netavark)
    return [os.path.join(path, os.path.basename(PLUGIN)) for path in found]


def _install_system_file(delivered: str, path: str) -> Step:
    """Write a file of the system's."""
    data = _delivered(delivered)
    is_new = read(path) != data
    put_file(path, data, f"{path}.{os.getpid()}")
    return _tell(path, is_new=is_new)


def _tell(path: str, *, is_new: bool) -> Step:
    """Have those who read a file of the system's do so; say what is the operator's to do."""
    note = ""
    if path.endswith((SLOTS_UNIT, ".timer")):
        note = f"not enabled: systemctl enable --now {os.path.basename(path)}"
    elif path == f"/{RULES}":
        systemd.read_rules()
    elif path == f"/{NETWORK}" and is_new:
        note = systemd.read_networks(path)
    return Step(path, "installed", note)


def _remove_system_file(path: str) -> Step:
    if path.startswith(f"/{UNITS}/") and path.endswith((SLOTS_UNIT, ".timer")):
        systemd.disable(os.path.basename(path))
    os.unlink(path)
    note = ""
    if path == f"/{NETWORK}" and systemd.ends() and systemd.is_active(systemd.NETWORKD):
        note = "systemd-networkd may take the addresses of containers that run when it starts anew"
    return Step(path, "removed", note)


def _remove_former_unit(destdir: str) -> Iterator[Step]:
    """Have a service of version 0.1.0 end, and remove its file."""
    path = os.path.join(os.path.abspath(destdir), FORMER_UNIT)
    if not os.path.lexists(path):
        return
    if path == f"/{FORMER_UNIT}":
        systemd.disable(os.path.basename(path))
    os.unlink(path)
    yield Step(path, "removed", "calls need no agent any more")


def _make_parents(path: str, destdir: str) -> list[str]:
    """Make the folders above a path. Returns: those that were not there, below destdir."""
    made = []
    parent = os.path.dirname(path)
    while not os.path.isdir(parent):
        made.append(parent)
        parent = os.path.dirname(parent)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    top = os.path.abspath(destdir)
    inside = os.path.join(top, "")
    return [os.path.relpath(each, top) for each in made if each.startswith(inside)]


def _folders_made(folder: str) -> list[str]:
    """Return the folders that earlier installations had to make, below their destdir."""
    try:
        notes = json.loads(read(os.path.join(folder, NOTES)) or b"{}")
        return [path for path in notes["folders"] if isinstance(path, str)]
    except (ValueError, TypeError, KeyError):
        return []


def _replace_folder(bundle: str, folder: str, notes: dict[str, object]) -> None:
    """Copy the bundle beside its place and exchange it for what is there now."""
    grave = tempfile.mkdtemp(prefix=".cni-faasm.", dir=os.path.dirname(folder))
    try:
        new = os.path.join(grave, "new")
        shutil.copytree(bundle, new, symlinks=True)
        with open(os.path.join(new, NOTES), "w", encoding="utf-8") as file:
            json.dump(notes, file, indent=2)
        open_to_all(new)
        flush(new)  # after a power cut either folder must be whole
        if os.path.isdir(folder):
            _exchange(new, folder)
            _let_calls_end(os.path.join(new, os.path.basename(PLUGIN)))
        else:
            os.rename(new, folder)
    finally:
        shutil.rmtree(grave)


def open_to_all(folder: str) -> None:
    """Give the modes of a program to every file, whatever umask and sources were like."""
    for parent, _, names in os.walk(folder):
        os.chmod(parent, 0o755)
        for name in names:
            path = os.path.join(parent, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)


def _let_calls_end(plugin: str) -> None:
    """Wait until no process that began with this executable still needs its folder.

    A process that asks the kernel for its executable after the exchange learns the new name
    of the old folder, and loads its libraries from there. A call takes milliseconds; one
    that hangs is not waited for.
    """
    old = os.stat(plugin)
    end = time.monotonic() + 10
    running = True
    while running and time.monotonic() < end:
        time.sleep(0.1)  # also for those that the kernel is just starting
        running = False
        for name in os.listdir("/proc"):
            if name.isdigit():
                try:
                    running = running or os.path.samestat(os.stat(f"/proc/{name}/exe"), old)
                except OSError:
                    continue  # ended, or a thread of the kernel


def flush(folder: str) -> None:
    """Wait until the file system of a folder has everything on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        ctypes.CDLL(None).syncfs(fd)
    finally:
        os.close(fd)


def _exchange(one: str, other: str) -> None:
    """Swap two paths in one step; in more where the file system cannot.

    An overlay cannot even rename a folder of its lower layer: what is there goes, and a call
    that comes in between finds nothing.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE):
        number = ctypes.get_errno()
        if number not in (errno.EINVAL, errno.ENOSYS, errno.EXDEV):
            raise OSError(number, os.strerror(number), other)
        shutil.move(other, one + ".old")
        os.rename(one, other)
        os.rename(one + ".old", one)


def _link(link: str, target: str) -> Step:
    """Point a link at a file, in one step."""
    text = os.path.relpath(
        os.path.join(os.path.realpath(os.path.dirname(target)), os.path.basename(target)),
        os.path.realpath(os.path.dirname(link)),
    )
    temporary = f"{link}.{os.getpid()}"
    os.symlink(text, temporary)
    os.replace(temporary, link)
    return Step(link, "installed", f"link to {text}")


def _is_ours(link: str, folder: str) -> bool:
    return os.path.islink(link) and os.path.dirname(os.path.realpath(link)) == os.path.realpath(
        folder
    )


def _install_config(delivered: str, config: str, known: bytes | None) -> Step:
    """Write the configuration unless an operator has made it theirs.

    known: what the version installed before had delivered.
    """
    wanted = _delivered(delivered)
    found = read(config)
    if found == wanted:
        return Step(config, "kept", "as delivered")
    if found is not None and found != known:
        return Step(config, "kept", f"yours; what is delivered now is in {delivered}")
    put_file(config, wanted, f"{config}.{os.getpid()}")
    return Step(config, "installed", "" if found is None else "in place of an older delivery")


def _delivered(path: str) -> bytes:
    """Return the contents of a file of the bundle. Raises: ToolError."""
    found = read(path)
    if found is None:
        raise ToolError(f"{path} is missing", "the bundle is not whole; build it again")
    return found
