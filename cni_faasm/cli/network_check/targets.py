"""Find the namespaces to be checked, what they are promised, and what the kernel has.

What is promised stands in the attachment records that ADD wrote; what the kernel has is
read through one socket per namespace. Nothing is changed here.
"""

import contextlib
import os
import re
import socket
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

import typer

from cni_faasm.attachment import plan
from cni_faasm.cli import attachments, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.network_check.model import (
    EGRESS,
    INGRESS,
    Finding,
    Limit,
    rate_text,
    size_text,
)
from cni_faasm.limits import shaping, shaping_drifts
from cni_faasm.link import netns, veth
from cni_faasm.netlink import dumps, link, route, tc, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError

NAMESPACES = "/run/netns"
DEFAULT_COUNT = 3
_OURS = [handle >> 16 for handle in (shaping.ROOT_HANDLE, shaping.CUTTER_HANDLE)]


@dataclass(frozen=True, slots=True)
class End:
    """The rules on one end of a pair.

    words: them as tc would name them. differences: from what ADD promised.
    """

    device: str
    direction: str
    qdisc: str
    shape: str
    leaf: str
    differences: list[str]

    @property
    def words(self) -> tuple[str, str, str]:
        """Return the rules without whose they are, for comparing ends."""
        return self.qdisc, self.shape, self.leaf


@dataclass(slots=True)
class Target:
    """One namespace: its open descriptor, its attachment, its rules."""

    name: str
    fd: int
    plan: plan.Plan
    mtu: int = 0
    ends: list[End] = field(default_factory=list)

    def limiter(self, direction: str) -> tuple[int | None, int, shaping.Shape | None]:
        """Return where a direction is limited: namespace (None: the host), interface, shape."""
        if direction == EGRESS:
            return self.fd, self.plan.ifindex, self.plan.egress
        return None, self.plan.host_ifindex, self.plan.ingress

    def limit(self, direction: str, address_bytes: int) -> Limit:
        """Return what the record says about a direction."""
        shape = self.plan.egress if direction == EGRESS else self.plan.ingress
        return Limit(
            rate_bps=shape.rate_bps if shape else None,
            burst_bytes=shape.burst_bytes if shape else 0,
            mtu=self.mtu or self.plan.mtu,
            address_bytes=address_bytes,
            packets_pps=self._packets_pps(direction),
            shared_bps=self._shared_bps(direction),
        )

    def _shared_bps(self, direction: str) -> int | None:
        shared = self.plan.shared
        if shared is None:
            return None
        return shared.egress_bps if direction == EGRESS else shared.ingress_bps

    def _packets_pps(self, direction: str) -> int | None:
        counted = self.plan.counted
        if counted is None:
            return None
        packets = counted.egress if direction == EGRESS else counted.ingress
        return packets.rate_pps if packets else None


def choose(text: str, prefix: str) -> list[str]:
    """Return the names of the chosen namespaces.

    text: numbers of the pool and names, with commas: "1-3,7,web"; "" for the pool's first
    three. Raises: ToolError, typer.BadParameter.
    """
    if not text:
        numbers = pool_numbers(prefix)[:DEFAULT_COUNT]
        if not numbers:
            raise ToolError(
                f"there are no namespaces {prefix}ns1, {prefix}ns2, ... on this host",
                f"make them with `cni-faasm pool up {DEFAULT_COUNT}`, or choose others by --namespaces",
            )
        return [f"{prefix}ns{number}" for number in numbers]
    names: list[str] = []
    for part in (item.strip() for item in text.split(",")):
        span = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part)
        if span:
            first, last = int(span[1]), int(span[2] or span[1])
            if first > last:
                raise typer.BadParameter(f"{part!r} counts backwards", param_hint="--namespaces")
            names += [f"{prefix}ns{number}" for number in range(first, last + 1)]
        elif part and "/" not in part and part not in (".", ".."):
            names.append(part)
        else:
            raise typer.BadParameter(
                f"{part!r} is neither a number nor a name in /run/netns; give both like 1-3,7,web",
                param_hint="--namespaces",
            )
    return list(dict.fromkeys(names))


def pool_numbers(prefix: str) -> list[int]:
    """Return the numbers of the pool's namespaces on this host, lowest first."""
    wanted = re.compile(re.escape(prefix) + r"ns([1-9]\d*)")
    try:
        found = os.listdir(NAMESPACES)
    except FileNotFoundError:
        return []
    return sorted(int(match[1]) for match in map(wanted.fullmatch, found) if match)


def open_all(names: Iterable[str], state_dirs: Iterable[str]) -> list[Target]:
    """Open the namespaces and find their attachments; the caller closes them.

    Raises: ToolError naming the first namespace that is missing or not attached.
    """
    own_fd = netns.open_own()
    targets: list[Target] = []
    try:
        state_dirs = list(state_dirs)
        by_namespace = _attachments(state_dirs)
        for name in names:
            targets.append(_target(name, own_fd, by_namespace, state_dirs))  # noqa: PERF401 -- those before a failing one are closed
    except BaseException:
        close_all(targets)
        raise
    finally:
        os.close(own_fd)
    return targets


def _target(
    name: str,
    own_fd: int,
    by_namespace: dict[tuple[int, int], list[plan.Plan]],
    state_dirs: list[str],
) -> Target:
    fd = _open(f"{NAMESPACES}/{name}", own_fd)
    found = by_namespace.get(_key(os.fstat(fd)), [])
    if not found:
        os.close(fd)
        raise ToolError(
            f"{name} has no attachment: nothing in {', '.join(state_dirs)} is about it",
            "attach it by `cni-faasm pool up`, or give --state-dir if the network's configuration "
            "has another stateDir",
        )
    target = Target(name, fd, found[0])
    if len(found) > 1:
        target.plan = _with_default_route(fd, own_fd, found)
    return target


def close_all(targets: Iterable[Target]) -> None:
    """Close the descriptors."""
    for target in targets:
        os.close(target.fd)


def _open(path: str, own_fd: int) -> int:
    try:
        return netns.open_container(path, own_fd)
    except CniError as error:
        if not os.path.exists(path):
            raise ToolError(
                f"there is no namespace {path}", "`ip netns list` names those that there are"
            ) from None
        raise ToolError(error.msg.removeprefix("CNI_NETNS: "), "run it as root") from None


def _key(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _attachments(state_dirs: list[str]) -> dict[tuple[int, int], list[plan.Plan]]:
    """Return the attachments of this boot by the namespace that they are in."""
    found: dict[tuple[int, int], list[plan.Plan]] = {}
    for one in attachments.every(state_dirs):
        if one.promised is None:
            output.note(f"passed over {one.called}: its record cannot be read")
            continue
        if not one.is_of_this_boot:
            continue
        with contextlib.suppress(OSError, ValueError):
            status = os.stat(one.promised.netns)
            if stat.S_ISREG(status.st_mode):
                found.setdefault(_key(status), []).append(one.promised)
    return found


def _with_default_route(fd: int, own_fd: int, found: list[plan.Plan]) -> plan.Plan:
    """Return the attachment by which a namespace with several reaches the world."""
    with netns.Inside(fd, own_fd):
        inner = Netlink()
    with inner:
        routes = dumps.routes(inner, socket.AF_INET)
    oifs = [one.oif for one in routes if one.prefix_len == 0]
    return next((one for one in found if one.ifindex in oifs), found[0])


def route_to(fd: int | None, address: bytes) -> bool:
    """Say whether a namespace (None: this one) has a route to an address."""
    own_fd = netns.open_own()
    try:
        if fd is None:
            netlink = Netlink()
        else:
            with netns.Inside(fd, own_fd):
                netlink = Netlink()
    finally:
        os.close(own_fd)
    with netlink:
        try:
            netlink.execute([route.get_route(address, fib_match=False)])
        except NetlinkError:
            return False
    return True


def read_rules(targets: Iterable[Target]) -> list[Finding]:
    """Read both ends' rules of every target into it. Returns: what is wrong with them."""
    findings = []
    own_fd = netns.open_own()
    host = Netlink()
    try:
        # Once for all: it lists those of every interface of the host.
        host_qdiscs = dumps.qdiscs(host)
        for target in targets:
            with netns.Inside(target.fd, own_fd):
                inner = Netlink()
            with inner:
                promised = target.plan
                inside = veth.find(inner, name=promised.ifname)
                outside = veth.find(host, ifindex=promised.host_ifindex)
                target.mtu = inside.mtu if inside and inside.mtu else 0
                target.ends = [
                    _end(
                        host,
                        outside,
                        host_qdiscs,
                        promised.host_interface,
                        promised.ingress,
                        INGRESS,
                    ),
                    _end(
                        inner, inside, dumps.qdiscs(inner), promised.ifname, promised.egress, EGRESS
                    ),
                ]
            findings += [
                Finding(
                    f"{target.name}: {difference}",
                    f"put it back with `cni-faasm repair {promised.container_id}`",
                )
                for end in target.ends
                for difference in end.differences
            ]
    finally:
        host.close()
        os.close(own_fd)
    return findings


def _end(
    netlink: Netlink,
    found: link.Link | None,
    all_qdiscs: list[tc_parse.Qdisc],
    device: str,
    shape: shaping.Shape | None,
    direction: str,
) -> End:
    if found is None:
        return End(device, direction, "-", "-", "-", [f"{device}: the interface is gone"])
    qdiscs = [one for one in all_qdiscs if one.ifindex == found.ifindex]
    classes = dumps.classes(netlink, found.ifindex)
    by_parent = {one.parent: one for one in qdiscs}
    drifts = shaping_drifts.drifts(
        device,
        shape,
        root=by_parent.get(tc.TC_H_ROOT),
        cutter=by_parent.get(shaping.CLASS_ID),
        queue=by_parent.get(shaping.CLASS_ID if shape is None else shape.leaf_parent),
        one_class=next((one for one in classes if one.handle == shaping.CLASS_ID), None),
    )
    differences = [
        f"{what}: configured {expected}, found {actual}" for what, expected, actual in drifts
    ]
    return End(device, direction, *_words(qdiscs, classes), differences)


def _words(qdiscs: list[tc_parse.Qdisc], classes: list[tc_parse.HtbClass]) -> tuple[str, str, str]:
    """Return root qdisc, classes and leaves in words near to tc's."""
    root = next((one for one in qdiscs if one.parent == tc.TC_H_ROOT), None)
    root_text = "none"
    if root is not None:
        root_text = f"{root.kind} {tc.handle_text(root.handle)}" if root.handle else root.kind
        if root.htb_defcls is not None:
            root_text += f" default 1:{root.htb_defcls:x}"
    shapes = []
    for one in classes:
        rate, ceil = rate_text(one.rate_Bps * 8), rate_text(one.ceil_Bps * 8)
        text = f"{tc.handle_text(one.handle)} rate {rate}"
        text += "" if rate == ceil else f" ceil {ceil}"
        shapes.append(f"{text} burst {size_text(one.burst_bytes)}")
    leaves = []
    for leaf in qdiscs:
        if leaf.parent >> 16 not in _OURS or leaf.handle == shaping.CUTTER_HANDLE:
            continue
        text = f"{leaf.kind} {tc.handle_text(leaf.handle)}"
        if leaf.kind == "bfifo" and leaf.limit is not None:
            text += f" {size_text(leaf.limit)}"
        elif leaf.kind == "fq_codel" and leaf.target_us is not None:
            text += f" target {leaf.target_us / 1000:.3g} ms"
        leaves.append(text)
    return root_text, ", ".join(shapes) or "none", ", ".join(leaves) or "none"


def rules_statement(targets: list[Target]) -> str:
    """Say whether all namespaces have the same rules, and whether as configured."""
    ends = [end for target in targets for end in target.ends]
    wrong = sum(bool(end.differences) for end in ends)
    same = all(
        len({end.words for end in ends if end.direction == direction}) == 1
        for direction in (EGRESS, INGRESS)
    )
    first = f"all {len(targets)} namespaces have the same rules"
    if not same:
        first = "the namespaces have different rules"
    if wrong:
        second = f"{wrong} of {len(ends)} ends {'is' if wrong == 1 else 'are'} not as configured"
    else:
        second = f"both ends {'of each ' if len(targets) > 1 else ''}are as configured"
    return f"{first}; {second}" if len(targets) > 1 else f"{targets[0].name}: {second}"


def rules_sentence(targets: list[Target]) -> str:
    """Return the statement as a sentence; a namespace's name stays as it is spelt."""
    text = rules_statement(targets)
    return (text[0].upper() + text[1:] if len(targets) > 1 else text) + "."


def addresses_text(target: Target) -> str:
    """Return the container's addresses for a message."""
    return ", ".join(inet.unpack(item.address) for item in target.plan.addresses)
