"""Fuzz one target: its name, its corpus' folder, then libFuzzer's options."""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["cni_faasm"]):
    from cni_faasm.netlink.wire import NetlinkError
    from cni_faasm.spec.errors import CniError
    from tests.property.fuzz_targets import SEEDS, TARGETS
from tests.property.fuzz_mutator import mutated


def main() -> None:
    """Run until -runs are done, or something unforeseen comes."""
    name, corpus = sys.argv[1:3]
    target = TARGETS[name]
    for number, seed in enumerate(SEEDS[name]):
        (Path(corpus) / f"seed{number}").write_bytes(seed)

    def one(data: bytes) -> None:
        try:
            target(data)
        except (CniError, NetlinkError):
            return

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        return mutated(data, max_size, seed, atheris.Mutate)

    is_json = SEEDS[name][0].rpartition(b"\0\0")[2].startswith(b"{")
    options = {"custom_mutator": mutate} if is_json else {}
    atheris.Setup([sys.argv[0], *sys.argv[3:], corpus], one, **options)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
