"""Give a member a TAP, behind which a machine has the same address in every member.

    namespace of member K                            host
    ┌──────────────────────────────────────────┐
    │ machine ─ tap0 ─▶ routing ─▶ faasmpK ════╪══▶ faasmK
    │ 169.254.100.2     └ ip saddr set 10.200.0.7    HTB, guard and so on as for any other
    └──────────────────────────────────────────┘

A snapshot of a machine that is restored in many members finds there the address, gateway and MAC
addresses that it knows. The namespace routes, and rewrites one address for the other: packet by packet,
without connection tracking, in a table of its own:

    table ip slot {
        chain in {
            type filter hook prerouting priority raw
            iifname faasmpK ip daddr 10.200.0.7 icmp type { 3, 11, 12 } @th,160,32 set 169.254.100.2
            iifname faasmpK ip daddr 10.200.0.7 ip daddr set 169.254.100.2
        }
        chain out {
            type filter hook postrouting priority srcnat
            oifname faasmpK ip saddr 169.254.100.2 ip saddr set 10.200.0.7
        }
    }

An error by ICMP quotes the packet that it is about, so there the address is rewritten, too: without
it no machine would learn the MTU of a path.
"""

import errno
import json
import os
import re
from typing import Any

from cni_faasm.attachment import accepted
from cni_faasm.attachment.plan import Plan
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import netfolder
from cni_faasm.config import loading as configuration
from cni_faasm.config.slot import Slot
from cni_faasm.link import forwarding, kernel, netns, veth
from cni_faasm.netlink import addr, link, neigh, nft, nft_expr, nft_write, tun
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.rules.guard_rules import NF_IP_PRI_RAW
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError

TABLE = "slot"
# The TAP's own, which the machine knows as its gateway's.
MAC = bytes((0x02, 0xFA, 0xA5, 0, 0, 1))
IPPROTO_ICMP = 1
_PROTOCOL = 9  # offset in the IPv4 header
_ERRORS = (3, 11, 12)  # unreachable, time exceeded, parameter problem
_QUOTED_SADDR = 8 + 12  # behind the ICMP header
_ICMP_CHECKSUM = 2
_TABLE_COMMENT = "cni-faasm slot"


def ensure(path: str, own_fd: int, plan: Plan, slot: Slot) -> bool:
    """Make the TAP of a member and what leads to it; say whether it was not there.

    path: of the namespace. own_fd: the one to come back to.
    Raises: CniError, NetlinkError; ToolError where it cannot be.
    """
    addresses = [one.address for one in plan.addresses if len(one.address) == 4]
    if not addresses:
        raise ToolError(
            "slot: a machine has an IPv4 address, and the network leases none",
            "give the network a range of IPv4, or leave slot out",
        )
    fd = netns.open_container(path, own_fd)
    try:
        with netns.Inside(fd, own_fd):
            return _ensure(plan, slot, addresses[0])
    finally:
        os.close(fd)


def _ensure(plan: Plan, slot: Slot, address: bytes) -> bool:
    """Do as `ensure`, inside of the namespace."""
    with Netlink() as inner, Netlink(NETLINK_NETFILTER) as netfilter:
        wrong, has_table = _look(inner, netfilter, slot)
        if not wrong and has_table:
            return False
        try:
            tun.add_tap(slot.tap, slot.user)
        except OSError as error:
            raise ToolError(
                f"slot: cannot make the TAP {slot.tap}: {error.strerror}",
                _REMEDIES.get(error.errno or 0, f"{tun.DEVICE} must be there, and be root's"),
            ) from None
        made = veth.find(inner, name=slot.tap)
        if made is None:
            raise ToolError(f"slot: the TAP {slot.tap} went as soon as it was made")
        forwarding.switch_on({4})
        inner.execute(_link_messages(made.ifindex, plan.mtu, slot))
        if not has_table:
            netfilter.nft_batch(_rules(plan.ifname, address, slot.address))
    return True


def _look(inner: Netlink, netfilter: Netlink, slot: Slot) -> tuple[list[Drift], bool]:
    """Say what is wrong with the TAP, and whether the table is there."""
    [answer] = inner.get_tolerant([link.get_link(name=slot.tap)])
    [table] = netfilter.ask([nft.get_table(nft.NFPROTO_IPV4, TABLE)])
    return tap_drifts(answer, slot.tap, slot.user), table is not None


def tap_drifts(answer: bytes | NetlinkError, name: str, user: int) -> list[Drift]:
    """Say what is not as promised of a TAP that the kernel was asked for. Raises: NetlinkError."""
    expected = f"TAP {name}"
    if isinstance(answer, NetlinkError):
        if veth.is_absent(answer):
            return [("machine", expected, "none")]
        raise answer
    owner, found = tun.owner_of_tap(answer), link.parse_link(answer)
    if owner is None:
        return [("machine", expected, f"a {found.kind or 'device'} of that name")]
    if not found.is_up:
        return [("machine", f"{expected} up", "down")]
    if owner != user:
        whose = "anybody's" if owner < 0 else f"user {owner}'s"
        return [("machine", f"{expected} user {user}'s", whose)]
    if found.address != MAC:
        return [("machine", f"{expected} {inet.mac_text(MAC)}", inet.mac_text(found.address))]
    return []


def drifts(path: str, own_fd: int, slot: Slot) -> list[Drift]:
    """Say what of a member's TAP is not as promised. Raises: CniError, NetlinkError."""
    fd = netns.open_container(path, own_fd)
    try:
        with (
            netns.Inside(fd, own_fd),
            Netlink() as inner,
            Netlink(NETLINK_NETFILTER) as netfilter,
        ):
            found, has_table = _look(inner, netfilter, slot)
    finally:
        os.close(fd)
    if not has_table:
        found.append(("machine", f"nft table ip {TABLE}", "none"))
    return found


def drifts_of(one: Attachment) -> list[Drift]:
    """Say what of the TAP is not as promised that an attachment's record tells of.

    Raises: CniError.
    """
    slot = _promised(one)
    if slot is None or one.promised is None:
        return []
    own_fd = netns.open_own()
    try:
        return drifts(one.promised.netns, own_fd, slot)
    except NetlinkError as error:
        raise kernel.refusal(error) from None
    finally:
        os.close(own_fd)


def _promised(one: Attachment) -> Slot | None:
    """Return what a pool's member has inside; None for a container of the same network."""
    text, promised = one.fields.get(accepted.KEY), one.promised
    if not isinstance(text, str) or '"slot"' not in text or promised is None:
        return None
    member = _MEMBER.fullmatch(one.container_id)
    if member is None or one.ifname != f"{member['prefix']}p{member['number']}":
        return None
    if promised.netns != netfolder.path_of(one.container_id):
        return None
    try:
        return configuration.load_tolerant(json.loads(text)).slot
    except (ValueError, CniError):
        return None


_MEMBER = re.compile(r"(?P<prefix>.+)ns(?P<number>[1-9][0-9]*)")
_REMEDIES = {
    errno.ENOENT: "this kernel has no TUN/TAP: load the module tun",
    errno.EINVAL: "there is another interface of that name: choose another for slot.tap",
    errno.EBUSY: "somebody has it open: end that first",
}


def _link_messages(ifindex: int, mtu: int, slot: Slot) -> list[Message]:
    return [
        link.set_link(ifindex, mtu=mtu, address=MAC),
        link.set_link(ifindex, up=True),
        addr.new_addr(ifindex, slot.gateway, slot.prefix_len, replace=True),
        neigh.new_neigh(ifindex, slot.address, slot.mac),
    ]


def _rules(ifname: str, outside: bytes, inside: bytes) -> list[Message]:
    """Return what makes the table. outside, inside: the member's address, and the machine's."""
    family = nft.NFPROTO_IPV4
    comes = nft_expr.match_iifname(ifname) + nft_expr.match_daddr(outside, 32, inet=False)
    goes = nft_expr.match_oifname(ifname) + nft_expr.match_saddr(inside, 32, inet=False)
    hooks = {"in": nft.NF_INET_PRE_ROUTING, "out": nft.NF_INET_POST_ROUTING}
    priorities = {"in": NF_IP_PRI_RAW, "out": nft.NF_IP_PRI_NAT_SRC}
    return [
        nft.new_table(family, TABLE, comment=_TABLE_COMMENT),
        *(
            nft.new_chain(
                family, TABLE, name, type="filter", hook=hooks[name], priority=priorities[name]
            )
            for name in hooks
        ),
        *(
            nft.new_rule(family, TABLE, "in", comes, _quotes(kind), _requote(inside))
            for kind in _ERRORS
        ),
        nft.new_rule(family, TABLE, "in", comes, nft_write.set_daddr(inside)),
        nft.new_rule(family, TABLE, "out", goes, nft_write.set_saddr(outside)),
    ]


def _quotes(kind: int) -> bytes:
    """Let only ICMP of a type pass on."""
    return (
        nft_expr.payload(nft_expr.NFT_PAYLOAD_NETWORK_HEADER, _PROTOCOL, 1)
        + nft_expr.compare(bytes((IPPROTO_ICMP,)), nft_expr.NFT_CMP_EQ)
        + nft_expr.payload(nft_expr.NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)
        + nft_expr.compare(bytes((kind,)), nft_expr.NFT_CMP_EQ)
    )


def _requote(inside: bytes) -> bytes:
    """Give the packet that an ICMP error quotes the source that it had."""
    return nft_write.set_payload(
        nft_expr.NFT_PAYLOAD_TRANSPORT_HEADER, _QUOTED_SADDR, inside, checksum=_ICMP_CHECKSUM
    )


def document(slot: Slot) -> dict[str, Any]:
    """Return what a slot's file says of the machine."""
    return {
        "tap": slot.tap,
        "user": slot.user,
        "address": inet.cidr(slot.address, slot.prefix_len),
        "gateway": inet.unpack(slot.gateway),
        "mac": inet.mac_text(slot.mac),
        "gatewayMAC": inet.mac_text(MAC),
    }
