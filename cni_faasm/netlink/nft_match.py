"""Encode the matches of nf_tables that guards need: groups, senders, connections, services.

Layout: <linux/netfilter/nf_tables.h>. As in nft_expr, each function returns expressions in
the form that nft itself makes.
"""

from struct import Struct

from cni_faasm.netlink.nft_expr import (
    NFPROTO_IPV6,
    NFT_CMP_EQ,
    NFT_CMP_NEQ,
    NFT_META_NFPROTO,
    NFT_PAYLOAD_NETWORK_HEADER,
    NFT_REG_1,
    compare,
    expression,
    mask,
    match_daddr,
    meta,
    payload,
)
from cni_faasm.netlink.wire import attr, attr_be32, attr_be64, attr_text

# <linux/netfilter/nf_tables.h>
NFT_REG32_04 = 12
NFT_REG32_06 = 14
NFT_PAYLOAD_LL_HEADER = 0
NFT_PAYLOAD_TRANSPORT_HEADER = 2
NFT_META_PROTOCOL = 1
NFT_META_IIFNAME = 6
NFT_META_OIFNAME = 7
NFT_META_IIFTYPE = 8
NFT_META_L4PROTO = 16
IIFGROUP = 21
OIFGROUP = 22
NFTA_LOOKUP_SET = 1
NFTA_LOOKUP_SREG = 2
NFTA_LOOKUP_FLAGS = 5
NFT_LOOKUP_F_INV = 1
NFTA_DYNSET_SET_NAME = 1
NFTA_DYNSET_OP = 3
NFTA_DYNSET_SREG_KEY = 4
NFTA_DYNSET_TIMEOUT = 6
NFT_DYNSET_OP_UPDATE = 1
NFTA_FIB_DREG = 1
NFTA_FIB_RESULT = 2
NFTA_FIB_FLAGS = 3
NFT_FIB_RESULT_OIF = 1
NFTA_FIB_F_SADDR = 1
NFTA_FIB_F_IIF = 8
NFTA_FIB_F_PRESENT = 32
NFTA_CT_DREG = 1
NFTA_CT_KEY = 2
NFT_CT_STATE = 0
NFTA_REJECT_TYPE = 1
NFTA_REJECT_ICMP_CODE = 2
NFT_REJECT_TCP_RST = 1
NFT_REJECT_ICMPX_UNREACH = 2
NFT_REJECT_ICMPX_ADMIN_PROHIBITED = 3

# <linux/netfilter/nf_conntrack_common.h>: NF_CT_STATE_BIT of ESTABLISHED and RELATED
_ESTABLISHED_RELATED = 0b110
_NEW = 0b1000
ARPHRD_ETHER = 1  # <linux/if_arp.h>
ETH_P_IP = 0x0800  # <linux/if_ether.h>
ETH_P_IPV6 = 0x86DD
IPPROTO_ICMP = 1
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_ICMPV6 = 58
ND_NEIGHBOR_SOLICIT = 135
ND_NEIGHBOR_ADVERT = 136

_U16 = Struct("=H")
_U32 = Struct("=I")
_BE16 = Struct(">H")


def _in(name: str, negate: bool) -> bytes:
    return expression(
        "lookup",
        attr_text(NFTA_LOOKUP_SET, name),
        attr_be32(NFTA_LOOKUP_SREG, NFT_REG_1),
        *((attr_be32(NFTA_LOOKUP_FLAGS, NFT_LOOKUP_F_INV),) if negate else ()),
    )


def _put(name: str, timeout_ms: int) -> bytes:
    return expression(
        "dynset",
        attr_text(NFTA_DYNSET_SET_NAME, name),
        attr_be32(NFTA_DYNSET_OP, NFT_DYNSET_OP_UPDATE),
        attr_be32(NFTA_DYNSET_SREG_KEY, NFT_REG_1),
        attr_be64(NFTA_DYNSET_TIMEOUT, timeout_ms),
    )


def group(key: int, number: int, bits: int = 0xFFFFFFFF) -> bytes:
    """Match an interface's group, or with bits some of it.

    key: IIFGROUP or OIFGROUP. Equivalent to: iifgroup & BITS == N
    """
    text = meta(key)
    if bits != 0xFFFFFFFF:
        text += mask(_U32.pack(bits))
    return text + compare(_U32.pack(number), NFT_CMP_EQ)


def _interface() -> bytes:
    """Load the name: an index in a saved ruleset is of an interface that may be no more.

    It fills the first four registers.
    """
    return meta(NFT_META_IIFNAME)


def _out_interface() -> bytes:
    return meta(NFT_META_OIFNAME)


def _ethernet() -> bytes:
    return meta(NFT_META_IIFTYPE) + compare(_U16.pack(ARPHRD_ETHER), NFT_CMP_EQ)


def _sender() -> bytes:
    return _interface() + payload(NFT_PAYLOAD_LL_HEADER, 6, 6, NFT_REG32_04)


def _arp_sender() -> bytes:
    return _sender() + payload(NFT_PAYLOAD_NETWORK_HEADER, 8, 6, NFT_REG32_06)


def _arp_address() -> bytes:
    return _interface() + payload(NFT_PAYLOAD_NETWORK_HEADER, 14, 4, NFT_REG32_04)


def _source4() -> bytes:
    return _interface() + payload(NFT_PAYLOAD_NETWORK_HEADER, 12, 4, NFT_REG32_04)


def _source6() -> bytes:
    return _interface() + payload(NFT_PAYLOAD_NETWORK_HEADER, 8, 16, NFT_REG32_04)


# What can be looked up in a set, or put into one:
INTERFACE = "iifname"
OUT_INTERFACE = "oifname"
SENDER = "iifname . ether saddr"
ARP_SENDER = "iifname . ether saddr . arp saddr ether"
ARP_ADDRESS = "iifname . arp saddr ip"
SOURCE4 = "iifname . ip saddr"
SOURCE6 = "iifname . ip6 saddr"
_LOADS = {
    INTERFACE: _interface,
    OUT_INTERFACE: _out_interface,
    SENDER: _sender,
    ARP_SENDER: _arp_sender,
    ARP_ADDRESS: _arp_address,
    SOURCE4: _source4,
    SOURCE6: _source6,
}
# These want a frame that has a MAC address.
_OF_ETHERNET = (SENDER, ARP_SENDER)


def load(key: str) -> bytes:
    """Load one of these into the registers."""
    return _LOADS[key]()


def listed(key: str, name: str, *, negate: bool = False) -> bytes:
    """Match what is, or with negate is not, in a set.

    key: one of those above. Equivalent to: KEY [!=] @NAME
    """
    return _wanted(key) + _LOADS[key]() + _in(name, negate)


def remember(key: str, name: str, timeout_ms: int, *, matched: bool = False) -> bytes:
    """Put into a set, or keep there for as long again.

    matched: whether the rule has looked the same key up before.
    Equivalent to: update @NAME { KEY timeout T }
    """
    return (b"" if matched else _wanted(key)) + _LOADS[key]() + _put(name, timeout_ms)


def _wanted(key: str) -> bytes:
    return _ethernet() if key in _OF_ETHERNET else b""


def source_not_routed_back() -> bytes:
    """Match packets that the host would not send back by the interface they came in by.

    Equivalent to: fib saddr . iif oif missing
    """
    flags = NFTA_FIB_F_SADDR | NFTA_FIB_F_IIF | NFTA_FIB_F_PRESENT
    return expression(
        "fib",
        attr_be32(NFTA_FIB_DREG, NFT_REG_1),
        attr_be32(NFTA_FIB_RESULT, NFT_FIB_RESULT_OIF),
        attr_be32(NFTA_FIB_FLAGS, flags),
    ) + compare(bytes(4), NFT_CMP_EQ)


def known_connection() -> bytes:
    """Match what belongs to a connection that there is already.

    Equivalent to: ct state established,related
    """
    return _state(_ESTABLISHED_RELATED)


def new_connection() -> bytes:
    """Match what begins a connection.

    Equivalent to: ct state new
    """
    return _state(_NEW)


def _state(states: int) -> bytes:
    return (
        expression("ct", attr_be32(NFTA_CT_KEY, NFT_CT_STATE), attr_be32(NFTA_CT_DREG, NFT_REG_1))
        + mask(_U32.pack(states))
        + compare(bytes(4), NFT_CMP_NEQ)
    )


def refuse_tcp() -> bytes:
    """Answer to TCP with a reset, and drop it.

    Equivalent to: meta l4proto tcp reject with tcp reset
    """
    return _protocol(IPPROTO_TCP) + _reject(NFT_REJECT_TCP_RST, 0)


def refuse() -> bytes:
    """Answer with "administratively prohibited" of either version of ICMP, and drop it.

    Equivalent to: reject with icmpx admin-prohibited
    """
    return _reject(NFT_REJECT_ICMPX_UNREACH, NFT_REJECT_ICMPX_ADMIN_PROHIBITED)


def _reject(kind: int, code: int) -> bytes:
    return expression(
        "reject",
        attr_be32(NFTA_REJECT_TYPE, kind),
        attr(NFTA_REJECT_ICMP_CODE, bytes((code,))),
    )


def icmpv6(kind: int) -> bytes:
    """Match one type of ICMPv6.

    Equivalent to: icmpv6 type KIND
    """
    return (
        protocol_family(NFPROTO_IPV6)
        + _protocol(IPPROTO_ICMPV6)
        + payload(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 1)
        + compare(bytes((kind,)), NFT_CMP_EQ)
    )


def protocol_family(number: int) -> bytes:
    """Match one version of IP in a table of family inet.

    Equivalent to: meta nfproto ipv4
    """
    return meta(NFT_META_NFPROTO) + compare(bytes((number,)), NFT_CMP_EQ)


def bridged_to(network: bytes, prefix_len: int) -> bytes:
    """Match frames to a network of IP in a table of family bridge.

    Equivalent to: ether type ip ip daddr NET/N
    """
    kind = ETH_P_IP if len(network) == 4 else ETH_P_IPV6
    address = match_daddr(network, prefix_len, inet=False)
    return meta(NFT_META_PROTOCOL) + compare(_BE16.pack(kind), NFT_CMP_EQ) + address


def _protocol(number: int) -> bytes:
    return meta(NFT_META_L4PROTO) + compare(bytes((number,)), NFT_CMP_EQ)


def service(protocol: str, port: int) -> bytes:
    """Match what is for a port ("tcp", "udp"), or all of a protocol ("icmp", "icmpv6").

    Equivalent to: tcp dport PORT; meta l4proto icmp
    """
    number = {
        "icmp": IPPROTO_ICMP,
        "icmpv6": IPPROTO_ICMPV6,
        "tcp": IPPROTO_TCP,
        "udp": IPPROTO_UDP,
    }[protocol]
    text = _protocol(number)
    if port:
        text += payload(NFT_PAYLOAD_TRANSPORT_HEADER, 2, 2)
        text += compare(_BE16.pack(port), NFT_CMP_EQ)
    return text
