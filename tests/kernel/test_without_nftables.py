"""Where there is no nf_tables: who masquerades and guards nothing does without it."""

import errno
import sys
from collections.abc import Callable
from typing import Any

import pytest

from cni_faasm.netlink import lacking, nft, nftables
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.wire import NetlinkError
from tests.host import Host, wait_until
from tests.tool import Tool

PLUGIN = [sys.executable, "-m", "tests.without_nftables"]
LIMITS = {"ingressRate": 10**7, "egressRate": 10**7}


@pytest.fixture
def poor(make_host: Callable[[list[str]], Host]) -> Host:
    return make_host(PLUGIN)


def collect(host: Host, network: dict[str, Any], *names: str) -> None:
    valid = [{"containerID": name, "ifname": "eth0"} for name in names]
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": valid}).ok()


@pytest.mark.parametrize("bandwidth", [None, LIMITS], ids=["unlimited", "limited"])
def test_every_verb(poor: Host, bandwidth: dict[str, int] | None) -> None:
    network = poor.config(cniVersion="1.1.0", antiSpoof=False, bandwidth=bandwidth)
    poor.cni("STATUS", None, network).ok()
    one, other = poor.add_container(), poor.add_container()
    result = poor.add(one, network)
    poor.add(other, network)
    poor.check(one, network, result).ok()
    collect(poor, network, one.name)
    assert poor.links() == ["faasm0"]
    poor.check(one, network, result).ok()
    poor.delete_attachment(one, network)
    collect(poor, network)
    assert (poor.links(), poor.leases()) == ([], {})


def test_a_container_of_several_attachments(poor: Host) -> None:
    """Which asks the guards of the other networks to let its addresses pass."""
    first = poor.config(cniVersion="1.1.0", antiSpoof=False)
    second = {**first, "name": "second", "ipam": {**first["ipam"], "subnet": "10.202.0.0/24"}}
    container = poor.add_container()
    results = [
        poor.add(container, network, ifname=name)
        for network, name in ((first, "eth0"), (second, "eth1"))
    ]
    for network, name, result in zip((first, second), ("eth0", "eth1"), results, strict=True):
        poor.check(container, network, result, ifname=name).ok()


def test_the_tool(poor: Host) -> None:
    tool = Tool(poor, [*PLUGIN, "tool"])
    tool.network(ipMasq=False, antiSpoof=False, bandwidth=LIMITS)
    network = poor.config(antiSpoof=False, bandwidth=LIMITS)
    container = poor.add_container()
    poor.add(container, network)
    assert "no drift" in tool("check").ok().stdout
    assert 'container="' + container.name in tool("metrics").ok().stdout
    poor.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    assert "root qdisc" in tool("repair").ok().stdout
    tool("set-rate", "faasm0", "--egress", "5M").ok()
    container.delete()
    wait_until(lambda: poor.link("faasm0") is None, "the pair to go")
    assert "removed" in tool("gc").ok().stdout


@pytest.mark.parametrize("keys", [{"ipMasq": True}, {"antiSpoof": True}, {"isolated": True}])
def test_what_needs_it_is_refused(poor: Host, keys: dict[str, bool]) -> None:
    container = poor.add_container()
    before = poor.snapshot()
    network = poor.config(cniVersion="1.1.0", **{"antiSpoof": False, **keys})
    error = poor.cni("ADD", container, network).error(106)
    assert f"which {next(iter(keys))} needs" in error["msg"]
    poor.cni("STATUS", None, network).error(50)
    poor.assert_unchanged(before)


def test_ports_that_could_not_be_published(poor: Host) -> None:
    """Only who asks for some is refused; STATUS says so once, and validate each time."""
    offers: dict[str, Any] = {"capabilities": {"bandwidth": True, "portMappings": True}}
    network = poor.config(cniVersion="1.1.0", antiSpoof=False, **offers)
    missing = "this kernel lacks nf_tables (nf_tables, nfnetlink), which portMappings needs"
    first = poor.cni("STATUS", None, network)
    first.ok()
    assert first.stderr.count(missing.encode()) == 1
    assert b"who asks for published ports is refused" in first.stderr
    assert poor.cni("STATUS", None, network).stderr == b""
    container = poor.add_container()
    asked = {**network, "runtimeConfig": {"portMappings": [{"hostPort": 80, "containerPort": 80}]}}
    assert missing in poor.cni("ADD", container, asked).error(106)["msg"]
    poor.delete_attachment(container, network)
    poor.add(container, network)
    poor.delete_attachment(container, network)

    tool = Tool(poor, [*PLUGIN, "tool"])
    path = tool.network(ipMasq=False, antiSpoof=False, bandwidth=None, **offers)
    (file,) = tool("validate", str(path), "--json").ok().document["files"]
    remarks = {one["place"]: one["message"] for one in file["remarks"]}
    [place] = [place for place, message in remarks.items() if missing in message]
    assert place.endswith("capabilities.portMappings")
    path = tool.network(ipMasq=False, antiSpoof=False, bandwidth=None, capabilities={})
    (file,) = tool("validate", str(path), "--json").ok().document["files"]
    assert not any(missing in one["message"] for one in file["remarks"])


def test_the_kernel_is_asked_once(bare_host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to a subsystem that is missing has it run modprobe."""
    nobodys = (0x7F << 8, 0, bytes(4), "nft list tables")
    monkeypatch.setattr(Nftables, "absent_until_s", 0.0)
    with bare_host.entered():
        with Nftables() as netfilter:
            assert netfilter.dump(nft.dump_tables(nft.NFPROTO_INET)) == []
            for ask in (netfilter.dump, netfilter.get):
                monkeypatch.setattr(Nftables, "absent_until_s", 0.0)
                with pytest.raises(NetlinkError) as told:
                    ask(nobodys)
                assert told.value.errno == errno.EINVAL
                with pytest.raises(NetlinkError, match="no nf_tables") as told:
                    Nftables()
                assert lacking.is_lacking(told.value)
        monkeypatch.setattr(nftables, "REMEMBERED_S", 0.0)
        monkeypatch.setattr(Nftables, "absent_until_s", 0.0)
        with Nftables() as netfilter, pytest.raises(NetlinkError):
            netfilter.get(nobodys)
        with Nftables() as netfilter:
            assert netfilter.dump(nft.dump_tables(nft.NFPROTO_INET)) == []
