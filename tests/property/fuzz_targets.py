"""What is fuzzed: each function takes bytes, and may end in a value or in our own errors."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from cni_faasm.attachment import accepted, plan_fields
from cni_faasm.config import dns, policy
from cni_faasm.config import loading as config
from cni_faasm.config import ranges as subnets
from cni_faasm.ipam import delegate, layout
from cni_faasm.limits import shaping
from cni_faasm.link import egress, inner_routes, kernel, veth
from cni_faasm.netlink import (
    addr,
    debuglog,
    link,
    link_state,
    neigh,
    nft,
    nft_comment,
    nft_expr,
    nft_object,
    nft_set,
    route,
    tc,
    tc_filter,
    tc_mirred,
    tc_parse,
    wire,
)
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import guard, guard_rules, nat
from cni_faasm.spec import inet, jsonio, protocol, results
from cni_faasm.spec.errors import CniError

SAMPLES = Path(__file__).parent.parent / "unit" / "attachment" / "samples"
NAMES = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS")


def stdin(data: bytes) -> None:
    """A whole call: the configuration and, before two NULs, the environment."""
    head, _, text = data.partition(b"\0\0")
    words = head.decode("utf-8", "surrogateescape").split("\n")
    environ = {"CNI_COMMAND": "ADD", **dict(zip(NAMES, words, strict=False))}
    given = protocol.decode(text)
    protocol.error_document(CniError(7, "a message"), protocol.version_of(given))
    request = protocol.parse_request(environ, given)
    debuglog.wanted(environ, request.document)
    accepted.text_of(request.document)
    config.load(request.document, request.args, request.verb)


def environment(data: bytes) -> None:
    """The variables alone, with a configuration that is right; CNI_ARGS comes first."""
    words = data.decode("utf-8", "surrogateescape").split("\n")
    environ = dict(zip(reversed(NAMES), words, strict=False))
    for verb in (environ.get("CNI_COMMAND", "ADD"), "ADD", "DEL"):
        defaults = dict.fromkeys(NAMES, "a")
        with contextlib.suppress(CniError):
            request = protocol.parse_request(
                {**defaults, **environ, "CNI_COMMAND": verb}, SEEDS["configuration"][0]
            )
            config.load(request.document, request.args, request.verb)


def configuration(data: bytes) -> None:
    """A configuration alone, as ADD reads it and as DEL does."""
    document = jsonio.load_object(data, "it")
    config.load_tolerant(document)
    config.load(document)


def prev_result(data: bytes) -> None:
    results.parse_result(jsonio.load_object(data, "it"))


def lease(data: bytes) -> None:
    """What stands in a lease's file, what its name may be, and in a cursor."""
    layout.lease_holder(data)
    name = data.decode("utf-8", "surrogateescape")
    address = layout.lease_address(name)
    ranges = [subnets.make(inet.pack("10.9.0.0"), 24)]
    for _ in zip(range(3), layout.candidates(ranges, address), strict=False):
        pass


def record(data: bytes) -> None:
    """A record, and all that is made of what it promises."""
    fields = jsonio.load_object(data, "it")
    plan = plan_fields.from_fields(fields)
    if plan is None:
        return
    assert plan_fields.from_fields(
        jsonio.load_object(jsonio.dumps(plan_fields.to_fields(plan)), "it")
    )
    veth.outer_messages(plan)
    veth.host_neighs(plan)
    routes = [inner_routes.message(plan.ifindex, one) for one in plan.inner_routes()]
    veth.inner_messages(plan, routes)
    guard._additions(plan, guard.keys_of(plan))
    for shape in (plan.ingress, plan.egress, plan.host_egress):
        shaping.messages(plan.host_ifindex, shape)
    if plan.guard is not None:
        guard_rules.tables(plan.network, plan.guard)
        guard_rules.rules(plan.network, plan.guard)
    egress.device_name(plan.host_interface)
    nat._rules(plan.ranges)


def marker(data: bytes) -> None:
    """The marker of a boot, and what a kernel offers."""
    document = jsonio.load_object(data, "it")
    for key in ("queue", "classifier"):
        kernel._remembered(document, "boot", key)


def answer(data: bytes) -> None:
    """What another IPAM plugin prints."""
    result = results.parse_result(delegate._object(data))
    plan = plan_fields.from_fields(jsonio.load_object(SEEDS["record"][0], "it"))
    assert plan is not None
    plan.ipam_plugin, plan.ranges = "other", []
    delegate._fill(plan, result)
    veth.outer_messages(plan)
    veth.host_neighs(plan)
    routes = [inner_routes.message(plan.ifindex, one) for one in plan.inner_routes()]
    veth.inner_messages(plan, routes)
    jsonio.dumps(results.result_document(result, "1.1.0"))


def names(data: bytes) -> None:
    """A resolv.conf."""
    jsonio.dumps(dns.parse_resolv_conf(data))


def replies(data: bytes) -> None:
    """What the kernel may send, and every parser of it."""
    with contextlib.suppress(NetlinkError):
        pending = wire.Replies(1, 3, 77)
        pending.feed(data)
    for kind, flags, _, _, body in wire.split(data):
        with contextlib.suppress(NetlinkError):
            wire.parse_answer(kind, flags, body)
        for parse in PARSERS:
            try:
                parse(body)
            except NetlinkError:
                continue


def bodies(data: bytes) -> None:
    """One message's body, and every parser of it."""
    for parse in PARSERS:
        try:
            parse(data)
        except NetlinkError:
            continue


PARSERS: tuple[Callable[[bytes], object], ...] = (
    *(link.parse_link, link_state.is_up, link_state.operstate),
    lambda body: tc_parse.parse_qdisc(body).stats,
    *(addr.parse_addr, route.parse_route, neigh.parse_neigh),
    *(tc_parse.parse_qdisc, tc_parse.parse_class),
    *(tc_filter.parse_filter, tc_mirred.parse_redirect),
    *(nft.parse_table, nft.parse_chain, nft.parse_rule, nft_set.parse_elements),
    nft_object.parse_place,
    *(nft_expr.describe, nft_comment.parse_comment),
)
_GUARD = policy.Guard(anti_spoof=True, isolated=True, allow_host=[("udp", 53), ("icmp", 0)])
_CONFIGURATION = b"""{"cniVersion":"1.1.0","name":"net","type":"faasm","mtu":1400,"ipMasq":true,
"antiSpoof":true,"isolated":true,"allowHost":["udp/53","icmp"],"logFile":"/var/log/x","stateDir":
"/s","dataDir":"/d","lockTimeout":10,"bandwidth":{"ingressRate":"10M","egressRate":1000000,
"egressBurst":"64k","latency":"5ms","unshapedSubnets":["10.0.0.0/8"],"enforceEgress":"host"},
"maxIngressRate":"1G","ipam":{"type":"host-local","ranges":[[{"subnet":"10.9.0.0/24","rangeStart":
"10.9.0.5","rangeEnd":"10.9.0.9","gateway":"10.9.0.1"}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":
"0.0.0.0/0","gw":"10.9.0.1","mtu":1300,"priority":7,"table":9,"scope":0}],"dataDir":"/d"},"dns":
{"nameservers":["10.0.0.1"],"domain":"a","search":["b"],"options":["ndots:5"]},"runtimeConfig":
{"mac":"02:00:00:00:00:07","ips":["10.9.0.7/24"],"bandwidth":{"IngressRate":1},"dns":{"servers":
["::1"]}},"args":{"cni":{"ips":["10.9.0.8"]}},"cni.dev/valid-attachments":[{"containerID":"a",
"ifname":"eth0"}]}"""
_RESULT = b"""{"cniVersion":"1.1.0","interfaces":[{"name":"faasm0","mac":"02:00:00:00:00:01"},
{"name":"eth0","mac":"02:00:00:00:00:02","sandbox":"/n","mtu":1400}],"ips":[{"interface":1,
"address":"10.9.0.2/24","gateway":"10.9.0.1"},{"address":"fd00::2/64"}],"routes":[{"dst":
"0.0.0.0/0","gw":"10.9.0.1","mtu":1300,"advmss":1200,"priority":1,"table":5,"scope":0}],"dns":
{"nameservers":["10.0.0.1"],"search":["x"]}}"""
_OLD_RESULT = b"""{"cniVersion":"0.2.0","ip4":{"ip":"10.9.0.2/24","gateway":"10.9.0.1","routes":
[{"dst":"0.0.0.0/0"}]},"ip6":{"ip":"fd00::2/64"},"dns":{}}"""
_BODIES = (
    link.new_veth("faasm0", "eth0", 5, mtu=1400, gso_max_size=2000, group=3)[2],
    addr.new_addr(3, bytes(4), 32)[2],
    route.new_route(bytes(4), 32, 7, gateway=bytes(4), mtu=1400, table=1000)[2],
    neigh.new_neigh(3, bytes(4), bytes(6))[2],
    tc.new_qdisc_htb(3, 0x10000, 1, 1000)[2],
    tc.new_class_htb(3, 0x10000, 0x10001, 2**33, 2**33, 1600, 1600, 60000)[2],
    tc_mirred.new_redirect(3, 4)[2],
    nft_set.new_elements(1, "t", "s", [bytes(8)])[2],
    *(message[2] for message in guard_rules.tables("net", _GUARD)),
    *(message[2] for message in guard_rules.rules("net", _GUARD)),
)
# What each target begins with, before libFuzzer makes something else of it.
SEEDS: dict[str, list[bytes]] = {
    "stdin": [b"ADD\na\n/n\neth0\n/p\nIgnoreUnknown=1;IP=10.9.0.7\0\0" + _CONFIGURATION],
    "environment": [b"IgnoreUnknown=1;IP=10.9.0.7/24;MAC=02:00:00:00:00:01\n/p\neth0\n/n\nid"],
    "configuration": [_CONFIGURATION],
    "prev_result": [_RESULT, _OLD_RESULT],
    "answer": [_RESULT, _OLD_RESULT],
    "lease": [b"abc\r\neth0", b"10.9.0.7", b"fd00::7"],
    "record": [path.read_bytes() for path in sorted(SAMPLES.glob("record-*.json"))],
    "marker": [b'{"bootID":"boot","kernel":{"queue":"bfifo","classifier":"u32"},"stores":["/d"]}'],
    "names": [b"# x\nnameserver 10.0.0.1\nsearch a b\noptions ndots:5\ndomain c\n"],
    "replies": [wire.frame(16, 0, 1, body) for body in _BODIES],
    "bodies": list(_BODIES),
}
TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each
    for each in (
        *(stdin, environment, configuration, prev_result, answer, lease, record, marker, names),
        *(replies, bodies),
    )
}
