"""Build and install once, for tests that each get a root of their own with that in it."""

import shlex
import subprocess
from pathlib import Path

from tests.host import REPO, SYSTEM_PATH

INSTALL = "./build.sh --install"
# What installing writes to beside /usr.
CNI = ("/etc/cni", "/opt/cni")


def copied(path: Path, layers: Path, *below: Path) -> str:
    """Return the shell's command for an overlay over a folder. below: its lower layers, top first."""
    layer = layers / path.relative_to("/")
    lower = ":".join(map(str, (*below, path)))
    return (
        f"mkdir -p {layer}/upper {layer}/work && mount -t overlay -o "
        f"lowerdir={lower},upperdir={layer}/upper,workdir={layer}/work overlay {path}"
    )


class Installed:
    """What building and installing write: layers for /usr and for the sources, CNI's two folders."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        steps = [
            copied(Path("/usr"), directory),
            copied(REPO, directory),
            *(
                f"mkdir -p {directory}{path} && mount --bind {directory}{path} {path}"
                for path in CNI
            ),
            f"cd {shlex.quote(str(REPO))}",
            INSTALL,
        ]
        variables = [f"PATH={SYSTEM_PATH}", "HOME=/run/home", "LC_ALL=C.UTF-8"]
        command = ["env", "-i", *variables, "unshare", "--mount", "sh", "-ec", "\n".join(steps)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr

    def shown(self, layers: Path, *, is_installed: bool) -> list[str]:
        """Return the shell's commands that lay new layers over these."""
        upper = [self._directory / path.relative_to("/") / "upper" for path in (Path("/usr"), REPO)]
        return [
            copied(Path("/usr"), layers, *upper[: int(is_installed)]),
            copied(REPO, layers, upper[1]),
            *(f"mount -t tmpfs tmpfs {path}" for path in ("/var/lib/cni", *CNI)),
            *(f"cp -a {self._directory}{path}/. {path}" for path in CNI if is_installed),
        ]
