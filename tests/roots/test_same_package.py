"""Two packages of one bundle are the same to the byte: a minute."""

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

from cni_faasm import __version__
from tests.host import REPO, SYSTEM_PATH
from tests.roots.test_package import package


def test_the_same_bundle_gives_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, at another time, with another umask and locale."""
    listed = subprocess.run(
        ["dpkg-deb", "--ctrl-tarfile", package()], check=True, capture_output=True
    ).stdout
    with tarfile.open(fileobj=io.BytesIO(listed)) as control:
        made_at = control.getmembers()[0].mtime
    for folder in ("dist/faasm", "deploy"):
        shutil.copytree(REPO / folder, tmp_path / folder, symlinks=True)
    for path in (REPO / "dist").glob("*.sha256"):
        shutil.copy(path, tmp_path / "dist")
    (tmp_path / "build").mkdir()
    variables = {"PATH": SYSTEM_PATH, "LC_ALL": "C", "TZ": "Asia/Tokyo"}
    subprocess.run(
        ["sh", "-c", 'umask 077; exec "$0" "$@"', "deploy/debian/package.sh", __version__],
        cwd=tmp_path,
        env={**variables, "SOURCE_DATE_EPOCH": str(made_at)},
        check=True,
        capture_output=True,
    )
    again = tmp_path / "dist" / package().name
    assert again.read_bytes() == package().read_bytes()
