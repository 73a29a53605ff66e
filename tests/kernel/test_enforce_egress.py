"""bandwidth.enforceEgress "host": the limit holds against a container with CAP_NET_ADMIN."""

import socket
import time
from contextlib import suppress
from typing import Any

import pytest

from tests import frames, rates
from tests.host import AFTER_LAST_DEL, Host, Namespace
from tests.tool import Tool

RATE = 10_000_000
REMOTE = "198.51.100.1"


def config(host: Host, **keys: Any) -> dict[str, Any]:
    limits = {"ingressRate": 2 * RATE, "egressRate": RATE, "enforceEgress": "host", **keys}
    return host.config(cniVersion="1.0.0", ipMasq=True, bandwidth=limits)


def assert_upload(container: Namespace, *, low: float, high: float) -> None:
    """Measure how much of the limit one flow gets."""
    rates.assert_flows([rates.Flow(container, REMOTE)], RATE, seconds=3, low=low, high=high)


def test_it_holds_when_the_inner_queue_is_gone(host: Host, container: Namespace) -> None:
    remote = host.add_remote()
    rates.serve(host, remote)
    network = config(host)
    result = host.add(container, network)
    host.check(container, network, result).ok()
    assert_upload(container, low=0.9, high=1.03)
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    container.run(["ip", "link", "set", "eth0", "gso_max_size", "65536"])
    # No less than half: who takes off his queue has losses in its place, and no promise of goodput.
    assert_upload(container, low=0.5, high=1.08)
    error = host.check(container, network, result).error(107)
    assert "container eth0: root qdisc" in error["msg"]


def test_the_result_names_the_ifb(host: Host, container: Namespace) -> None:
    """Behind the pair, for addresses name the container's end by its index."""
    network = {**config(host), "cniVersion": "1.1.0"}
    result = host.add(container, network)
    outer, inner, ifb = result["interfaces"]
    assert (outer["name"], inner["name"]) == ("faasm0", "eth0")
    assert ifb == {"name": "ifaasm0", "mac": outer["mac"], "mtu": outer["mtu"]}
    found = host.link("ifaasm0")
    assert found is not None
    assert (found["address"], found["mtu"]) == (ifb["mac"], ifb["mtu"])
    assert [one["interface"] for one in result["ips"]] == [1]
    host.check(container, network, result).ok()
    earlier = {**result, "interfaces": result["interfaces"][:2]}
    host.check(container, network, earlier).ok()
    old = {**config(host), "cniVersion": "0.2.0"}
    assert "interfaces" not in host.add(host.add_container(), old)


@pytest.mark.parametrize("known", ["namespace", "prevResult"])
@pytest.mark.also_reluctant
def test_del_without_a_record_takes_the_ifb(host: Host, container: Namespace, known: str) -> None:
    network = config(host)
    result = host.add(container, network)
    other = host.add_container()
    host.add(other, network)
    (host.state_dir / "testnet" / f"{container.name}@eth0").unlink()
    if known == "prevResult":
        # Everybody's ifb may be named; the container's own alone bears its alias.
        result["interfaces"].append({"name": "ifaasm1"})
        host.delete_attachment(None, {**network, "prevResult": result}, container_id=container.name)
    else:
        host.delete_attachment(container, network)
    assert host.links() == ["faasm1", "ifaasm1"]


FRAMES = {
    "IPv4": (frames.ETH_P_IP, 900),
    "small": (frames.ETH_P_IP, 30),
    "IPv6": (frames.ETH_P_IPV6, 900),
    "ARP": (frames.ETH_P_ARP, 900),
    "VLAN": (0x8100, 900),
    "unknown": (0x88B5, 900),
}


@pytest.mark.parametrize("case", FRAMES)
def test_it_holds_for_whatever_is_sent(host: Host, container: Namespace, case: str) -> None:
    """No frame goes past the ifb, and it lets no more through than the limit and one burst."""
    kind, size = FRAMES[case]
    network = config(host)
    result = host.add(container, network)
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    outer, inner = (frames.mac(one["mac"]) for one in result["interfaces"][:2])
    addresses = ("10.200.0.2", "10.200.0.1") if kind == frames.ETH_P_IP else ("fe80::7", "fe80::1")
    payload = frames.udp(*addresses, bytes(size))
    frame = frames.ethernet(outer, inner, kind, payload)
    (before,) = host.classes("ifaasm0")
    began = time.monotonic()
    with container.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        while time.monotonic() < began + 1:
            for _ in range(100):
                raw.send(frame)
    (after,) = host.classes("ifaasm0")
    took = time.monotonic() - began
    sent = after["bytes"] - before["bytes"]
    limit = RATE * 1.02 / 8 * took + after["burst"] + 2 * len(frame)
    assert 0.5 * limit < sent <= limit
    link = host.link("faasm0")
    (queue,) = (one for one in host.qdiscs("ifaasm0") if one.get("root"))
    assert link is not None
    seen = queue["packets"] + queue["drops"] + queue["qlen"]
    assert link["stats64"]["rx"]["packets"] * 0.99 <= seen


def received(host: Host, device: str) -> int:
    """Return how many bytes have come in by a device."""
    link = host.link(device)
    assert link is not None
    return int(link["stats64"]["rx"]["bytes"])


def pour(container: Namespace, priority: int) -> None:
    """Send datagrams for a second, with a priority for the queue."""
    began = time.monotonic()
    with container.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY, priority)
        sock.setblocking(False)
        while time.monotonic() < began + 1:
            with suppress(BlockingIOError):
                sock.sendto(bytes(1400), (REMOTE, 9))


@pytest.mark.parametrize("where", ["", "host"])
def test_a_socket_that_names_its_queue(host: Host, container: Namespace, where: str) -> None:
    """HTB sends past its classes what has its handle for a priority; CAP_NET_RAW allows that."""
    host.add_remote()
    network = config(host, enforceEgress=where)
    result = host.add(container, network)
    began = time.monotonic()
    for priority in (0x10000, 0x10001, 1, 0):
        pour(container, priority)
        sent = received(host, "faasm0")
        assert sent <= RATE * 1.02 / 8 * (time.monotonic() - began) + 10_000
    assert sent > RATE / 8
    host.check(container, network, result).ok()


def test_a_socket_that_names_its_queue_where_some_is_exempt(
    host: Host, container: Namespace
) -> None:
    """Then that way must stay open, and only the host's own queue holds."""
    host.add_remote()
    network = config(host, unshapedSubnets=["203.0.113.0/24"])
    host.add(container, network)
    began = time.monotonic()
    pour(container, 0x10000)
    (one,) = host.classes("ifaasm0")
    took = time.monotonic() - began
    assert one["bytes"] <= RATE * 1.02 / 8 * took + one["burst"] + 3000
    assert received(host, "faasm0") > 3 * RATE / 8


def test_a_wider_way_past_the_class_is_a_drift(host: Host, container: Namespace) -> None:
    network = config(host, enforceEgress="")
    result = host.add(container, network)
    for command in (
        "tc qdisc replace dev eth0 root handle 2: pfifo",
        "tc qdisc replace dev eth0 root handle 1: htb default 1 direct_qlen 1000",
    ):
        container.run(command.split())
    error = host.check(container, network, result).error(107)
    assert "htb direct queue: expected 0 packets, found 1000" in error["details"]
    Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(container, network, result).ok()


def test_without_it_the_backstop_holds(host: Host, container: Namespace) -> None:
    remote = host.add_remote()
    rates.serve(host, remote)
    host.add(container, config(host, enforceEgress=""))
    assert host.links() == ["uplink", "faasm0"]
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    flow = rates.Flow(container, REMOTE)
    rates.measure([flow], seconds=1)
    assert flow.bits_per_second <= 2.1 * RATE  # what is left of its second, and 3 %


@pytest.mark.also_reluctant
def test_what_is_made_and_goes(host: Host, container: Namespace) -> None:
    host.add_remote()
    before = host.snapshot()
    network = config(host)
    host.add(container, network)
    assert host.links() == ["uplink", "faasm0", "ifaasm0"]
    (one,) = host.classes("ifaasm0")
    assert one["rate"] == RATE * 102 // 100
    text = host.run(["tc", "filter", "show", "dev", "faasm0", "ingress"]).stdout
    assert "Egress Redirect to device ifaasm0" in text
    link = host.link("ifaasm0")
    assert link is not None
    assert link["ifalias"].startswith("cni-faasm testnet")
    host.delete_attachment(container, network)
    host.delete_attachment(container, network)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_a_late_failure_undoes_it(host: Host, container: Namespace) -> None:
    before = host.snapshot()
    network = config(host)
    network["ipam"] |= {"routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}
    host.cni("ADD", container, network).error()
    host.assert_unchanged(before)


DRIFTS = {
    "device": "ip link del ifaasm0",
    "down": "ip link set ifaasm0 down",
    "queue": "tc qdisc del dev ifaasm0 root",
    "rate": "tc class change dev ifaasm0 parent 1: classid 1:1 htb rate 900mbit",
    "filter": "tc filter del dev faasm0 ingress",
    "clsact": "tc qdisc del dev faasm0 clsact",
    "MTU": "ip link set ifaasm0 mtu 900",
    "alias": "ip link set ifaasm0 alias mine",
    "narrower filter": "tc filter del dev faasm0 ingress; tc filter add dev faasm0 ingress prio 64128"
    " protocol all u32 match ip dst 9.9.9.9/32 action mirred egress redirect dev ifaasm0",
}


@pytest.mark.parametrize("case", DRIFTS)
def test_drifts_are_found_and_repaired(host: Host, container: Namespace, case: str) -> None:
    network = config(host)
    result = host.add(container, network)
    for command in DRIFTS[case].split(";"):
        host.run(command.split())
    error = host.check(container, network, result).error(107)
    assert "ifaasm0: egress" in error["msg"]
    Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(container, network, result).ok()


def test_set_rate(host: Host, container: Namespace) -> None:
    network = config(host)
    result = host.add(container, network)
    tool = Tool(host)
    options = ("--state-dir", str(host.state_dir))
    for egress, expected in (("5M", [5_100_000]), ("0", []), ("7M", [7_140_000])):
        tool("set-rate", "faasm0", "--egress", egress, *options).ok()
        found = [one["rate"] for one in host.classes("ifaasm0")] if expected else []
        assert found == expected
        assert ("ifaasm0" in host.links()) == bool(expected)
        host.check(container, network, result).ok()
    tool("set-rate", "faasm0", "--reset", *options).ok()
    assert [one["rate"] for one in host.classes("ifaasm0")] == [RATE * 102 // 100]
    host.check(container, network, result).ok()


@pytest.mark.also_reluctant
def test_gc_finds_what_a_dead_namespace_leaves(host: Host) -> None:
    container = host.add_container()
    network = {**config(host), "cniVersion": "1.1.0"}
    host.add(container, network)
    host.run(["ip", "link", "del", "faasm0"])
    assert "ifaasm0" in host.links()
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": []}).ok()
    assert host.links() == []
    host.cni("STATUS", None, network).ok()


@pytest.mark.parametrize("name", ["testnet", "another"])
def test_what_another_pair_of_the_name_left(host: Host, name: str) -> None:
    """A DEL's pair goes before its ifb; an ADD in between has the name, and is not harmed."""
    host.add_remote()
    first, second = host.add_container(), host.add_container()
    network = config(host)
    host.add(first, network)
    host.run(["ip", "link", "del", "faasm0"])
    ranges = {"subnet": "10.201.0.0/16"}
    other = {**config(host, egressRate=2 * RATE), "name": name}
    other["ipam"] = {**other["ipam"], **ranges}
    result = host.add(second, other)
    assert result["interfaces"][0]["name"] == "faasm0"
    host.check(second, other, result).ok()
    host.delete_attachment(first, network)
    host.check(second, other, result).ok()
    second.run(["busybox", "ping", "-c1", "-W2", REMOTE.removesuffix("1") + "2"])


@pytest.mark.also_reluctant
def test_gc_tells_an_ifb_from_that_of_the_name_before(host: Host) -> None:
    first, second = host.add_container(), host.add_container()
    network = {**config(host), "cniVersion": "1.1.0"}
    host.add(first, network)
    host.run(["ip", "link", "del", "faasm0"])
    host.add(second, {**network, "bandwidth": {"egressRate": RATE}})
    valid = [{"containerID": second.name, "ifname": "eth0"}]
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": valid}).ok()
    assert host.links() == ["faasm0"]


def test_somebody_elses_filters_stay(host: Host, container: Namespace) -> None:
    network = config(host)
    host.add(container, network)
    rule = "tc filter add dev faasm0 ingress prio 5 protocol ip u32 match ip dst 9.9.9.9/32 "
    host.run([*rule.split(), *["action", "mirred", "egress", "mirror", "dev", "lo"]])
    Tool(host)("set-rate", "faasm0", "--egress", "0", "--state-dir", str(host.state_dir)).ok()
    assert "pref 5" in host.run(["tc", "filter", "show", "dev", "faasm0", "ingress"]).stdout


def test_what_else_is_refused(host: Host, container: Namespace) -> None:
    error = host.cni("ADD", container, config(host, enforceEgress="everywhere")).error(7)
    assert "enforceEgress" in error["msg"]


@pytest.mark.also_reluctant
def test_after_bridge(host: Host, container: Namespace) -> None:
    own = {
        "type": "faasm",
        "stateDir": str(host.state_dir),
        "bandwidth": {"egressRate": RATE, "enforceEgress": "host"},
    }
    bridge = {"type": "bridge", "bridge": "br0", "isGateway": True, "ipam": host.config()["ipam"]}
    listed = {"name": "testnet", "cniVersion": "1.0.0", "plugins": [bridge, own]}
    result = host.chain("ADD", container, listed)
    assert len(host.links()) == 3  # the bridge, the pair, the ifb
    *first, ifb = result["interfaces"]
    assert sorted(one["name"] for one in (*first, ifb)) == sorted([*host.links(), "eth0"])
    assert ifb["name"].startswith("i")
    assert first[result["ips"][0]["interface"]]["sandbox"] == container.path
    host.chain("CHECK", container, {**listed, "plugins": [own], "prevResult": result})
    host.chain("DEL", container, {**listed, "prevResult": result})
    assert host.links() == ["br0"]
