"""The manual pages and the shells' completions, as they are installed."""

import gzip
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cni_faasm import __version__
from cni_faasm.cli.install.command import SYSTEM_FILES
from cni_faasm.cli.main import app
from tests.host import BUNDLE, REPO, SYSTEM_PATH

PAGES = ("cni-faasm.8", "faasm.8")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    destdir = tmp_path_factory.mktemp("root")
    tool = [str(BUNDLE / "cni-faasm"), "install", "--destdir", str(destdir)]
    subprocess.run(tool, check=True, capture_output=True)
    return destdir


def read(page: Path) -> str:
    """Return a page as it stands on a terminal, its blanks as one."""
    source = gzip.decompress(page.read_bytes())
    command = ["groff", "-man", "-Tascii", "-P-cbou", "-rLL=500n"]
    done = subprocess.run(command, check=True, input=source, capture_output=True)
    return " ".join(done.stdout.decode("ascii").split())


def helps(command: Any, context: Any) -> list[tuple[str, str]]:
    """Return (command line, text of --help) of every command below a group."""
    found = []
    for name in command.list_commands(context):
        one = command.get_command(context, name)
        with one.make_context(name, [], parent=context, resilient_parsing=True) as inner:
            found.append((inner.command_path, one.get_help(inner)))
            if hasattr(one, "list_commands"):
                found += helps(one, inner)
    return found


@pytest.mark.parametrize("name", PAGES)
def test_pages_are_clean(installed: Path, name: str) -> None:
    page = installed / "usr/share/man/man8" / f"{name}.gz"
    for command in (["mandoc", "-Tlint"], ["groff", "-man", "-ww", "-z"]):
        done = subprocess.run(
            command, check=False, input=gzip.decompress(page.read_bytes()), capture_output=True
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b""), command


def test_the_page_of_the_tool_says_what_every_help_says(installed: Path) -> None:
    text = read(installed / "usr/share/man/man8/cni-faasm.8.gz")
    assert f"cni-faasm {__version__}" in text
    assert "EXIT STATUS 0 done, 1 " in text
    command = typer.main.get_command(app)
    with command.make_context("cni-faasm", [], resilient_parsing=True) as context:
        found = helps(command, context)
    assert {"cni-faasm status", "cni-faasm pool up"} <= {words for words, _ in found}
    for words, told in found:
        if words == "cni-faasm pool":  # its page is that of its commands
            continue
        _, _, part = text.partition(f" {words} {words} ")
        assert part, words
        usage, _, rest = told.partition("\n\n")
        assert part.startswith(" ".join(usage.split()).removeprefix(f"Usage: {words} ")), words
        # Without what the columns of the help break, word for word.
        body = re.sub(r"^(Arguments|Options):$", "", rest, flags=re.MULTILINE)
        for word in set(body.split()) - {"^"}:
            assert word in part, (words, word)


def test_the_page_of_the_plugin_says_what_its_help_says(installed: Path) -> None:
    text = read(installed / "usr/share/man/man8/faasm.8.gz")
    told = subprocess.run([BUNDLE / "faasm", "--help"], check=True, capture_output=True, text=True)
    _, _, options = told.stdout.partition("Options:\n")
    for option in re.split(r"\n(?=  -)", options):
        assert " ".join(option.split()) in text


@pytest.mark.parametrize(("words", "next_words"), [("pool u", "up"), ("s", "status set-rate")])
def test_bash_completes(installed: Path, words: str, next_words: str) -> None:
    """As bash-completion does when it has read the file."""
    script = (
        f". {installed}/usr/share/bash-completion/completions/cni-faasm; complete -p cni-faasm; "
        f"COMP_WORDS=(cni-faasm {words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        '_cni_faasm cni-faasm; echo "${COMPREPLY[*]}"'
    )
    done = subprocess.run(
        ["bash", "-c", script],
        check=True,
        capture_output=True,
        text=True,
        env={"PATH": f"{installed}/usr/bin:{SYSTEM_PATH}"},
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "complete -o default -F _cni_faasm cni-faasm",
        next_words,
    ]


def test_the_files_are_as_they_lie_in_the_sources(installed: Path) -> None:
    for path, delivered in SYSTEM_FILES.items():
        if "completion" in delivered:
            source = REPO / "deploy/completion" / Path(delivered).name
            assert (installed / path).read_bytes() == source.read_bytes()
        assert (installed / path).stat().st_mode & 0o777 == 0o644
