"""What else a container with CAP_NET_RAW and CAP_NET_ADMIN tries, against host and neighbours."""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests import frames
from tests.attached import (
    GATEWAY,
    KIND,
    REMOTE,
    Attached,
    add_remote,
    answers,
    config,
    neighbours,
)
from tests.host import AFTER_LAST_DEL, Host, Namespace, wait_until

UPLINK = {4: "198.51.100.2", 6: "2001:db8:100::2"}
BAD_MAC = b"\x02\0\0\0\0\x77"
PORT = 9999  # of frames.udp

ANY = "0.0.0.0"  # noqa: S104 -- nothing is bound to it
SOURCES = {
    4: [ANY, "127.0.0.1", "224.0.0.5", "255.255.255.255", "240.0.0.1", "198.51.100.255",
        UPLINK[4], GATEWAY[4], REMOTE[4]],
    6: ["::", "::1", "ff02::1", "fe80::66", "fe80::1", "::ffff:10.200.0.3", UPLINK[6], GATEWAY[6],
        REMOTE[6]],
}  # fmt: skip


def packets(source: str, target: str, mark: bytes) -> list[bytes]:
    """Return the same datagram in every shape that IP has: the first is the plain one."""
    plain = frames.udp(source, target, mark)
    if ":" not in source:
        head, data = plain[:20], plain[20:]
        options = b"\x01" * 4
        with_options = struct.pack("!BBH", 0x46, 0, 24 + len(data)) + head[4:10] + b"\0\0"
        with_options += head[12:] + options
        value = struct.pack("!H", frames.checksum(with_options))
        with_options = with_options[:10] + value + with_options[12:] + data
        data += bytes(-len(data) % 8 + 16)

        def fragment(offset: int, part: bytes, more: bool) -> bytes:
            field = offset // 8 | (0x2000 if more else 0)
            made = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(part), 77, field, 64, 17)
            made += b"\0\0" + head[12:]
            return made[:10] + struct.pack("!H", frames.checksum(made)) + made[12:] + part

        return [
            plain,
            with_options,
            fragment(0, data[:-8], True),
            fragment(len(data) - 8, data[-8:], False),
        ]
    data = plain[40:]
    found = [plain]
    for kind, body in (
        (60, bytes((17, 0, 1, 4, 0, 0, 0, 0))),
        (44, bytes((17, 0, 0, 0, 0, 0, 0, 7))),
    ):
        head = struct.pack("!IHBB", 6 << 28, len(body) + len(data), kind, 64)
        found.append(head + plain[8:40] + body + data)
    return found


def arrives(host: Host, one: Attached, version: int, source: str) -> list[str]:
    """Return where a datagram with that source arrives: at the host, at the remote machine."""
    mark = b"mark%d" % time.monotonic_ns()
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with host.entered():
        server = socket.socket(family, socket.SOCK_DGRAM)
    server.settimeout(0.15)
    with server, frames.listening(host.remotes[0], "eth0") as arrived:
        server.bind((GATEWAY[version], PORT))
        for target in (GATEWAY[version], REMOTE[version]):
            for packet in packets(source, target, mark):
                one.send(KIND[version], packet)
        found = []
        with suppress(TimeoutError):
            if mark in server.recv(2000):
                found.append("host")
        if arrived(mark):
            found.append("remote")
        return found


@pytest.mark.parametrize("version", [4, 6])
def test_sources_that_nobody_has(host: Host, version: int) -> None:
    """Whole, in fragments, with options and extension headers; the right one does arrive."""
    add_remote(host)
    one, other = Attached(host, config(host)), Attached(host, config(host))
    assert arrives(host, one, version, one.address[version]) == ["host", "remote"]
    for source in (*SOURCES[version], other.address[version]):
        assert arrives(host, one, version, source) == [], source


WRAPPED: dict[str, tuple[int, Callable[[bytes], bytes]]] = {
    "VLAN 0": (0x8100, lambda packet: struct.pack("!HH", 0, 0x800) + packet),
    "VLAN 5": (0x8100, lambda packet: struct.pack("!HH", 5, 0x800) + packet),
    "802.1ad": (0x88A8, lambda packet: struct.pack("!HH", 0, 0x800) + packet),
    "QinQ": (0x88A8, lambda packet: struct.pack("!HHHH", 0, 0x8100, 0, 0x800) + packet),
    "PPPoE": (
        0x8864,
        lambda packet: struct.pack("!BBHHH", 0x11, 0, 1, len(packet) + 2, 0x21) + packet,
    ),
    "MPLS": (0x8847, lambda packet: struct.pack("!I", 16 << 12 | 0x100 | 64) + packet),
    "IPv4 as IPv6": (0x86DD, lambda packet: packet),
}


@pytest.mark.parametrize("case", WRAPPED)
def test_wrapped_frames(host: Host, case: str) -> None:
    """Neither another's address nor another MAC passes in what is not plain IP."""
    add_remote(host)
    one, other = Attached(host, config(host)), Attached(host, config(host))
    one.inside.run(["busybox", "ping", "-c1", "-W2", GATEWAY[4]])
    kind, wrap = WRAPPED[case]
    mark = b"mark%d" % time.monotonic_ns()
    with host.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.settimeout(0.2)
    with server, frames.listening(host.remotes[0], "eth0") as arrived:
        server.bind((GATEWAY[4], PORT))
        for source, mac in ((other.address[4], one.mac), (one.address[4], BAD_MAC)):
            for target in (GATEWAY[4], REMOTE[4]):
                one.send(kind, wrap(frames.udp(source, target, mark)), mac)
        with pytest.raises(TimeoutError):
            server.recv(2000)
        assert not arrived(mark)


@pytest.mark.parametrize("anti_spoof", [True, False])
def test_who_answers_for_others(host: Host, anti_spoof: bool) -> None:
    """Gratuitous ARP and unsolicited advertisements, for the uplink's gateway and for others."""
    add_remote(host)
    network = config(host, antiSpoof=anti_spoof)
    one, other = Attached(host, network), Attached(host, network)
    before = [neighbours(host, device) for device in ("uplink", other.outer)]
    victims = ((REMOTE[4], REMOTE[6]), (other.address[4], other.address[6]), (UPLINK[4], UPLINK[6]))
    for old, new in victims:
        for operation in (1, 2):
            message = frames.arp(operation, (one.mac, old), (one.outer_mac, old))
            one.send(frames.ETH_P_ARP, message)
        option = b"\x02\x01" + one.mac
        data = struct.pack("!BBHI", 136, 0, 0, 0x20000000) + frames.packed(new) + option
        for source in (new, one.address[6]):
            one.send(frames.ETH_P_IPV6, frames.icmpv6(source, "ff02::1", data))
    time.sleep(0.2)
    assert [neighbours(host, device) for device in ("uplink", other.outer)] == before
    for version in (4, 6):
        ping = ["busybox", "ping", f"-{version}", "-c1", "-W2"]
        for address in (REMOTE[version], other.address[version]):
            host.run([*ping, address])


CHANGES = {
    "renamed": "ip link set eth0 name other",
    "deleted": "ip link del eth0",
    "down": "ip link set eth0 down",
    "another MAC": "ip link set eth0 address 02:00:00:00:00:09",
    "more addresses": "ip addr add 10.200.0.99/16 dev eth0",
    "a host's address": "ip addr add 198.51.100.2/24 dev eth0",
    "the gateway's address": "ip addr add 10.200.0.1/32 dev eth0",
    "no queue": "tc qdisc del dev eth0 root",
    "another route": "ip route replace default dev eth0",
    "moved": "ip link set eth0 netns 1",
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_container_that_changes_its_end(host: Host, container: Namespace, case: str) -> None:
    """CHECK tells, nothing of the host's is changed, and DEL leaves nothing."""
    network = host.config(bandwidth={"egressRate": 8_000_000})
    host.add_remote()
    elsewhere = host.add_container()
    before = host.snapshot()
    result = host.add(container, network)
    outside = host.snapshot()["routes"]
    command = CHANGES[case].split()
    if case == "moved":
        command[-1] = elsewhere.name
    container.run(command)
    checked = host.check(container, network, result)
    if case == "more addresses" or case.endswith("'s address"):
        checked.ok()  # it may have more than it was given: they lead nowhere
    elif case == "another MAC":
        checked.ok()  # tuning sets one without telling; the guard holds an end to its first
    else:
        checked.error(107)
    if case != "deleted":
        assert host.snapshot()["routes"] == outside or case in {"down", "moved"}
    host.delete_attachment(container, network)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_another_device_on_its_end(host: Host) -> None:
    """A macvlan of its own has another MAC, from which nothing gets out."""
    add_remote(host)
    one = Attached(host, config(host))
    one.inside.run(["busybox", "ping", "-c1", "-W2", GATEWAY[4]])
    for command in (
        "ip link add link eth0 name more type macvlan",
        "ip link set more up",
    ):
        one.inside.run(command.split())
    link = one.inside.link("more")
    assert link is not None
    for device, mac, passes in (
        ("eth0", one.mac, True),
        ("more", frames.mac(link["address"]), False),
    ):
        mark = b"mark%d" % time.monotonic_ns()
        packet = frames.udp(one.address[4], REMOTE[4], mark)
        frame = frames.ethernet(one.outer_mac, mac, frames.ETH_P_IP, packet)
        with frames.listening(host.remotes[0], "eth0") as arrived:
            frames.send(one.inside, device, frame)
            assert arrived(mark, patience=5 if passes else 0.3) == passes


NETLINK = """
import os, socket, struct
sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
def ask(kind, flags, change, attributes, dump=0):
    body = struct.pack("=BBHiII", 0, 0, 0, 0, flags, change) + attributes
    sock.send(struct.pack("=IHHII", 16 + len(body), kind, dump or 5, 1, 0) + body)
    while True:
        data = sock.recv(65536)
        kind = struct.unpack_from("=H", data, 4)[0]
        if kind in (2, 3):
            return -struct.unpack_from("=i", data, 16)[0]
ask(18, 0, 0, b"", 0x301)  # by which the kernel gives the host's namespace a number in here
name = b"uplink\\0\\0"
target = struct.pack("=HHi", 8, 46, 0) + struct.pack("=HH", 11, 3) + name
print(ask(17, 0, 0, target))
"""


@pytest.mark.parametrize("own_user_namespace", [True, False])
def test_power_over_the_hosts_links(host: Host, own_user_namespace: bool) -> None:
    """By the number of the other end's namespace (IFLA_TARGET_NETNSID), the host's is reached.

    The kernel asks for CAP_NET_ADMIN in the user namespace that owns the host's. Who has it
    there, as root without a user namespace of its own has, can delete the host's links: the
    message is right, and no plugin can help it. SECURITY.md says so.
    """
    host.add_remote()
    before = ["unshare", "--user", "--map-root-user"] if own_user_namespace else []
    with subprocess.Popen([*before, "unshare", "--net", "sleep", "60"]) as process:
        try:
            path = f"/proc/{process.pid}/ns/net"
            own = Path("/proc/self/ns/net").readlink()
            wait_until(lambda: Path(path).readlink() != own, "its namespace")
            inside = Namespace("hostile", path=path)
            host.add(inside, config(host))
            enter = ["nsenter", "-t", str(process.pid), "-n"]
            if own_user_namespace:
                enter += ["-U", "--preserve-credentials"]
            done = subprocess.run(
                [*enter, sys.executable, "-c", NETLINK], capture_output=True, text=True, check=True
            )
        finally:
            process.kill()
    if own_user_namespace:
        assert done.stdout.split() == ["13"]  # EACCES
        assert "uplink" in host.links()
    else:
        assert done.stdout.split() == ["0"]
        assert "uplink" not in host.links()


# -- isolation


@pytest.mark.parametrize("version", [4, 6])
def test_an_isolated_container_and_the_hosts_other_addresses(host: Host, version: int) -> None:
    add_remote(host)
    host.run(["ip", "addr", "add", "10.77.0.1/32", "dev", "lo"])
    network = config(host, isolated=True, allowHost=["udp/7701"], ipMasq=True)
    one, two = Attached(host, network), Attached(host, network)
    others = [UPLINK[version], GATEWAY[version]] + (["10.77.0.1"] if version == 4 else [])
    for address in others:
        assert not answers(host, one.inside, address), address
        assert not answers(host, one.inside, address, port=7701), "udp alone is allowed"
    one.inside.run(
        ["ip", "neigh", "replace", "fe80::1", "lladdr", "02:00:00:00:00:01", "dev", "eth0"]
    )
    # A published port leads to another container: by the host's address, and by its own.
    family = "ip" if version == 4 else "ip6"
    to = two.address[version] if version == 4 else f"[{two.address[version]}]"
    script = f"""
        table {family} published {{
            chain in {{
                type nat hook prerouting priority dstnat;
                {family} daddr {UPLINK[version]} tcp dport 8080 dnat to {to}:7777
            }}
            chain out {{
                type nat hook postrouting priority srcnat;
                {family} saddr {one.address[version]} masquerade
            }}
        }}
    """
    host.run(["nft", "-f", "-"], stdin=script)
    server = answers  # the same, towards another address than is listened at
    assert server(two.inside, host.remotes[0], two.address[version], to=(UPLINK[version], 8080))
    assert not server(two.inside, one.inside, two.address[version], to=(UPLINK[version], 8080))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("allowed", ["tcp/7700", "udp/7700"])
def test_what_is_allowed_is_exact(host: Host, version: int, allowed: str) -> None:
    one = Attached(host, config(host, isolated=True, allowHost=[allowed]))
    family = socket.AF_INET6 if version == 6 else socket.AF_INET

    def datagram_arrives(port: int) -> bool:
        with host.entered():
            server = socket.socket(family, socket.SOCK_DGRAM)
        server.settimeout(0.3)
        with server:
            server.bind((GATEWAY[version], port))
            with one.inside.entered(), socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"hello", (GATEWAY[version], port))
            try:
                return server.recv(100) == b"hello"
            except TimeoutError:
                return False

    is_tcp = allowed.startswith("tcp")
    assert answers(host, one.inside, GATEWAY[version], port=7700) == is_tcp
    assert datagram_arrives(7700) != is_tcp
    for port in (7699, 7701):
        assert not answers(host, one.inside, GATEWAY[version], port=port)
        assert not datagram_arrives(port)


@pytest.mark.parametrize("which", ["leases", "state"])
def test_del_goes_on_where_others_may_write_and_says_so(host: Host, which: str) -> None:
    """ADD refuses such a folder, but containers must be able to go."""
    before = host.snapshot()
    config = host.config(bandwidth={"egressRate": 10**7})
    container = host.add_container()
    host.add(container, config)
    folder = (host.data_dir if which == "leases" else host.state_dir) / "testnet"
    folder.chmod(0o777)
    error = host.cni("ADD", host.add_container(), config).error(5)
    assert f"the folder {folder} is not to be trusted: others may write in it" in error["msg"]
    call = host.cni("DEL", container, config)
    call.ok()
    text = call.stderr.decode()
    assert text.count(f"the folder {folder} is not to be trusted") == 1
    assert f"chmod go-w {folder}" in text
    folder.chmod(0o700)
    assert host.links() == []
    assert host.leases() == host.records() == {}
    host.delete_attachment(container, config)
    host.assert_unchanged(before, ignore=[*AFTER_LAST_DEL, "containers"])


def test_del_believes_no_record_that_others_may_have_written(host: Host, tmp_path: Path) -> None:
    """It could name a plugin to execute, and another container's link."""
    config = host.config()
    victim, container = host.add_container(), host.add_container()
    host.add(victim, config)
    host.add(container, config)
    mark = tmp_path / "executed"
    plugin = tmp_path / "evil"
    plugin.write_text(f"#!/bin/sh\necho >{mark}\n", encoding="utf-8")
    plugin.chmod(0o755)
    folder = host.state_dir / "testnet"
    fields = json.loads((folder / f"{victim.name}@eth0").read_bytes())
    planted = {**fields, "containerID": container.name, "ipamPlugin": f"..{plugin}"}
    (folder / f"{container.name}@eth0").write_text(json.dumps(planted), encoding="utf-8")
    folder.chmod(0o777)
    host.cni("DEL", container, config).ok()
    assert victim.link("eth0") is not None
    assert container.link("eth0") is None
    assert not mark.exists()
    assert list(host.leases()) == ["testnet/10.200.0.2"]
