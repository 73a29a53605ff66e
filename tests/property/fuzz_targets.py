"""What is fuzzed: each function takes bytes, and may end in a value or in our own errors."""

import contextlib
from collections.abc import Callable

from cni_faasm import config, jsonio, plan_fields, protocol, results
from cni_faasm.ipam import layout
from cni_faasm.netlink import (
    addr,
    link,
    nft,
    nft_expr,
    nft_set,
    route,
    tc_filter,
    tc_mirred,
    tc_parse,
    wire,
)
from cni_faasm.netlink.wire import NetlinkError


def stdin(data: bytes) -> None:
    """A whole call: the configuration and, before a NUL, the environment."""
    head, _, text = data.partition(b"\0\0")
    words = head.decode("utf-8", "surrogateescape").split("\n")
    names = ("CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS")
    environ = {"CNI_COMMAND": "ADD", **dict(zip(names, words, strict=False))}
    request = protocol.parse_request(environ, text)
    config.load(request.document, request.args, request.verb)


def configuration(data: bytes) -> None:
    """A configuration alone, as ADD reads it and as DEL does."""
    document = jsonio.load_object(data, "it")
    config.load_tolerant(document)
    config.load(document)


def prev_result(data: bytes) -> None:
    results.parse_result(jsonio.load_object(data, "it"))


def lease(data: bytes) -> None:
    layout.lease_holder(data)


def record(data: bytes) -> None:
    plan_fields.from_fields(jsonio.load_object(data, "it"))


def replies(data: bytes) -> None:
    """What the kernel may send, and every parser of it."""
    for kind, flags, _, _, body in wire.split(data):
        with contextlib.suppress(NetlinkError):
            wire.parse_answer(kind, flags, body)
        for parse in (
            *(link.parse_link, addr.parse_addr, route.parse_route),
            *(tc_parse.parse_qdisc, tc_parse.parse_class),
            *(tc_filter.parse_filter, tc_mirred.parse_redirect),
            *(nft.parse_table, nft.parse_chain, nft.parse_rule, nft_set.parse_elements),
            nft_expr.describe,
        ):
            try:
                parse(body)
            except NetlinkError:
                continue


TARGETS: dict[str, Callable[[bytes], None]] = {
    each.__name__: each for each in (stdin, configuration, prev_result, lease, record, replies)
}
