"""Fuzz one target: its name, then libFuzzer's options."""

import sys

import atheris

with atheris.instrument_imports(include=["cni_faasm"]):
    from cni_faasm.errors import CniError
    from cni_faasm.netlink.wire import NetlinkError
    from tests.property.fuzz_targets import TARGETS


def main() -> None:
    """Run until -runs are done, or something unforeseen comes."""
    target = TARGETS[sys.argv[1]]

    def one(data: bytes) -> None:
        try:
            target(data)
        except (CniError, NetlinkError):
            return

    atheris.Setup([sys.argv[0], *sys.argv[2:]], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
