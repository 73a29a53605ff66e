"""pyroute2 reads what is encoded here, and what it encodes is read here."""

from typing import Any

import pytest
from pyroute2.netlink.diag import inet_diag_msg, inet_diag_req  # type: ignore[import-untyped]
from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg, nft_rule_msg, nft_table_msg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.ndmsg import ndmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.rtmsg import rtmsg  # type: ignore[import-untyped]
from pyroute2.netlink.rtnl.tcmsg import tcmsg  # type: ignore[import-untyped]

from cni_faasm.netlink import (
    addr,
    link,
    neigh,
    nft,
    nft_expr,
    route,
    sock_diag,
    tc,
    tc_filter,
    wire,
)
from cni_faasm.spec import inet

MAC = b"\x02\0\0\0\0\x01"
PEER_MAC = b"\x02\0\0\0\0\x02"
NET4 = inet.pack("10.200.0.0")
NET6 = inet.pack("fd00:200::")


def read(layout: Any, message: "wire.Message") -> Any:
    """Return the message as pyroute2 decodes it."""
    kind, flags, body, _ = message
    decoded = layout(wire.frame(kind, flags, 7, body))
    decoded.decode()
    assert decoded["header"]["length"] == len(body) + 16
    assert decoded["header"]["type"] == kind
    return decoded


def write(layout: Any, fields: dict[str, Any], attrs: list[tuple[str, Any]]) -> bytes:
    """Return the body that pyroute2 encodes."""
    message = layout()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attrs
    message.encode()
    ((_, _, _, _, body),) = wire.split(bytes(message.data))
    return body


def attrs(nla: Any) -> dict[str, Any]:
    """Return a message's attributes, nested ones as dictionaries."""
    found = {}
    for name, value, *_ in nla["attrs"]:
        found[name] = attrs(value) if isinstance(value, dict) and "attrs" in value else value
    return found


def test_new_veth() -> None:
    message = link.new_veth(
        "faasm%d",
        "eth0",
        9,
        mtu=1400,
        address=MAC,
        peer_address=PEER_MAC,
        group=7,
        peer_group=8,
        txqlen=500,
        gso_max_size=2000,
        gro_max_size=3000,
        peer_gso_max_size=4000,
        peer_gro_max_size=5000,
        up=True,
    )
    assert message[:2] == (16, wire.NLM_F_CREATE | wire.NLM_F_EXCL | wire.NLM_F_ECHO)
    decoded = read(ifinfmsg, message)
    assert (decoded["flags"], decoded["change"], decoded["index"]) == (1, 1, 0)
    common = {
        "IFLA_MTU": 1400,
        "IFLA_TXQLEN": 500,
        "IFLA_NUM_TX_QUEUES": 1,
        "IFLA_NUM_RX_QUEUES": 1,
    }
    assert attrs(decoded) == {
        **common,
        "IFLA_IFNAME": "faasm%d",
        "IFLA_ADDRESS": "02:00:00:00:00:01",
        "IFLA_GROUP": 7,
        "IFLA_GSO_MAX_SIZE": 2000,
        "IFLA_GRO_MAX_SIZE": 3000,
        "IFLA_LINKINFO": {
            "IFLA_INFO_KIND": "veth",
            "IFLA_INFO_DATA": {
                "VETH_INFO_PEER": {
                    **common,
                    "IFLA_IFNAME": "eth0",
                    "IFLA_ADDRESS": "02:00:00:00:00:02",
                    "IFLA_GROUP": 8,
                    "IFLA_GSO_MAX_SIZE": 4000,
                    "IFLA_GRO_MAX_SIZE": 5000,
                    "IFLA_NET_NS_FD": 9,
                }
            },
        },
    }


def test_a_veth_of_defaults_names_nothing_but_its_ends() -> None:
    message = link.new_veth("a", "b", None, num_queues=None, echo=False)
    assert message[1] == wire.NLM_F_CREATE | wire.NLM_F_EXCL
    assert attrs(read(ifinfmsg, message)) == {
        "IFLA_IFNAME": "a",
        "IFLA_LINKINFO": {
            "IFLA_INFO_KIND": "veth",
            "IFLA_INFO_DATA": {"VETH_INFO_PEER": {"IFLA_IFNAME": "b"}},
        },
    }


def test_set_link() -> None:
    message = link.set_link(
        5,
        up=False,
        name="new",
        address=MAC,
        mtu=1300,
        alias="cni-faasm net id eth0",
        group=3,
        txqlen=9,
        gso_max_size=1700,
        gro_max_size=1800,
        addr_gen_mode=link.IN6_ADDR_GEN_MODE_NONE,
        netns_fd=4,
    )
    decoded = read(ifinfmsg, message)
    assert (decoded["index"], decoded["flags"], decoded["change"]) == (5, 0, 1)
    found = attrs(decoded)
    assert wire.parse_attrs(message[2], 16)[link.IFLA_AF_SPEC] == wire.nest(10, wire.attr_u8(8, 1))
    del found["IFLA_AF_SPEC"]
    assert found == {
        "IFLA_IFNAME": "new",
        "IFLA_ADDRESS": "02:00:00:00:00:01",
        "IFLA_MTU": 1300,
        "IFLA_IFALIAS": "cni-faasm net id eth0",
        "IFLA_GROUP": 3,
        "IFLA_TXQLEN": 9,
        "IFLA_GSO_MAX_SIZE": 1700,
        "IFLA_GRO_MAX_SIZE": 1800,
        "IFLA_NET_NS_FD": 4,
    }


@pytest.mark.parametrize(
    ("message", "kind", "index", "expected"),
    [
        (link.get_link(name="eth0"), 18, 0, {"IFLA_IFNAME": "eth0", "IFLA_EXT_MASK": 8}),
        (link.get_link(ifindex=4, stats=True), 18, 4, {}),
        (
            link.dump_links(kind="veth"),
            18,
            0,
            {"IFLA_LINKINFO": {"IFLA_INFO_KIND": "veth"}, "IFLA_EXT_MASK": 8},
        ),
        (link.del_link(name="eth0"), 17, 0, {"IFLA_IFNAME": "eth0"}),
        (link.del_link(ifindex=4), 17, 4, {}),
        (link.del_link(group=9), 17, 0, {"IFLA_GROUP": 9}),
    ],
)
def test_links_asked_for_and_deleted(
    message: "wire.Message", kind: int, index: int, expected: dict[str, Any]
) -> None:
    decoded = read(ifinfmsg, message)
    assert (message[0], decoded["index"]) == (kind, index)
    assert attrs(decoded) == expected


def test_a_link_of_pyroute2_is_read() -> None:
    body = write(
        ifinfmsg,
        {"index": 12, "flags": 0x1003},
        [
            ("IFLA_IFNAME", "faasm3"),
            ("IFLA_MTU", 1400),
            ("IFLA_ADDRESS", "02:00:00:00:00:01"),
            ("IFLA_IFALIAS", "cni-faasm net id eth0"),
            ("IFLA_LINK", 4),
            ("IFLA_LINK_NETNSID", 2),
            ("IFLA_GROUP", 6),
            ("IFLA_TXQLEN", 1000),
            ("IFLA_GSO_MAX_SIZE", 65536),
            ("IFLA_GRO_MAX_SIZE", 2000),
            ("IFLA_NUM_TX_QUEUES", 1),
            ("IFLA_NUM_RX_QUEUES", 2),
            ("IFLA_MASTER", 9),
            ("IFLA_QDISC", "htb"),
            (
                "IFLA_LINKINFO",
                {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_SLAVE_KIND", "bridge")]},
            ),
        ],
    )
    found = link.parse_link(body)
    assert found.is_up
    assert {name: getattr(found, name) for name in found.__slots__} == {
        "ifindex": 12,
        "flags": 0x1003,
        "name": "faasm3",
        "mtu": 1400,
        "address": MAC,
        "alias": "cni-faasm net id eth0",
        "link": 4,
        "link_netnsid": 2,
        "group": 6,
        "txqlen": 1000,
        "gso_max_size": 65536,
        "gro_max_size": 2000,
        "num_tx_queues": 1,
        "num_rx_queues": 2,
        "master": 9,
        "qdisc": "htb",
        "kind": "veth",
        "slave_kind": "bridge",
        "operstate": 0,
        "rx_packets": None,
        "tx_packets": None,
        "rx_bytes": None,
        "tx_bytes": None,
        "af_spec": b"",
        "gso_ipv4_max_size": 0,
        "gro_ipv4_max_size": 0,
    }


@pytest.mark.parametrize("text", ["10.200.0.2", "fd00:200::2"])
def test_addresses(text: str) -> None:
    packed = inet.pack(text)
    decoded = read(ifaddrmsg, addr.new_addr(3, packed, 24, nodad=True, noprefixroute=True))
    assert (decoded["index"], decoded["prefixlen"]) == (3, 24)
    assert decoded["family"] == inet.family(packed)
    assert attrs(decoded) == {"IFA_LOCAL": text, "IFA_ADDRESS": text, "IFA_FLAGS": 0x202}
    decoded = read(ifaddrmsg, addr.del_addr(3, packed, 24))
    assert attrs(decoded) == {"IFA_LOCAL": text, "IFA_ADDRESS": text}
    body = write(
        ifaddrmsg,
        {"family": inet.family(packed), "prefixlen": 24, "index": 3, "scope": 253},
        [("IFA_ADDRESS", text), ("IFA_FLAGS", 0x80)],
    )
    found = addr.parse_addr(body)
    assert (found.address, found.prefix_len, found.ifindex) == (packed, 24, 3)
    assert (found.scope, found.flags, found.family) == (253, 0x80, inet.family(packed))


def test_dump_of_addresses() -> None:
    decoded = read(ifaddrmsg, addr.dump_addrs(9, family=10))
    assert (decoded["index"], decoded["family"], attrs(decoded)) == (9, 10, {})


@pytest.mark.parametrize(
    ("net", "gateway", "source"),
    [
        ("10.201.0.0", "10.200.0.1", "10.200.0.2"),
        ("fd00:201::", "fd00:200::1", "fd00:200::2"),
    ],
)
def test_routes(net: str, gateway: str, source: str) -> None:
    message = route.new_route(
        inet.pack(net),
        30,
        5,
        gateway=inet.pack(gateway),
        src=inet.pack(source),
        mtu=1300,
        advmss=1200,
        priority=50,
        table=1000,
        scope=200,
        onlink=True,
        replace=True,
    )
    assert message[1] == wire.NLM_F_CREATE | wire.NLM_F_REPLACE
    decoded = read(rtmsg, message)
    assert (decoded["dst_len"], decoded["table"], decoded["flags"]) == (30, 252, 4)
    assert (decoded["scope"], decoded["type"], decoded["proto"]) == (200, 1, 3)
    expected = {
        "RTA_DST": net,
        "RTA_GATEWAY": gateway,
        "RTA_PREFSRC": source,
        "RTA_OIF": 5,
        "RTA_PRIORITY": 50,
        "RTA_TABLE": 1000,
        "RTA_METRICS": {"RTAX_MTU": 1300, "RTAX_ADVMSS": 1200},
    }
    assert attrs(decoded) == expected
    metrics = {"attrs": [("RTAX_MTU", 1300), ("RTAX_ADVMSS", 1200)]}
    body = write(
        rtmsg,
        {"family": decoded["family"], "dst_len": 30, "flags": 4, "type": 1, "scope": 200},
        [(name, metrics if name == "RTA_METRICS" else value) for name, value in expected.items()],
    )
    found = route.parse_route(body)
    assert (found.dst, found.prefix_len, found.oif) == (inet.pack(net), 30, 5)
    assert (found.gateway, found.src) == (inet.pack(gateway), inet.pack(source))
    assert (found.mtu, found.advmss, found.priority, found.table) == (1300, 1200, 50, 1000)
    assert (found.scope, found.onlink) == (200, True)


def test_routes_asked_for_and_deleted() -> None:
    decoded = read(rtmsg, route.del_route(NET4, 16, 5, priority=3))
    assert (decoded["scope"], decoded["proto"], decoded["type"]) == (255, 0, 0)
    assert attrs(decoded) == {"RTA_DST": "10.200.0.0", "RTA_OIF": 5, "RTA_PRIORITY": 3}
    decoded = read(rtmsg, route.get_route(NET4, oif=2))
    assert (decoded["flags"], decoded["dst_len"]) == (0x2000, 32)
    assert attrs(decoded) == {"RTA_DST": "10.200.0.0", "RTA_OIF": 2}
    assert read(rtmsg, route.get_route(NET6, fib_match=False))["flags"] == 0
    decoded = read(rtmsg, route.dump_routes(family=10, oif=4, table=300))
    assert attrs(decoded) == {"RTA_OIF": 4, "RTA_TABLE": 300}
    assert attrs(read(rtmsg, route.new_route(bytes(4), 0, 2))) == {"RTA_OIF": 2}


def test_neighbours() -> None:
    decoded = read(ndmsg, neigh.new_neigh(3, NET6, MAC))
    assert (decoded["ifindex"], decoded["state"], decoded["family"]) == (3, 0x80, 10)
    assert attrs(decoded) == {"NDA_DST": "fd00:200::", "NDA_LLADDR": "02:00:00:00:00:01"}
    assert attrs(read(ndmsg, neigh.del_neigh(3, NET4))) == {"NDA_DST": "10.200.0.0"}
    assert attrs(read(ndmsg, neigh.dump_neigh(3))) == {"NDA_IFINDEX": 3}
    decoded = read(ndmsg, neigh.get_neigh(3, NET6))
    assert (decoded["family"], decoded["ifindex"], decoded["state"]) == (10, 3, 0)
    assert attrs(decoded) == {"NDA_DST": "fd00:200::"}
    body = write(
        ndmsg,
        {"family": 2, "ifindex": 3, "state": 4, "flags": 1},
        [("NDA_DST", "10.200.0.0"), ("NDA_LLADDR", "02:00:00:00:00:01")],
    )
    found = neigh.parse_neigh(body)
    assert (found.dst, found.lladdr, found.state, found.flags) == (NET4, MAC, 4, 1)


def test_htb() -> None:
    decoded = read(tcmsg, tc.new_qdisc_htb(3, 0x10000, 1, 1000))
    assert (decoded["handle"], decoded["parent"]) == (0x10000, 0xFFFFFFFF)
    options = attrs(decoded)["TCA_OPTIONS"]
    assert attrs(decoded)["TCA_KIND"] == "htb"
    assert options["TCA_HTB_INIT"]["defcls"] == 1
    assert options["TCA_HTB_DIRECT_QLEN"] == 1000
    message = tc.new_class_htb(3, 0x10000, 0x10001, 2**33, 2**20, 10**6, 2000, 60000)
    decoded = read(tcmsg, message)
    options = attrs(decoded)["TCA_OPTIONS"]
    numbers = options["TCA_HTB_PARMS"]
    assert (numbers["rate"], numbers["ceil"], numbers["quantum"]) == (2**32 - 1, 2**20, 60000)
    assert numbers["buffer"] == tc.burst_ticks(2**33, 10**6)
    assert numbers["cbuffer"] == tc.burst_ticks(2**20, 2000)
    assert options["TCA_HTB_RATE64"] == 2**33
    assert "TCA_HTB_CEIL64" not in options
    changed = tc.new_class_htb(3, 0x10000, 0x10001, 5, 5, 5, 5, 5, replace=True)
    assert changed[1] == 0


def test_leaves() -> None:
    decoded = read(tcmsg, tc.new_qdisc_bfifo(3, 0x10001, 0x100000, 31250))
    assert attrs(decoded) == {"TCA_KIND": "bfifo", "TCA_OPTIONS": "12:7a:00:00"}
    message = tc.new_qdisc_fq_codel(
        3,
        0x10001,
        0x100000,
        limit=1,
        target_us=2,
        interval_us=3,
        memory_limit=4,
        quantum=5,
        ecn=6,
        ce_threshold_us=7,
        flows=8,
    )
    assert attrs(read(tcmsg, message))["TCA_OPTIONS"] == {
        "TCA_FQ_CODEL_LIMIT": 1,
        "TCA_FQ_CODEL_TARGET": 2,
        "TCA_FQ_CODEL_INTERVAL": 3,
        "TCA_FQ_CODEL_MEMORY_LIMIT": 4,
        "TCA_FQ_CODEL_QUANTUM": 5,
        "TCA_FQ_CODEL_ECN": 6,
        "TCA_FQ_CODEL_CE_THRESHOLD": 7,
        "TCA_FQ_CODEL_FLOWS": 8,
    }
    cutter = tc.new_qdisc_tbf(
        *(3, 0x10001, 0x20000), rate_Bps=2**33, max_bytes=1912, limit_bytes=9784
    )
    options = attrs(read(tcmsg, cutter))["TCA_OPTIONS"]
    parms = options["TCA_TBF_PARMS"]
    assert (parms["rate"], parms["limit"], parms["mtu"]) == (2**32 - 1, 9784, 0)
    for one in (tc.del_qdisc(3), tc.get_qdisc(3), tc.dump_qdiscs(3), tc.dump_classes(3)):
        assert read(tcmsg, one)["index"] == 3


def test_tables_and_chains() -> None:
    decoded = read(nft_table_msg, nft.new_table(nft.NFPROTO_INET, "faasm_net", comment="ours"))
    assert decoded["nfgen_family"] == 1
    found = attrs(decoded)
    assert found["NFTA_TABLE_NAME"] == "faasm_net"
    message = nft.new_chain(
        nft.NFPROTO_INET, "faasm_net", "post", type="nat", hook=4, priority=-5, policy=1
    )
    assert attrs(read(nft_chain_msg, message)) == {
        "NFTA_CHAIN_TABLE": "faasm_net",
        "NFTA_CHAIN_NAME": "post",
        "NFTA_CHAIN_HOOK": {"NFTA_HOOK_HOOKNUM": 4, "NFTA_HOOK_PRIORITY": -5},
        "NFTA_CHAIN_TYPE": "nat",
        "NFTA_CHAIN_POLICY": 1,
    }


def test_a_rule() -> None:
    message = nft.new_rule(
        nft.NFPROTO_INET,
        "t",
        "c",
        nft_expr.match_saddr(NET4, 13),
        nft_expr.counter(),
        nft_expr.masquerade(),
        nft_expr.verdict(nft_expr.RETURN),
    )
    assert message[1] == wire.NLM_F_CREATE | wire.NLM_F_APPEND
    (expressions,) = (
        value
        for name, value, *_ in read(nft_rule_msg, message)["attrs"]
        if name == "NFTA_RULE_EXPRESSIONS"
    )
    found = [attrs(expression) for expression in expressions]
    assert [one["NFTA_EXPR_NAME"] for one in found] == [
        "meta",
        "cmp",
        "payload",
        "bitwise",
        "cmp",
        "counter",
        "masq",
        "immediate",
    ]
    assert found[0]["NFTA_EXPR_DATA"]["NFTA_META_KEY"] == "NFT_META_NFPROTO"
    payload = found[2]["NFTA_EXPR_DATA"]
    assert payload["NFTA_PAYLOAD_BASE"] == "NFT_PAYLOAD_NETWORK_HEADER"
    assert (payload["NFTA_PAYLOAD_OFFSET"], payload["NFTA_PAYLOAD_LEN"]) == (12, 4)
    mask = found[3]["NFTA_EXPR_DATA"]["NFTA_BITWISE_MASK"]
    assert mask == {"NFTA_DATA_VALUE": b"\xff\xf8\0\0"}
    verdict = found[7]["NFTA_EXPR_DATA"]["NFTA_IMMEDIATE_DATA"]["NFTA_DATA_VERDICT"]
    assert verdict["NFTA_VERDICT_CODE"] == "NFT_RETURN"


@pytest.mark.parametrize("by_source", [True, False])
def test_filters_by_u32(by_source: bool) -> None:
    one = tc_filter.Filter(NET4, 15, 0x10001, by_source=by_source)
    decoded = read(tcmsg, tc_filter.new_filter(3, 0x10000, tc_filter.U32, one))
    assert (decoded["index"], decoded["parent"]) == (3, 0x10000)
    assert decoded["info"] & 0xFFFF == 0x0008  # ETH_P_IP in network order
    options = decoded.get_attr("TCA_OPTIONS")
    assert options.get_attr("TCA_U32_CLASSID") == 0x10001


@pytest.mark.parametrize(("net", "prefix_len"), [(NET4, 15), (NET6, 33), (bytes(4), 0)])
@pytest.mark.parametrize("kind", [tc_filter.U32, tc_filter.FLOWER])
@pytest.mark.parametrize("by_source", [True, False])
def test_filters_come_back(net: bytes, prefix_len: int, kind: str, by_source: bool) -> None:
    one = tc_filter.Filter(net, prefix_len, 0x10001, by_source=by_source)
    found = tc_filter.parse_filter(tc_filter.new_filter(3, 0x10000, kind, one)[2])
    assert found is not None
    assert (found.network, found.prefix_len, found.classid) == (net, prefix_len, 0x10001)
    assert found.by_source == by_source


@pytest.mark.parametrize("kind", [tc_filter.U32, tc_filter.FLOWER])
def test_a_classifier_itself_is_no_filter(kind: str) -> None:
    """A dump has it before its filters, without options."""
    body = tc.TCMSG.pack(0, 0, 0, 3, 0, 0x10000, 0xFA400008)
    assert not tc_filter.is_foreign(body)
    assert tc_filter.parse_filter(body + wire.attr_text(1, kind)) is None


def test_filters_by_flower() -> None:
    """pyroute2 cannot read flower: byte by byte, by <linux/pkt_cls.h>."""
    one = tc_filter.Filter(NET4, 15, 0x10000, by_source=True)
    decoded = read(tcmsg, tc_filter.new_filter(3, 0x10000, tc_filter.FLOWER, one))
    assert decoded.get_attr("TCA_KIND") == "flower"
    assert bytes.fromhex(decoded.get_attr("TCA_OPTIONS").replace(":", "")) == (
        b"\x08\0\x01\0\0\0\x01\0"  # TCA_FLOWER_CLASSID 1:
        b"\x06\0\x08\0\x08\0\0\0"  # TCA_FLOWER_KEY_ETH_TYPE 0x0800, big-endian
        b"\x08\0\x0a\0\x0a\xc8\0\0"  # TCA_FLOWER_KEY_IPV4_SRC
        b"\x08\0\x0b\0\xff\xfe\0\0"  # TCA_FLOWER_KEY_IPV4_SRC_MASK
    )


def test_dump_sockets() -> None:
    decoded = read(inet_diag_req, sock_diag.dump_sockets(10, 6, sock_diag.TCP_LISTEN))
    assert [decoded[f"sdiag_{one}"] for one in ("family", "protocol")] == [10, 6]
    assert [decoded[f"idiag_{one}"] for one in ("ext", "states", "sport", "if", "cookie")] == [
        *(0, 1 << 10, 0, 0, 0),
    ]


def test_parse_port() -> None:
    given = {"idiag_family": 2, "idiag_state": 10, "idiag_sport": 8080, "idiag_dport": 9}
    assert sock_diag.parse_port(write(inet_diag_msg, given, [])) == 8080
