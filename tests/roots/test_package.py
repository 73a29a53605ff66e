"""The Debian package in roots of Debian 12 and 13: installed, upgraded, removed and purged."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm import __version__
from cni_faasm.cli.install.command import CONFIG, FOLDER, SYSTEM_FILES, TOOL
from tests.host import AFTER_LAST_DEL, REPO, SYSTEM_PATH, Host
from tests.roots.root import Root

PLUGINS = ("/opt/cni/bin/faasm", "/usr/lib/cni/faasm")
SHIPPED = "etc/cni-faasm/10-faasm.conflist"
NEWER = "9.0.0"
# What dpkg and the programs of the root keep for themselves.
DPKGS = ("var/lib/dpkg", "var/cache", "var/log", "run", "proc", "sys", "dev", "package")


def package() -> Path:
    (found,) = (REPO / "dist").glob(f"cni-faasm_{__version__}_*.deb")
    return found


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a package of a later version, with one file more and another configuration."""
    folder = tmp_path_factory.mktemp("newer")
    tree = folder / "tree"
    subprocess.run(["dpkg-deb", "--raw-extract", package(), tree], check=True)
    control = tree / "DEBIAN/control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {NEWER}"))
    (tree / SHIPPED).write_text((tree / SHIPPED).read_text().replace("10.200.0.0", "10.201.0.0"))
    (tree / FOLDER / "new").write_text("of this version")
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build"]
    subprocess.run([*command, tree, folder / "newer.deb"], check=True, capture_output=True)
    return folder / "newer.deb"


class Machine:
    """Call dpkg in a root that sees the packages; everything else is Root's."""

    def __init__(self, root: Root) -> None:
        self.root = root
        self.path = root.path
        (root.path / "package").mkdir()

    def dpkg(
        self, *words: str | Path, status: int = 0, **variables: str
    ) -> "subprocess.CompletedProcess[str]":
        argv = list(words)
        for at, word in enumerate(argv):
            if isinstance(word, Path):
                shutil.copy(word, self.path / "package")
                argv[at] = f"/package/{word.name}"
        done = subprocess.run(
            self.root.within("dpkg", *argv),
            stdin=subprocess.DEVNULL,  # a question would be a failure
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", **variables},
        )
        assert done.returncode == status, done
        return done

    def files(self) -> set[str]:
        """Return what is there, but for what is dpkg's own."""
        found = set()
        for parent, folders, names in os.walk(self.path):
            below = os.path.relpath(parent, self.path)
            folders[:] = [
                name for name in folders if os.path.normpath(f"{below}/{name}") not in DPKGS
            ]
            found |= {os.path.normpath(f"{below}/{name}") for name in (*names, *folders)}
        return found

    @property
    def network(self) -> Path:
        return self.path / CONFIG

    def network_text(self) -> str:
        """Return the network as programs in here read it."""
        return self.root.run("cat", f"/{CONFIG}")


@pytest.fixture(params=["bookworm", "trixie-tools"])
def machine(request: pytest.FixtureRequest, host: Host, tmp_path: Path) -> Iterator[Machine]:
    root = Root(request.param, tmp_path / "root")
    host.plugin = root.within(PLUGINS[0])
    try:
        yield Machine(root)
    finally:
        root.close()


def config_of(machine: Machine) -> dict[str, Any]:
    """Return what a runtime gives the plugin of the network that the package brings."""
    listed = json.loads(machine.network_text())
    return {"cniVersion": "1.0.0", "name": listed["name"], **listed["plugins"][0]}


@contextlib.contextmanager
def calls_that_succeed(machine: Machine, plugin: str) -> Iterator[None]:
    """Call the plugin again and again meanwhile."""
    over = threading.Event()
    failed: list[object] = []
    good = 0

    def call() -> None:
        nonlocal good
        while not over.is_set() and not failed:
            done = subprocess.run(
                machine.root.within(plugin), input="{}", capture_output=True, text=True,
                check=False, env={"PATH": SYSTEM_PATH, "CNI_COMMAND": "VERSION"},
            )  # fmt: skip
            failed.extend([done] if done.returncode else [])
            good += 1

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()
    assert (failed, good > 1) == ([], True)


def test_its_whole_life(machine: Machine, host: Host, newer: Path) -> None:
    before = machine.files()
    machine.dpkg("--install", package())
    for plugin in PLUGINS:
        told = machine.root.run("env", "CNI_COMMAND=VERSION", "sh", "-c", f"echo {{}} | {plugin}")
        assert "1.1.0" in told
    assert machine.root.run(f"/{TOOL}", "version").startswith(f"cni-faasm {__version__}")
    assert machine.root.run(f"/{TOOL}", "validate", f"/{CONFIG}") == f"/{CONFIG}: valid\n"
    assert json.loads(machine.network_text())["name"] == "faasm"
    assert machine.dpkg("--verify", "cni-faasm").stdout == ""
    packaged = set(machine.dpkg("--listfiles", "cni-faasm").stdout.split())
    assert {f"/{path}" for path in (TOOL, SHIPPED, *SYSTEM_FILES)} | set(PLUGINS) < packaged
    refused = machine.root.within(f"/{TOOL}", "uninstall")
    done = subprocess.run(refused, capture_output=True, text=True, check=False)
    assert (done.returncode, "apt remove" in done.stderr) == (1, True)

    # With a container, and with a configuration that the operator has changed.
    config = config_of(machine)
    mine = (machine.path / SHIPPED).read_text().replace("10.200.0.0/16", "10.99.0.0/16")
    (machine.path / SHIPPED).write_text(mine)
    inside = host.add_container()
    snapshot = host.snapshot()
    result = host.add(inside, config)
    with calls_that_succeed(machine, PLUGINS[1]):
        machine.dpkg("--install", "--force-confold", newer)
    assert (machine.path / FOLDER / "new").exists()
    assert machine.network_text() == mine
    host.check(inside, config, result).ok()
    refusal = machine.dpkg("--remove", "cni-faasm", status=1)
    assert "1 attachment would be stranded" in refusal.stderr
    assert "CNI_FAASM_FORCE=1" in refusal.stderr
    assert machine.network_text() == mine
    host.check(inside, config, result).ok()
    host.cni("DEL", inside, config).ok()
    host.assert_unchanged(snapshot, ignore=AFTER_LAST_DEL)

    # An operator who wants no network of ours: later versions bring none.
    machine.network.unlink()
    machine.dpkg("--install", "--force-confold", "--force-downgrade", package())
    assert not machine.network.is_symlink()
    machine.dpkg("--remove", "cni-faasm")
    left = {path for path in machine.files() - before if not path.startswith("var/lib/cni")}
    assert left == {"etc/cni-faasm", SHIPPED, f"{SHIPPED}.dpkg-dist"}
    machine.dpkg("--install", package())
    assert machine.network_text() == mine
    machine.dpkg("--purge", "cni-faasm")
    assert machine.files() - before == set()
    assert before - machine.files() == set()


@pytest.mark.parametrize("machine", ["bookworm"], indirect=True)
def test_removed_by_force_beside_a_container(machine: Machine, host: Host) -> None:
    machine.dpkg("--install", package())
    inside = host.add_container()
    host.add(inside, config_of(machine))
    machine.dpkg("--purge", "cni-faasm", CNI_FAASM_FORCE="1")
    assert not (machine.path / "var/lib/cni/faasm").exists()
    assert not machine.network.is_symlink()


@pytest.mark.parametrize(
    ("machine", "changed"), [("bookworm", False), ("trixie-tools", True)], indirect=["machine"]
)
def test_over_an_installation_by_hand(machine: Machine, host: Host, *, changed: bool) -> None:
    machine.root.install()
    (machine.path / FOLDER / "of-an-older-version").write_text("")
    mine = machine.network.read_text()
    if changed:
        mine = mine.replace("10.200.0.0/16", "10.99.0.0/16")
        machine.network.write_text(mine)
    config = host.config()
    inside = host.add_container()
    result = host.add(inside, config)
    with calls_that_succeed(machine, PLUGINS[0]):
        machine.dpkg("--install", package())
    assert machine.network_text() == mine
    assert machine.network.is_symlink() is not changed
    assert not (machine.path / FOLDER / "of-an-older-version").exists()
    assert not (machine.path / FOLDER / "installed.json").exists()
    host.check(inside, config, result).ok()
    host.cni("DEL", inside, config).ok()
    machine.dpkg("--purge", "cni-faasm")
    assert machine.network.exists() is changed
    assert not (machine.path / FOLDER).exists()
