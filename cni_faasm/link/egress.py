"""Enforce what a container sends on the host as well (bandwidth.enforceEgress "host").

A container with CAP_NET_ADMIN can take off the queue inside its namespace. So what the host's
end receives goes through an ifb, a device of the host's own, with the same HTB:

    container eth0 ═══ faasm3 ── clsact, u32, mirred ──▶ ifaasm3: HTB ──▶ routing

The queue inside stays, for its back-pressure, and the ifb's rate is a little higher, so that
an obedient container never waits twice. The ifb is found by its name, which is made from the
host's end's, and believed only when its MAC, the same as that end's, or its alias says that it is
this attachment's: a pair may go before its ifb does, and its name is given anew at once.
"""

import errno

from cni_faasm.attachment import plan as planning
from cni_faasm.attachment.plan import Plan
from cni_faasm.config import policy
from cni_faasm.limits import shaping, shaping_drifts
from cni_faasm.link import removal, veth
from cni_faasm.netlink import dumps, link, tc, tc_mirred, tc_parse
from cni_faasm.netlink.link import Link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.results import Interface

Drift = tuple[str, str, str]

KIND = "ifb"
_ABSENT = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
_ATTEMPTS = 8


def device_name(host_interface: str) -> str:
    """Return the name of an end's ifb, within the kernel's 15 bytes."""
    name = f"i{host_interface}"
    return name if len(name.encode()) <= 15 else f"i{policy.digest(name)[:14]}"


def make(host: Netlink, plan: Plan) -> None:
    """Make the ifb with its queues, and lead all that the host's end receives through it.

    What is there already stays. Raises: NetlinkError.
    """
    shape, name = plan.host_egress, device_name(plan.host_interface)
    if shape is None:
        return
    made = _create(host, plan)
    found = made or find(host, plan)
    if found is None:
        raise NetlinkError(errno.ENODATA, f"ip link show dev {name}", "it was just there")
    queues = shaping.messages(found.ifindex, shape)
    if made is None:
        [root] = host.get_tolerant([tc.get_qdisc(found.ifindex)])
        if not isinstance(root, NetlinkError) and tc_parse.parse_qdisc(root).kind == "htb":
            queues = []
    shared = tc_mirred.new_clsact(plan.host_ifindex)
    # One after the other, and all asked for at once: each exchange takes its time.
    wanted = [
        link.set_link(found.ifindex, alias=plan.alias, mtu=plan.mtu),
        link.set_link(found.ifindex, up=True),
        *queues,
        shared,
        tc_mirred.del_redirect(plan.host_ifindex),
        tc_mirred.new_redirect(plan.host_ifindex, found.ifindex),
    ]
    answers = host.execute_tolerant(wanted)
    del wanted[-2], answers[-2]  # there may be nothing to delete
    for one, answer in zip(wanted, answers, strict=True):
        if isinstance(answer, NetlinkError) and (one is not shared or answer.errno != errno.EEXIST):
            raise answer


def _create(host: Netlink, plan: Plan) -> Link | None:
    """Make the ifb; None when it is there already.

    One that is left of another pair of the name, which is gone, makes way.
    """
    name = device_name(plan.host_interface)
    made = link.new_link(
        KIND, name, group=policy.group(plan.network), mtu=plan.mtu, address=plan.host_mac
    )
    for _ in range(_ATTEMPTS):
        # Before Linux 6.2 the kernel does not tell of what it made by itself.
        answer, told_of = host.execute_tolerant([made, link.get_link(name=name)])
        if not isinstance(answer, NetlinkError):
            if isinstance(told_of, NetlinkError) or not told_of:
                text = "the kernel made it, and it is not there"
                raise NetlinkError(errno.ENODATA, made[3], text)
            return link.parse_link(told_of[0])
        if answer.errno != errno.EEXIST:
            raise answer
        if find(host, plan) is not None:
            return None
        found = veth.find(host, name=name)
        if found is None:
            continue  # its DEL was quicker
        if found.kind != KIND or found.group & policy.GROUP_MASK != policy.GROUP_BASE:
            break
        removal.delete(host, found.ifindex)
    raise NetlinkError(errno.EEXIST, made[3])


def find(host: Netlink, plan: Plan) -> Link | None:
    found = veth.find(host, name=device_name(plan.host_interface))
    if found is None or found.kind != KIND or found.group != policy.group(plan.network):
        return None
    return found if found.address == plan.host_mac or found.alias == plan.alias else None


def remove(host: Netlink, plan: Plan, *, detach: bool = False) -> None:
    """Delete the ifb; the filter goes with the pair. Raises: NetlinkError, CniError."""
    if plan.host_egress is None or "%" in plan.host_interface:
        return
    found = find(host, plan)
    if found is not None:
        (removal.delete_detached if detach else removal.delete)(host, found.ifindex)


def told(plan: Plan) -> list[Interface]:
    """Return what a result tells of the ifb, which is a device of the host's."""
    if plan.host_egress is None:
        return []
    name, mac = device_name(plan.host_interface), inet.mac_text(plan.host_mac)
    return [Interface(name=name, mac=mac, mtu=plan.mtu)]


def remove_unrecorded(host: Netlink, network: str, alias: str, names: set[str]) -> None:
    """Delete an attachment's ifb that no record tells of.

    names: what it may be called; it must be an ifb of the network's and bear the alias.
    Raises: NetlinkError.
    """
    for name in sorted(names):
        found = veth.find(host, name=name)
        if found is not None and is_of(found, network) and found.alias == alias:
            removal.delete(host, found.ifindex)


def undo(plan: Plan) -> None:
    """Take away what a failed ADD has made of it. Raises: NetlinkError."""
    with Netlink() as host:
        host.execute_tolerant([tc_mirred.del_redirect(plan.host_ifindex)])
        remove(host, plan)


def devices(host: Netlink, network: str) -> list[Link]:
    """Return the network's ifbs. Raises: NetlinkError."""
    return [one for one in dumps.links(host, KIND) if is_of(one, network)]


def is_of(found: Link, network: str) -> bool:
    """Say whether a link is an ifb of a network's.

    It is made in the network's group and gets its alias a moment later.
    """
    if found.kind != KIND or found.group != policy.group(network):
        return False
    return not found.alias or found.alias.startswith(planning.alias_head(network))


def strays(found: list[Link], keep: list[Link]) -> list[Link]:
    """Return those ifbs that belong to none of some outer ends."""
    owners = {device_name(one.name): one for one in keep}
    return [one for one in found if not _belongs(one, owners.get(one.name))]


def _belongs(one: Link, outer: Link | None) -> bool:
    if outer is None:
        return False
    # Another plugin's pair has no alias to tell by, nor has the ifb that is made this moment.
    is_told = bool(one.alias and outer.alias)
    return one.address == outer.address or not is_told or one.alias == outer.alias


def drifts(host: Netlink, plan: Plan) -> list[Drift]:
    """Compare the ifb and the way to it with the promise. Raises: NetlinkError."""
    if plan.host_egress is None:
        return []
    name = device_name(plan.host_interface)
    where = f"host {name}"
    one = find(host, plan)
    if one is None:
        return [(f"{where}: egress", "ifb", "none")]
    found: list[Drift] = []
    if not one.is_up:
        found.append((f"{where}: egress", "up", "down"))
    if one.alias != plan.alias:
        found.append((f"{where}: egress", f"alias {plan.alias}", f"alias {one.alias}"))
    if one.mtu != plan.mtu:
        found.append((f"{where}: egress", f"MTU {plan.mtu}", f"MTU {one.mtu}"))
    bodies = dumps.filters(host, plan.host_ifindex, tc_mirred.CLSACT_INGRESS)
    targets = [tc_mirred.parse_redirect(body) for body in bodies]
    if one.ifindex not in targets:
        found.append((f"{where}: egress", f"all of {plan.host_interface} redirected", "not so"))
    found += [
        (f"{where}: egress", expected, f"{what.partition(': ')[2]} {actual}")
        for what, expected, actual in shaping_drifts.of_device(
            where, host, one.ifindex, plan.host_egress
        )
    ]
    return found[:1]


def renew(host: Netlink, plan: Plan) -> None:
    """Make everything anew, as repair does. Raises: NetlinkError."""
    found = find(host, plan)
    if found is not None:
        for answer in host.execute_tolerant([tc.del_qdisc(found.ifindex)]):
            if isinstance(answer, NetlinkError) and answer.errno not in _ABSENT:
                raise answer
    make(host, plan)


def change(host: Netlink, plan: Plan) -> None:
    """Change the numbers of the ifb's queues where they stand. Raises: NetlinkError."""
    found = find(host, plan)
    if found is None or plan.host_egress is None:
        make(host, plan)
        return
    host.execute(
        [
            *shaping.queue_messages(found.ifindex, plan.host_egress, replace=True),
            shaping.class_message(found.ifindex, plan.host_egress, replace=True),
        ]
    )
