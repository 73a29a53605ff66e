"""Encode and decode RTM_*LINK: interfaces, and the veth pair with its peer elsewhere.

Layout: struct ifinfomsg in <linux/rtnetlink.h>, attributes in <linux/if_link.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    Message,
    attr,
    attr_s32,
    attr_text,
    attr_u8,
    attr_u32,
    fixed,
    get_s32,
    get_text,
    get_u8,
    get_u32,
    malformed,
    nest,
    parse_attrs,
)

# <linux/rtnetlink.h>
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTEXT_FILTER_SKIP_STATS = 1 << 3

# <linux/if.h>
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IF_OPER_UP = 6  # RFC 2863's ifOperStatus
IFNAMSIZ = 16
IFALIASZ = 256

AF_UNSPEC = 0
AF_INET6 = 10

# <linux/if_link.h>
IFLA_ADDRESS = 1
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_LINK = 5
IFLA_QDISC = 6
IFLA_MASTER = 10
IFLA_TXQLEN = 13
IFLA_OPERSTATE = 16
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_STATS64 = 23
IFLA_AF_SPEC = 26
IFLA_GROUP = 27
IFLA_NET_NS_FD = 28
IFLA_EXT_MASK = 29
IFLA_NUM_TX_QUEUES = 31
IFLA_NUM_RX_QUEUES = 32
IFLA_LINK_NETNSID = 37
IFLA_GSO_MAX_SIZE = 41
IFLA_TARGET_NETNSID = 46
IFLA_GRO_MAX_SIZE = 58
IFLA_GSO_IPV4_MAX_SIZE = 63
IFLA_GRO_IPV4_MAX_SIZE = 64
IFLA_INFO_KIND = 1
IFLA_INFO_SLAVE_KIND = 4
IFLA_INFO_DATA = 2
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1

# <linux/veth.h>
VETH_INFO_PEER = 1

_IFINFOMSG = Struct("=BBHiII")  # family, pad, type, index, flags, change
# Head of struct rtnl_link_stats64: packets received and sent, bytes received and sent.
_STATS64 = Struct("=QQQQ")
_NOBODY = _IFINFOMSG.pack(0, 0, 0, 0, 0, 0)


class Link:
    """What the kernel says about one interface.

    link: index of the other end of a pair (IFLA_LINK), in namespace link_netnsid when that
    is not None. kind: "veth", ... or "" for a device without rtnl_link_ops. slave_kind: its master's.
    stats: None when the request left them out. Sizes are 0 where the kernel does not know them.
    af_spec: what link_conf decodes.
    """

    __slots__ = (
        "address",
        "af_spec",
        "alias",
        "flags",
        "gro_ipv4_max_size",
        "gro_max_size",
        "group",
        "gso_ipv4_max_size",
        "gso_max_size",
        "ifindex",
        "kind",
        "link",
        "link_netnsid",
        "master",
        "mtu",
        "name",
        "num_rx_queues",
        "num_tx_queues",
        "operstate",
        "qdisc",
        "rx_bytes",
        "rx_packets",
        "slave_kind",
        "tx_bytes",
        "tx_packets",
        "txqlen",
    )

    def __init__(self, ifindex: int, flags: int, attrs: dict[int, bytes]) -> None:
        self.ifindex = ifindex
        self.flags = flags
        self.name = get_text(attrs, IFLA_IFNAME)
        self.mtu = get_u32(attrs, IFLA_MTU)
        self.address = attrs.get(IFLA_ADDRESS, b"")
        self.alias = get_text(attrs, IFLA_IFALIAS)
        self.link = get_u32(attrs, IFLA_LINK)
        self.link_netnsid = (
            get_s32(attrs, IFLA_LINK_NETNSID) if IFLA_LINK_NETNSID in attrs else None
        )
        self.group = get_u32(attrs, IFLA_GROUP)
        self.txqlen = get_u32(attrs, IFLA_TXQLEN)
        self.gso_max_size = get_u32(attrs, IFLA_GSO_MAX_SIZE)
        self.gro_max_size = get_u32(attrs, IFLA_GRO_MAX_SIZE)
        self.gso_ipv4_max_size = get_u32(attrs, IFLA_GSO_IPV4_MAX_SIZE)
        self.gro_ipv4_max_size = get_u32(attrs, IFLA_GRO_IPV4_MAX_SIZE)
        self.num_tx_queues = get_u32(attrs, IFLA_NUM_TX_QUEUES)
        self.num_rx_queues = get_u32(attrs, IFLA_NUM_RX_QUEUES)
        self.master = get_u32(attrs, IFLA_MASTER)
        self.qdisc = get_text(attrs, IFLA_QDISC)
        self.operstate = get_u8(attrs, IFLA_OPERSTATE)
        self.af_spec = attrs.get(IFLA_AF_SPEC, b"")
        info = parse_attrs(attrs.get(IFLA_LINKINFO, b""))
        self.kind = get_text(info, IFLA_INFO_KIND)
        self.slave_kind = get_text(info, IFLA_INFO_SLAVE_KIND)
        self.rx_packets: int | None = None
        self.tx_packets: int | None = None
        self.rx_bytes: int | None = None
        self.tx_bytes: int | None = None
        stats = attrs.get(IFLA_STATS64)
        if stats is not None:
            self.rx_packets, self.tx_packets, self.rx_bytes, self.tx_bytes = fixed(
                _STATS64, stats, "IFLA_STATS64"
            )

    @property
    def is_up(self) -> bool:
        """Say whether somebody switched it on (not whether the other end is on too)."""
        return bool(self.flags & IFF_UP)


def _end(  # noqa: PLR0917 -- both calls stand below
    name: str | None,
    mtu: int | None,
    address: bytes | None,
    group: int | None,
    txqlen: int | None,
    num_queues: int | None,
    gso_max_size: int | None,
    gro_max_size: int | None,
) -> list[bytes]:
    """Encode what each end of a pair may be given when it is made.

    gso_max_size, gro_max_size: up to 65536 the kernel applies them to IPv4 as well, so
    that IFLA_GSO_IPV4_MAX_SIZE (new in 6.3) need not be sent.
    """
    parts: list[bytes] = []
    if name is not None:
        parts.append(_name(name))
    if mtu is not None:
        parts.append(attr_u32(IFLA_MTU, mtu))
    if address is not None:
        parts.append(attr(IFLA_ADDRESS, address))
    if group is not None:
        parts.append(attr_u32(IFLA_GROUP, group))
    if txqlen is not None:
        parts.append(attr_u32(IFLA_TXQLEN, txqlen))
    if num_queues is not None:
        parts.append(attr_u32(IFLA_NUM_TX_QUEUES, num_queues))
        parts.append(attr_u32(IFLA_NUM_RX_QUEUES, num_queues))
    if gso_max_size is not None:
        parts.append(attr_u32(IFLA_GSO_MAX_SIZE, gso_max_size))
    if gro_max_size is not None:
        parts.append(attr_u32(IFLA_GRO_MAX_SIZE, gro_max_size))
    return parts


def _name(name: str) -> bytes:
    """Encode IFLA_IFNAME.

    Raises: ValueError when it is empty or longer than the kernel's field.
    """
    encoded = attr_text(IFLA_IFNAME, name)
    if not 0 < len(name.encode("utf-8", "surrogateescape")) < IFNAMSIZ:
        msg = f"interface name {name!r}: 1 to {IFNAMSIZ - 1} bytes"
        raise ValueError(msg)
    return encoded


def new_link(kind: str, name: str, *, group: int, mtu: int, address: bytes) -> Message:
    """Make a device of a kind that needs no more than its name; the reply is the new link.

    Equivalent to: ip link add NAME mtu N address MAC group G type KIND
    """
    body = _NOBODY + b"".join(_end(name, mtu, address, group, None, 1, None, None))
    body += nest(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, kind))
    flags = NLM_F_CREATE | NLM_F_EXCL | NLM_F_ECHO
    return RTM_NEWLINK, flags, body, f"ip link add {name} type {kind}"


def new_veth(
    name: str,
    peer_name: str,
    peer_netns_fd: int | None,
    *,
    mtu: int | None = None,
    address: bytes | None = None,
    peer_address: bytes | None = None,
    group: int | None = None,
    peer_group: int | None = None,
    txqlen: int | None = None,
    num_queues: int | None = 1,
    gso_max_size: int | None = None,
    gro_max_size: int | None = None,
    peer_gso_max_size: int | None = None,
    peer_gro_max_size: int | None = None,
    up: bool = False,
    echo: bool = True,
) -> Message:
    """Make a pair whose peer is born in another namespace.

    name: may hold %d, for which the kernel takes the lowest free number from 0.
    num_queues: None for the kernel's default, one for each CPU; one is cheaper.
    up: of the outer end only; the peer cannot be up while the outer end is not.
    echo: the reply is the new link (parse_link): index, name, and the peer's index.
    None leaves what the kernel chooses. gso/gro sizes are bytes, address is 6 bytes.
    Not settable here: the alias.
    Equivalent to: ip link add NAME type veth peer name PEER netns N ...
    """
    peer = _end(
        peer_name,
        mtu,
        peer_address,
        peer_group,
        txqlen,
        num_queues,
        peer_gso_max_size,
        peer_gro_max_size,
    )
    if peer_netns_fd is not None:
        peer.append(attr_u32(IFLA_NET_NS_FD, peer_netns_fd))
    flags = IFF_UP if up else 0
    body = b"".join(
        [
            _IFINFOMSG.pack(AF_UNSPEC, 0, 0, 0, flags, flags),
            *_end(name, mtu, address, group, txqlen, num_queues, gso_max_size, gro_max_size),
            nest(
                IFLA_LINKINFO,
                attr_text(IFLA_INFO_KIND, "veth"),
                nest(IFLA_INFO_DATA, attr(VETH_INFO_PEER, _NOBODY + b"".join(peer))),
            ),
        ]
    )
    how = NLM_F_CREATE | NLM_F_EXCL | (NLM_F_ECHO if echo else 0)
    return RTM_NEWLINK, how, body, f"ip link add {name} type veth peer name {peer_name}"


def set_link(
    ifindex: int,
    *,
    up: bool | None = None,
    name: str | None = None,
    address: bytes | None = None,
    mtu: int | None = None,
    alias: str | None = None,
    group: int | None = None,
    txqlen: int | None = None,
    gso_max_size: int | None = None,
    gro_max_size: int | None = None,
    addr_gen_mode: int | None = None,
    netns_fd: int | None = None,
) -> Message:
    """Change an interface; None leaves what it has.

    alias: "" takes it away. addr_gen_mode: IN6_ADDR_GEN_MODE_NONE spares the link-local
    IPv6 address, and much of what switching an interface on costs; but the kernel looks at
    it last, so where the other end is up already it needs a message of its own, before up.
    Raises: ValueError when the alias exceeds 255 bytes.
    Equivalent to: ip link set dev IF up mtu N alias TEXT ...
    """
    flags = change = 0
    words: list[str] = []
    if up is not None:
        flags, change = (IFF_UP if up else 0), IFF_UP
        words.append("up" if up else "down")
    parts = [
        _IFINFOMSG.pack(AF_UNSPEC, 0, 0, ifindex, flags, change),
        *_end(name, mtu, address, group, txqlen, None, gso_max_size, gro_max_size),
    ]
    if name is not None:
        words.append(f"name {name}")
    if address is not None:
        words.append(f"address {address.hex(':')}")
    for word, number in (("mtu", mtu), ("group", group), ("txqueuelen", txqlen)):
        if number is not None:
            words.append(f"{word} {number}")
    for word, number in (("gso_max_size", gso_max_size), ("gro_max_size", gro_max_size)):
        if number is not None:
            words.append(f"{word} {number}")
    if alias is not None:
        text = alias.encode("utf-8", "surrogateescape")
        if len(text) >= IFALIASZ:
            msg = f"alias of {len(text)} bytes: at most {IFALIASZ - 1}"
            raise ValueError(msg)
        # Without a NUL: an empty attribute is how an alias is taken away.
        parts.append(attr(IFLA_IFALIAS, text))
        words.append(f"alias {alias!r}")
    if addr_gen_mode is not None:
        mode = attr_u8(IFLA_INET6_ADDR_GEN_MODE, addr_gen_mode)
        parts.append(nest(IFLA_AF_SPEC, nest(AF_INET6, mode)))
        words.append(f"addrgenmode {addr_gen_mode}")
    if netns_fd is not None:
        parts.append(attr_u32(IFLA_NET_NS_FD, netns_fd))
        words.append("netns")
    label = f"ip link set dev if{ifindex} {' '.join(words)}"
    return RTM_NEWLINK, 0, b"".join(parts), label


def get_link(
    *,
    name: str | None = None,
    ifindex: int = 0,
    stats: bool = False,
    netnsid: int | None = None,
) -> Message:
    """Ask for one interface by its name or its index; ENODEV when there is none.

    netnsid: look in the namespace that this one knows by that number (Link.link_netnsid).
    Equivalent to: ip [-s] link show dev IF
    """
    parts = [_IFINFOMSG.pack(AF_UNSPEC, 0, 0, ifindex, 0, 0)]
    if not stats:
        parts.append(_NO_STATS)
    if name is not None:
        parts.append(_name(name))
    if netnsid is not None:
        parts.append(attr_s32(IFLA_TARGET_NETNSID, netnsid))
    return RTM_GETLINK, 0, b"".join(parts), f"ip link show dev {name or f'if{ifindex}'}"


def dump_links(kind: str | None = None, *, stats: bool = False) -> Message:
    """Ask for all interfaces, or all of a kind; the kernel has no filter for groups.

    Equivalent to: ip [-s] link show [type KIND]
    """
    parts = [_NOBODY]
    if not stats:
        parts.append(_NO_STATS)
    if kind is not None:
        parts.append(nest(IFLA_LINKINFO, attr_text(IFLA_INFO_KIND, kind)))
    return RTM_GETLINK, 0, b"".join(parts), "ip link show" + (f" type {kind}" if kind else "")


_NO_STATS = attr_u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def del_link(*, ifindex: int = 0, name: str | None = None, group: int | None = None) -> Message:
    """Take away one interface, or in one stroke all of a group; a veth's peer goes too.

    Equivalent to: ip link del dev IF; ip link del group N
    """
    body = _IFINFOMSG.pack(AF_UNSPEC, 0, 0, ifindex, 0, 0)
    if name is not None:
        body += _name(name)
    if group is not None:
        body += attr_u32(IFLA_GROUP, group)
        return RTM_DELLINK, 0, body, f"ip link del group {group}"
    return RTM_DELLINK, 0, body, f"ip link del dev {name or f'if{ifindex}'}"


def parse_link(body: bytes) -> Link:
    """Decode RTM_NEWLINK.

    Raises: NetlinkError when it is malformed.
    """
    family, _, _, ifindex, flags, _ = fixed(_IFINFOMSG, body, "ifinfomsg")
    if family != AF_UNSPEC:
        raise malformed(f"link of family {family}")
    return Link(ifindex, flags, parse_attrs(body, _IFINFOMSG.size))
