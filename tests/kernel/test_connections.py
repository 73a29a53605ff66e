"""What the host tracks of an address is forgotten, translated or not, and nothing else."""

import pytest

from cni_faasm.link import connections
from cni_faasm.spec import inet
from tests.host import Host

ADDRESSES = {4: ("10.9.0.2", "10.9.0.3"), 6: ("fd09::2", "fd09::3")}


def _tracked(host: Host) -> str:
    with host.entered():
        return open("/proc/net/nf_conntrack", encoding="utf-8").read()


@pytest.mark.parametrize("family", [4, 6])
def test_connections_of_an_address_are_forgotten(bare_host: Host, family: int) -> None:
    host = bare_host
    first, second = ADDRESSES[family]
    for address in (first, second):
        host.run(["ip", "addr", "add", address, "dev", "lo"])
    table = {4: "ip", 6: "ip6"}[family]
    target = f"{first}:98" if family == 4 else f"[{first}]:98"
    rules = f"""
        table {table} track {{
            chain in {{ type filter hook input priority 0; ct state new counter; }}
            chain out {{
                type nat hook output priority -100
                {table} daddr {second} udp dport 99 dnat to {target}
            }}
        }}
    """
    host.run(["nft", "-f", "-"], stdin=rules)
    send = (
        "import socket\n"
        f"for source, target, port in (({first!r}, {second!r}, 9), ({second!r}, {second!r}, 10),\n"
        f"                            ({second!r}, {second!r}, 99)):\n"
        f"    one = socket.socket(socket.AF_INET{'' if family == 4 else '6'}, socket.SOCK_DGRAM)\n"
        "    one.bind((source, 0))\n"
        "    one.sendto(b'x', (target, port))\n"
    )
    host.run(["python3", "-c", send])
    with host.entered(), connections.open_socket() as netfilter:
        assert connections.are_tracked()
        # By its own packets, and by those that were sent elsewhere and translated.
        assert connections.forget(netfilter, [inet.pack(first)]) == 2
        assert connections.forget(netfilter, [inet.pack(first)]) == 0
        assert connections.forget(netfilter, [inet.pack(second)]) == 1
        assert not connections.are_tracked()
