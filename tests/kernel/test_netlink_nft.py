"""Tables, chains and rules on the real kernel, read back by nft and iptables, and at work."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from cni_faasm.netlink import dumps, nft, nft_expr, wire
from cni_faasm.netlink.nft_expr import ACCEPT, DROP, RETURN
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink, NetlinkError
from cni_faasm.spec import inet
from tests.host import Host, Namespace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_faasm.netlink.wire import Message

INET, IPV4, IPV6 = nft.NFPROTO_INET, nft.NFPROTO_IPV4, nft.NFPROTO_IPV6
EEXIST, ENOENT = 17, 2
TABLE = "faasm_net"
NET4, NET6 = inet.pack("10.200.0.0"), inet.pack("fd00:200::")


@pytest.fixture
def nf(bare_host: Host) -> Iterator[Netlink]:
    with bare_host.entered():
        netlink = Netlink(NETLINK_NETFILTER)
    yield netlink
    netlink.close()


def table_with(*rules: "tuple[bytes, ...]", comment: str = "") -> "list[Message]":
    return [
        nft.new_table(INET, TABLE, comment="made by a test"),
        nft.new_chain(
            INET,
            TABLE,
            "post",
            type="nat",
            hook=nft.NF_INET_POST_ROUTING,
            priority=nft.NF_IP_PRI_NAT_SRC,
        ),
        *(nft.new_rule(INET, TABLE, "post", *rule, comment=comment) for rule in rules),
    ]


def listed(host: Host) -> str:
    """Return the rules of the chain as nft prints them, one a line."""
    lines = host.run(["nft", "list", "chain", "inet", TABLE, "post"]).stdout.splitlines()
    return "\n".join(line.strip() for line in lines if line.startswith("\t\t"))


def typed(host: Host, *rules: str) -> str:
    """Return what nft prints of rules that nft made itself."""
    text = "\n".join(rules)
    host.run(
        ["nft", "-f", "-"],
        stdin="table inet typed { chain post { type nat hook postrouting priority srcnat;\n"
        f"{text}\n}}\n}}\n",
    )
    lines = host.run(["nft", "list", "chain", "inet", "typed", "post"]).stdout.splitlines()
    return "\n".join(line.strip() for line in lines if line.startswith("\t\t"))


def netlink_form(host: Host, table: str) -> list[str]:
    """Return the instructions of a table's rules as the kernel has them."""
    text = host.run(["nft", "--debug=netlink", "list", "table", "inet", table]).stdout
    return [line.strip() for line in text.splitlines() if line.startswith("  [")]


def test_a_table_as_nft_shows_it(bare_host: Host, nf: Netlink) -> None:
    nf.nft_batch(
        [
            *table_with(
                (nft_expr.match_daddr(NET4, 16), nft_expr.verdict(RETURN)),
                (nft_expr.match_saddr(NET4, 16), nft_expr.masquerade()),
                comment="cni-faasm net",
            ),
            nft.new_chain(INET, TABLE, "forward", type="filter", hook=nft.NF_INET_FORWARD),
            nft.new_chain(INET, TABLE, "plain"),
        ]
    )
    assert listed(bare_host) == (
        "type nat hook postrouting priority srcnat; policy accept;\n"
        'ip daddr 10.200.0.0/16 return comment "cni-faasm net"\n'
        'ip saddr 10.200.0.0/16 masquerade comment "cni-faasm net"'
    )
    objects = bare_host.nft()
    (table,) = [item["table"] for item in objects if "table" in item]
    assert (table["family"], table["name"]) == ("inet", TABLE)
    assert 'comment "made by a test"' in bare_host.run(["nft", "list", "ruleset"]).stdout
    chains = {item["chain"]["name"]: item["chain"] for item in objects if "chain" in item}
    assert chains["post"].items() >= {"type": "nat", "hook": "postrouting", "prio": 100}.items()
    assert (chains["forward"]["hook"], chains["forward"]["policy"]) == ("forward", "accept")
    assert "hook" not in chains["plain"]
    rules = [item["rule"] for item in objects if "rule" in item]
    assert [rule["comment"] for rule in rules] == ["cni-faasm net"] * 2


PREFIXES = [
    ("10.200.0.0", 16),
    ("10.200.0.0", 15),
    ("10.200.3.0", 24),
    ("10.200.3.7", 32),
    ("128.0.0.0", 1),
    ("172.16.0.0", 12),
    ("fd00:200::", 64),
    ("fd00:200::", 61),
    ("fd00:200::7", 128),
    ("fe80::", 10),
]


@pytest.mark.parametrize(("text", "prefix_len"), PREFIXES)
def test_a_match_is_what_nft_itself_makes(
    bare_host: Host, nf: Netlink, text: str, prefix_len: int
) -> None:
    net = inet.pack(text)
    ip = "ip" if len(net) == 4 else "ip6"
    nf.nft_batch(
        table_with(
            (nft_expr.match_saddr(net, prefix_len), nft_expr.masquerade()),
            (
                nft_expr.match_daddr(net, prefix_len, negate=True),
                nft_expr.counter(),
                nft_expr.verdict(ACCEPT),
            ),
        )
    )
    expected = typed(
        bare_host,
        f"{ip} saddr {text}/{prefix_len} masquerade",
        f"{ip} daddr != {text}/{prefix_len} counter accept",
    )
    assert listed(bare_host) == expected
    assert netlink_form(bare_host, TABLE) == netlink_form(bare_host, "typed")


def test_matches_of_interfaces_and_everything(bare_host: Host, nf: Netlink) -> None:
    nf.nft_batch(
        table_with(
            (nft_expr.match_oifname("faasm*"), nft_expr.verdict(DROP)),
            (nft_expr.match_iifname("eth0", negate=True), nft_expr.verdict(RETURN)),
            (nft_expr.match_saddr(bytes(4), 0), nft_expr.verdict(ACCEPT)),
        )
    )
    expected = typed(
        bare_host,
        'oifname "faasm*" drop',
        'iifname != "eth0" return',
        "meta nfproto ipv4 accept",
    )
    assert listed(bare_host) == expected


def test_host_bits_of_a_network_do_not_count() -> None:
    for prefix_len in (8, 12, 16):
        exact = inet.network(inet.pack("10.200.3.7"), prefix_len)
        assert nft_expr.match_saddr(inet.pack("10.200.3.7"), prefix_len) == nft_expr.match_saddr(
            exact, prefix_len
        )


def test_what_was_made_reads_back_the_same(nf: Netlink) -> None:
    rules = [
        nft_expr.match_daddr(NET4, 16) + nft_expr.verdict(RETURN),
        nft_expr.match_saddr(NET6, 61) + nft_expr.counter() + nft_expr.masquerade(),
        nft_expr.match_saddr(NET4, 9, negate=True) + nft_expr.verdict(DROP),
    ]
    nf.nft_batch(table_with(*((rule,) for rule in rules), comment="tag"))
    ((body,),) = nf.execute([nft.get_table(INET, TABLE)])
    table = nft.parse_table(body)
    assert (table.name, table.family, table.use) == (TABLE, INET, 1)
    assert table.comment == "made by a test"
    ((body,),) = nf.execute([nft.get_chain(INET, TABLE, "post")])
    chain = nft.parse_chain(body)
    assert (chain.name, chain.table, chain.type) == ("post", TABLE, "nat")
    assert (chain.hook, chain.priority, chain.policy, chain.use) == (4, 100, nft.NF_ACCEPT, 3)
    found = [nft.parse_rule(one) for one in nf.dump(nft.dump_rules(INET, TABLE, "post"))]
    assert [nft_expr.describe(one.expressions) for one in found] == [
        nft_expr.describe(one) for one in rules
    ]
    assert {(one.table, one.chain, one.comment) for one in found} == {(TABLE, "post", "tag")}
    assert [nft.parse_table(one).name for one in nf.dump(nft.dump_tables(INET))] == [TABLE]
    assert nf.dump(nft.dump_tables(IPV4)) == []


def test_only_the_asked_rules_are_dumped(bare_host: Host, nf: Netlink) -> None:
    typed(bare_host, "accept", "drop")
    nf.nft_batch(table_with((nft_expr.verdict(ACCEPT),)))
    assert len(nf.dump(nft.dump_rules(INET, TABLE, "post"))) == 1
    assert nf.dump(nft.dump_rules(INET, TABLE, "none")) == []
    assert nf.dump(nft.dump_rules(INET, "none", "post")) == []


class Unfiltered(Netlink):
    """Tell of other rules too, as kernels did that passed a dump's filter over."""

    __slots__ = ()

    def dump(self, message: "Message") -> list[bytes]:
        name, chain = wire.attr_text(1, TABLE), wire.attr_text(2, "post")
        others = [
            nft.new_rule(IPV4, TABLE, "post")[2],
            nft.new_rule(INET, TABLE, "posts")[2],
            nft.new_rule(INET, "faasm_ne", "post")[2],
            b"\1\0\0\0" + chain + name,  # the asked one's, in another order
        ]
        return others + super().dump(message)


def test_a_filter_is_not_believed(bare_host: Host) -> None:
    with bare_host.entered():
        netlink = Unfiltered(NETLINK_NETFILTER)
    with netlink:
        netlink.nft_batch(table_with((nft_expr.masquerade(),)))
        assert len(dumps.rule_bodies(netlink, INET, TABLE, "post")) == 2
        assert [one.chain for one in dumps.rules(netlink, INET, TABLE, "post")] == ["post"] * 2
        assert not dumps.rule_bodies(netlink, INET, TABLE, "other")


@pytest.mark.parametrize("position", [0, 1, 2, 3])
def test_a_transaction_is_all_or_nothing_and_names_the_culprit(
    bare_host: Host, nf: Netlink, position: int
) -> None:
    nf.nft_batch([nft.new_table(INET, "taken")])
    messages = table_with((nft_expr.masquerade(),))
    messages.insert(position, nft.new_table(INET, "taken"))
    with pytest.raises(NetlinkError) as caught:
        nf.nft_batch(messages)
    assert caught.value.errno == EEXIST
    assert caught.value.label == "nft create table inet taken"
    assert bare_host.nft_tables() == ["inet taken"]
    nf.nft_batch(table_with())
    assert sorted(bare_host.nft_tables()) == [f"inet {TABLE}", "inet taken"]


def test_of_several_failures_the_first_is_told(nf: Netlink) -> None:
    nf.nft_batch([nft.new_table(INET, "taken")])
    with pytest.raises(NetlinkError) as caught:
        nf.nft_batch(
            [
                nft.new_table(INET, "free"),
                nft.del_rule(INET, "free", "nope", 5),
                nft.new_table(INET, "taken"),
            ]
        )
    assert caught.value.errno == ENOENT
    assert caught.value.label == "nft delete rule inet free nope handle 5"


def test_what_is_not_there(nf: Netlink) -> None:
    nf.nft_batch([nft.new_table(INET, TABLE)])
    results = nf.execute_tolerant(
        [
            nft.get_table(INET, "nope"),
            nft.get_table(IPV4, TABLE),
            nft.get_chain(INET, TABLE, "nope"),
            nft.get_chain(INET, "nope", "nope"),
        ]
    )
    assert [one.errno for one in results if isinstance(one, NetlinkError)] == [ENOENT] * 4
    with pytest.raises(NetlinkError) as caught:
        nf.nft_batch([nft.del_table(INET, "nope")])
    assert caught.value.errno == ENOENT


def test_rules_are_inserted_placed_and_deleted(bare_host: Host, nf: Netlink) -> None:
    nf.nft_batch(table_with((nft_expr.verdict(ACCEPT),), comment="first"))
    nf.nft_batch(
        [
            nft.new_rule(INET, TABLE, "post", nft_expr.counter(), comment="head", insert=True),
            nft.new_rule(INET, TABLE, "post", nft_expr.counter(), comment="tail"),
        ]
    )

    def found() -> dict[str, int]:
        rules = [nft.parse_rule(one) for one in nf.dump(nft.dump_rules(INET, TABLE, "post"))]
        return {rule.comment: rule.handle for rule in rules}

    assert list(found()) == ["head", "first", "tail"]
    after = nft.new_rule(
        INET, TABLE, "post", nft_expr.counter(), comment="second", position=found()["first"]
    )
    nf.nft_batch([after])
    assert list(found()) == ["head", "first", "second", "tail"]
    nf.nft_batch([nft.del_rule(INET, TABLE, "post", found()["first"])])
    assert list(found()) == ["head", "second", "tail"]
    nf.nft_batch([nft.del_rule(INET, TABLE, "post")])
    assert found() == {}
    nf.nft_batch([nft.del_chain(INET, TABLE, "post"), nft.del_table(INET, TABLE)])
    assert bare_host.nft_tables() == []


def test_a_table_is_replaced_in_one_transaction(bare_host: Host, nf: Netlink) -> None:
    nf.nft_batch(table_with((nft_expr.verdict(ACCEPT),)))
    nf.nft_batch([nft.del_table(INET, TABLE), *table_with((nft_expr.masquerade(),))])
    assert listed(bare_host).endswith("masquerade")


IPTABLES = [(IPV4, "iptables", "10.200.0.0", 16), (IPV4, "iptables", "10.200.0.0", 13)] + [
    (IPV6, "ip6tables", "fd00:200::", length) for length in (64, 61)
]


@pytest.mark.parametrize(("family", "command", "text", "prefix_len"), IPTABLES)
def test_iptables_lists_our_rules_as_its_own(  # noqa: PLR0917 -- fixtures and parameters
    bare_host: Host, nf: Netlink, family: int, command: str, text: str, prefix_len: int
) -> None:
    net = (inet.pack(text), prefix_len)
    states = (
        nft_expr.XT_CONNTRACK_STATE_ESTABLISHED
        | nft_expr.XT_CONNTRACK_STATE_RELATED
        | nft_expr.XT_CONNTRACK_STATE_DNAT
    )
    bare_host.run([command, "-P", "FORWARD", "DROP"])
    bare_host.run([command, "-A", "FORWARD", "-i", "docker0", "-j", "ACCEPT"])

    def insert(expressions: bytes) -> "Message":
        return nft.new_rule(
            family, "filter", "FORWARD", expressions, comment="cni-faasm net", insert=True
        )

    nf.nft_batch(
        [
            insert(nft_expr.iptables_accept(daddr=net, states=states)),
            insert(nft_expr.iptables_accept(saddr=net)),
        ]
    )
    comment = '-m comment --comment "cni-faasm net" -j ACCEPT'
    expected = [
        "-P FORWARD DROP",
        f"-A FORWARD -s {text}/{prefix_len} {comment}",
        f"-A FORWARD -d {text}/{prefix_len} -m conntrack --ctstate RELATED,ESTABLISHED,DNAT {comment}",
        "-A FORWARD -i docker0 -j ACCEPT",
    ]
    assert bare_host.run([command, "-S", "FORWARD"]).stdout.splitlines() == expected
    saved = bare_host.run([f"{command}-save"]).stdout
    assert all(line in saved for line in expected[1:])

    # iptables has them as rules of its own: it finds, restores and deletes them.
    source = ["FORWARD", "-s", f"{text}/{prefix_len}", "-m", "comment", "--comment"]
    source += ["cni-faasm net", "-j", "ACCEPT"]
    bare_host.run([command, "-C", *source])
    bare_host.run([f"{command}-restore"], stdin=saved)
    assert bare_host.run([command, "-S", "FORWARD"]).stdout.splitlines() == expected
    found = [nft.parse_rule(one) for one in nf.dump(nft.dump_rules(family, "filter", "FORWARD"))]
    assert [rule.comment for rule in found] == ["cni-faasm net", "cni-faasm net", ""]
    assert nft_expr.describe(found[0].expressions) == nft_expr.describe(
        nft_expr.iptables_accept(saddr=net)
    )
    assert nft_expr.describe(found[1].expressions) == nft_expr.describe(
        nft_expr.iptables_accept(daddr=net, states=states)
    )
    bare_host.run([command, "-D", *source])
    nf.nft_batch([nft.del_rule(family, "filter", "FORWARD", found[1].handle)])
    assert bare_host.run([command, "-S", "FORWARD"]).stdout.splitlines() == [
        expected[0],
        expected[3],
    ]


def attach(host: Host, container: Namespace) -> None:
    """Give a container an address in NET4, a way out through the host, and a forwarding host."""
    host.run(["ip", "link", "add", "outer", "type", "veth", *in_namespace(container)])
    host.run(["ip", "addr", "add", "10.200.0.1/24", "dev", "outer"])
    host.run(["ip", "link", "set", "outer", "up"])
    container.run(["ip", "addr", "add", "10.200.0.2/24", "dev", "eth0"])
    container.run(["ip", "link", "set", "eth0", "up"])
    container.run(["ip", "route", "add", "default", "via", "10.200.0.1"])
    host.sysctl("net.ipv4.ip_forward", "1")


def in_namespace(namespace: Namespace) -> list[str]:
    return ["peer", "name", "eth0", "netns", namespace.name]


def source_seen(
    server: Namespace, client: Namespace, address: str, *, patience_s: float = 5
) -> str | None:
    """Return the client's address as a server in another namespace sees it; None: no answer.

    patience_s: enough for two retransmissions, since a link just made may lose a packet.
    """
    with server.entered():
        listener = socket.create_server((address, 0))
    with client.entered():
        caller = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    with listener, caller:
        caller.settimeout(patience_s)
        try:
            caller.connect(listener.getsockname())
        except OSError:
            return None
        accepted, peer = listener.accept()
        accepted.close()
        return str(peer[0])


def test_traffic_is_masqueraded(bare_host: Host, nf: Netlink) -> None:
    remote, container = bare_host.add_remote(), bare_host.add_container()
    attach(bare_host, container)
    assert source_seen(remote, container, "198.51.100.1", patience_s=0.5) is None  # no way back
    nf.nft_batch(
        table_with(
            (nft_expr.match_daddr(NET4, 16), nft_expr.verdict(RETURN)),
            (nft_expr.match_saddr(NET4, 16), nft_expr.masquerade()),
        )
    )
    assert source_seen(remote, container, "198.51.100.1") == "198.51.100.2"
    assert source_seen(bare_host, container, "10.200.0.1") == "10.200.0.2"


def test_forwarding_through_a_dropping_chain(bare_host: Host, nf: Netlink) -> None:
    remote, container = bare_host.add_remote(), bare_host.add_container()
    attach(bare_host, container)
    nf.nft_batch(table_with((nft_expr.match_saddr(NET4, 16), nft_expr.masquerade())))
    bare_host.run(["iptables", "-P", "FORWARD", "DROP"])
    assert source_seen(remote, container, "198.51.100.1", patience_s=0.5) is None
    states = nft_expr.XT_CONNTRACK_STATE_ESTABLISHED | nft_expr.XT_CONNTRACK_STATE_RELATED
    rules = [
        nft_expr.iptables_accept(saddr=(NET4, 16)),
        nft_expr.iptables_accept(daddr=(NET4, 16), states=states),
    ]
    nf.nft_batch([nft.new_rule(IPV4, "filter", "FORWARD", rule, insert=True) for rule in rules])
    assert source_seen(remote, container, "198.51.100.1") == "198.51.100.2"
    counted = [rule["counter"]["packets"] for rule in filter_rules(bare_host)]
    assert all(count > 0 for count in counted)
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    assert (
        source_seen(container, remote, "10.200.0.2", patience_s=0.5) is None
    )  # strangers stay out


def filter_rules(host: Host) -> list[dict[str, Any]]:
    """Return the last part but one (the counter) of each rule of the FORWARD chain."""
    text = host.run(["nft", "-j", "list", "chain", "ip", "filter", "FORWARD"]).stdout
    rules = [item["rule"] for item in json.loads(text)["nftables"] if "rule" in item]
    return [part for rule in rules for part in rule["expr"] if "counter" in part]


def test_a_chain_goes_with_its_rules(bare_host: Host, nf: Netlink) -> None:
    nf.nft_batch(table_with((nft_expr.masquerade(),)))
    nf.nft_batch([nft.del_chain(INET, TABLE, "post")])
    assert not [item for item in bare_host.nft() if "chain" in item or "rule" in item]
