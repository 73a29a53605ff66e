"""Play a kernel: what is made is kept as it was asked for, and told again.

Run before calls.py, with the same names.
"""

import socket
import struct
import sys

from cni_faasm.netlink import nft_set, route, sock_diag, tc, transport, wire

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# <linux/rtnetlink.h>: four types to an object, from this one on
RTM_BASE = 16
NEW, DEL, GET, SET = range(4)
LINK, ADDRESS, ROUTE, NEIGH, _, QDISC, CLASS = range(7)
# <linux/netfilter/nf_tables.h>: three to an object
NFT = 0x0A00
TABLE, CHAIN, RULE, SET_, ELEMENT = range(5)
ENODEV, ENOENT, ENETUNREACH = 19, 2, 101
# <linux/if_link.h>
IFLA_IFNAME, IFLA_LINK, IFLA_LINKINFO, IFLA_INFO_DATA, VETH_INFO_PEER = 3, 5, 18, 2, 1
IFLA_NET_NS_FD = 28
UP, RUNNING = 0x1, 0x11042
IFINFOMSG = struct.Struct("=BBHiII")
IFA_FLAGS, IFA_F_PERMANENT = 8, 0x80
RTN_LOCAL = 2
UPLINK = 2  # the host's, by which its default route goes
# Of IPv4 and IPv6, as much as is looked at: forwarding, no router is believed.
AF_SPEC = 26
SETTINGS = wire.nest(2, wire.attr(1, struct.pack("=32i", 1, *bytes(31)))) + wire.nest(
    10, wire.attr(2, bytes(4 * 60)), wire.attr_u8(8, 1)
)


class Namespace:
    """Links by index, and the bodies of other objects by their kind."""

    def __init__(self) -> None:
        self.links: dict[int, dict[int, bytes]] = {1: {IFLA_IFNAME: b"lo\0"}}
        self.up: set[int] = set()
        self.others: dict[int, list[bytes]] = {}

    def kept(self, what: int) -> list[bytes]:
        return self.others.setdefault(what, [])


HOST, INNER = Namespace(), Namespace()
HOST.links[UPLINK] = {IFLA_IFNAME: b"uplink\0", 4: struct.pack("=I", 1500)}
for _gateway in (bytes([192, 0, 2, 1]), bytes([0x20, 1, 0xD, 0xB8, *bytes(11), 1])):
    HOST.kept(ROUTE).append(route.new_route(bytes(len(_gateway)), 0, UPLINK, gateway=_gateway)[2])
inside = [HOST]
spaces: dict[int, Namespace] = {}  # by descriptor: the namespace of the moment, or the container's


class Socket(socket.socket):
    """Stand for a netlink socket in the namespace of the moment."""

    def __init__(self, _family: int, _kind: int, protocol: int) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)  # which is asked nothing
        self.space = inside[0]
        self.is_netfilter = protocol == transport.NETLINK_NETFILTER
        self.knows_nothing = protocol == sock_diag.NETLINK_SOCK_DIAG
        self.answers: list[bytes] = []

    def setsockopt(self, *_: object) -> None:
        pass

    bind = setsockopt

    def getsockname(self) -> tuple[int, int]:
        return (1, 0)

    def recv_into(self, *_: object) -> int:
        if not self.answers:
            raise BlockingIOError(11, "nothing is left")
        return len(self.answers[0])

    def recvmsg(self, *_: object) -> "tuple[bytes, list[Any], int, tuple[int, int]]":
        return self.answers.pop(0), [], 0, (0, 0)

    def tell(self, kind: int, flags: int, sequence: int, body: bytes) -> None:
        whole = wire.HEADER.pack(16 + len(body), kind, flags, sequence, 1) + body
        self.answers.append(whole + bytes(-len(whole) % 4))

    def sendto(self, data: bytes, _: object) -> None:  # type: ignore[override]
        for kind, flags, sequence, _port, body in wire.split(data):
            if self.is_netfilter and kind < NFT:
                continue  # the limits of a transaction
            if self.knows_nothing:
                self.tell(wire.NLMSG_DONE, 2, sequence, bytes(4))
                continue
            what, act = divmod(kind - NFT, 3) if kind >= NFT else divmod(kind - RTM_BASE, 4)
            is_question = act == (1 if kind >= NFT else GET)
            is_dump = is_question and flags & wire.NLM_F_DUMP == wire.NLM_F_DUMP
            if kind >= NFT:
                error, found = self.nft(what, act, body, is_dump=is_dump)
            elif what == LINK:
                error, found = self.link(act, flags, body, is_dump=is_dump)
            else:
                error, found = self.route(what, act, body, is_dump=is_dump)
            for one in found:
                self.tell(kind - 1 if kind >= NFT else kind & ~3, 2, sequence, one)
            if is_dump:
                self.tell(wire.NLMSG_DONE, 2, sequence, bytes(4))
            elif error or flags & wire.NLM_F_ACK:
                answer = struct.pack("=i", -error) + bytes(16)
                self.tell(wire.NLMSG_ERROR, wire.NLM_F_CAPPED, sequence, answer)

    def nft(self, what: int, act: int, body: bytes, *, is_dump: bool) -> tuple[int, list[bytes]]:
        if what == ELEMENT and not is_dump:
            several = elements_of(body)
            if len(several) > 1:
                answers = [self.nft(what, act, one, is_dump=False) for one in several]
                return max(error for error, _ in answers), [
                    one for _, found in answers for one in found
                ]
        kept = self.space.kept(NFT + what)
        named = names_of(what, body)
        if act == 0:
            if what != ELEMENT or named not in [names_of(what, one) for one in kept]:
                handle = {TABLE: 4, CHAIN: 2, RULE: 3}.get(what)
                kept.append(body + (wire.attr_be64(handle, len(kept) + 1) if handle else b""))
            return 0, []
        if act == 1:
            # What is not named, all have.
            width = 2 if what == CHAIN and is_dump else 4
            alike = [
                one
                for one in kept
                if all(
                    a in (None, b) for a, b in zip(named, names_of(what, one)[:width], strict=False)
                )
            ]
            if what == CHAIN and not is_dump:
                rules = [names_of(RULE, one) for one in self.space.kept(NFT + RULE)]
                uses = wire.attr_be32(6, rules.count(named))
                alike = [one + uses for one in alike]
            return (0, alike) if alike or is_dump else (ENOENT, [])
        if what == TABLE:
            number = wire.parse_attrs(body, 4)[4]
            gone = next(one for one in kept if wire.parse_attrs(one, 4)[4] == number)
            for each in range(TABLE, ELEMENT + 1):
                left = [
                    one
                    for one in self.space.kept(NFT + each)
                    if names_of(each, one)[:2] != names_of(TABLE, gone)[:2]
                ]
                self.space.others[NFT + each] = left
        else:
            self.space.others[NFT + what] = [one for one in kept if names_of(what, one) != named]
        return 0, []

    def route(self, what: int, act: int, body: bytes, *, is_dump: bool) -> tuple[int, list[bytes]]:
        kept = self.space.kept(what)
        if is_dump:
            if what == ROUTE:
                return 0, [one for one in kept if one[0] == body[0]]
            return 0, [one for one in kept if body[4:8] in (one[4:8], bytes(4))]
        if act == NEW:
            kept.append(as_told(what, body))
        elif act == GET and what == ROUTE:
            wanted = wire.parse_attrs(body, 12).get(1)
            addresses = [wire.parse_attrs(one, 8).get(1) for one in self.space.kept(ADDRESS)]
            if wanted in addresses:
                return 0, [body[:7] + bytes([RTN_LOCAL]) + body[8:]]
            ways = [one for one in kept if one[0] == body[0]]
            exact = [one for one in ways if wire.parse_attrs(one, 12).get(1) == wanted]
            found = (exact or [one for one in ways if one[1] == 0])[:1]
            return (0, found) if found else (ENETUNREACH, [])
        elif act == GET:
            # The interface, and of a queue its parent, of a class its handle, of a neighbour its IP.
            start, end = {QDISC: (12, 16), CLASS: (8, 12)}.get(what, (12, len(body)))
            found = [
                one for one in kept if one[4:8] == body[4:8] and one[start:end] == body[start:end]
            ]
            return (0, found[-1:]) if found else (ENOENT, [])
        return 0, []

    def link(self, act: int, flags: int, body: bytes, *, is_dump: bool) -> tuple[int, list[bytes]]:
        links = self.space.links
        if is_dump:
            return 0, [told(self.space, index) for index in links]
        _, _, _, index, up, change = IFINFOMSG.unpack_from(body)
        attrs = wire.parse_attrs(body, IFINFOMSG.size)
        name = attrs.get(IFLA_IFNAME)
        if not index and act != NEW:
            index = next((one for one, has in links.items() if has[IFLA_IFNAME] == name), 0)
        if act == NEW and flags & wire.NLM_F_CREATE:
            made = make_pair(self.space, attrs)
            return 0, [told(self.space, made)] if flags & wire.NLM_F_ECHO else []
        if index not in links:
            return ENODEV, []
        if act == DEL:
            forget(self.space, index)
            forget(INNER, index + 1)
        elif act == GET:
            return 0, [told(self.space, index)]
        else:
            links[index].update(attrs)
            if change & up & UP:
                self.space.up.add(index)
        return 0, []


def names_of(what: int, body: bytes) -> "tuple[object, ...]":
    """Return what tells an object of nf_tables: family, table, and the rest of its name."""
    attrs = wire.parse_attrs(body, 4)
    if what == TABLE:
        return body[0], attrs.get(1), None, None
    if what == CHAIN:
        return body[0], attrs.get(1), attrs.get(3), None
    if what != ELEMENT:
        return body[0], attrs.get(1), attrs.get(2), None
    keys = nft_set.parse_elements(body)
    return body[0], attrs.get(1), attrs.get(2), keys[0] if keys else None


def elements_of(body: bytes) -> list[bytes]:
    """Return a message for each of a set's elements in one."""
    attrs = wire.parse_attrs(body, 4)
    head = body[:4] + wire.attr(1, attrs[1]) + wire.attr(2, attrs[2])
    return [head + wire.nest(3, wire.nest(1, one)) for one in wire.parse_list(attrs[3])]


def as_told(what: int, body: bytes) -> bytes:
    """Return what the kernel tells of an object that it was asked to make."""
    if what == ADDRESS:
        return body + wire.attr_u32(IFA_FLAGS, IFA_F_PERMANENT)
    if what == QDISC and b"fq_codel\0" in body:  # it counts in 1,024 ns, and tells no threshold
        attrs = wire.parse_attrs(body, 20)
        options = wire.parse_attrs(attrs.get(2, b""))
        options.pop(tc.TCA_FQ_CODEL_CE_THRESHOLD, None)
        for key in options.keys() & {tc.TCA_FQ_CODEL_TARGET, tc.TCA_FQ_CODEL_INTERVAL}:
            options[key] = struct.pack("=I", tc.codel_us(*struct.unpack("=I", options[key])))
        attrs[2] = b"".join(wire.attr(kind, value) for kind, value in options.items())
        return body[:20] + b"".join(wire.attr(kind, value) for kind, value in attrs.items())
    return body


def make_pair(space: Namespace, attrs: dict[int, bytes]) -> int:
    """Make a veth pair. Returns: the index of the outer end."""
    information = wire.parse_attrs(attrs[IFLA_LINKINFO])
    peer = wire.parse_attrs(wire.parse_attrs(information[IFLA_INFO_DATA])[VETH_INFO_PEER], 16)
    index = 10 + len(space.links)
    kind = wire.attr_text(1, "veth")
    common = {IFLA_LINKINFO: kind, 16: bytes([6]), 37: bytes(4)}  # operstate, the peer's namespace
    space.links[index] = {**attrs, **common, IFLA_LINK: struct.pack("=I", index + 1)}
    space.links[index][IFLA_IFNAME] = attrs[IFLA_IFNAME].replace(b"%d", b"0")
    inner = spaces[int.from_bytes(peer[IFLA_NET_NS_FD], sys.byteorder)]
    inner.links[index + 1] = {**peer, **common, IFLA_LINK: struct.pack("=I", index)}
    return index


def forget(space: Namespace, index: int) -> None:
    """Take away an end, with all that was given to it."""
    space.links.pop(index, None)
    number = struct.pack("=I", index)
    for what, bodies in space.others.items():
        if what == ROUTE:
            left = [one for one in bodies if wire.parse_attrs(one, 12).get(4) != number]
        else:
            left = [one for one in bodies if what >= NFT or one[4:8] != number]
        space.others[what] = left


def told(space: Namespace, index: int) -> bytes:
    """Return what the kernel tells of a link."""
    attrs = {**space.links[index], AF_SPEC: SETTINGS}
    state = RUNNING | (UP if index in space.up or index == 1 else 0)
    head = IFINFOMSG.pack(0, 0, 1, index, state, 0)
    return head + b"".join(wire.attr(kind, value) for kind, value in attrs.items())
