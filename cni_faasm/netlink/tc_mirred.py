"""Encode and decode what sends all that an interface receives through another: clsact, mirred.

Layout: <linux/pkt_sched.h>, <linux/pkt_cls.h>, <linux/tc_act/tc_mirred.h>.
"""

from struct import Struct

from cni_faasm.netlink.tc import RTM_NEWQDISC, TCA_KIND, TCA_OPTIONS, TCMSG
from cni_faasm.netlink.tc_filter import (
    RTM_DELTFILTER,
    RTM_NEWTFILTER,
    TC_U32_TERMINAL,
    TCA_U32_SEL,
)
from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    attr,
    attr_text,
    fixed,
    get_text,
    nest,
    parse_attrs,
)

# <linux/pkt_sched.h>
TC_H_CLSACT = 0xFFFFFFF1
CLSACT_HANDLE = 0xFFFF0000
CLSACT_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)

# <linux/pkt_cls.h>
TCA_U32_ACT = 7
TCA_ACT_KIND = 1
TCA_ACT_OPTIONS = 2
TC_ACT_STOLEN = 4

# <linux/tc_act/tc_mirred.h>
TCA_MIRRED_PARMS = 2
TCA_EGRESS_REDIR = 1

# Behind what others may want to decide first.
PRIORITY = 0xFA80
_ETH_P_ALL = 0x0300  # in network order
_INFO = PRIORITY << 16 | _ETH_P_ALL
_SEL_ALL = Struct("=BBBxHHhhI4s4sii")  # one key: no bit of the first word
_MASK = slice(16, 20)  # of the one key, in struct tc_u32_sel
_MIRRED = Struct("=IIiiiiI")  # tc_gen (index, capab, action, refcnt, bindcnt), eaction, ifindex


def new_clsact(ifindex: int) -> Message:
    """Give an interface the place where filters see what it receives; EEXIST when it has one.

    Equivalent to: tc qdisc add dev IF clsact
    """
    body = TCMSG.pack(0, 0, 0, ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0)
    body += attr_text(TCA_KIND, "clsact")
    return RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body, f"tc qdisc add dev if{ifindex} clsact"


def new_redirect(ifindex: int, target: int) -> Message:
    """Send all that an interface receives out by another one.

    Equivalent to: tc filter add dev IF ingress u32 match u32 0 0 action mirred egress redirect
    dev TARGET
    """
    parms = _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, target)
    action = nest(
        1,
        attr_text(TCA_ACT_KIND, "mirred"),
        nest(TCA_ACT_OPTIONS, attr(TCA_MIRRED_PARMS, parms)),
    )
    selector = _SEL_ALL.pack(TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0, bytes(4), bytes(4), 0, 0)
    body = TCMSG.pack(0, 0, 0, ifindex, 0, CLSACT_INGRESS, _INFO) + attr_text(TCA_KIND, "u32")
    body += nest(TCA_OPTIONS, attr(TCA_U32_SEL, selector), nest(TCA_U32_ACT, action))
    label = f"tc filter add dev if{ifindex} ingress u32 action mirred redirect dev if{target}"
    return RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body, label


def del_redirect(ifindex: int) -> Message:
    """Take away what new_redirect made, and nothing of others'; ENOENT when it is not there.

    Equivalent to: tc filter del dev IF ingress prio 64128
    """
    body = TCMSG.pack(0, 0, 0, ifindex, 0, CLSACT_INGRESS, _INFO)
    return RTM_DELTFILTER, 0, body, f"tc filter del dev if{ifindex} ingress prio {PRIORITY}"


def parse_redirect(body: bytes) -> int | None:
    """Decode RTM_NEWTFILTER: the target's index; None for what new_redirect would not make.

    Raises: NetlinkError when it is malformed.
    """
    if fixed(TCMSG, body, "tcmsg")[6] >> 16 != PRIORITY:
        return None
    options = parse_attrs(parse_attrs(body, TCMSG.size).get(TCA_OPTIONS, b""))
    selector = options.get(TCA_U32_SEL, b"")
    # With more keys it is longer, and with another mask it does not match everything.
    if len(selector) != _SEL_ALL.size or any(selector[_MASK]):
        return None
    action = parse_attrs(parse_attrs(options.get(TCA_U32_ACT, b"")).get(1, b""))
    if get_text(action, TCA_ACT_KIND) != "mirred":
        return None
    data = parse_attrs(action.get(TCA_ACT_OPTIONS, b"")).get(TCA_MIRRED_PARMS, b"")
    if len(data) < _MIRRED.size:
        return None
    parms = fixed(_MIRRED, data, "tc_mirred")
    if parms[2] != TC_ACT_STOLEN or parms[5] != TCA_EGRESS_REDIR:
        return None
    return parms[6]
