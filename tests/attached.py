"""A container with what it has been given, and what it can try."""

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from cni_faasm.netlink import link, wire
from cni_faasm.netlink.transport import Netlink
from tests import frames
from tests.host import DUAL_STACK, Host, Namespace, wait_until
from tests.tool import Tool

REMOTE = {4: "198.51.100.1", 6: "2001:db8:100::1"}
GATEWAY = {4: "10.200.0.1", 6: "fd00:200::1"}


class Attached:
    """A container with what it has been given."""

    def __init__(self, host: Host, config: dict[str, Any], inside: Namespace | None = None) -> None:
        self.inside = inside or host.add_container()
        self.result = host.add(self.inside, config)
        outer, inner = self.result["interfaces"][:2]
        self.outer: str = outer["name"]
        self.outer_mac = frames.mac(outer["mac"])
        self.mac = frames.mac(inner["mac"])
        addresses = [one["address"].partition("/")[0] for one in self.result["ips"]]
        self.address = dict(zip((4, 6), addresses, strict=False))

    def send(self, kind: int, payload: bytes, source: bytes | None = None) -> None:
        frame = frames.ethernet(self.outer_mac, source or self.mac, kind, payload)
        frames.send(self.inside, "eth0", frame)


def set_size(container: Namespace, kind: int) -> None:
    """Do what `ip link set eth0 gso_ipv4_max_size 9000` of a newer iproute2 does."""
    found = container.link("eth0")
    assert found is not None
    message, flags, body, label = link.set_link(found["ifindex"])
    with container.entered(), Netlink() as netlink:
        netlink.execute([(message, flags, body + wire.attr_u32(kind, 9000), label)])


def config(host: Host, **keys: Any) -> dict[str, Any]:
    return host.config(cniVersion="1.0.0", ipam=DUAL_STACK, **keys)


def add_remote(host: Host) -> Namespace:
    """Make a remote machine that the host knows: without a link-local address it cannot ask."""
    remote = host.add_remote()
    for version, address in REMOTE.items():
        ping = ["busybox", "ping", f"-{version}", "-c1", "-W1", address]
        wait_until(lambda ping=ping: host.run(ping, check=False).returncode == 0, address)
    return remote


KIND = {4: frames.ETH_P_IP, 6: frames.ETH_P_IPV6}


def passes(
    host: Host, sender: Attached, version: int, source: str, mac: bytes | None = None
) -> bool:
    """Say whether a datagram with that source reaches the remote machine."""
    mark = b"mark%d" % time.monotonic_ns()
    packet = frames.udp(source, REMOTE[version], mark)
    with frames.listening(host.remotes[0], "eth0") as arrived:
        sender.send(KIND[version], packet, mac)
        return arrived(mark)


def neighbours(host: Host, device: str) -> dict[str, str]:
    listed = host.json("ip", "-j", "neigh", "show", "dev", device)
    return {one["dst"]: one.get("lladdr", "") for one in listed}


def answers(
    server: Namespace,
    client: Namespace,
    address: str,
    *,
    port: int = 7777,
    to: tuple[str, int] | None = None,
) -> bool:
    """Say whether TCP to a server in one namespace works from another.

    to: what the client calls, where that is not what the server listens at.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.entered():
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen()
    listener.settimeout(10)

    def serve() -> None:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(b"hello")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.entered(), socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.6)
            sock.connect(to or (address, port))
            sock.settimeout(10)  # the kernel has answered; now the thread above has to
            return sock.recv(5) == b"hello"
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # who still waits need not wait longer
        thread.join()
        listener.close()


def assert_seen_and_mended(
    host: Host,
    tool: Tool,
    attached: Sequence[Attached],
    network: dict[str, Any],
    harm: str,
) -> None:
    """Harm the first one's limits by nft; CHECK must see it, and `repair` mend it for all."""
    host.run(["nft", harm])
    error = host.check(attached[0].inside, network, attached[0].result).error(107)
    assert "limit: nft table limit_testnet" in error["details"], harm
    tool("repair").ok()
    for each in attached:
        host.check(each.inside, network, each.result).ok()
