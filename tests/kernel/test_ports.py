"""Published ports: from outside, from other containers, from the host itself; and no one else's."""

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests import frames
from tests.attached import REMOTE, add_remote
from tests.host import AFTER_LAST_DEL, DUAL_STACK, Host, Namespace, is_listening, wait_until
from tests.tool import Tool

HOST = {4: "198.51.100.2", 6: "2001:db8:100::2"}
KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


def mapping(host_port: int, port: int, protocol: str = "tcp", **keys: Any) -> dict[str, Any]:
    return {"hostPort": host_port, "containerPort": port, "protocol": protocol, **keys}


def config(host: Host, *ports: dict[str, Any], **keys: Any) -> dict[str, Any]:
    asked = {"portMappings": list(ports)}
    return host.config(ipMasq=True, ipam=DUAL_STACK, runtimeConfig=asked, **keys)


def serve(namespace: Namespace, port: int, kind: str, word: bytes, version: int) -> socket.socket:
    """Answer in a thread with a word and who asked, until the socket is closed."""
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with namespace.entered():
        server = socket.socket(family, KINDS[kind])
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("::" if version == 6 else "", port))
        if kind == "tcp":
            server.listen()

    def answer() -> None:
        while True:
            try:
                if kind == "tcp":
                    connection, peer = server.accept()
                    connection.sendall(word + b" " + peer[0].encode())
                    connection.close()
                else:
                    _, peer = server.recvfrom(100)
                    if peer is None:
                        return
                    server.sendto(word + b" " + peer[0].encode(), peer)
            except OSError:
                return

    threading.Thread(target=answer, daemon=True).start()
    return server


def ask(namespace: Namespace, address: str, port: int, kind: str = "tcp") -> str:
    """Return what a server says, "" where there is none."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespace.entered(), socket.socket(family, KINDS[kind]) as client:
        client.settimeout(1)
        try:
            client.connect((address, port))
            client.sendall(b"?") if kind == "udp" else None
            return client.recv(200).decode()
        except OSError:
            return ""


@contextlib.contextmanager
def serving(*servers: socket.socket) -> Any:
    try:
        yield
    finally:
        for one in servers:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()


@pytest.fixture
def uplinked(host: Host) -> Host:
    add_remote(host)
    host.sysctl("net.ipv6.conf.all.forwarding", "1")
    return host


def test_from_everywhere(uplinked: Host) -> None:
    host = uplinked
    one, other = host.add_container(), host.add_container()
    before = host.snapshot()
    asked = config(host, mapping(8080, 80), mapping(5353, 53, "udp"))
    result = host.add(one, asked)
    host.add(other, config(host))
    remote = host.remotes[0]
    for version in (4, 6):
        servers = [
            serve(one, 80, "tcp", b"tcp", version),
            serve(one, 53, "udp", b"udp", version),
        ]
        address = HOST[version]
        with serving(*servers):
            # From outside, with the asker's own address.
            assert ask(remote, address, 8080) == f"tcp {REMOTE[version]}"
            assert ask(remote, address, 5353, "udp") == f"udp {REMOTE[version]}"
            assert ask(remote, address, 8081) == ""
            # From another container, from itself, from the host.
            assert ask(other, address, 8080).startswith("tcp ")
            assert ask(one, address, 8080).startswith("tcp ")
            assert ask(one, address, 5353, "udp").startswith("udp ")
            assert ask(host, address, 8080).startswith("tcp ")
            itself = "127.0.0.1" if version == 4 else "::1"
            gateway = "10.200.0.1" if version == 4 else "fd00:200::1"
            assert ask(host, itself, 8080) == f"tcp {gateway}"
            assert ask(host, itself, 5353, "udp") == f"udp {gateway}"
    host.check(one, asked, result).ok()
    for each, given in ((one, asked), (other, config(host))):
        host.delete_attachment(each, given)
    assert ask(remote, HOST[4], 8080) == ""
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    host.cni("GC", None, {**asked, "cni.dev/valid-attachments": []}).ok()
    assert host.nft_tables() == []


def sctp(ports: tuple[int, int], tag: int, chunk: int) -> bytes:
    """Return an INIT (1) or INIT ACK (2); tag: that of whom it goes to. See RFC 9260, 3.3.2."""
    body = struct.pack("!BBHIIHHI", chunk, 0, 20, 7000 + chunk, 65536, 1, 1, 1)
    head = struct.pack("!HHI", *ports, tag)
    return head + crc32c(head + bytes(4) + body).to_bytes(4, "little") + body


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def received(raw: socket.socket) -> tuple[bytes, str]:
    """Return the next packet of SCTP, whose checksum must be right, and its sender."""
    data, peer = raw.recvfrom(200)
    packet = data[20:] if raw.family == socket.AF_INET else data  # that of IPv6 has no header
    checked = crc32c(packet[:8] + bytes(4) + packet[12:]).to_bytes(4, "little")
    assert packet[8:12] == checked
    return packet, peer[0]


@pytest.mark.parametrize("version", [4, 6])
def test_sctp(uplinked: Host, container: Namespace, version: int) -> None:
    """By its packets, for sockets of it are in few kernels."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    asked = config(uplinked, mapping(9000, 38412, "sctp"))
    uplinked.add(container, asked)
    raws = []
    for namespace in (uplinked.remotes[0], container):
        with namespace.entered():
            raws.append(socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_SCTP))
    client, server = raws
    with client, server:
        for one in raws:
            one.settimeout(5)
        client.sendto(sctp((5000, 9000), 0, 1), (HOST[version], 0))
        packet, peer = received(server)
        assert (struct.unpack_from("!HH", packet), peer) == ((5000, 38412), REMOTE[version])
        server.sendto(sctp((38412, 5000), 7001, 2), (peer, 0))
        packet, peer = received(client)
        assert (struct.unpack_from("!HH", packet), peer) == ((9000, 5000), HOST[version])
        assert packet[12] == 2
        uplinked.delete_attachment(container, asked)


def test_ranges_and_addresses_of_the_host(uplinked: Host, container: Namespace) -> None:
    host = uplinked
    remote = host.remotes[0]
    host.run(["ip", "addr", "add", "198.51.100.3/24", "dev", "uplink"])
    asked = config(
        host,
        mapping(7000, 80, range=3),
        mapping(9000, 80, hostIP="198.51.100.3"),
        mapping(9001, 80, hostIP="127.0.0.1"),
        mapping(9002, 80, hostIP="::"),
        mapping(0, 80),
    )
    result = host.add(container, asked)
    servers = [serve(container, port, "tcp", b"%d" % port, 4) for port in (80, 81, 82)]
    with serving(*servers):
        for index in range(3):
            assert ask(remote, HOST[4], 7000 + index).startswith(f"{80 + index} ")
        assert ask(remote, HOST[4], 7003) == ""
        assert ask(remote, "198.51.100.3", 9000).startswith("80 ")
        assert ask(remote, HOST[4], 9000) == ""
        assert ask(remote, HOST[4], 9001) == ""
        assert ask(host, "127.0.0.1", 9001).startswith("80 ")
        assert ask(remote, HOST[4], 9002) == ""  # of IPv6 alone
    host.check(container, asked, result).ok()
    host.delete_attachment(container, asked)


def test_isolated_containers_are_reached(uplinked: Host, container: Namespace) -> None:
    asked = config(uplinked, mapping(8080, 80), isolated=True)
    uplinked.add(container, asked)
    with serving(serve(container, 80, "tcp", b"in", 4)):
        assert ask(uplinked.remotes[0], HOST[4], 8080) == f"in {REMOTE[4]}"
        assert ask(uplinked, HOST[4], 8080).startswith("in ")
    uplinked.delete_attachment(container, asked)


def test_a_container_reaches_nothing_of_the_hosts_loopback(
    uplinked: Host, container: Namespace
) -> None:
    """The host's end lets addresses of the loopback through, which the kernel drops elsewhere."""
    asked = config(uplinked, mapping(8080, 80))
    uplinked.add(container, asked)
    container.run(["ip", "addr", "del", "127.0.0.1/8", "dev", "lo"])
    container.run(["ip", "route", "add", "127.0.0.0/8", "via", "10.200.0.1", "dev", "eth0"])
    container.sysctl("net.ipv4.conf.eth0.route_localnet", "1")
    with serving(serve(uplinked, 9999, "udp", b"secret", 4)):
        assert ask(uplinked, "127.0.0.1", 9999, "udp").startswith("secret ")
        assert ask(container, "127.0.0.1", 9999, "udp") == ""
    uplinked.delete_attachment(container, asked)


def test_nor_by_ipv6(uplinked: Host, container: Namespace) -> None:
    """The kernel throws away what comes for ::1 from elsewhere than lo, also with our route to it."""
    asked = config(uplinked, mapping(8080, 80))
    uplinked.add(container, asked)
    inner, outer = container.link("eth0"), uplinked.link("faasm0")
    assert inner is not None
    assert outer is not None
    addresses = [address for address in container.addresses("eth0") if ":" in address]
    source = addresses[0].partition("/")[0]
    with uplinked.entered(), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as secret:
        secret.bind(("::", 9999))
        secret.settimeout(1)

        def send(target: str) -> None:
            packet = frames.udp(source, target, target.encode())
            macs = frames.mac(outer["address"]), frames.mac(inner["address"])
            frames.send(container, "eth0", frames.ethernet(*macs, 0x86DD, packet))

        send("::1")
        send("fd00:200::1")
        assert secret.recv(100) == b"fd00:200::1"
        with pytest.raises(TimeoutError):
            secret.recv(100)
    assert ask(uplinked, "::1", 8080) == ""  # nobody serves there, and none is shut out
    with serving(serve(uplinked, 9998, "udp", b"lo", 6)):
        assert ask(uplinked, "::1", 9998, "udp") == "lo ::1"
    uplinked.delete_attachment(container, asked)


def test_a_port_that_is_taken(host: Host) -> None:
    one, other = host.add_container(), host.add_container()
    first = config(host, mapping(8080, 80))
    host.add(one, first)
    before = host.snapshot()
    told = host.cni("ADD", other, first).error(110)
    assert (
        f"port 8080/tcp is published for container {one.name} of network 'testnet'" in told["msg"]
    )
    # Of another network, too.
    elsewhere = {**config(host, mapping(9090, 80), mapping(8080, 81)), "name": "second"}
    elsewhere["ipam"] = {"type": "host-local", "subnet": "10.201.0.0/16"}
    elsewhere["dataDir"] = str(host.data_dir)
    assert "8080/tcp" in host.cni("ADD", other, elsewhere).error(110)["msg"]
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    # And one of many, which are not asked for one by one.
    elsewhere["runtimeConfig"] = {"portMappings": [mapping(8070, 80, range=20)]}
    assert "8080/tcp" in host.cni("ADD", other, elsewhere).error(110)["msg"]
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    elsewhere["runtimeConfig"] = {"portMappings": [mapping(8081, 80, range=20)]}
    host.add(other, elsewhere)
    host.delete_attachment(other, elsewhere)
    udp = config(host, mapping(8080, 80, "udp"))
    host.add(other, udp)
    host.delete_attachment(one, first)
    host.delete_attachment(other, udp)
    host.add(other, first)
    host.delete_attachment(other, first)


@pytest.mark.parametrize("kind", KINDS)
def test_a_port_that_a_program_has(uplinked: Host, container: Namespace, kind: str) -> None:
    before = uplinked.snapshot()
    asked = config(uplinked, mapping(8080, 80, kind))
    for version in (4, 6):
        with serving(serve(uplinked, 8080, kind, b"host", version)):
            told = uplinked.cni("ADD", container, asked).error(110)
            assert f"port 8080/{kind}: a program of this host listens there" in told["msg"]
        uplinked.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    with serving(serve(uplinked, 8080, kind, b"host", 4)):
        other = config(uplinked, mapping(8080, 80, "udp" if kind == "tcp" else "tcp"))
        uplinked.add(container, other)
    uplinked.delete_attachment(container, other)


@pytest.mark.parametrize("kind", KINDS)
def test_a_program_has_one_of_many(uplinked: Host, container: Namespace, kind: str) -> None:
    """Who publishes many has the sockets of the host told, and not each port tried."""
    before = uplinked.snapshot()
    other = "udp" if kind == "tcp" else "tcp"
    asked = config(uplinked, mapping(8080, 80, kind, range=20), mapping(9000, 80, other, range=20))
    for version in (4, 6):
        with serving(
            serve(uplinked, 8087, kind, b"host", version),
            serve(uplinked, 8088, other, b"host", version),
        ):
            told = uplinked.cni("ADD", container, asked).error(110)
            assert f"port 8087/{kind}: a program of this host listens there" in told["msg"]
        uplinked.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    with serving(serve(uplinked, 8088, other, b"host", 4)):
        # Who listens at one address leaves the others to whoever names them.
        uplinked.add(container, asked)
    uplinked.delete_attachment(container, asked)
    with uplinked.entered():
        local = socket.create_server(("127.0.0.1", 8087))
    with local:
        named = config(uplinked, mapping(8080, 80, range=20, hostIP=HOST[4]))
        uplinked.add(container, named)
        uplinked.delete_attachment(container, named)


@pytest.mark.parametrize("name", ["podman", "conmon"])
def test_what_podman_keeps_is_its_containers(
    uplinked: Host, container: Namespace, tmp_path: Path, name: str
) -> None:
    """It holds a container's ports before the setup, and conmon while the network is reloaded."""
    program = tmp_path / name
    program.symlink_to(sys.executable)
    script = "import socket; s = socket.create_server(('', 8080)); input()"
    keeper = uplinked.start([str(program), "-c", script], stdin=subprocess.PIPE)
    try:
        wait_until(lambda: is_listening(uplinked, 8080), "the port to be kept")
        asked = config(uplinked, mapping(8080, 80))
        uplinked.add(container, asked)
        with serving(serve(container, 80, "tcp", b"in", 4)):
            assert ask(uplinked.remotes[0], HOST[4], 8080) == f"in {REMOTE[4]}"
        uplinked.delete_attachment(container, asked)
    finally:
        keeper.communicate()


def test_a_port_of_nobody_any_more(host: Host) -> None:
    """Whose record is lost: its address is in the map, and no attachment has it."""
    one, other = host.add_container(), host.add_container()
    asked = config(host, mapping(8080, 80))
    host.add(one, asked)
    for path in (host.state_dir / "testnet").glob("*@*"):
        path.unlink()
    result = host.add(other, asked)
    host.check(other, asked, result).ok()
    host.delete_attachment(other, asked)
    host.delete_attachment(one, asked)


@pytest.mark.parametrize("count", [1, 20])
def test_udp_of_an_earlier_container_is_forgotten(uplinked: Host, count: int) -> None:
    host, remote = uplinked, uplinked.remotes[0]
    asked = config(host, mapping(5353, 53, "udp", range=count))
    with remote.entered():
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    client.settimeout(1)
    client.connect((HOST[4], 5353))
    with client:
        for word in ("first", "second"):
            container = host.add_container()
            host.add(container, asked)
            with serving(serve(container, 53, "udp", word.encode(), 4)):
                client.send(b"?")
                assert client.recv(100).decode().startswith(word)
            host.delete_attachment(container, asked)


def test_check_repair_and_gc(uplinked: Host, container: Namespace) -> None:
    host = uplinked
    tool = Tool(host)
    tool.network(ipam=DUAL_STACK)
    asked = config(host, mapping(8080, 80), mapping(8081, 80, hostIP=HOST[4]))
    result = host.add(container, asked)
    table = "inet ports_testnet"
    for change in (
        "delete element inet ports_testnet any4 { tcp . 8080 }",
        "flush map inet ports_testnet at4",
        "flush chain inet ports_testnet output",
        "add rule inet ports_testnet prerouting accept",
        "delete table inet ports_testnet",
        "add table inet ports_testnet { flags dormant; }",
    ):
        host.run(["nft", change])
        told = host.check(container, asked, result).error(107)
        assert f"ports: nft table {table}" in told["msg"], change
        tool("repair").ok()
        host.check(container, asked, result).ok()
    host.sysctl("net.ipv4.conf.faasm0.route_localnet", "0")
    assert "route_localnet" in host.check(container, asked, result).error(107)["msg"]
    tool("repair").ok()
    local = ["local", "::1", "dev", "faasm0", "table", "local"]
    host.run(["ip", "-6", "route", "del", *local])
    assert "route" in host.check(container, asked, result).error(107)["msg"]
    tool("repair").ok()
    host.check(container, asked, result).ok()
    assert " dev lo " in host.run(["ip", "-6", "route", "get", "::1"]).stdout
    with serving(serve(container, 80, "tcp", b"in", 4)):
        assert ask(host.remotes[0], HOST[4], 8080) == f"in {REMOTE[4]}"
    with serving(serve(container, 80, "tcp", b"in", 6)):
        assert ask(host, "::1", 8080).startswith("in ")
    container.delete()
    host.containers.clear()
    tool("gc").ok()
    wait_until(lambda: host.links() == ["uplink"], "the host's end to go")
    assert host.nft_tables() == []


def test_rules_are_the_same_however_many_ports(host: Host, container: Namespace) -> None:
    def rules() -> int:
        return len([one for one in host.nft() if "rule" in one])

    many = config(host, mapping(10000, 80, range=1000), mapping(20000, 80, "udp", range=1000))
    host.add(container, config(host, mapping(8080, 80)))
    few = rules()
    host.delete_attachment(container, config(host))
    result = host.add(container, many)
    assert rules() == few
    host.check(container, many, result).ok()
    listed = host.run(["nft", "list", "ruleset"]).stdout
    assert "fib daddr type local dnat ip to meta l4proto . th dport map @any4" in listed
    # What nft prints, it loads again.
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{listed}")
    host.check(container, many, result).ok()
    host.delete_attachment(container, many)
    [any4] = [one["map"] for one in host.nft() if "map" in one and one["map"]["name"] == "any4"]
    assert "elem" not in any4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (mapping(70000, 80), "portMappings[0].hostPort: value 70000: allowed is a number from 0"),
        (mapping(80, 0), "portMappings[0].containerPort: value 0: allowed is"),
        (mapping(80, 80, "icmp"), 'portMappings[0].protocol: value "icmp": allowed is tcp, udp'),
        (mapping(80, 80, hostIP="x"), 'portMappings[0].hostIP: value "x": allowed is an address'),
        (mapping(65535, 80, range=2), "portMappings[0].range: value 2 must end at port 65535"),
        (mapping(1, 1, range=5000), "portMappings: value [...]: allowed is 4096 ports in all"),
    ],
)
def test_what_is_refused(
    host: Host, container: Namespace, given: dict[str, Any], told: str
) -> None:
    error = host.cni("ADD", container, config(host, given)).error(7)
    assert f"runtimeConfig.{told}" in error["msg"], json.dumps(error)


def test_beside_portmap_nothing_is_done_twice(uplinked: Host, container: Namespace) -> None:
    """Where the list has both, portmap is first, and what it has sent on stays so."""
    host = uplinked
    asked = {"portMappings": [mapping(8080, 80)]}
    faasm = host.config(cniVersion="1.0.0", ipMasq=True, runtimeConfig=asked)
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "runtimeConfig": asked}
    listed = {"cniVersion": "1.0.0", "name": "testnet", "plugins": [faasm, portmap]}
    result = host.chain("ADD", container, listed)
    with serving(serve(container, 80, "tcp", b"in", 4)):
        assert ask(host.remotes[0], HOST[4], 8080) == f"in {REMOTE[4]}"
        assert ask(host, "127.0.0.1", 8080).startswith("in ")
    host.chain("DEL", container, {**listed, "prevResult": result})
