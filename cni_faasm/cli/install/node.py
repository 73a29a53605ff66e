"""Keep the plugin and its configuration on a cluster's node, from inside a container.

Three folders of the node are mounted below one folder (by default /host), and nothing else
of it can be touched:

    usr/lib/cni-faasm/          <version>-<hash>/   a bundle, whole or not there
                                current             -> <version>-<hash>
                                node.json           who is in charge here, and which files are its
    opt/cni/bin/faasm           -> /usr/lib/cni-faasm/current/faasm
    etc/cni/net.d/              every file of the configuration folder (a ConfigMap)

A mounted folder cannot be renamed itself, so the bundles lie in it beside each other and a
link is exchanged. Everything arrives under a name that nobody looks for and is renamed. One
who is interrupted leaves such names behind; the next one removes them.

Kubernetes ends a pod in the same way whether it is removed or replaced. So each pod writes
its name into node.json when it has installed, and takes away what is there only while its own name
is there: a replacement that came before it is in charge, and nothing goes.
"""

import fcntl
import hashlib
import json
import os
import re
import select
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cni_faasm import __version__
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.install.command import (
    DELIVERED_CONFIG,
    NOTES,
    Step,
    flush,
    open_to_all,
)
from cni_faasm.cli.install.filing import put_file, read
from cni_faasm.cli.validate import command as validate

FOLDER = "usr/lib/cni-faasm"
PLUGIN = "opt/cni/bin/faasm"
CONFIG_DIR = "etc/cni/net.d"
CURRENT = "current"
STATE = "node.json"
UNFINISHED = ".new."  # how names begin that nobody looks for

# What containerd's conf_template is written to. It stays when its template goes, and would
# have the node be ready without a plugin.
RENDERED = "10-containerd-net.conflist"

# A plugin of a list that a node may lack. In a template of containerd's, too, which is no JSON yet.
PORTMAP = "portmap"
_ENTRY = re.compile(
    rb',\s*\{\s*"type"\s*:\s*"portmap"\s*(,\s*"\w+"\s*:\s*(\{[^{}]*\}|[^{},]*)\s*)*\}'
)

LINGER_S = 1.0  # for a call that has the old name but has not begun yet
LEAVE_S = 20.0  # the longest wait for running calls when everything is taken away


class Node:
    """Install on one node, and take away again.

    bundle: the folder to install. configs: a folder of files for /etc/cni/net.d.
    owner: a name that no other pod of this node has.
    """

    def __init__(self, bundle: str, configs: str, host: str, owner: str) -> None:
        self.bundle = bundle
        self.configs = configs
        self.owner = owner
        self.folder = os.path.join(host, FOLDER)
        self.plugin = os.path.join(host, PLUGIN)
        self.config_dir = os.path.join(host, CONFIG_DIR)
        self.name = f"{__version__}-{_hash(bundle)[:12]}"

    def install(self, *, take_over: bool = True) -> Iterator[Step]:
        """Put in place what is missing or old; what is right is left alone.

        take_over: be in charge from now on, whoever was; otherwise do nothing where another
        pod is. Yields: what was done. Raises: ToolError before anything is changed; OSError.
        """
        wanted = self._wanted()
        with self._locked():
            if not take_over and self._state().get("owner", self.owner) != self.owner:
                return
            files = self._files()
            self._refuse_others(files, wanted)
            self._remove_unfinished()
            # In charge before anything is there: whoever is asked to go now lets it be.
            self._note({*files, *wanted})
            if not os.path.isdir(self._version()):
                self._copy()
                tool = f"/{FOLDER}/{CURRENT}/cni-faasm"
                yield Step(self._version(), "installed", f"the tool is {tool} on the node")
            for link, text in (
                (os.path.join(self.folder, CURRENT), self.name),
                (self.plugin, f"/{FOLDER}/{CURRENT}/faasm"),
            ):
                if _link_text(link) != text:
                    _put_link(link, text)
                    yield Step(link, "installed", f"link to {text}")
            for name, data in sorted(wanted.items()):
                path = os.path.join(self.config_dir, name)
                if read(path) != data:
                    put_file(path, data, _beside(path))
                    yield Step(path, "installed")
            for name in sorted(files - wanted.keys()):
                yield from _remove(os.path.join(self.config_dir, name))
            self._note(set(wanted))

    def faults(self) -> list[str]:
        """Return what is not as install leaves it; nothing is changed. Raises: ToolError, OSError."""
        found = []
        wanted = self._wanted()
        for link, text in (
            (os.path.join(self.folder, CURRENT), self.name),
            (self.plugin, f"/{FOLDER}/{CURRENT}/faasm"),
        ):
            if _link_text(link) != text:
                found.append(f"{link} does not lead to {text}")
        if not os.path.isfile(os.path.join(self._version(), os.path.basename(self.plugin))):
            found.append(f"{self._version()} is not there")
        found += [
            f"{os.path.join(self.config_dir, name)} is not as it should be"
            for name, data in sorted(wanted.items())
            if read(os.path.join(self.config_dir, name)) != data
        ]
        return found

    def clear(self) -> Iterator[Step]:
        """Remove bundles that are no longer current and that no running call needs."""
        with self._locked():
            for name in self._versions():
                path = os.path.join(self.folder, name)
                old = time.time() - os.stat(path).st_ctime > LINGER_S
                if name != _link_text(os.path.join(self.folder, CURRENT)) and old:
                    yield from _bury(path)

    def remove(self) -> Iterator[Step]:
        """Take everything away, unless another pod is in charge by now.

        The configuration first, so that the node says that it is not ready instead of
        failing; the bundle last, when no call needs it any more. Leases and records stay.
        """
        with self._locked():
            if self._state().get("owner") != self.owner:
                yield Step(self.folder, "kept", "another pod has taken over")
                return
            for name in sorted(self._files()):
                yield from _remove(os.path.join(self.config_dir, name))
            rendered = os.path.join(self.config_dir, RENDERED)
            if _is_ours(read(rendered)):
                yield from _remove(rendered)
            if _link_text(self.plugin) == f"/{FOLDER}/{CURRENT}/faasm":
                yield from _remove(self.plugin)
            yield from _remove(os.path.join(self.folder, CURRENT))
            time.sleep(LINGER_S)
            end = time.monotonic() + LEAVE_S
            while True:
                for name in self._versions():
                    yield from _bury(os.path.join(self.folder, name))
                if not self._versions() or time.monotonic() > end:
                    break
                time.sleep(0.1)
            for name in self._versions():
                yield Step(os.path.join(self.folder, name), "kept", "a call is still running")
            self._remove_unfinished()
            yield from _remove(os.path.join(self.folder, STATE))

    def _wanted(self) -> dict[str, bytes]:
        """Return the configuration's files. Raises: ToolError for one that is not valid."""
        found = {}
        for name in sorted(os.listdir(self.configs)):
            path = os.path.join(self.configs, name)
            if name.startswith(".") or not os.path.isfile(path):
                continue  # how a ConfigMap's folder is exchanged
            data = read(path) or b""
            if not os.path.lexists(os.path.join(os.path.dirname(self.plugin), PORTMAP)):
                data = _ENTRY.sub(b"", data)
            if name.endswith((".conflist", ".conf", ".json")):
                remarks = validate.remarks_on(data, path, self.configs)
                faults = [f"{one.place}: {one.text}" for one in remarks if one.is_fault]
                if faults:
                    raise ToolError(f"{path}: {'; '.join(faults)}", "what was there stays")
            found[name] = data
        if not found:
            raise ToolError(f"{self.configs} holds no configuration", "see docs/cluster.md")
        return found

    def _refuse_others(self, files: set[str], wanted: dict[str, bytes]) -> None:
        text = _link_text(self.plugin)
        if os.path.lexists(os.path.join(self.folder, NOTES)) or (
            os.path.lexists(self.plugin) and text != f"/{FOLDER}/{CURRENT}/faasm"
        ):
            raise ToolError(
                f"{self.plugin} was put there by another way of installing",
                "on the node: cni-faasm uninstall",
            )
        for name, data in wanted.items():
            path = os.path.join(self.config_dir, name)
            if name not in files and read(path) not in (None, data):
                raise ToolError(
                    f"{path} exists and is somebody else's", "move it away, or choose another name"
                )

    def _copy(self) -> None:
        new = tempfile.mkdtemp(prefix=UNFINISHED, dir=self.folder)
        shutil.copytree(self.bundle, new, symlinks=True, dirs_exist_ok=True)
        open_to_all(new)
        flush(new)
        os.rename(new, self._version())

    def _remove_unfinished(self) -> None:
        for folder in (self.folder, self.config_dir, os.path.dirname(self.plugin)):
            for name in os.listdir(folder):
                if name.startswith(f"{UNFINISHED}"):
                    path = os.path.join(folder, name)
                    if os.path.isdir(path) and not os.path.islink(path):
                        shutil.rmtree(path)
                    elif folder == self.folder or "faasm" in name:
                        os.unlink(path)

    def _version(self) -> str:
        return os.path.join(self.folder, self.name)

    def _versions(self) -> list[str]:
        return [
            name
            for name in sorted(os.listdir(self.folder))
            if os.path.isfile(os.path.join(self.folder, name, DELIVERED_CONFIG))
            and not name.startswith(UNFINISHED)
            and name != CURRENT
        ]

    def _state(self) -> dict[str, object]:
        try:
            found = json.loads(read(os.path.join(self.folder, STATE)) or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def _files(self) -> set[str]:
        found = self._state().get("files")
        named = found if isinstance(found, list) else []
        return {name for name in named if isinstance(name, str) and "/" not in name}

    def _note(self, files: set[str]) -> None:
        data = json.dumps({"owner": self.owner, "files": sorted(files)}).encode()
        path = os.path.join(self.folder, STATE)
        if read(path) != data:
            put_file(path, data, _beside(path))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        for folder in (self.folder, self.config_dir, os.path.dirname(self.plugin)):
            os.makedirs(folder, mode=0o755, exist_ok=True)
        fd = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)


def wait(node: Node, seconds: float) -> Iterator[Step]:
    """Keep the node as it must be until SIGTERM, then take everything away.

    seconds: how often the configuration is looked at. Yields: what was done. What cannot be
    installed later on (a configuration with faults) is told and leaves what was there.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # In this order: a signal that comes between the two would be heeded and wake nobody.
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # Only a pod's first container takes over: this one may be started anew when another pod
    # is in charge already, and is asked to go then.
    yield from node.install(take_over=False)
    told = ""
    while not select.select([reading], [], [], seconds)[0]:
        try:
            yield from node.install(take_over=False)
            yield from node.clear()
            told = ""
        except (ToolError, OSError) as error:
            if str(error) != told:
                told = str(error)
                yield Step(node.folder, "kept", told)
    yield from node.remove()


def _hash(folder: str) -> str:
    """Return a hash of the names and contents of a folder."""
    found = hashlib.sha256()
    for parent, inner, names in os.walk(folder):
        inner.sort()
        for name in sorted(names):
            path = os.path.join(parent, name)
            data = os.fsencode(os.readlink(path)) if os.path.islink(path) else read(path) or b""
            found.update(os.fsencode(os.path.relpath(path, folder)) + b"\0")
            found.update(hashlib.sha256(data).digest())
    return found.hexdigest()


def _in_use(path: str) -> bool:
    """Tell whether any process of the node has a file open or runs it.

    The kernel grants a write lease on a file that nobody else has open (fcntl(2)), also when
    the others are in process namespaces that cannot be seen from here. Where the file
    system knows no leases the answer is no.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(fd)  # which gives the lease back
    return False


def _bury(path: str) -> Iterator[Step]:
    """Remove a bundle unless a program of it is running; first out of its place."""
    if any(_in_use(os.path.join(path, name)) for name in ("faasm", "cni-faasm")):
        return
    grave = os.path.join(os.path.dirname(path), f"{UNFINISHED}{os.path.basename(path)}")
    os.rename(path, grave)
    shutil.rmtree(grave)
    yield Step(path, "removed")


def _remove(path: str) -> Iterator[Step]:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    yield Step(path, "removed")


def _is_ours(data: bytes | None) -> bool:
    try:
        return bool(json.loads(data or b"")["plugins"][0]["type"] == "faasm")
    except (ValueError, KeyError, IndexError, TypeError):
        return False


def _beside(path: str) -> str:
    return os.path.join(os.path.dirname(path), f"{UNFINISHED}faasm.{os.path.basename(path)}.tmp")


def _put_link(path: str, text: str) -> None:
    temporary = _beside(path)
    os.symlink(text, temporary)
    os.replace(temporary, path)


def _link_text(path: str) -> str | None:
    return os.readlink(path) if os.path.islink(path) else None
