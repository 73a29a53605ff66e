"""Hostile tenants: each leaves something behind in its slot, and the next one finds nothing."""

import contextlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm import slots
from cni_faasm.cli.pool.slotfiles import SlotFiles
from tests.host import Host, Namespace, wait_until
from tests.kernel.test_slots_server import Served, free
from tests.tool import Tool

IPTABLES = "iptables-legacy" if os.path.exists("/usr/sbin/iptables-legacy") else "iptables"
SYSCTLS = ("net.ipv4", "net.ipv6", "net.core", "net.netfilter")


class Tenant:
    """Somebody who is root in a slot, and what is to end after the test."""

    def __init__(self, slot: slots.Slot, stack: contextlib.ExitStack, host: Host) -> None:
        self.slot = slot
        self.stack = stack
        self.host = host
        self.inside = Namespace(slot.document["containerID"], path=slot.netns)

    def run(self, *commands: str) -> None:
        for command in commands:
            self.inside.run(["sh", "-ec", command.replace("IF", self.slot.ifname)])


def daemon(tenant: Tenant) -> None:
    process = tenant.inside.start(["sleep", "1000"])
    tenant.stack.callback(_end, process)


def interfaces(tenant: Tenant) -> None:
    tenant.run(
        "ip link add ifb7 type ifb && ip link set ifb7 up",
        "ip link add br7 type bridge && ip link set br7 up && ip addr add 192.0.2.1/24 dev br7",
        "ip link add v7 type veth peer name v8",
        "ip tuntap add tap7 mode tap",
        "ip link set IF mtu 1300 address 02:00:00:00:00:77 txqueuelen 3",
    )


def routes(tenant: Tenant) -> None:
    tenant.run(
        "ip addr add 192.0.2.9/32 dev IF && ip route add 203.0.113.0/24 dev IF",
        "ip rule add from 192.0.2.9 table 77 && ip route add blackhole default table 77",
        "ip neigh replace 192.0.2.77 lladdr 02:00:00:00:00:01 dev IF nud permanent",
        "ip route del default",
    )


def rules(tenant: Tenant) -> None:
    tenant.run(
        f"{IPTABLES} -A OUTPUT -d 198.51.100.1 -j DROP",
        "nft add table inet t && nft add chain inet t c '{ type filter hook input priority 0; policy drop; }'",
    )


def queues(tenant: Tenant) -> None:
    tenant.run(
        "tc qdisc del dev IF root && tc qdisc add dev IF root tbf rate 8kbit burst 2k limit 3k",
        "tc qdisc add dev IF clsact",
        "tc filter add dev IF ingress protocol all u32 match u32 0 0 "
        "action mirred egress redirect dev lo",
    )


def sysctls(tenant: Tenant) -> None:
    tenant.run(
        "sysctl -qw net.ipv4.ip_default_ttl=7 net.ipv4.conf.all.forwarding=1",
        "sysctl -qw net.core.somaxconn=5 net.ipv4.ip_local_port_range='1024 1030'",
    )


def passed_socket(tenant: Tenant) -> None:
    """Listen, and keep the socket alive outside of the namespace."""
    with tenant.inside.entered():
        one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        one.bind(("0.0.0.0", 8080))  # noqa: S104 -- inside of the slot
        one.listen()
    tenant.stack.callback(one.close)


def mount(tenant: Tenant) -> None:
    place = tenant.host.directory / "kept"
    place.touch()
    subprocess.run(["mount", "--bind", tenant.slot.netns, place], check=True)
    tenant.stack.callback(subprocess.run, ["umount", str(place)], check=True)


def stolen_end(tenant: Tenant) -> None:
    """Take the slot's own interface to a namespace that nobody knows of."""
    process = tenant.host.start(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"])
    tenant.stack.callback(_end, process)
    assert process.stdout is not None
    process.stdout.readline()
    tenant.run(f"ip link set IF netns {process.pid}")


def renamed_end(tenant: Tenant) -> None:
    tenant.run("ip link set IF down && ip link set IF name mine0 && ip link set mine0 up")


def deleted_end(tenant: Tenant) -> None:
    tenant.run("ip link del IF")


def replaced_name(tenant: Tenant) -> None:
    """Have another namespace under the slot's name."""
    tenant.host.run(["umount", "--lazy", tenant.slot.netns])
    process = tenant.host.start(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"])
    tenant.stack.callback(_end, process)
    assert process.stdout is not None
    process.stdout.readline()
    tenant.host.run(["mount", "--bind", f"/proc/{process.pid}/ns/net", tenant.slot.netns])


def scribbled_file(tenant: Tenant) -> None:
    """Say of the slot what is not true."""
    path = Path(f"{slots.ROOT}/{tenant.slot.pool}/claimed/{tenant.slot.number}")
    path.write_text('{"netns": "/proc/1/ns/net", "hostInterface": "lo"}\n{"pid": 1}\n', "utf-8")


def spent_bucket(tenant: Tenant) -> None:
    """Send past the queue, so that the backstop's bucket is empty, by a MAC that was learned."""
    tenant.run("tc qdisc del dev IF root", "ip link set IF address 02:00:00:00:00:66")
    program = (
        "import socket\n"
        "one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        "for _ in range(3000): one.sendto(bytes(1400), ('198.51.100.1', 9))\n"
    )
    tenant.inside.run(["python3", "-c", program])


TENANTS: list[Callable[[Tenant], None]] = [
    daemon, interfaces, routes, rules, queues, sysctls, passed_socket, mount, stolen_end,
    renamed_end, deleted_end, replaced_name, scribbled_file, spent_bucket,
]  # fmt: skip


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.communicate()


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    tool.host.add_remote()
    tool.network(guard={"antiSpoof": True})
    yield tool
    tool("pool", "down", "--force").ok()
    assert tool.host.leases() == {}


def found(slot: slots.Slot, host: Host) -> dict[str, Any]:
    """Return all that a tenant finds, with its own addresses and MAC taken out."""
    inside = Namespace(slot.document["containerID"], path=slot.netns)
    lines = inside.run(["sysctl", "-a"]).stdout.splitlines()
    everything = {
        **inside.snapshot(),
        "sysctls": [
            one
            for one in lines
            if one.startswith(SYSCTLS) and "stable_secret" not in one and "_count =" not in one
        ],
        "sockets": inside.run(["ss", "-Hanu"]).stdout + inside.run(["ss", "-Hant"]).stdout,
        "iptables": inside.run(["iptables-save"]).stdout,
        "counters": inside.json("ip", "-j", "-s", "link", "show", "dev", "lo")[0]["stats64"],
        "processes": _processes(os.stat(slot.netns).st_ino),
    }
    text = json.dumps(everything, sort_keys=True)
    outer = host.link(slot.document["hostInterface"])
    assert outer is not None
    own = [one.partition("/")[0] for one in slot.addresses]
    macs = [slot.document["mac"], outer["address"]]
    for index, word in enumerate((*own, *macs)):
        text = text.replace(word, f"<{index}>")
    return dict(json.loads(text))


def _processes(inode: int) -> list[str]:
    inhabitants = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.stat(f"/proc/{pid}/ns/net").st_ino == inode:
                inhabitants.append(pid)
    return inhabitants


def elements(host: Host) -> str:
    return host.run(["nft", "-s", "list", "table", "arp", "guard_testnet"]).stdout


def test_the_next_tenant_finds_nothing(tool: Tool) -> None:
    host, pool = tool.host, tool.prefix
    server = Served(tool, "1", "--most", "1", "--reserve", "0", "--rest", "0")
    server.hear("ready")
    files = SlotFiles(pool)

    def next_slot() -> slots.Slot:
        """Claim the one with all names of the hostile tenant's; others come in between."""
        for _ in range(4):
            wait_until(lambda: len(free(tool)) == 1, "a slot to be free", 20)
            slot = slots.claim(pool)
            if slot.number == 1:
                return slot
            slot.give_back()
            wait_until(lambda: not files.numbers(slots.RETURNED), "it to be taken away", 20)
        raise AssertionError("slot 1 does not come back")

    try:
        with next_slot() as slot:
            clean, known = found(slot, host), elements(host)
        for hostile in TENANTS:
            with contextlib.ExitStack() as stack:
                with next_slot() as slot:
                    # Held, so that no other namespace gets its number.
                    kept = os.open(slot.netns, os.O_RDONLY | os.O_CLOEXEC)
                    stack.callback(os.close, kept)
                    hostile(Tenant(slot, stack, host))
                wait_until(lambda: not files.numbers(slots.RETURNED), "it to be taken away", 20)
                with next_slot() as slot:
                    assert os.stat(slot.netns).st_ino != os.fstat(kept).st_ino
                    after = found(slot, host)
                    for key, value in clean.items():
                        assert _settled(after[key]) == _settled(value), (hostile.__name__, key)
                    assert elements(host).count("elements") == known.count("elements")
                    ping = ["busybox", "ping", "-c1", "-W3", "198.51.100.1"]
                    host.run(["nsenter", f"--net={slot.netns}", *ping])
                    tool("check").ok()
        assert [one for one in server.lines if one["event"] == "failed"] == []
    finally:
        server.end()


def _settled(value: Any) -> Any:
    """Leave out what the kernel numbers anew."""
    return json.loads(re.sub(r'"(ifindex|link_index)": \d+', r'"\1": 0', json.dumps(value)))
