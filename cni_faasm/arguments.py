"""Answer who calls the plugin without CNI_COMMAND: a person. No runtime does."""

import sys

from cni_faasm import __version__, netavark
from cni_faasm.config import nearmiss
from cni_faasm.spec import protocol

HELP = ("-h", "--help")
VERSION = "--version"
NETAVARK = netavark.VERBS
KNOWN = (*HELP, VERSION, *NETAVARK)
SHOWN = 40  # characters of an argument that nobody knows

USAGE = """\
Usage: faasm [--help | --version]
       faasm create | setup NETNS | teardown NETNS | info

  The CNI plugin faasm. A container runtime calls it without arguments, with
  CNI_COMMAND in its environment and a network configuration on stdin. podman 5
  and its netavark know no CNI and call it as in the second line, with a JSON
  document on stdin. For people there is cni-faasm --help.

Options:
  --version   Say which version this is, and which versions of CNI it speaks.
  -h, --help  Show this message and exit.
"""


def answer(given: list[str]) -> tuple[int, str, str]:
    """Return the exit status and what goes to stdout and stderr, but for netavark's calls."""
    if not given:
        who = f"cni-faasm {__version__}: the CNI plugin 'faasm'. A container runtime calls it; "
        return 0, "", f"{who}for people there is cni-faasm --help.\n{_versions()}"
    for argument in given:
        if argument not in KNOWN:
            return 2, "", f"faasm: {_unknown(argument)}\nfaasm --help tells what there is\n"
    return 0, USAGE if given[0] in HELP else f"faasm {__version__}\n{_versions()}", ""


def given() -> list[str]:
    """Return the arguments of this process."""
    return sys.argv[1:]


def _unknown(argument: str) -> str:
    word = "".join(letter if letter.isprintable() else "?" for letter in argument[:SHOWN])
    meant = nearmiss.nearest(argument[:SHOWN].lower(), {name: name for name in KNOWN})
    return f"unknown argument '{word}'" + (f": did you mean {meant}?" if meant else "")


def _versions() -> str:
    return f"CNI protocol versions supported: {', '.join(protocol.SUPPORTED_VERSIONS)}\n"
