"""Fetch and unpack sources that are compiled in, at the versions and hashes that are pinned.

    sources.py NAME FOLDER      prints the folder below FOLDER that they are in

NAME stands in requirements/build.txt. pip refuses what has another hash.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def fetch(name: str, folder: str) -> str:
    """Fetch a package's source archive by pip and unpack it. Returns: the path of its folder."""
    with open(os.path.join(ROOT, "requirements", "build.txt"), encoding="utf-8") as file:
        pinned = re.search(rf"^{name}==(?:.*\\\n)*.*\n", file.read(), re.MULTILINE)
    if pinned is None:
        raise SystemExit(f"requirements/build.txt does not name {name}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        requirement = os.path.join(scratch, "requirement.txt")
        with open(requirement, "w", encoding="utf-8") as file:
            file.write(pinned[0])
        subprocess.run(
            [
                *(sys.executable, "-m", "pip", "download", "--quiet"),
                *("--disable-pip-version-check", "--no-deps", "--no-binary=:all:"),
                *("--no-build-isolation", "--require-hashes"),
                *("--dest", scratch, "--requirement", requirement),
            ],
            check=True,
            # To learn the metadata some versions of pip compile it all: of PyInstaller that needs
            # no zlib then, and of simplejson no compiler.
            env={**os.environ, "PYI_STATIC_ZLIB": "1", "DISABLE_SPEEDUPS": "1"},
        )
        (archive,) = (one for one in os.listdir(scratch) if one.endswith(".tar.gz"))
        with tarfile.open(os.path.join(scratch, archive)) as tar:
            tar.extractall(folder)  # noqa: S202 -- its hash was checked
    return os.path.join(folder, archive.removesuffix(".tar.gz"))


if __name__ == "__main__":
    os.makedirs(sys.argv[2], exist_ok=True)
    print(fetch(sys.argv[1], os.path.abspath(sys.argv[2])))
