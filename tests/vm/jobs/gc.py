"""GC keeps the valid and takes the rest, whatever modules the kernel has loaded so far.

A dump of links filtered by a kind is not filtered while no module has registered that kind.
"""

import subprocess
from pathlib import Path

import pytest

from tests.host import Host, wait_until
from tests.kernel.test_gc_status import attachments

OTHERS = ["theirs0", "theirs1"]


def set_module(name: str, *, loaded: bool) -> None:
    """Load a module, or unload it: that may wait for the last link of its kind to go."""
    command = ["modprobe", name] if loaded else ["modprobe", "-r", name]

    def is_done() -> bool:
        subprocess.run(command, check=False, capture_output=True)
        return Path("/sys/module", name).exists() == loaded

    wait_until(is_done, " ".join(command))


def add_others(host: Host) -> None:
    """Make links that have nothing to do with us."""
    for name, kind in zip(OTHERS, ("dummy", "bridge"), strict=True):
        host.run(["ip", "link", "add", name, "type", kind])


@pytest.mark.parametrize("ifb", [True, False], ids=["ifb loaded", "ifb not loaded"])
def test_valid_and_invalid(host: Host, ifb: bool) -> None:
    set_module("ifb", loaded=ifb)
    add_others(host)
    rates = {"ingressRate": 10**6, "egressRate": 10**6, "enforceEgress": "host" if ifb else ""}
    config = host.config(ipMasq=True, bandwidth=rates)
    kept, lost, gone = (host.add_container() for _ in range(3))
    results = [host.add(one, config) for one in (kept, lost, gone)]
    gone.delete()
    host.cni("GC", None, {**config, **attachments((kept.name, "eth0"))}).ok()
    assert Path("/sys/module/ifb").exists() == ifb
    assert sorted(host.links()) == sorted([*OTHERS, "faasm0", *(["ifaasm0"] if ifb else [])])
    assert lost.links() == []
    assert list(host.leases()) == ["testnet/10.200.0.2"]
    assert list(host.records()) == [f"testnet/{kept.name}@eth0"]
    host.check(kept, config, results[0]).ok()
    kept.run(["busybox", "ping", "-c1", "-W5", "10.200.0.1"])

    host.cni("GC", None, {**config, **attachments()}).ok()
    assert host.links() == OTHERS
    assert kept.links() == []
    assert (host.leases(), host.records(), host.nft_tables()) == ({}, {}, [])


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "not loaded"])
def test_nothing_left_but_the_store(host: Host, loaded: bool) -> None:
    """As where containers went with their links: neither ifb nor veth needs to be loaded."""
    config = host.config()
    kept, lost = (host.add_container() for _ in range(2))
    for one in (kept, lost):
        host.add(one, config)
        one.run(["ip", "link", "del", "eth0"])
    for module in ("ifb", "veth"):
        set_module(module, loaded=loaded)
    add_others(host)
    host.cni("GC", None, {**config, **attachments((kept.name, "eth0"))}).ok()
    assert host.links() == OTHERS
    assert list(host.records()) == [f"testnet/{kept.name}@eth0"]
    assert list(host.leases()) == ["testnet/10.200.0.2"]
    host.cni("GC", None, {**config, **attachments()}).ok()
    assert host.links() == OTHERS
    assert (host.leases(), host.records()) == ({}, {})
