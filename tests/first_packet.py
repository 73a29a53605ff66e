"""Send one packet the moment ADD is done, and see whether it is answered.

    bin/private_host.sh .venv/bin/python -m tests.first_packet --count 1000

Each attachment is good for one echo request: over IPv4 or IPv6, from the host to the container,
or from the container to the host or to a remote machine. All sockets are open before ADD, and ADD
is done in this process: a process's end would give the kernel a millisecond, and here the request
leaves some microseconds after the verb has returned.
"""

import argparse
import os
import select
import socket
import statistics
import struct
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import cycle, islice, product
from pathlib import Path
from typing import Any

from cni_faasm.attachment.undo import Undo
from cni_faasm.cli import attachments, networks
from cni_faasm.cli.pool import netfolder
from cni_faasm.cli.repair import mending
from cni_faasm.link import netns
from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.verbs.add import add
from cni_faasm.verbs.delete import delete
from tests.attached import GATEWAY, REMOTE, add_remote, config
from tests.host import Host, Namespace, source_plugin

TO_CONTAINER, TO_HOST, TO_REMOTE = "host to container", "container to host", "container to remote"
WAYS = tuple(product((4, 6), (TO_CONTAINER, TO_HOST, TO_REMOTE)))
LIMITS = {"ingressRate": "10M", "egressRate": "10M"}
VARIANTS: dict[str, dict[str, Any]] = {
    "unlimited": {},
    "limited": {"bandwidth": LIMITS},
    "limited to the container": {"bandwidth": {"ingressRate": "10M"}},
    "limited from the container": {"bandwidth": {"egressRate": "10M"}},
    "enforced on the host": {"bandwidth": {**LIMITS, "enforceEgress": "host"}},
    "unlimited, spoofing allowed": {"antiSpoof": False},
    "limited, spoofing allowed": {"bandwidth": LIMITS, "antiSpoof": False},
}
# Types of request and reply: ICMP's (RFC 792) and ICMPv6's (RFC 4443).
_ECHO = {4: (8, 0), 6: (128, 129)}
_IPV4_HEADER = 20

Results = dict[str, Any]
Attach = Callable[[Host, dict[str, Any], Namespace], Results]


class Echo:
    """Raw sockets for echo requests, of the namespace that they are made in."""

    def __init__(self) -> None:
        self.sockets = {
            4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
            6: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
        }

    def is_answered(self, version: int, address: str, number: int, patience_s: float) -> bool:
        """Send one request; say whether its reply came."""
        kinds = _ECHO[version]
        mark = struct.pack("!HH", os.getpid() & 0xFFFF, number & 0xFFFF)
        # The kernel fills in ICMPv6's checksum only.
        total = sum(struct.unpack("!3H", struct.pack("!BB", kinds[0], 0) + mark))
        total = (total & 0xFFFF) + (total >> 16)
        head = struct.pack("!BBH", kinds[0], 0, ~total & 0xFFFF if version == 4 else 0)
        sock = self.sockets[version]
        sock.sendto(head + mark, (address, 0))
        end = time.monotonic() + patience_s
        while select.select([sock], [], [], max(0.0, end - time.monotonic()))[0]:
            data = sock.recv(2048)[_IPV4_HEADER if version == 4 else 0 :]
            if data[0] == kinds[1] and data[4:8] == mark:
                return True
        return False

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()


class Count:
    """What became of the packets: per way tried and lost, and how long each ADD took, in ms."""

    def __init__(self) -> None:
        self.tried: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.add_ms: list[float] = []

    def __str__(self) -> str:
        ways = ", ".join(f"{way} {n} of {self.tried[way]}" for way, n in sorted(self.lost.items()))
        lost = f"{self.lost.total()} of {self.tried.total()} lost" + (f" ({ways})" if ways else "")
        return f"{lost}, ADD {statistics.median(self.add_ms):.2f} ms"


def in_process(host: Host, network: dict[str, Any], inside: Namespace) -> Results:
    """Do ADD here and now, in the host's namespace."""
    del host
    request = networks.request("ADD", network, inside.name, "eth0", inside.path)
    return {"ips": [{"address": inet_text(one.address)} for one in add(request, Undo(), []).ips]}


def by_process(host: Host, network: dict[str, Any], inside: Namespace) -> Results:
    """Have the host's plugin do ADD."""
    return host.add(inside, network)


def repaired(which: str) -> Attach:
    """Return what does ADD, puts one end down, and has that repaired."""

    def attach(host: Host, network: dict[str, Any], inside: Namespace) -> Results:
        result = in_process(host, network, inside)
        one = attachments.load(str(host.state_dir), network["name"], inside.name, "eth0")
        assert one.promised is not None
        with Netlink() as outside, attachments.opened(one) as within:
            if which == "host":
                outside.execute([link.set_link(one.promised.host_ifindex, up=False)])
            else:
                within.execute([link.set_link(one.promised.ifindex, up=False)])
            mended = mending.mend(one, outside, within)
        assert mended.done
        assert mended.left == []
        return result

    return attach


def inet_text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET6 if len(address) == 16 else socket.AF_INET, address)


def count(
    host: Host,
    network: dict[str, Any],
    number: int,
    *,
    attach: Attach = in_process,
    patience_s: float = 1,
) -> Count:
    """Attach so many containers, one after the other, each for one packet.

    network: gives an address of each family. host: with a remote machine (attached.add_remote).
    """
    counted = Count()
    netfolder.prepare()
    with host.entered(), sockets_in(host) as outside:
        for at, (version, way) in enumerate(islice(cycle(WAYS), number)):
            with container(f"first{host.number}x{at}") as inside, sockets_in(inside) as within:
                begun = time.perf_counter()
                result = attach(host, network, inside)
                counted.add_ms.append((time.perf_counter() - begun) * 1000)
                address = result["ips"][(4, 6).index(version)]["address"].partition("/")[0]
                sender = outside if way == TO_CONTAINER else within
                target = {
                    TO_CONTAINER: address,
                    TO_HOST: GATEWAY[version],
                    TO_REMOTE: REMOTE[version],
                }[way]
                counted.tried[f"IPv{version} {way}"] += 1
                if not sender.is_answered(version, target, at, patience_s):
                    counted.lost[f"IPv{version} {way}"] += 1
                delete(networks.request("DEL", network, inside.name, "eth0"), [], detach=False)
    return counted


@contextmanager
def container(name: str) -> Iterator[Namespace]:
    """Make a namespace for the block, without executing anything."""
    own_fd = netns.open_own()
    try:
        netfolder.add(name, own_fd)
    finally:
        os.close(own_fd)
    try:
        yield Namespace(name, path=netfolder.path_of(name))
    finally:
        netfolder.remove(name)


@contextmanager
def sockets_in(namespace: Namespace) -> Iterator[Echo]:
    """Open sockets in a namespace for the block."""
    with namespace.entered():
        made = Echo()
    try:
        yield made
    finally:
        made.close()


def main() -> None:
    """Count as the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--variant", action="append", choices=list(VARIANTS))
    options = parser.parse_args()
    print(f"Linux {os.uname().release}", flush=True)
    for variant in options.variant or VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            host = Host(Path(folder), plugin=source_plugin())
            try:
                add_remote(host)
                network = config(host, ipMasq=True, **VARIANTS[variant])
                print(f"{variant}: {count(host, network, options.count)}", flush=True)
            finally:
                host.close()


if __name__ == "__main__":
    main()
