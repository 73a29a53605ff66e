"""Answer who calls the plugin without CNI_COMMAND: a person, or a service. No runtime does."""

import posix
import sys

from cni_faasm import __version__, netavark
from cni_faasm.config import nearmiss
from cni_faasm.spec import protocol

HELP = ("-h", "--help")
VERSION = "--version"
AGENT = "--agent"
NETAVARK = netavark.VERBS
KNOWN = (*HELP, VERSION, AGENT, *NETAVARK)
SHOWN = 40  # characters of an argument that nobody knows

USAGE = """\
Usage: faasm [--help | --version | --agent]
       faasm create | setup NETNS | teardown NETNS | info

  The CNI plugin faasm. A container runtime calls it without arguments, with
  CNI_COMMAND in its environment and a network configuration on stdin. podman 5
  and its netavark know no CNI and call it as in the second line, with a JSON
  document on stdin. For people there is cni-faasm --help.

Options:
  --version   Say which version this is, and which versions of CNI it speaks.
  --agent     Serve the calls of others, as the service cni-faasm does, without
              the start of an interpreter for each.
  -h, --help  Show this message and exit.
"""


def answer(given: "list[str]") -> "tuple[int, str, str]":
    """Return the exit status and what goes to stdout and stderr, but for netavark's calls."""
    if not given:
        who = f"cni-faasm {__version__}: the CNI plugin 'faasm'. A container runtime calls it; "
        return 0, "", f"{who}for people there is cni-faasm --help.\n{_versions()}"
    for argument in given:
        if argument == AGENT:
            # The bundle's executable has become one before this, when it is the only argument.
            why = "it is the only argument of the executable that build.sh makes"
            return 2, "", f"faasm: --agent: this cannot be one\n{why}\n"
        if argument not in KNOWN:
            return 2, "", f"faasm: {_unknown(argument)}\nfaasm --help tells what there is\n"
    return 0, USAGE if given[0] in HELP else f"faasm {__version__}\n{_versions()}", ""


def given() -> "list[str]":
    """Return the arguments of this process."""
    words: "list[str] | None" = getattr(sys, "argv", None)
    if words is not None:
        return words[1:]
    # An interpreter as bare as the bundle's has none.
    try:
        file = posix.open("/proc/self/cmdline", posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        return []
    line = posix.read(file, 1 << 16)
    return [word.decode("utf-8", "surrogateescape") for word in line.split(b"\0")[1:-1]]


def _unknown(argument: str) -> str:
    word = "".join(letter if letter.isprintable() else "?" for letter in argument[:SHOWN])
    meant = nearmiss.nearest(argument[:SHOWN].lower(), {name: name for name in KNOWN})
    return f"unknown argument '{word}'" + (f": did you mean {meant}?" if meant else "")


def _versions() -> str:
    return f"CNI protocol versions supported: {', '.join(protocol.SUPPORTED_VERSIONS)}\n"
