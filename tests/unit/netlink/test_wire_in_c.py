"""What the built plugin has in C for the netlink codec: the same as in Python, to the byte."""

import importlib.machinery
import importlib.util
import random
import struct
import subprocess
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.netlink import wire
from cni_faasm.netlink.wire import NetlinkError

SOURCES = Path(__file__).parents[3] / "packaging" / "snapshot"
TRIALS = 4000


@pytest.fixture(scope="module")
def in_c(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compile packaging/snapshot/attributes.c for this interpreter."""
    made = tmp_path_factory.mktemp("in_c") / "_faasm_attributes.so"
    include = sysconfig.get_path("include", vars={"installed_base": "/usr"})
    argv = ["gcc", "-shared", "-fPIC", "-O2", "-fsanitize=undefined", "-fno-sanitize-recover"]
    argv += [f"-I{include}", "-o", str(made), str(SOURCES / "attributes.c")]
    subprocess.run(argv, check=True, timeout=120)
    loader = importlib.machinery.ExtensionFileLoader("_faasm_attributes", str(made))
    spec = importlib.util.spec_from_file_location("_faasm_attributes", made, loader=loader)
    assert spec is not None
    return importlib.util.module_from_spec(spec)


def outcome(act: Callable[..., object], *arguments: object) -> object:
    try:
        return act(*arguments)
    except NetlinkError as error:
        return (error.errno, error.label, error.ext_ack)


def runs_of_attributes(chance: random.Random) -> Iterator[bytes]:
    """Yield runs of attributes: whole, padded, cut, with lengths that lie, and noise."""
    for _ in range(TRIALS):
        run = b"".join(
            wire.attr(chance.randrange(1 << 16), chance.randbytes(chance.choice((0, 1, 4, 7, 300))))
            for _ in range(chance.randrange(6))
        )
        spoilt = bytearray(run + bytes(chance.randrange(4)))
        if spoilt and chance.random() < 0.4:
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        yield bytes(spoilt[: len(spoilt) - chance.choice((0, 0, 0, 1, 3, 9))])
        yield chance.randbytes(chance.randrange(40))


def test_attributes(in_c: Any) -> None:
    chance = random.Random(1)
    refused = 0
    for data in runs_of_attributes(chance):
        wanted = outcome(wire.parse_attrs, data)
        assert outcome(in_c.parse_attrs, data) == wanted
        refused += isinstance(wanted, tuple)
        odd = b"\0" + data
        assert outcome(in_c.parse_attrs, odd, 1) == outcome(wire.parse_attrs, odd, 1)
        start = chance.choice((0, 1, 4, 8, 12, 100))
        end = chance.choice((None, chance.randrange(len(data) + 1)))
        assert outcome(in_c.parse_attrs, data, start, end) == outcome(
            wire.parse_attrs, data, start, end
        )
    assert TRIALS / 10 < refused < TRIALS * 1.9


def test_messages(in_c: Any) -> None:
    chance = random.Random(2)
    refused = 0
    for body in runs_of_attributes(chance):
        data = b"".join(
            wire.frame(chance.randrange(1 << 16), chance.randrange(1 << 16), number, body)
            for number in (chance.randrange(1 << 32) for _ in range(chance.randrange(4)))
        )
        spoilt = bytearray(data[: len(data) - chance.choice((0, 0, 1, 17))])
        if len(spoilt) >= 4 and chance.random() < 0.3:
            struct.pack_into("=I", spoilt, 0, chance.choice((0, 15, 16, 1 << 31, (1 << 32) - 1)))
        wanted = outcome(wire.split, bytes(spoilt))
        assert outcome(in_c.split, bytes(spoilt)) == wanted
        refused += isinstance(wanted, tuple)
    assert TRIALS / 10 < refused < TRIALS * 1.9


@pytest.mark.parametrize("arguments", [(), ("text",), (b"", "0"), (b"", 0, 0, 0), (None,)])
def test_what_is_no_buffer_is_refused(in_c: Any, arguments: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        in_c.parse_attrs(*arguments)


def test_places_outside_are_refused(in_c: Any) -> None:
    """Python would take a negative place for one from the end."""
    for arguments in ((b"\4\0\1\0", -4), (b"\4\0\1\0", 0, 5)):
        with pytest.raises(NetlinkError):
            in_c.parse_attrs(*arguments)


def test_the_built_plugin_uses_it() -> None:
    """Else it would be a quarter of what a CHECK executes."""
    plugin = SOURCES.parents[1] / "dist" / "faasm" / "faasm"
    assert b"parse_attrs(data: bytes, start, end)" in plugin.read_bytes()
