"""Write the manual pages from what the commands themselves say by --help.

A page has its command line, its text and its options from the objects that answer --help, so
it is never older than they are. `python packaging/manual.py FOLDER` writes them there.
"""

import gzip
import inspect
import os
import sys
import textwrap
import time
from collections.abc import Iterator
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import typer.main

from cni_faasm import __version__, arguments
from cni_faasm.cli import main as tool

SECTION = "8"  # administration
# No clock, so that the same sources give the same bytes; build.sh sets it.
EPOCH = int(os.environ.get("SOURCE_DATE_EPOCH", "1704067200"))

TOOL_FILES = (
    ("/etc/cni/net.d", "The networks, as container runtimes read them."),
    ("/usr/lib/cni-faasm/docs", "The documentation; README.md is beside it."),
)
PLUGIN_ENVIRONMENT = (
    ("CNI_COMMAND", "ADD, DEL, CHECK, GC, STATUS or VERSION. Without it nothing is done."),
    (
        "CNI_CONTAINERID, CNI_NETNS, CNI_IFNAME, CNI_ARGS, CNI_PATH",
        "What the CNI specification says of them.",
    ),
    ("CNI_FAASM_LOG", "A file that gets a line for each step of the call."),
)
PLUGIN_FILES = (
    ("/opt/cni/bin/faasm", "Where runtimes look for plugins."),
    ("/usr/libexec/netavark/faasm", "The same for podman 5, where that is installed."),
    ("/etc/containers/networks", "The networks that podman 5 keeps."),
    ("/etc/cni/net.d/10-faasm.conflist", "The network that was installed."),
    ("/var/lib/cni/networks", "Leases of addresses."),
    ("/var/lib/cni/faasm", "What ADD promised to each container."),
    ("/usr/lib/cni-faasm/docs/configuration.md", "Every key of the configuration."),
    ("/usr/lib/cni-faasm/docs/errors.md", "Every error code, with its remedy."),
)


def pages() -> Iterator[tuple[str, bytes]]:
    """Yield the name of each page's file, and its contents, compressed."""
    for name, lines in (("cni-faasm", _tool()), ("faasm", _plugin())):
        date = time.strftime("%Y-%m-%d", time.gmtime(EPOCH))
        head = f'.TH {_escaped(name.upper())} {SECTION} {date} "cni-faasm {__version__}"'
        text = "\n".join((head, *lines, ""))
        yield f"{name}.{SECTION}.gz", gzip.compress(text.encode("ascii"), 9, mtime=0)


def _tool() -> Iterator[str]:
    command: Any = typer.main.get_command(tool.app)
    with command.make_context("cni-faasm", [], resilient_parsing=True) as context:
        summary, *rest = _paragraphs(command.help)
        yield from _name("cni-faasm", summary)
        yield ".SH SYNOPSIS"
        yield _line(command.get_usage(context).removeprefix("Usage: "))
        yield ".SH DESCRIPTION"
        yield from _text([summary, *rest])
        yield ".SH OPTIONS"
        yield from _options(command, context)
        yield ".SH COMMANDS"
        for words, one, inner in _below(command, context):
            yield f'.SS "{_escaped(" ".join(words))}"'
            yield _line(one.get_usage(inner).removeprefix("Usage: "))
            yield ".PP"
            yield from _text(_paragraphs(one.help))
            yield from _options(one, inner)
    yield ".SH EXIT STATUS"
    yield _line((tool.__doc__ or "").partition("\n\nExit status: ")[2])
    yield ".SH ENVIRONMENT"
    yield from _list([(tool.DEBUG, "Where it is 1, an internal error shows the whole way there.")])
    yield ".SH FILES"
    yield from _list(TOOL_FILES)
    yield from _see_also("faasm")


def _plugin() -> Iterator[str]:
    usage, _, rest = arguments.USAGE.partition("\n\n")
    description, _, options = rest.partition("\n\nOptions:\n")
    text = " ".join(description.split())
    yield from _name("faasm", "a CNI plugin that limits containers in both directions")
    yield ".SH SYNOPSIS"
    for number, form in enumerate(usage.removeprefix("Usage: ").splitlines()):
        yield from [".br"] if number else []
        yield _line(form.strip())
    yield ".SH DESCRIPTION"
    yield _line(text)
    yield ".SH OPTIONS"
    listed: list[tuple[str, str]] = []
    for line in options.splitlines():
        if line.startswith("  -"):
            names, _, words = line.strip().partition("  ")
            listed.append((names, words.strip()))
        elif listed:
            listed[-1] = (listed[-1][0], f"{listed[-1][1]} {line.strip()}")
    yield from _list(listed)
    yield ".SH EXIT STATUS"
    yield _line("0: done. 1: the call failed, with an error document on standard output.")
    yield _line("2: an argument that nobody knows.")
    yield ".SH ENVIRONMENT"
    yield from _list(PLUGIN_ENVIRONMENT)
    yield ".SH FILES"
    yield from _list(PLUGIN_FILES)
    yield from _see_also("cni-faasm")


def _below(command: Any, context: Any) -> Iterator[tuple[list[str], Any, Any]]:
    """Yield every command below a group: its words, itself, its context."""
    for name in command.list_commands(context):
        one = command.get_command(context, name)
        with one.make_context(name, [], parent=context, resilient_parsing=True) as inner:
            if hasattr(one, "list_commands"):
                yield from _below(one, inner)
            else:
                yield inner.command_path.split(), one, inner


def _paragraphs(text: str) -> list[str]:
    return inspect.cleandoc(text).split("\n\n")


def _name(name: str, summary: str) -> Iterator[str]:
    yield ".SH NAME"
    yield _line(f"{name} - {summary[0].lower()}{summary[1:].rstrip('.')}")


def _text(paragraphs: list[str]) -> Iterator[str]:
    """Yield paragraphs; those that are indented are commands, and stay as they are."""
    is_first, was_example = True, False
    for paragraph in paragraphs:
        is_example = paragraph.startswith("    ")
        if is_example:
            yield "" if was_example else ".PP\n.RS 4\n.nf"
            yield "\n".join(_line(line.strip()) for line in paragraph.splitlines())
        else:
            if was_example:
                yield ".fi\n.RE"
            if not is_first:
                yield ".PP"
            yield "\n".join(_line(line) for line in paragraph.splitlines())
        is_first, was_example = False, is_example
    if was_example:
        yield ".fi\n.RE"


def _options(command: Any, context: Any) -> Iterator[str]:
    records = [param.get_help_record(context) for param in command.get_params(context)]
    yield from _list([record for record in records if record])


def _list(items: Any) -> Iterator[str]:
    for name, text in items:
        yield ".TP"
        yield f'.B "{_escaped(name)}"'
        yield _line(" ".join(text.split()))


def _see_also(name: str) -> Iterator[str]:
    yield ".SH SEE ALSO"
    yield f".BR {_escaped(name)} ({SECTION}),"
    yield ".BR tc (8),\n.BR ip\\-netns (8)"


def _line(text: str) -> str:
    """Return a line of text, broken where an editor would; the reader's terminal fills it."""
    broken = textwrap.wrap(
        _escaped(" ".join(text.split())), 78, break_long_words=False, break_on_hyphens=False
    )
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in broken)


def _escaped(text: str) -> str:
    for letter, name in (
        ("\\", "\\e"),
        ("-", "\\-"),
        ('"', "\\(dq"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        text = text.replace(letter, name)
    return text


if __name__ == "__main__":
    for name, data in pages():
        with open(os.path.join(sys.argv[1], name), "wb") as file:
            file.write(data)
