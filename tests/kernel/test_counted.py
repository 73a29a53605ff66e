"""Limits of packets and of connections: bandwidth.packetRate, bandwidth.maxConnections."""

import contextlib
import errno
import itertools
import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from tests import frames
from tests.attached import REMOTE, Attached, add_remote, assert_seen_and_mended, config
from tests.host import Host, Namespace, wait_until
from tests.kernel.test_backstop import cheat, lose
from tests.kernel.test_backstop_places import KINDS, bridged, ends, sets
from tests.kernel.test_chained import conflist
from tests.tool import Tool

RATE = 1000
MOST = 10
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
PORT = 7000


def counted(host: Host, **keys: int) -> dict[str, Any]:
    return config(host, bandwidth=keys)


def packets(namespace: Namespace) -> int:
    found = namespace.link("eth0")
    assert found is not None
    return int(found["stats64"]["rx"]["packets"])


def assert_bounded(passed: int, seconds: float, tried: int) -> None:
    """Demand no more than 1.15 of the rate, of a flood of ten times as much.

    On a busy machine the flood pauses for longer than the bucket lasts.
    """
    assert tried > 10 * RATE * seconds
    assert 0.4 * RATE * seconds <= passed <= 1.15 * RATE * seconds


@pytest.fixture
def tool(host: Host) -> Tool:
    found = Tool(host)
    found.network()
    return found


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("key", ["packetRate", "egressPacketRate"])
def test_a_flood_from_the_container(host: Host, version: int, key: str) -> None:
    remote = add_remote(host)
    one = Attached(host, counted(host, **{key: RATE}))
    question = frames.udp(one.address[version], REMOTE[version], bytes(30), port=53)
    frame = frames.ethernet(one.outer_mac, one.mac, KINDS[version], question)
    before = packets(remote)
    seconds, sent = cheat(one.inside, frame, 1.5)
    assert_bounded(packets(remote) - before, seconds, sent)


@pytest.mark.parametrize("version", [4, 6])
def test_a_flood_to_the_container(host: Host, version: int) -> None:
    remote = add_remote(host)
    one, other = Attached(host, counted(host, ingressPacketRate=RATE)), Attached(host, config(host))
    uplink, eth0 = host.link("uplink"), remote.link("eth0")
    assert uplink is not None
    assert eth0 is not None
    for to, is_limited in ((one, True), (other, False)):
        packet = frames.udp(REMOTE[version], to.address[version], bytes(30))
        macs = frames.mac(uplink["address"]), frames.mac(eth0["address"])
        frame = frames.ethernet(*macs, KINDS[version], packet)
        before = packets(to.inside)
        seconds, sent = cheat(remote, frame, 1.5)
        passed = packets(to.inside) - before
        if is_limited:
            assert_bounded(passed, seconds, sent)
        else:
            assert passed > 5 * RATE * seconds


def test_a_flood_of_arp_and_at_a_bridge(host: Host, container: Namespace) -> None:
    one = Attached(host, counted(host, egressPacketRate=RATE))
    question = frames.arp(1, (one.mac, one.address[4]), (bytes(6), "10.200.0.1"))
    frame = frames.ethernet(frames.BROADCAST, one.mac, frames.ETH_P_ARP, question)
    before = packets(one.inside)
    seconds, sent = cheat(one.inside, frame, 1.5)
    assert_bounded(packets(one.inside) - before, seconds, sent)
    chain = bridged(host, {"bandwidth": {"packetRate": RATE}, "egressRate": 0})
    _, mac = ends(host.chain("ADD", container, chain))
    other = host.add_container()
    _, to = ends(host.chain("ADD", other, {**chain, "plugins": chain["plugins"][:1]}))
    for sender, receiver, macs in ((container, other, (to, mac)), (other, container, (mac, to))):
        frame = frames.ethernet(*macs, 0x88B5, bytes(60))
        before = packets(receiver)
        seconds, sent = cheat(sender, frame, 1.5)
        assert_bounded(packets(receiver) - before, seconds, sent)


@contextlib.contextmanager
def serving(where: Namespace, version: int) -> Iterator[None]:
    """Let a namespace take TCP, with nobody who talks."""
    with where.entered():
        listener = socket.socket(FAMILIES[version], socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("::" if version == 6 else "0.0.0.0", PORT))  # noqa: S104 -- a namespace
        listener.listen(64)
    with listener:
        yield


def connect(where: Namespace, address: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
    with where.entered():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
    sock.settimeout(5)
    try:
        sock.connect((address, PORT))
        if kind == socket.SOCK_DGRAM:
            sock.send(b"hello")
            sock.settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                sock.recv(1)
    except OSError:
        sock.close()
        raise
    return sock


@pytest.mark.parametrize("version", [4, 6])
def test_no_more_connections_than_allowed(host: Host, version: int) -> None:
    remote = add_remote(host)
    network = config(host, ipMasq=True, bandwidth={"maxConnections": MOST})
    one, other = Attached(host, network), Attached(host, config(host, ipMasq=True))
    with serving(remote, version), contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(one.inside, REMOTE[version])) for _ in range(MOST)]
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                connect(one.inside, REMOTE[version])
        for _ in range(2 * MOST):
            stack.enter_context(connect(other.inside, REMOTE[version]))
        # What it has goes on; what is over makes room.
        assert all(sock.send(b"hello") == 5 for sock in held)
        held[0].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        held[0].close()

        def gets_in() -> bool:
            """Try again: the kernel counts who was refused for some milliseconds more."""
            try:
                stack.enter_context(connect(one.inside, REMOTE[version]))
            except ConnectionRefusedError:
                return False
            return True

        wait_until(gets_in, "another connection")
        with pytest.raises(ConnectionRefusedError):
            connect(one.inside, REMOTE[version])


@pytest.mark.parametrize("how", ["DEL", "lost"])
def test_who_gets_a_name_has_none_of_the_connections_of_who_had_it(host: Host, how: str) -> None:
    remote = add_remote(host)
    network = config(host, ipMasq=True, bandwidth={"maxConnections": MOST})
    one = Attached(host, network)
    with serving(remote, 4), contextlib.ExitStack() as stack:
        for _ in range(MOST):
            stack.enter_context(connect(one.inside, REMOTE[4]))
        if how == "DEL":
            host.delete_attachment(one.inside, network)
        else:
            one.inside.run(["ip", "link", "del", "eth0"])
        heir = Attached(host, network)
        assert heir.outer == one.outer
        for _ in range(MOST):
            stack.enter_context(connect(heir.inside, REMOTE[4]))
        with pytest.raises(ConnectionRefusedError):
            connect(heir.inside, REMOTE[4])


@pytest.mark.parametrize("version", [4, 6])
def test_datagrams_of_more_connections_are_refused(host: Host, version: int) -> None:
    add_remote(host)
    network = config(host, ipMasq=True, bandwidth={"maxConnections": MOST})
    one = Attached(host, network)
    with contextlib.ExitStack() as stack:
        for _ in range(MOST):
            with contextlib.suppress(ConnectionRefusedError):  # nobody listens there
                stack.enter_context(connect(one.inside, REMOTE[version], socket.SOCK_DGRAM))
        with pytest.raises(OSError) as refused:
            connect(one.inside, REMOTE[version], socket.SOCK_DGRAM)
        assert refused.value.errno in (errno.EHOSTUNREACH, errno.EACCES)


def test_connections_to_a_container_count_too(host: Host) -> None:
    network = config(host, bandwidth={"maxConnections": MOST})
    one, other = Attached(host, network), Attached(host, config(host))
    with serving(one.inside, 4), serving(other.inside, 4), contextlib.ExitStack() as stack:
        for at in range(MOST):
            where = host if at % 2 else other.inside
            stack.enter_context(connect(where, one.address[4]))
        with host.entered(), socket.socket() as late:
            late.settimeout(0.5)
            with pytest.raises(TimeoutError):
                late.connect((one.address[4], PORT))
        with pytest.raises(ConnectionRefusedError):
            connect(one.inside, other.address[4])
        stack.enter_context(connect(host, other.address[4]))


def test_they_come_and_go_with_their_container(host: Host) -> None:
    limits = {"packetRate": RATE, "maxConnections": MOST}
    network = {**counted(host, **limits), "cniVersion": "1.1.0"}
    free = Attached(host, config(host))
    assert "inet limit_testnet" not in host.nft_tables()
    one = Attached(host, network)
    plain = Attached(host, config(host, bandwidth={"egressRate": "10M"}))
    assert sets(host) == {
        "egress": [plain.outer],
        "packets_from": [one.outer],
        "packets_to": [one.outer],
        "connections": [one.outer],
    }
    assert sets(host, "arp") == {"egress": [plain.outer], "packets_from": [one.outer]}
    for each, of in ((one, network), (free, config(host))):
        host.check(each.inside, of, each.result).ok()
    lose(host, one)
    heir = Attached(host, config(host))
    assert heir.outer == one.outer
    assert set(itertools.chain(*sets(host).values())) == {plain.outer}
    host.delete_attachment(None, network, container_id=one.inside.name)
    two = Attached(host, network)
    host.delete_attachment(two.inside, network)
    # A count remembers who was counted; buckets are for the next of the name.
    wait_until(lambda: not sets(host)["connections"], "the count to go")
    host.delete_attachment(plain.inside, network)
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": []}).ok()
    assert host.nft() == []


HARM = (
    "flush set inet limit_testnet packets_from",
    "flush set arp limit_testnet packets_from",
    "flush set inet limit_testnet connections",
    "flush chain inet limit_testnet packets_to",
    "flush chain inet limit_testnet opened_from",
    "flush chain inet limit_testnet opened_to",
    "flush chain inet limit_testnet refuse",
    "insert rule inet limit_testnet refuse accept",
    "delete table inet limit_testnet",
    "flush ruleset",
)


def test_check_sees_and_repair_mends_what_is_wrong(host: Host, tool: Tool) -> None:
    network = config(host, bandwidth={"packetRate": RATE, "maxConnections": MOST}, antiSpoof=False)
    one, two = Attached(host, network), Attached(host, network)
    before = sets(host), sets(host, "arp")
    for harm in HARM:
        assert_seen_and_mended(host, tool, (one, two), network, harm)
        assert (sets(host), sets(host, "arp")) == before


def test_a_ruleset_that_was_saved_holds_them(host: Host) -> None:
    network = counted(host, packetRate=RATE, maxConnections=MOST)
    one = Attached(host, network)
    saved = host.run(["nft", "list", "ruleset"]).stdout
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{saved}")
    host.check(one.inside, network, one.result).ok()


def test_after_another_plugin(host: Host, container: Namespace) -> None:
    """A routed pair is counted; a bridge's port only by its packets."""
    chain = conflist(host, "ptp")
    chain["plugins"][1]["bandwidth"] = {"maxConnections": MOST, "packetRate": RATE}
    result = host.chain("ADD", container, chain)
    outer = result["interfaces"][0]["name"]
    assert all(ends_of == [outer] for ends_of in sets(host).values())
    own = {**chain["plugins"][1], "name": "testnet", "cniVersion": "1.0.0"}
    host.check(container, own, result).ok()
    host.chain("DEL", container, {**chain, "prevResult": result})
    assert not any(sets(host).values())
    chain["plugins"][0] = conflist(host, "bridge")["plugins"][0]
    first = host.chain("ADD", container, {**chain, "plugins": chain["plugins"][:1]})
    error = host.cni("ADD", container, {**own, "prevResult": first}).error(2)
    assert "maxConnections" in error["details"]
    assert "the port of a bridge" in error["msg"]
    assert host.records() == {}


def status(tool: Tool, one: Attached) -> dict[str, Any]:
    [found] = json.loads(tool("status", one.outer, "--json").ok().stdout)["attachments"]
    assert isinstance(found, dict)
    return found


def test_the_tool_knows_them(host: Host, tool: Tool) -> None:
    limits = {"packetRate": RATE, "egressPacketRate": 2 * RATE, "maxConnections": MOST}
    network = config(host, bandwidth=limits)
    tool.network(bandwidth=limits)
    one = Attached(host, network)
    wanted = {
        "ingressPacketRate": RATE,
        "ingressPacketBurst": 50,
        "egressPacketRate": 2 * RATE,
        "egressPacketBurst": 100,
        "maxConnections": MOST,
    }
    told = status(tool, one)
    assert told["counted"] == wanted
    assert "1000 packets/s in (burst 50), 2000 packets/s out (burst 100), 10 connections" in (
        tool("status", one.outer).ok().stdout
    )
    metrics = tool("metrics").ok().stdout
    whose = f'host_interface="{one.outer}",ifname="eth0",network="testnet"}}'
    assert f'direction="egress",{whose} 2000.0' in metrics
    assert f'limit_connections{{container="{one.inside.name}",{whose} 10.0' in metrics
    # While it runs, and back.
    text = tool("set-rate", one.outer, "--egress-packets", "500", "--connections", "0").ok().stdout
    assert "at most 1000 packets/s in (burst 50), 500 packets/s out (burst 25)" in text
    assert "connections" not in text
    found = sets(host)
    assert (found["packets_from"], found["connections"]) == ([one.outer], [])
    listed = host.run(["nft", "list", "set", "inet", "limit_testnet", "packets_from"]).stdout
    assert "limit rate over 500/second burst 25 packets" in listed
    host.check(one.inside, network, one.result).ok()
    told = status(tool, one)
    assert told["setByHand"]
    assert {each["key"] for each in told["differsFromFile"]} == {
        "egressPacketRate",
        "egressPacketBurst",
        "maxConnections",
    }
    tool("set-rate", one.outer, "--egress", "10M").ok()
    tool("set-rate", one.outer, "--reset").ok()
    told = status(tool, one)
    assert told["counted"] == wanted
    assert not told["setByHand"]
    assert sets(host)["connections"] == [one.outer]
    host.check(one.inside, network, one.result).ok()
    # From the file, to those that run.
    tool.network(bandwidth={"packetRate": 300})
    tool("apply").ok()
    told = status(tool, one)
    assert told["counted"]["maxConnections"] is None
    assert told["counted"]["egressPacketRate"] == 300
    assert sets(host)["connections"] == []
    host.check(one.inside, network, one.result).ok()


def test_what_was_dropped_is_counted(host: Host, tool: Tool) -> None:
    remote = add_remote(host)
    one = Attached(host, config(host, bandwidth={"packetRate": RATE, "maxConnections": 1}))
    packet = frames.udp(one.address[4], REMOTE[4], bytes(30))
    frame = frames.ethernet(one.outer_mac, one.mac, frames.ETH_P_IP, packet)
    before = packets(remote)
    _, sent = cheat(one.inside, frame, 0.3)
    dropped = sent - (packets(remote) - before)
    with pytest.raises(ConnectionRefusedError):
        connect(one.inside, "10.200.0.1")  # the flood's is the one
    metrics = tool("metrics").ok().stdout
    found = {
        rule: float(line.rpartition(" ")[2])
        for line in metrics.splitlines()
        for rule in ("packetRate", "maxConnections", "limit")
        if line.startswith("cni_faasm_rule_drops_total") and f'rule="{rule}"' in line
    }
    assert found["limit"] == 0
    assert abs(found["packetRate"] - dropped) <= 20
    assert found["maxConnections"] >= 1
