"""Run the checkers: what they say is a failed test like any other."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_faasm import __version__
from tests import links
from tests.host import REPO

NOT_OURS = {".git", ".venv", ".cache", "build", "dist", "__pycache__"}
BIN = Path(sys.executable).parent


def check(*argv: str) -> None:
    environment = {**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(
        argv, cwd=REPO, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.fail(f"{argv[0]}:\n{done.stdout}{done.stderr}", pytrace=False)


def scripts() -> Iterator[str]:
    for directory, inner, names in os.walk(REPO):
        inner[:] = [name for name in inner if name not in NOT_OURS]
        for name in names:
            path = Path(directory, name)
            if path.is_symlink():
                continue
            with path.open("rb") as stream:
                first = stream.readline(100)
            if first.startswith(b"#!") and first.split()[-1].endswith((b"/sh", b"bash")):
                yield str(path.relative_to(REPO))


def test_shellcheck() -> None:
    found = sorted(scripts())
    assert {"bin/private_host.sh", "tests/run.sh", ".ci/run"} <= set(found)
    check("shellcheck", "--external-sources", *found)


def test_ruff_check() -> None:
    check("ruff", "check", "--quiet", "--output-format", "concise", ".")


def test_ruff_format() -> None:
    check("ruff", "format", "--check", "--quiet", ".")


def test_mypy() -> None:
    check("mypy")


def test_codespell() -> None:
    check("codespell")


def test_the_environment_is_made_from_debians_python() -> None:
    """Debian 12's own Python is what the bundle is made from."""
    assert (sys.base_prefix, sys.version_info[:2]) == ("/usr", (3, 11))


def test_the_changelog_tells_of_this_version() -> None:
    assert f"\n## {__version__}" in (REPO / "CHANGELOG.md").read_text(encoding="utf-8")


def test_links_lead_to_what_is_handed_on() -> None:
    """Who has the archive or the package has these, and no sources."""
    for page in (*REPO.glob("*.md"), *REPO.glob("docs/*.md")):
        for target in links.targets(page):
            path = target.resolve()
            assert path.is_file(), f"{page}: {target}"
            assert path.parent in {REPO, REPO / "conf", REPO / "docs"}, f"{page}: {target}"
