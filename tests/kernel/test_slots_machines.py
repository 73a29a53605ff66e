"""`slot`: a TAP in every member, behind which machines of one address talk to the world at once.

A machine is a namespace here, with a TAP of its own, whose frames a process carries to the slot's.
"""

import contextlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cni_faasm import slots
from cni_faasm.netlink import tun
from tests import rates
from tests.host import Host, Namespace
from tests.kernel.test_slots_server import Served
from tests.tool import Tool

ADDRESS = "169.254.100.2"
MAC = "02:00:00:00:77:02"
USER = 4711
RATE_BPS = 10_000_000
SLOT = {"tap": "tap0", "address": f"{ADDRESS}/30", "mac": MAC, "user": USER}
# argv: namespace and TAP of each of the two, and the uid by which the first is opened.
CARRIER = """
import ctypes, os, select, sys
sys.path.insert(0, sys.argv[6])
from cni_faasm.netlink import tun

def opened(netns, name, user):
    inside = os.open(netns, os.O_RDONLY)
    assert ctypes.CDLL(None, use_errno=True).setns(inside, 0) == 0
    device = os.open(tun.DEVICE, os.O_RDWR)
    os.seteuid(user)
    tun.attach(device, name, 0)
    os.seteuid(0)
    return device

one = opened(sys.argv[1], sys.argv[2], int(sys.argv[5]))
other = opened(sys.argv[3], sys.argv[4], 0)
print("ready", flush=True)
while True:
    for device in select.select([one, other], [], [])[0]:
        frame = os.read(device, 1 << 16)
        try:
            os.write(other if device == one else one, frame)
        except OSError:
            pass
"""


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    yield tool
    tool("pool", "down", "--force").ok()


def network(tool: Tool, **keys: object) -> Namespace:
    """Write a network whose members have machines; return one of the world that knows them."""
    limits = {"ingressRate": RATE_BPS, "egressRate": RATE_BPS}
    tool.network(ipMasq=False, bandwidth=limits, slot={**SLOT, **keys})
    remote = tool.host.add_remote()
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    return remote


@contextlib.contextmanager
def machine(tool: Tool, slot: slots.Slot) -> Iterator[Namespace]:
    """Start a machine in a slot. It knows what a snapshot would know, and nothing of the slot."""
    inside = Namespace(f"{tool.prefix}vm{slot.number}")
    command = [slot.netns, "tap0", inside.path, "nic", str(USER), str(Path.cwd())]
    carrier = subprocess.Popen([sys.executable, "-c", CARRIER, *command], stdout=subprocess.PIPE)
    try:
        assert carrier.stdout is not None
        assert carrier.stdout.readline() == b"ready\n"
        for command in (
            ["ip", "link", "set", "nic", "address", MAC, "up"],
            ["ip", "addr", "add", f"{ADDRESS}/30", "dev", "nic"],
            ["ip", "route", "add", "default", "via", "169.254.100.1"],
        ):
            inside.run(command)
        yield inside
    finally:
        carrier.kill()
        carrier.communicate()
        inside.delete()


@contextlib.contextmanager
def connected(client: Namespace, server: Namespace, address: str) -> Iterator[list[socket.socket]]:
    """Connect two namespaces by TCP; yield the server's end and the client's."""
    with contextlib.ExitStack() as stack:
        with server.entered():
            listener = stack.enter_context(socket.create_server(("", 7000)))
        with client.entered():
            outgoing = stack.enter_context(socket.create_connection((address, 7000), timeout=10))
        listener.settimeout(10)
        incoming = stack.enter_context(listener.accept()[0])
        yield [incoming, outgoing]


def test_two_machines_of_one_address_talk_at_once(tool: Tool) -> None:
    remote = network(tool)
    tool("pool", "up", "3").ok()
    with contextlib.ExitStack() as stack:
        claimed = [slots.claim(tool.prefix) for _ in range(2)]
        inside = [stack.enter_context(machine(tool, one)) for one in claimed]
        outside = [one.document["addresses"][0].partition("/")[0] for one in claimed]
        assert len(set(outside)) == 2
        pairs = []
        for one, address in zip(inside, outside, strict=True):
            with connected(one, remote, "198.51.100.1") as (incoming, outgoing):
                assert incoming.getpeername()[0] == address
                assert outgoing.getsockname()[0] == ADDRESS
            pairs.append(stack.enter_context(connected(remote, one, address)))
        for number, (incoming, outgoing) in enumerate(pairs):
            assert incoming.getsockname()[0] == ADDRESS
            outgoing.sendall(bytes([number]) * 100_000)
        for number, (incoming, _) in enumerate(pairs):
            incoming.settimeout(20)
            got = b""
            while len(got) < 100_000:
                got += incoming.recv(1 << 16)
            assert got == bytes([number]) * 100_000
    assert tool("check").ok().stdout


def test_errors_reach_the_machine_with_the_address_that_it_knows(tool: Tool) -> None:
    network(tool)
    tool("pool", "up", "2").ok()
    slot = slots.claim(tool.prefix)
    with machine(tool, slot) as inside:
        with inside.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sender:
            sender.settimeout(10)
            sender.connect(("198.51.100.1", 9))
            sender.send(b"to nobody")
            with pytest.raises(ConnectionRefusedError):
                sender.recv(1)


@pytest.mark.parametrize("download", [False, True])
def test_limits_hold_for_a_machine(tool: Tool, download: bool) -> None:
    remote = network(tool)
    tool("pool", "up", "2").ok()
    rates.serve(tool.host, remote)
    slot = slots.claim(tool.prefix)
    with machine(tool, slot) as inside:
        flow = rates.Flow(inside, "198.51.100.1", download=download)

        def measured() -> list[float]:
            rates.measure([flow])
            return [flow.bits_per_second]

        rates.assert_near(RATE_BPS, measured, low=0.85)


def test_the_file_tells_of_the_machine_and_its_user_may_open_the_tap(tool: Tool) -> None:
    network(tool)
    tool("pool", "up", "1").ok()
    slot = slots.claim(tool.prefix)
    assert slot.document["machine"] == {
        "tap": "tap0",
        "user": USER,
        "address": f"{ADDRESS}/30",
        "gateway": "169.254.100.1",
        "mac": MAC,
        "gatewayMAC": "02:fa:a5:00:00:01",
    }
    inside = Namespace(slot.document["containerID"], path=slot.netns)
    tap = inside.link("tap0")
    assert tap is not None
    assert (tap["address"], tap["mtu"]) == ("02:fa:a5:00:00:01", slot.document["mtu"])
    for user, may in ((USER + 1, False), (USER, True)):
        with inside.entered():
            device = os.open(tun.DEVICE, os.O_RDWR)
        os.seteuid(user)
        try:
            with contextlib.nullcontext() if may else pytest.raises(PermissionError):
                tun.attach(device, "tap0", 0)
        finally:
            os.seteuid(0)
            os.close(device)


def test_up_completes_what_is_missing_inside(tool: Tool) -> None:
    network(tool)
    tool("pool", "up", "2").ok()
    inside = Namespace(f"{tool.prefix}ns1", path=f"/run/netns/{tool.prefix}ns1")
    inside.run(["ip", "link", "del", "tap0"])
    document = tool("pool", "up", "2", "--json").ok().document
    assert [one["action"] for one in document["members"]] == ["completed", "kept"]
    assert inside.link("tap0") is not None
    listed = inside.run(["nft", "list", "table", "ip", "slot"]).stdout
    assert f"ip daddr set {ADDRESS}" in listed
    assert "ip saddr set 10.200.0." in listed


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (["ip", "link", "del", "tap0"], "none"),
        (["ip", "link", "set", "tap0", "down"], "down"),
        (["ip", "link", "set", "tap0", "address", "02:00:00:00:00:09"], "02:00:00:00:00:09"),
        (
            [
                "sh",
                "-c",
                "ip link del tap0; ip tuntap add tap0 mode tap user 12; ip link set tap0 up",
            ],
            "user 12's",
        ),
        (
            ["sh", "-c", "ip link del tap0; ip link add tap0 up type bridge"],
            "a bridge of that name",
        ),
    ],
    ids=["gone", "down", "mac", "owner", "bridge"],
)
def test_check_list_and_status_see_what_a_tap_lacks(tool: Tool, harm: list[str], told: str) -> None:
    network(tool)
    tool("pool", "up", "2").ok()
    tool("check").ok()
    assert tool("pool", "status", "--json").ok().document["broken"] == []
    inside = Namespace(f"{tool.prefix}ns2", path=f"/run/netns/{tool.prefix}ns2")
    inside.run(harm)
    drifts = tool("check", "--json").expect(1).document["drifts"]
    assert [(one["containerID"], one["what"]) for one in drifts] == [
        (f"{tool.prefix}ns2", "machine")
    ]
    assert drifts[0]["found"] == told
    assert tool("pool", "status", "--json").ok().document["broken"] == [2]
    assert "1 whose pair or TAP is not up: 2" in tool("pool", "status").ok().stdout
    members = tool("pool", "list", "--json").ok().document["members"]
    assert [one["state"] for one in members] == ["ok", "drifted"]
    if told == "a bridge of that name":
        assert "choose another for slot.tap" in tool("pool", "up", "2").expect(1).stderr
        inside.run(["ip", "link", "del", "tap0"])
    document = tool("pool", "up", "2", "--json").ok().document
    assert [one["action"] for one in document["members"]] == ["kept", "completed"]
    tool("check").ok()
    assert tool("pool", "status", "--json").ok().document["broken"] == []


def test_check_expects_no_tap_of_a_container_of_the_same_network(tool: Tool) -> None:
    network(tool)
    path = next(tool.conf_dir.iterdir())
    listed = json.loads(path.read_text(encoding="utf-8"))
    config = {**listed["plugins"][0], "name": listed["name"], "cniVersion": "1.1.0"}
    container = tool.host.add_container()
    tool.host.add(container, config, container_id="web")
    tool("check").ok()


def test_the_server_replaces_a_slot_whose_tap_has_gone(tool: Tool) -> None:
    network(tool)
    served = Served(tool, "1", "--look", "1")
    try:
        served.hear("ready")
        path = f"/run/netns/{tool.prefix}ns1"
        Namespace(f"{tool.prefix}ns1", path=path).run(["ip", "link", "del", "tap0"])
        told = served.hear("replaced")
        assert told["slot"] == 1
        assert "TAP tap0 expected" in told["reason"]
    finally:
        served.end()


def test_a_network_without_ipv4_makes_nothing(tool: Tool) -> None:
    before = tool.host.snapshot()
    tool.network(slot=SLOT, ipam={"subnet": "fd00:9::/64", "routes": None})
    done = tool("pool", "up", "2").expect(1)
    assert "a machine has an IPv4 address" in done.stderr
    assert tool.host.leases() == {}
    assert json.loads(tool("pool", "list", "--json").ok().stdout)["members"] == []
    tool.host.assert_unchanged(before, ignore={"nft"})
