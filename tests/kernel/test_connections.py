"""What the host tracks of an address is forgotten, translated or not, and nothing else."""

from pathlib import Path

import pytest

from cni_faasm.link import connections
from cni_faasm.spec import inet
from tests.host import Host

ADDRESSES = {4: ("10.9.0.2", "10.9.0.3"), 6: ("fd09::2", "fd09::3")}


def _tracked(host: Host) -> str:
    with host.entered():
        return Path("/proc/thread-self/net/nf_conntrack").read_text("utf-8")


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


@pytest.mark.parametrize("few", [0, 1000])
@pytest.mark.parametrize("family", [4, 6])
def test_connections_to_ports_are_forgotten(
    bare_host: Host, family: int, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where many are tracked the kernel is asked at once; else what the table lists says whether to."""
    monkeypatch.setattr(connections, "_FEW", few)
    host = bare_host
    host.run(["ip", "link", "set", "lo", "up"])
    rules = """
        table inet track {
            chain in { type filter hook input priority 0; ct state new counter; }
        }
    """
    host.run(["nft", "-f", "-"], stdin=rules)
    target = "127.0.0.1" if family == 4 else "::1"
    # UDP to two ports and from one of them, and TCP.
    send = (
        "import socket\n"
        f"family = socket.AF_INET{'' if family == 4 else '6'}\n"
        "one = socket.socket(family, socket.SOCK_DGRAM)\n"
        "for port in (97, 98, 99):\n"
        f"    one.sendto(b'x', ({target!r}, port))\n"
        "two = socket.socket(family, socket.SOCK_DGRAM)\n"
        f"two.bind(({target!r}, 98))\n"
        f"two.sendto(b'x', ({target!r}, 96))\n"
        f"server = socket.create_server(({target!r}, 98), family=family)\n"
        f"socket.create_connection(({target!r}, 98))\n"
    )
    host.run(["python3", "-c", send])

    def ports() -> list[tuple[str, str]]:
        lines = [line.split() for line in _tracked(host).splitlines()]
        found = []
        for words in lines:
            first = next(word for word in words if word.startswith("dport="))
            found.append((words[2], first.removeprefix("dport=")))
        return sorted(found)

    assert ports() == [("tcp", "98"), ("udp", "96"), ("udp", "97"), ("udp", "98"), ("udp", "99")]
    with host.entered(), connections.open_socket() as netfilter:
        for gone in (frozenset([95]), frozenset([98]), frozenset([95, 97, 99])):
            connections.forget_udp(netfilter, gone, [4, 16])
            left = {"96", "97", "98", "99"} - {str(one) for one in gone}
            if gone != {95}:
                left.discard("98")
            assert ports() == [("tcp", "98"), *(("udp", one) for one in sorted(left))]
