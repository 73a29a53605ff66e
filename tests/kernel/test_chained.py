"""Shaping only: faasm after bridge or ptp, in the place of the reference's bandwidth."""

import copy
import json
from typing import Any

import pytest

from tests import rates
from tests.host import Host, Namespace
from tests.tool import Tool

RATE = 20_000_000


def conflist(host: Host, first: str) -> dict[str, Any]:
    plugin: dict[str, Any] = {
        "type": first,
        "ipam": {**host.config()["ipam"], "routes": [{"dst": "0.0.0.0/0"}]},
    }
    if first == "bridge":
        plugin |= {"bridge": "br0", "isGateway": True}
    return {
        "name": "testnet",
        "cniVersion": "1.0.0",
        "plugins": [
            plugin,
            {
                "type": "faasm",
                "stateDir": str(host.state_dir),
                "ingressRate": RATE,
                "ingressBurst": RATE // 100,
                "egressRate": RATE // 2,
                "egressBurst": RATE // 200,
            },
        ],
    }


@pytest.fixture(params=["bridge", "ptp"])
def chain(request: pytest.FixtureRequest, host: Host) -> dict[str, Any]:
    return conflist(host, request.param)


def _outer(result: dict[str, Any]) -> str:
    """Return the host's end: the last interface without a sandbox that is no bridge and no ifb."""
    names: list[str] = [one["name"] for one in result["interfaces"] if not one.get("sandbox")]
    return next(name for name in reversed(names) if name[:1] != "i" or name[1:] not in names)


def _rates(namespace: Namespace, device: str) -> list[int]:
    return [one["rate"] for one in namespace.classes(device) if one["kind"] == "htb"]


@pytest.mark.also_reluctant
def test_add_check_del(host: Host, container: Namespace, chain: dict[str, Any]) -> None:
    before = container.links()
    alone = {**chain, "plugins": chain["plugins"][:1]}
    result = host.chain("ADD", container, chain)
    outer = _outer(result)
    leases = host.leases()
    assert len(leases) == 1
    assert _rates(host, outer) == [RATE]
    assert _rates(container, "eth0") == [RATE // 2]
    assert len(host.records()) == 1

    faasm = {**chain, "plugins": chain["plugins"][1:], "prevResult": result}
    host.chain("CHECK", container, faasm)
    host.chain("DEL", container, faasm)
    assert host.records() == {}
    assert _rates(host, outer) == []
    assert _rates(container, "eth0") == []
    assert host.leases() == leases, "the address is the first plugin's"
    host.chain("DEL", container, faasm)
    assert outer in host.links(), "the pair is the first plugin's"
    host.chain("DEL", container, {**alone, "prevResult": result})
    host.chain("DEL", container, {**chain, "prevResult": result})
    assert container.links() == before
    assert host.leases() == {}


def test_its_limit_holds_on_the_host(
    host: Host, container: Namespace, chain: dict[str, Any]
) -> None:
    """Where its packets pass: what comes by the port of a bridge does not as the port's."""
    result = host.chain("ADD", container, chain)
    families = {"ptp": ["inet", "arp"], "bridge": ["bridge"]}[chain["plugins"][0]["type"]]
    for family in ("inet", "arp", "bridge"):
        assert (f"{family} limit_testnet" in host.nft_tables()) == (family in families)
    for family in families:
        text = host.run(["nft", "list", "table", family, "limit_testnet"]).stdout
        assert f'"{_outer(result)}" limit rate over 1287500 bytes/second' in text
        assert "iifname @egress counter" in text
        assert "iifgroup" not in text
        host.run(["nft", "flush", "chain", family, "limit_testnet", "from"])
    faasm = {**chain, "plugins": chain["plugins"][1:], "prevResult": result}
    with pytest.raises(AssertionError, match="limit: nft table limit_testnet: rules"):
        host.chain("CHECK", container, faasm)
    host.chain("DEL", container, faasm)
    for family in families:
        text = host.run(["nft", "list", "table", family, "limit_testnet"]).stdout
        assert _outer(result) not in text


def test_prev_result_passes_through(
    host: Host, container: Namespace, chain: dict[str, Any]
) -> None:
    first = host.chain("ADD", container, {**chain, "plugins": chain["plugins"][:1]})
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    result = host.add(container, {**own, "prevResult": first})
    assert {"dns": {}, **result} == {"dns": {}, **first}


def test_what_others_tell_of_their_devices_passes_through(
    host: Host, container: Namespace, chain: dict[str, Any]
) -> None:
    """Keys of interfaces that came with 1.1.0: a vhost-user socket, a virtual function."""
    first = host.chain("ADD", container, {**chain, "plugins": chain["plugins"][:1]})
    device = {"name": "net1", "socketPath": "/run/vhost.sock", "pciID": "0000:00:1f.6"}
    first |= {"cniVersion": "1.1.0", "interfaces": [*first["interfaces"], device]}
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.1.0"}
    result = host.add(container, {**own, "prevResult": first})
    assert result["interfaces"] == first["interfaces"]


@pytest.mark.parametrize("where", ["outer", "inner"])
def test_check_sees_a_removed_qdisc(
    host: Host, container: Namespace, chain: dict[str, Any], where: str
) -> None:
    result = host.chain("ADD", container, chain)
    namespace, device = (host, _outer(result)) if where == "outer" else (container, "eth0")
    namespace.run(["tc", "qdisc", "del", "dev", device, "root"])
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    error = host.check(container, own, result).error(107)
    assert f"{device}: root qdisc" in error["msg"]
    host.chain("DEL", container, {**chain, "prevResult": result})
    assert host.records() == {}


def test_measured(host: Host, container: Namespace) -> None:
    remote = host.add_remote()
    chain = conflist(host, "ptp")
    chain["plugins"][0]["ipMasq"] = True
    host.chain("ADD", container, chain)
    rates.serve(host, remote)
    for download, limit in ((True, RATE), (False, RATE // 2)):
        flow = rates.Flow(container, "198.51.100.1", download=download)
        rates.assert_flows([flow], limit, seconds=2, low=0.9)


def test_runtime_limits_hold(host: Host, container: Namespace, chain: dict[str, Any]) -> None:
    chain["plugins"][1]["runtimeConfig"] = {
        "bandwidth": {"IngressRate": 1_000_000, "IngressBurst": 4294967295, "EgressRate": 0}
    }
    result = host.chain("ADD", container, chain)
    assert _rates(host, _outer(result)) == [1_000_000]
    assert _rates(container, "eth0") == [RATE // 2]


def test_what_has_no_pair_is_refused(host: Host, container: Namespace) -> None:
    chain = conflist(host, "ptp")
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    nothing = {"cniVersion": "1.0.0", "ips": []}
    error = host.cni("ADD", container, {**own, "prevResult": nothing}).error(2)
    assert "has no interface 'eth0'" in error["msg"]
    container.run(["ip", "link", "add", "eth0", "type", "ifb"])
    error = host.cni("ADD", container, {**own, "prevResult": nothing}).error(2)
    assert "is ifb" in error["msg"]
    assert "macvlan" in error["details"]
    container.run(["ip", "link", "del", "eth0"])
    container.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x"])
    error = host.cni("ADD", container, {**own, "prevResult": nothing}).error(2)
    assert "other end" in error["msg"]
    assert host.records() == {}


def test_a_limit_of_somebody_elses_stays(host: Host, container: Namespace) -> None:
    """The reference's bandwidth before faasm: refused, and nothing is changed."""
    chain = conflist(host, "ptp")
    before = copy.deepcopy(chain["plugins"])
    bandwidth = {"type": "bandwidth", "ingressRate": 5_000_000, "ingressBurst": 50_000}
    chain["plugins"] = [before[0], bandwidth]
    result = host.chain("ADD", container, chain)
    snapshot = host.snapshot()
    own = {**before[1], "name": "testnet", "cniVersion": "1.0.0", "prevResult": result}
    error = host.cni("ADD", container, own).error()
    assert "root qdisc of somebody else's" in error["msg"]
    host.assert_unchanged(snapshot)
    assert host.records() == {}


@pytest.mark.also_reluctant
def test_gc_leaves_the_pair(host: Host, container: Namespace, chain: dict[str, Any]) -> None:
    """And takes the limits off, so that the pair can be attached anew."""
    chain["plugins"][1]["bandwidth"] = {"egressRate": RATE // 2, "enforceEgress": "host"}
    result = host.chain("ADD", container, chain)
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.1.0"}
    own["dataDir"] = str(host.data_dir)
    leases = host.leases()
    host.cni("STATUS", None, own).ok()
    host.cni("GC", None, {**own, "cni.dev/valid-attachments": []}).ok()
    assert host.records() == {}
    assert host.leases() == leases
    outer = _outer(result)
    assert outer in host.links()
    assert [_rates(host, outer), _rates(container, "eth0")] == [[], []]
    assert f"i{outer}"[:15] not in host.links()
    again = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    host.add(container, {**again, "prevResult": result})


@pytest.mark.also_reluctant
@pytest.mark.parametrize("content", [b"", b"{", bytes(900), None])
def test_del_without_a_readable_record(
    host: Host, container: Namespace, chain: dict[str, Any], content: bytes | None
) -> None:
    chain["plugins"][1]["bandwidth"] = {
        "ingressRate": RATE,
        "egressRate": RATE // 2,
        "enforceEgress": "host",
    }
    result = host.chain("ADD", container, chain)
    outer = _outer(result)
    path = host.state_dir / "testnet" / f"{container.name}@eth0"
    path.unlink()
    if content is None:
        path.symlink_to("/dev/null")
    else:
        path.write_bytes(content)
    faasm = {**chain, "plugins": chain["plugins"][1:], "prevResult": result}
    host.chain("DEL", container, faasm)
    assert [_rates(host, outer), _rates(container, "eth0")] == [[], []]
    assert f"i{outer}"[:15] not in host.links()
    assert not path.is_symlink()
    assert not path.exists()
    assert outer in host.links()


def test_the_kernel_is_asked_once_and_an_earlier_boot_is_forgotten(
    host: Host, chain: dict[str, Any]
) -> None:
    first, second, third = (host.add_container() for _ in range(3))
    host.chain("ADD", first, chain)
    folder = host.state_dir / "testnet"
    marker = folder / "boot"
    written = marker.stat().st_ino
    host.chain("ADD", second, chain)
    assert marker.stat().st_ino == written, "the answer was kept, and not asked for again"
    leases = host.leases()
    for path in (folder / f"{first.name}@eth0", marker):
        fields = json.loads(path.read_bytes())
        path.write_text(json.dumps({**fields, "bootID": "earlier"}), encoding="utf-8")
    host.chain("ADD", third, chain)
    assert sorted(host.records()) == [f"testnet/{one.name}@eth0" for one in (second, third)]
    assert leases.items() < host.leases().items(), "leases are the first plugin's"


def test_without_ipam_and_prev_result(host: Host, container: Namespace) -> None:
    own = {**conflist(host, "ptp")["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    error = host.cni("ADD", container, own).error(7)
    assert "ipam" in error["msg"]


def test_the_tool_looks_and_mends(host: Host, container: Namespace, chain: dict[str, Any]) -> None:
    tool = Tool(host)
    path = tool.conf_dir / "10-testnet.conflist"
    path.write_text(json.dumps(chain), encoding="utf-8")
    tool("validate", str(path)).ok()
    result = host.chain("ADD", container, chain)
    outer = _outer(result)
    [row] = tool("status", "--json").ok().document["attachments"]
    assert (row["hostInterface"], row["addresses"]) == (outer, [])
    tool("check").ok()
    host.run(["tc", "qdisc", "del", "dev", outer, "root"])
    assert f"host {outer}: root qdisc" in tool("check").expect(1).stdout
    tool("repair").ok()
    tool("check").ok()
    tool("set-rate", outer, "--ingress", "7M").ok()
    assert _rates(host, outer) == [7_000_000]
    host.chain("CHECK", container, {**chain, "prevResult": result})
    assert "nothing to remove" in tool("gc").ok().stdout
    host.chain("DEL", container, {**chain, "prevResult": result})
    assert tool("status", "--json").ok().document["attachments"] == []


def test_macvlan_is_refused(host: Host, container: Namespace) -> None:
    """It has no end on the host: said clearly, and nothing of it is touched."""
    host.add_remote()
    chain = conflist(host, "ptp")
    chain["plugins"][0] = {**chain["plugins"][0], "type": "macvlan", "master": "uplink"}
    made = {**chain, "plugins": chain["plugins"][:1]}
    result = host.chain("ADD", container, made)
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    before = container.snapshot()
    error = host.cni("ADD", container, {**own, "prevResult": result}).error(2)
    assert "is macvlan" in error["msg"]
    assert "bridge or ptp" in error["details"]
    assert container.snapshot() == before
    assert host.records() == {}
    host.chain("DEL", container, {**made, "prevResult": result})
