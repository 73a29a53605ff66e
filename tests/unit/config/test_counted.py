"""Limits of packets and connections, as a configuration gives them."""

import os
from types import SimpleNamespace
from typing import Any

import pytest

from cni_faasm.config import loading
from cni_faasm.config.counted import Counted, Packets
from cni_faasm.netlink import nft_limit
from cni_faasm.netlink.lacking import is_lacking
from cni_faasm.netlink.wire import NetlinkError

DOCUMENT = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "faasm",
    "ipam": {"type": "host-local", "subnet": "10.200.0.0/16"},
}


def fields_of(**bandwidth: Any) -> dict[str, int]:
    config, faults = loading.check_faults({**DOCUMENT, "bandwidth": bandwidth})
    assert not faults
    assert config is not None
    return config.counted.to_fields() if config.counted else {}


def test_one_key_for_both_directions_and_one_for_each() -> None:
    assert fields_of() == fields_of(packetRate=0, maxConnections=0) == {}
    assert fields_of(packetRate=1000, packetBurst=7) == {
        "ingressPacketRate": 1000,
        "ingressPacketBurst": 7,
        "egressPacketRate": 1000,
        "egressPacketBurst": 7,
    }
    # A burst belongs to its rate.
    assert fields_of(packetRate=1000, packetBurst=7, egressPacketRate=100_000) == {
        "ingressPacketRate": 1000,
        "ingressPacketBurst": 7,
        "egressPacketRate": 100_000,
        "egressPacketBurst": 5000,
    }
    assert fields_of(packetRate=10, ingressPacketRate=0, egressPacketBurst=3) == {
        "egressPacketRate": 10,
        "egressPacketBurst": 3,
    }
    assert fields_of(maxConnections=10) == {"maxConnections": 10}


@pytest.mark.parametrize(
    ("bandwidth", "key"),
    [
        ({"packetRate": "10k"}, "packetRate"),
        ({"packetRate": -1}, "packetRate"),
        ({"packetRate": 100_000_001}, "packetRate"),
        ({"packetBurst": 5}, "packetBurst"),
        ({"packetRate": 5, "packetBurst": 0}, "packetBurst"),
        ({"egressPacketBurst": 5}, "egressPacketBurst"),
        ({"ingressPacketRate": 0, "packetRate": 1, "ingressPacketBurst": 5}, "ingressPacketBurst"),
        ({"maxConnections": True}, "maxConnections"),
    ],
)
def test_what_is_refused(bandwidth: dict[str, Any], key: str) -> None:
    _, faults = loading.check_faults({**DOCUMENT, "bandwidth": bandwidth})
    assert [one.path.rpartition(".")[2] for one in faults] == [key]


def test_records_keep_them() -> None:
    for one in (
        Counted(Packets(1), None, 5),
        Counted(None, Packets(1000, 3)),
        Counted(Packets(7), Packets(100_000_000), 10_000_000),
    ):
        assert Counted.from_fields(dict(one.to_fields())).to_fields() == one.to_fields()
    wrong: list[dict[str, object]] = [
        {"maxConnections": 0},
        {"egressPacketRate": 1},
        {"maxConnections": "1"},
    ]
    for fields in wrong:
        with pytest.raises((TypeError, ValueError)):
            Counted.from_fields(fields)


def test_buckets_are_read_as_they_are_written() -> None:
    for one in (
        nft_limit.Packets(1000, 50),
        nft_limit.Connections(10),
        nft_limit.Limit(1000, 50),
    ):
        assert nft_limit.parse(one.encode()) == one
    assert nft_limit.Packets(1000, 50) != nft_limit.Limit(1000, 50)


@pytest.mark.parametrize(
    ("release", "counts"),
    [("5.10.0-32-cloud-amd64", False), ("5.16.9", False), ("5.17.0", True), ("6.1.0-50", True)],
)
def test_kernels_that_would_miscount_are_refused(
    monkeypatch: pytest.MonkeyPatch, release: str, counts: bool
) -> None:
    monkeypatch.setattr(os, "uname", lambda: SimpleNamespace(release=release))
    if counts:
        nft_limit.demand_counts()
        return
    with pytest.raises(NetlinkError) as refused:
        nft_limit.demand_counts()
    assert is_lacking(refused.value)
