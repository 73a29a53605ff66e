"""CHECK names every kind of drift, by the tables of the tests that do the same on the host."""

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.host import Host, Namespace
from tests.kernel import test_check, test_enforce_egress, test_guard, test_subnets
from tests.kernel.test_check import Change, inside
from tests.kernels import SIZES_OF_IPV4, kernel_version

# The queue below the limit is another than on a kernel without fq_codel.
LEAF = "tc qdisc change dev eth0 parent 11:1 handle 10: fq_codel"
QUEUES: dict[str, tuple[Change, str]] = {
    "inner leaf": (
        inside("tc qdisc replace dev eth0 parent 11:1 handle 20: pfifo limit 1000"),
        "container eth0: leaf qdisc: expected fq_codel 10:, found pfifo 20:",
    ),
    "inner leaf's handle": (
        inside("tc qdisc replace dev eth0 parent 11:1 handle 20: fq_codel"),
        "container eth0: leaf qdisc: expected fq_codel 10:, found fq_codel 20:",
    ),
    "inner leaf limit": (inside(f"{LEAF} limit 1"), "container eth0: fq_codel limit"),
    "inner leaf target": (inside(f"{LEAF} target 900ms"), "container eth0: fq_codel target"),
    "inner leaf interval": (inside(f"{LEAF} interval 9ms"), "container eth0: fq_codel interval"),
    "inner leaf memory": (
        inside(f"{LEAF} memory_limit 31m"),
        "container eth0: fq_codel memory",
    ),
    "inner leaf ecn": (inside(f"{LEAF} noecn"), "container eth0: fq_codel ecn"),
}


def outside(commands: str) -> Change:
    """Return what runs commands on the host, one after the other; nft has ";" within braces."""
    return lambda host, _: [
        host.run(command.split()) for command in re.split(r";(?![^{]*\})", commands)
    ]


def loaded_anew(words: str) -> Change:
    """Return what loads the guard's tables with one text in the place of another."""
    old, new = words.split(" -> ")
    return lambda host, _: test_guard.load_anew(host, old, new)


SUBNETS = {case: (inside(command), "filters") for case, command in test_subnets.CHANGES.items()}
EGRESS = {
    case: (outside(command), "ifaasm0: egress")
    for case, command in test_enforce_egress.DRIFTS.items()
}
GUARD = {
    case: (loaded_anew(command) if " -> " in command else outside(command), "expected")
    for case, command in test_guard.DRIFTS.items()
    if not command.startswith("sysctl")
} | {
    "accept_ra": (
        lambda host, _: host.sysctl("net.ipv6.conf.faasm0.accept_ra", "1"),
        "accept_ra",
    )
}


def near(host: Host) -> dict[str, Any]:
    return test_subnets.config(host, unshapedSubnets=test_subnets.NEAR)


def isolated(host: Host) -> dict[str, Any]:
    return host.config(isolated=True)


# What earlier kernels know nothing of cannot drift there.
SINCE = {
    **dict.fromkeys(("inner gso of IPv4", "inner gro of IPv4"), SIZES_OF_IPV4),
    **dict.fromkeys(("inner gro", "outer gro"), (5, 19)),  # IFLA_GRO_MAX_SIZE
}
KINDS: dict[str, tuple[Callable[[Host], dict[str, Any]], dict[str, tuple[Change, str]]]] = {
    "attachment": (test_check.network, {**test_check.DRIFTS, **QUEUES}),
    "subnets": (near, SUBNETS),
    "egress": (test_enforce_egress.config, EGRESS),
    "guard": (isolated, GUARD),
}


# One of each thing that kernels answer differently, or not at all. None hides another.
TOGETHER = {
    "attachment": (
        # The ends lose each other for a moment, and with that what was learned.
        "outer addrgenmode",
        "inner gso of IPv4",
        "inner gro",
        "inner neighbour learned",
        "inner address 6 deprecated",
        "inner default route 6",
        "inner link layer",
        "inner leaf memory",
        "outer group",
        "masquerade policy",
    ),
    "subnets": ("other",),
    "egress": ("narrower filter",),
    "guard": ("arp element", "hook"),
}


@pytest.mark.parametrize("kind", TOGETHER)
def test_drifts_are_named_together(host: Host, container: Namespace, kind: str) -> None:
    """Attached and checked once, for each call takes long here."""
    network, known = KINDS[kind]
    config = network(host)
    result = host.add(container, config)
    host.check(container, config, result).ok()
    version = kernel_version()
    cases = [case for case in TOGETHER[kind] if version >= SINCE.get(case, (0, 0))]
    for case in cases:
        known[case][0](host, container)
    error = host.check(container, config, result).error(107)
    told = f"{error['msg']}\n{error['details']}"
    mac = result["interfaces"][0]["mac"]
    missing = {
        case: words for case in cases if (words := known[case][1].format(mac=mac)) not in told
    }
    assert missing == {}, told


@pytest.mark.parametrize(
    ("kind", "case"), [(kind, case) for kind, (_, cases) in KINDS.items() for case in cases]
)
def test_each_drift_is_named(host: Host, container: Namespace, kind: str, case: str) -> None:
    network, cases = KINDS[kind]
    config = network(host)
    result = host.add(container, config)
    host.check(container, config, result).ok()
    change, words = cases[case]
    change(host, container)
    if kernel_version() < SINCE.get(case, (0, 0)):
        host.check(container, config, result).ok()
        return
    words = words.format(mac=result["interfaces"][0]["mac"])
    error = host.check(container, config, result).error(107)
    assert words in f"{error['msg']}\n{error['details']}", error
