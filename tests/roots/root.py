"""Run things in the root of another Debian, where the bundle is installed as its users do it.

The kernel is this machine's and so are network namespaces: /run is shared with the private host.
All else is the root's: C library, nft, container runtimes, /etc, /opt and /var.
"""

import subprocess
from pathlib import Path

from tests.host import REPO, SYSTEM_PATH
from tests.vm.boot import CACHE

SHARED = ("/proc", "/sys", "/dev", "/run")


class Root:
    """Hold one root of tests/vm/roots.txt, mounted; what is written to it goes to memory."""

    def __init__(self, name: str, folder: Path) -> None:
        lower = CACHE / "roots" / name
        assert lower.is_dir(), f"{lower} is not there: tests/vm/fetch.sh root/{name}"
        self.path = folder / "root"
        layers = [folder / "upper", folder / "work"]
        for each in (self.path, *layers):
            each.mkdir(parents=True)
        options = f"lowerdir={lower},upperdir={layers[0]},workdir={layers[1]}"
        _run("mount", "-t", "overlay", "-o", options, "overlay", self.path)
        # ip makes /run/netns such that namespaces that are made later are seen inside as well.
        for verb in ("add", "del"):
            _run("ip", "netns", verb, folder.name)
        for shared in SHARED:
            _run("mount", "--rbind", shared, f"{self.path}{shared}")
            _run("mount", "--make-rslave", f"{self.path}{shared}")

    def within(self, *argv: str | Path) -> list[str]:
        """Return the command that runs another one in here."""
        return ["chroot", str(self.path), *map(str, argv)]

    def run(self, *argv: str | Path) -> str:
        """Run a command in here, which must succeed; return its stdout."""
        return _run(*self.within(*argv))

    def install(self) -> None:
        """Unpack the archive that build.sh made, and run install in it."""
        (archive,) = (REPO / "dist").glob("cni-faasm-*.tar.gz")
        target = self.path / "root"
        _run("tar", "-C", target, "-xzf", archive)
        (unpacked,) = target.glob("cni-faasm-*")
        self.run(f"/root/{unpacked.name}/cni-faasm", "install")
        _run("rm", "-r", unpacked)

    def close(self) -> None:
        """Unmount it, as soon as the last who was in there has gone: DEL's child, say."""
        _run("umount", "--recursive", "--lazy", self.path)


def _run(*argv: str | Path) -> str:
    done = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"},
    )
    assert done.returncode == 0, done
    return done.stdout
