"""Encode and decode nf_tables' tables, chains and rules; expressions are in nft_expr.

What changes anything goes through Netlink.nft_batch, what asks through execute and dump.
Numbers in attributes are big-endian.

Layout: <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>. Comments are in nft_comment.
"""

from struct import Struct

from cni_faasm.netlink import nft_expr
from cni_faasm.netlink.nft_comment import comment_data, parse_comment
from cni_faasm.netlink.wire import (
    NLM_F_APPEND,
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attr_be32,
    attr_be64,
    attr_text,
    fixed,
    get_be32,
    get_be64,
    get_text,
    nest,
    parse_attrs,
)

# <linux/netfilter.h>
NFPROTO_INET = 1
NFPROTO_IPV4 = 2
NFPROTO_ARP = 3
NFPROTO_BRIDGE = 7
NFPROTO_IPV6 = 10
NF_DROP = 0
NF_ACCEPT = 1
NF_INET_PRE_ROUTING = 0
NF_INET_LOCAL_IN = 1
NF_INET_FORWARD = 2
NF_INET_LOCAL_OUT = 3
NF_INET_POST_ROUTING = 4

# <linux/netfilter_ipv4.h>, enum nf_ip_hook_priorities
NF_IP_PRI_FILTER = 0
NF_IP_PRI_NAT_SRC = 100

# <linux/netfilter/nfnetlink.h>: the subsystem is the upper half of a message's type.
NFNL_SUBSYS_NFTABLES = 10
_SUBSYS = NFNL_SUBSYS_NFTABLES << 8

# <linux/netfilter/nf_tables.h>
NFT_MSG_NEWTABLE = _SUBSYS | 0
NFT_MSG_GETTABLE = _SUBSYS | 1
NFT_MSG_DELTABLE = _SUBSYS | 2
NFT_MSG_NEWCHAIN = _SUBSYS | 3
NFT_MSG_GETCHAIN = _SUBSYS | 4
NFT_MSG_DELCHAIN = _SUBSYS | 5
NFT_MSG_NEWRULE = _SUBSYS | 6
NFT_MSG_GETRULE = _SUBSYS | 7
NFT_MSG_DELRULE = _SUBSYS | 8
NFT_TABLE_F_DORMANT = 1
NFTA_TABLE_NAME = 1
NFTA_TABLE_FLAGS = 2
NFTA_TABLE_USE = 3
NFTA_TABLE_HANDLE = 4
NFTA_TABLE_USERDATA = 6
NFTA_CHAIN_TABLE = 1
NFTA_CHAIN_HANDLE = 2
NFTA_CHAIN_NAME = 3
NFTA_CHAIN_HOOK = 4
NFTA_CHAIN_POLICY = 5
NFTA_CHAIN_USE = 6
NFTA_CHAIN_TYPE = 7
NFTA_HOOK_HOOKNUM = 1
NFTA_HOOK_PRIORITY = 2
NFTA_RULE_TABLE = 1
NFTA_RULE_CHAIN = 2
NFTA_RULE_HANDLE = 3
NFTA_RULE_EXPRESSIONS = 4
NFTA_RULE_POSITION = 6
NFTA_RULE_USERDATA = 7

_NFGENMSG = Struct("=BBH")  # family, version, resource
HEAD_BYTES = _NFGENMSG.size
_FAMILIES = {NFPROTO_INET: "inet", NFPROTO_IPV4: "ip", NFPROTO_ARP: "arp", NFPROTO_IPV6: "ip6"}
_FAMILIES[NFPROTO_BRIDGE] = "bridge"


def head(family: int) -> bytes:
    """Encode the structure that all messages of nf_tables begin with."""
    return _NFGENMSG.pack(family, 0, 0)


def family_name(family: int, *names: str) -> str:
    """Return "inet TABLE CHAIN", as nft's commands have it."""
    return " ".join((_FAMILIES.get(family, str(family)), *names))


# ---- tables


class Table:
    """One table. use: how many chains, sets and the like it holds."""

    __slots__ = ("comment", "family", "flags", "handle", "name", "use", "userdata")

    def __init__(self, family: int, attrs: dict[int, bytes]) -> None:
        self.family = family
        self.name = get_text(attrs, NFTA_TABLE_NAME)
        self.flags = get_be32(attrs, NFTA_TABLE_FLAGS)
        self.use = get_be32(attrs, NFTA_TABLE_USE)
        self.handle = get_be64(attrs, NFTA_TABLE_HANDLE)
        self.userdata = attrs.get(NFTA_TABLE_USERDATA, b"")
        self.comment = parse_comment(self.userdata)

    @property
    def is_dormant(self) -> bool:
        """Say whether its chains see no packet (flags dormant)."""
        return bool(self.flags & NFT_TABLE_F_DORMANT)


def new_table(family: int, name: str, *, comment: str = "", exclusive: bool = True) -> Message:
    """Make a table.

    exclusive: EEXIST, and so the failure of the whole transaction, when it is there.
    Equivalent to: nft create table FAMILY NAME { comment "TEXT"; }
    """
    body = head(family) + attr_text(NFTA_TABLE_NAME, name) + attr_be32(NFTA_TABLE_FLAGS, 0)
    if comment:
        body += attr(NFTA_TABLE_USERDATA, comment_data(comment))
    how = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    return NFT_MSG_NEWTABLE, how, body, f"nft create table {family_name(family, name)}"


def get_table(family: int, name: str) -> Message:
    """Ask for one table; ENOENT when there is none. Costs 15 µs with any number of rules.

    Equivalent to: nft list table FAMILY NAME, the first line
    """
    body = head(family) + attr_text(NFTA_TABLE_NAME, name)
    return NFT_MSG_GETTABLE, 0, body, f"nft list table {family_name(family, name)}"


def dump_tables(family: int = 0) -> Message:
    """Ask for all tables of a family (0: of all).

    Equivalent to: nft list tables [FAMILY]
    """
    return NFT_MSG_GETTABLE, 0, head(family), "nft list tables"


def del_table(family: int, name: str, *, handle: int = 0) -> Message:
    """Take away a table with all in it, by its handle if one is given; ENOENT: there is none.

    Equivalent to: nft delete table FAMILY NAME, or FAMILY handle H
    """
    key = attr_be64(NFTA_TABLE_HANDLE, handle) if handle else attr_text(NFTA_TABLE_NAME, name)
    return NFT_MSG_DELTABLE, 0, head(family) + key, f"nft delete table {family_name(family, name)}"


def parse_table(body: bytes) -> Table:
    """Decode NFT_MSG_NEWTABLE.

    Raises: NetlinkError when it is malformed.
    """
    family, _, _ = fixed(_NFGENMSG, body, "nfgenmsg")
    return Table(family, parse_attrs(body, _NFGENMSG.size))


# ---- chains


class Chain:
    """One chain. type "", hook and priority None, policy None: not a base chain."""

    __slots__ = (
        "family",
        "handle",
        "hook",
        "name",
        "policy",
        "priority",
        "table",
        "type",
        "use",
    )

    def __init__(self, family: int, attrs: dict[int, bytes]) -> None:
        self.family = family
        self.table = get_text(attrs, NFTA_CHAIN_TABLE)
        self.name = get_text(attrs, NFTA_CHAIN_NAME)
        self.handle = get_be64(attrs, NFTA_CHAIN_HANDLE)
        self.type = get_text(attrs, NFTA_CHAIN_TYPE)
        self.use = get_be32(attrs, NFTA_CHAIN_USE)
        self.policy = get_be32(attrs, NFTA_CHAIN_POLICY) if NFTA_CHAIN_POLICY in attrs else None
        self.hook: int | None = None
        self.priority: int | None = None
        hook = attrs.get(NFTA_CHAIN_HOOK)
        if hook is not None:
            inner = parse_attrs(hook)
            self.hook = get_be32(inner, NFTA_HOOK_HOOKNUM)
            priority = get_be32(inner, NFTA_HOOK_PRIORITY)
            self.priority = priority - (1 << 32) if priority >= 1 << 31 else priority

    @property
    def place(self) -> str:
        """Return which packets it sees, and what becomes of those that reach its end."""
        if self.hook is None:
            return "no hook"
        return base_place(self.type, self.hook, self.priority or 0, self.policy)


def base_place(
    type: str,  # noqa: A002 -- as nft has it
    hook: int,
    priority: int,
    policy: int | None = NF_ACCEPT,
) -> str:
    """Return a base chain's place, to be compared with Chain.place."""
    verdict = "accept" if policy == NF_ACCEPT else "drop"
    return f"type {type} hook {hook} priority {priority} policy {verdict}"


def new_chain(
    family: int,
    table: str,
    name: str,
    *,
    type: str = "",  # noqa: A002 -- as nft has it
    hook: int | None = None,
    priority: int = 0,
    policy: int = NF_ACCEPT,
    exclusive: bool = True,
) -> Message:
    """Make a chain: a base chain when a hook is given.

    type: "nat" or "filter". priority: where among the chains of the hook; may be negative.
    Equivalent to: nft create chain FAMILY TABLE NAME { type T hook H priority P; policy V; }
    """
    body = head(family) + attr_text(NFTA_CHAIN_TABLE, table) + attr_text(NFTA_CHAIN_NAME, name)
    if hook is not None:
        body += (
            nest(
                NFTA_CHAIN_HOOK,
                attr_be32(NFTA_HOOK_HOOKNUM, hook),
                attr_be32(NFTA_HOOK_PRIORITY, priority & 0xFFFFFFFF),
            )
            + attr_text(NFTA_CHAIN_TYPE, type)
            + attr_be32(NFTA_CHAIN_POLICY, policy)
        )
    how = NLM_F_CREATE | (NLM_F_EXCL if exclusive else 0)
    return NFT_MSG_NEWCHAIN, how, body, f"nft create chain {family_name(family, table, name)}"


def get_chain(family: int, table: str, name: str) -> Message:
    """Ask for one chain; ENOENT when it or its table is not there.

    Equivalent to: nft list chain FAMILY TABLE NAME, the first lines
    """
    body = head(family) + attr_text(NFTA_CHAIN_TABLE, table) + attr_text(NFTA_CHAIN_NAME, name)
    return NFT_MSG_GETCHAIN, 0, body, f"nft list chain {family_name(family, table, name)}"


def del_chain(family: int, table: str, name: str) -> Message:
    """Take away a chain with its rules; EBUSY when other chains jump to it.

    Equivalent to: nft delete chain FAMILY TABLE NAME
    """
    body = head(family) + attr_text(NFTA_CHAIN_TABLE, table) + attr_text(NFTA_CHAIN_NAME, name)
    return NFT_MSG_DELCHAIN, 0, body, f"nft delete chain {family_name(family, table, name)}"


def dump_chains(family: int = 0) -> Message:
    """Ask for all chains of a family (0: of all); the kernel has no filter for tables.

    Equivalent to: nft list chains [FAMILY]
    """
    return NFT_MSG_GETCHAIN, 0, head(family), "nft list chains"


def parse_chain(body: bytes) -> Chain:
    """Decode NFT_MSG_NEWCHAIN.

    Raises: NetlinkError when it is malformed.
    """
    family, _, _ = fixed(_NFGENMSG, body, "nfgenmsg")
    return Chain(family, parse_attrs(body, _NFGENMSG.size))


# ---- rules


class Rule:
    """One rule. expressions: as in nft_expr, to be compared by nft_expr.describe.

    comment: nft's or, as iptables-restore leaves it, iptables' own.
    """

    __slots__ = ("chain", "comment", "expressions", "family", "handle", "table", "userdata")

    def __init__(self, family: int, attrs: dict[int, bytes]) -> None:
        self.family = family
        self.table = get_text(attrs, NFTA_RULE_TABLE)
        self.chain = get_text(attrs, NFTA_RULE_CHAIN)
        self.handle = get_be64(attrs, NFTA_RULE_HANDLE)
        self.expressions = attrs.get(NFTA_RULE_EXPRESSIONS, b"")
        self.userdata = attrs.get(NFTA_RULE_USERDATA, b"")
        self.comment = parse_comment(self.userdata)
        if not self.comment and b"comment\0" in self.expressions:
            self.comment = nft_expr.comment(self.expressions)


def new_rule(
    family: int,
    table: str,
    chain: str,
    *expressions: bytes,
    comment: str = "",
    insert: bool = False,
    position: int | None = None,
) -> Message:
    """Add a rule at a chain's end, or with insert at its head.

    expressions: from nft_expr, in the order in which they are evaluated.
    position: handle of the rule after which (with insert: before which) it goes.
    Equivalent to: nft add|insert rule FAMILY TABLE CHAIN ... comment "TEXT"
    """
    body = _rule_head(family, table, chain) + nest(NFTA_RULE_EXPRESSIONS, *expressions)
    if position is not None:
        body += attr_be64(NFTA_RULE_POSITION, position)
    if comment:
        body += attr(NFTA_RULE_USERDATA, comment_data(comment))
    verb, how = ("insert", NLM_F_CREATE) if insert else ("add", NLM_F_CREATE | NLM_F_APPEND)
    return (
        NFT_MSG_NEWRULE,
        how,
        body,
        f"nft {verb} rule {family_name(family, table, chain)} {comment}",
    )


def del_rule(family: int, table: str, chain: str, handle: int | None = None) -> Message:
    """Take away one rule, ENOENT when it is gone, or without a handle all of the chain.

    Equivalent to: nft delete rule FAMILY TABLE CHAIN handle H; nft flush chain ...
    """
    body = _rule_head(family, table, chain)
    if handle is None:
        return NFT_MSG_DELRULE, 0, body, f"nft flush chain {family_name(family, table, chain)}"
    body += attr_be64(NFTA_RULE_HANDLE, handle)
    label = f"nft delete rule {family_name(family, table, chain)} handle {handle}"
    return NFT_MSG_DELRULE, 0, body, label


def dump_rules(family: int, table: str, chain: str) -> Message:
    """Ask for the rules of one chain; none when the chain or the table is not there.

    Equivalent to: nft -a list chain FAMILY TABLE CHAIN
    """
    body = _rule_head(family, table, chain)
    return NFT_MSG_GETRULE, 0, body, f"nft list chain {family_name(family, table, chain)}"


def _rule_head(family: int, table: str, chain: str) -> bytes:
    return head(family) + attr_text(NFTA_RULE_TABLE, table) + attr_text(NFTA_RULE_CHAIN, chain)


def parse_rule(body: bytes) -> Rule:
    """Decode NFT_MSG_NEWRULE.

    Raises: NetlinkError when it is malformed.
    """
    family, _, _ = fixed(_NFGENMSG, body, "nfgenmsg")
    return Rule(family, parse_attrs(body, _NFGENMSG.size))
