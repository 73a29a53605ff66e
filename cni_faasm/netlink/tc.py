"""Encode RTM_*QDISC and RTM_*TCLASS: HTB and the queues below it; tc_parse decodes.

Rates are bytes/s. HTB keeps a burst as the time it takes to send it, in ticks of 64 ns.
The kernel's rate tables are not sent: with the link layer named it does not look at them.

Layout: struct tcmsg in <linux/rtnetlink.h>, the rest in <linux/pkt_sched.h>.
"""

from struct import Struct

from cni_faasm.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_ECHO,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    attr,
    attr_text,
    attr_u32,
    attr_u64,
    nest,
)

# <linux/rtnetlink.h>
RTM_NEWQDISC = 36
RTM_DELQDISC = 37
RTM_GETQDISC = 38
RTM_NEWTCLASS = 40
RTM_DELTCLASS = 41
RTM_GETTCLASS = 42
RTM_GETTFILTER = 46
TCA_KIND = 1
TCA_OPTIONS = 2

# <linux/pkt_sched.h>
TC_H_ROOT = 0xFFFFFFFF
TC_H_INGRESS = 0xFFFFFFF1
TC_LINKLAYER_ETHERNET = 1
TCA_HTB_PARMS = 1
TCA_HTB_INIT = 2
TCA_HTB_DIRECT_QLEN = 5
TCA_HTB_RATE64 = 6
TCA_HTB_CEIL64 = 7
HTB_VERSION = 3
HTB_RATE2QUANTUM = 10
TCA_FQ_CODEL_TARGET = 1
TCA_FQ_CODEL_LIMIT = 2
TCA_FQ_CODEL_INTERVAL = 3
TCA_FQ_CODEL_ECN = 4
TCA_FQ_CODEL_FLOWS = 5
TCA_FQ_CODEL_QUANTUM = 6
TCA_FQ_CODEL_CE_THRESHOLD = 7
TCA_FQ_CODEL_MEMORY_LIMIT = 9
TCA_TBF_PARMS = 1
TCA_TBF_RATE64 = 4
TCA_TBF_BURST = 6
# What CoDel takes for "none", CODEL_DISABLED_THRESHOLD of <net/codel.h>, in microseconds.
NO_CE_THRESHOLD_US = 2_199_023_255
# net/sched/sch_fq_codel.c: more is cut to this.
FQ_CODEL_MAX_MEMORY = 1 << 31

U32_MAX = 0xFFFFFFFF
# PSCHED_SHIFT of <net/pkt_sched.h>, also to be read in /proc/net/psched.
TICK_NS = 64

TCMSG = Struct("=BBHiIII")  # family, pad, pad, index, handle, parent, info
HTB_GLOB = Struct("=IIIII")  # version, rate2quantum, defcls, debug, direct_pkts
# struct tc_ratespec, twice (rate, ceil), inside struct tc_htb_opt:
#   cell_log u8, linklayer u8, overhead u16, cell_align s16, mpu u16, rate u32;
# then buffer, cbuffer, quantum, level, prio.
HTB_OPT = Struct("=BBHhHIBBHhHIIIIII")
FIFO_QOPT = Struct("=I")
# struct tc_tbf_qopt: a tc_ratespec for the rate and one for the peak; then limit, buffer, mtu.
TBF_QOPT = Struct("=BBHhHI12xIII")


def handle_text(handle: int) -> str:
    """Return a handle as tc prints it: root, 1:, 1:1a."""
    if handle == TC_H_ROOT:
        return "root"
    minor = handle & 0xFFFF
    return f"{handle >> 16:x}:{minor:x}" if minor else f"{handle >> 16:x}:"


def burst_ticks(rate_Bps: int, burst_bytes: int) -> int:
    """Return the time that burst_bytes take at rate_Bps, in ticks of 64 ns, at most u32.

    Rounded up to a whole microsecond, because tc counts in those: so it never shows less
    than what was asked, and up to 8 Mbit/s exactly that.
    """
    if rate_Bps <= 0:
        return U32_MAX
    microseconds = -(-burst_bytes * 1_000_000 // rate_Bps)
    return min(-(-microseconds * 1000 // TICK_NS), U32_MAX)


def codel_us(time_us: int) -> int:
    """Return the microseconds that CoDel keeps and tells of a time: it counts in 1,024 ns."""
    return ((time_us * 1000 >> 10) << 10) // 1000


def tcmsg(ifindex: int, handle: int, parent: int) -> bytes:
    """Encode the head of every message here."""
    return TCMSG.pack(0, 0, 0, ifindex, handle, parent, 0)


def _new_qdisc(  # noqa: PLR0917 -- all calls stand below
    ifindex: int, parent: int, handle: int, kind: str, options: bytes, replace: bool
) -> Message:
    body = tcmsg(ifindex, handle, parent) + attr_text(TCA_KIND, kind) + options
    how = NLM_F_CREATE | (NLM_F_REPLACE if replace else NLM_F_EXCL)
    place = "root" if parent == TC_H_ROOT else f"parent {handle_text(parent)}"
    verb = "replace" if replace else "add"
    label = f"tc qdisc {verb} dev if{ifindex} {place} handle {handle_text(handle)} {kind}"
    return RTM_NEWQDISC, how, body, label


def new_qdisc_htb(
    ifindex: int,
    handle: int,
    default: int,
    direct_qlen: int | None = None,
    *,
    replace: bool = False,
) -> Message:
    """Put HTB at the root of an interface.

    default: minor number of the class for what no filter classifies. direct_qlen: packets
    in the queue of what goes past all classes; None takes the interface's txqlen.
    Equivalent to: tc qdisc add dev IF root handle H htb default C direct_qlen N
    """
    options = attr(TCA_HTB_INIT, HTB_GLOB.pack(HTB_VERSION, HTB_RATE2QUANTUM, default, 0, 0))
    if direct_qlen is not None:
        options += attr_u32(TCA_HTB_DIRECT_QLEN, direct_qlen)
    return _new_qdisc(ifindex, TC_H_ROOT, handle, "htb", nest(TCA_OPTIONS, options), replace)


def new_class_htb(  # noqa: PLR0917 -- in the order of the tc command
    ifindex: int,
    parent: int,
    classid: int,
    rate_Bps: int,
    ceil_Bps: int,
    burst_bytes: int,
    cburst_bytes: int,
    quantum: int,
    *,
    replace: bool = False,
) -> Message:
    """Make an HTB class, or with replace change its numbers while traffic flows.

    rate_Bps, ceil_Bps: bytes/s, at least 1; from 2**32 up as TCA_HTB_RATE64, CEIL64.
    burst_bytes, cburst_bytes: clamped to what the u32 tick fields hold, 275 s.
    quantum: bytes; outside 1,000 to 200,000 the kernel would choose, and warn.
    Layout: struct tc_htb_opt in <linux/pkt_sched.h>.
    Equivalent to: tc class add dev IF parent P classid C htb rate R ceil R burst B cburst B
    """
    options = attr(
        TCA_HTB_PARMS,
        HTB_OPT.pack(
            *(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate_Bps, U32_MAX)),
            *(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(ceil_Bps, U32_MAX)),
            burst_ticks(rate_Bps, burst_bytes),
            burst_ticks(ceil_Bps, cburst_bytes),
            quantum,
            0,
            0,
        ),
    )
    if rate_Bps > U32_MAX:
        options += attr_u64(TCA_HTB_RATE64, rate_Bps)
    if ceil_Bps > U32_MAX:
        options += attr_u64(TCA_HTB_CEIL64, ceil_Bps)
    body = tcmsg(ifindex, classid, parent) + attr_text(TCA_KIND, "htb") + nest(TCA_OPTIONS, options)
    verb = "change" if replace else "add"
    label = (
        f"tc class {verb} dev if{ifindex} parent {handle_text(parent)}"
        f" classid {handle_text(classid)} htb rate {rate_Bps * 8}bit"
    )
    # An existing class is changed by a request that does not ask to create.
    return RTM_NEWTCLASS, 0 if replace else NLM_F_CREATE | NLM_F_EXCL, body, label


def new_qdisc_bfifo(
    ifindex: int, parent: int, handle: int, limit_bytes: int, *, replace: bool = False
) -> Message:
    """Put a queue bounded in bytes below a class.

    Equivalent to: tc qdisc add dev IF parent P handle H bfifo limit N
    """
    options = attr(TCA_OPTIONS, FIFO_QOPT.pack(min(limit_bytes, U32_MAX)))
    return _new_qdisc(ifindex, parent, handle, "bfifo", options, replace)


def new_qdisc_fq_codel(
    ifindex: int,
    parent: int,
    handle: int,
    *,
    limit: int | None = None,
    target_us: int | None = None,
    interval_us: int | None = None,
    memory_limit: int | None = None,
    quantum: int | None = None,
    ecn: int | None = None,
    ce_threshold_us: int | None = None,
    flows: int | None = None,
    replace: bool = False,
) -> Message:
    """Put an fq_codel queue below a class; ENOENT when the kernel does not have it.

    limit: packets. memory_limit, quantum: bytes. ecn: 1 marks instead of dropping, where the
    sender can. flows: of a new queue; EINVAL for one that is there. None takes the kernel's
    default, with replace what the queue has.
    Equivalent to: tc qdisc add dev IF parent P handle H fq_codel limit N target T ...
    """
    options = b""
    for kind, value in (
        (TCA_FQ_CODEL_TARGET, target_us),
        (TCA_FQ_CODEL_LIMIT, limit),
        (TCA_FQ_CODEL_INTERVAL, interval_us),
        (TCA_FQ_CODEL_ECN, ecn),
        (TCA_FQ_CODEL_FLOWS, flows),
        (TCA_FQ_CODEL_QUANTUM, quantum),
        (TCA_FQ_CODEL_CE_THRESHOLD, ce_threshold_us),
        (TCA_FQ_CODEL_MEMORY_LIMIT, memory_limit),
    ):
        if value is not None:
            options += attr_u32(kind, value)
    return _new_qdisc(ifindex, parent, handle, "fq_codel", nest(TCA_OPTIONS, options), replace)


def new_qdisc_tbf(
    ifindex: int,
    parent: int,
    handle: int,
    *,
    rate_Bps: int,
    max_bytes: int,
    limit_bytes: int,
    replace: bool = False,
) -> Message:
    """Put a token bucket below a class: larger super-packets than its burst, it cuts.

    rate_Bps: from 2**32 up as TCA_TBF_RATE64. max_bytes: the burst. limit_bytes: of the bfifo
    that it begins with, or of the one that was put in its place.
    Layout: struct tc_tbf_qopt in <linux/pkt_sched.h>.
    Equivalent to: tc qdisc add dev IF parent P handle H tbf rate R burst B limit N
    """
    parms = TBF_QOPT.pack(
        *(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate_Bps, U32_MAX)),
        min(limit_bytes, U32_MAX),
        0,
        0,
    )
    options = attr(TCA_TBF_PARMS, parms)
    if rate_Bps > U32_MAX:
        options += attr_u64(TCA_TBF_RATE64, rate_Bps)
    options += attr_u32(TCA_TBF_BURST, max_bytes)
    return _new_qdisc(ifindex, parent, handle, "tbf", nest(TCA_OPTIONS, options), replace)


def del_qdisc(ifindex: int, parent: int = TC_H_ROOT, handle: int = 0) -> Message:
    """Take away the qdisc at a place and all below it; ENOENT when only the default is there.

    Equivalent to: tc qdisc del dev IF root
    """
    body = tcmsg(ifindex, handle, parent)
    label = f"tc qdisc del dev if{ifindex} {handle_text(parent)}"
    return RTM_DELQDISC, 0, body, label


def get_qdisc(ifindex: int, parent: int = TC_H_ROOT, handle: int = 0) -> Message:
    """Ask for the qdisc at a place (the root, below a class) or, parent 0, of a handle.

    The answer's parent is the one that was asked for, 0 with a handle.
    ENOENT when there is none but the kernel's own. Costs the same with any number of
    interfaces, which a dump of qdiscs does not. Without NLM_F_ECHO the kernel would answer
    everybody who listens, but not us.
    Equivalent to: tc qdisc get dev IF root
    """
    body = tcmsg(ifindex, handle, parent)
    return RTM_GETQDISC, NLM_F_ECHO, body, f"tc qdisc get dev if{ifindex} {handle_text(parent)}"


def dump_qdiscs(ifindex: int = 0) -> Message:
    """Ask for all qdiscs. Few kernels have a filter: compare Qdisc.ifindex, or use get_qdisc.

    Equivalent to: tc qdisc show
    """
    body = tcmsg(ifindex, 0, 0)
    label = f"tc qdisc show dev if{ifindex}" if ifindex else "tc qdisc show"
    return RTM_GETQDISC, 0, body, label


def del_class(ifindex: int, classid: int) -> Message:
    """Take a class away with the queue below it; EBUSY when it has classes below.

    Equivalent to: tc class del dev IF classid C
    """
    body = tcmsg(ifindex, classid, 0)
    return RTM_DELTCLASS, 0, body, f"tc class del dev if{ifindex} classid {handle_text(classid)}"


def get_class(ifindex: int, classid: int) -> Message:
    """Ask for one class; ENOENT when it or its qdisc is not there.

    Equivalent to: tc class get dev IF classid C
    """
    body = tcmsg(ifindex, classid, 0)
    return (
        RTM_GETTCLASS,
        NLM_F_ECHO,
        body,
        f"tc class get dev if{ifindex} classid {handle_text(classid)}",
    )


def dump_classes(ifindex: int) -> Message:
    """Ask for the classes of one interface, with their counters.

    Equivalent to: tc -s class show dev IF
    """
    body = tcmsg(ifindex, 0, 0)
    return RTM_GETTCLASS, 0, body, f"tc class show dev if{ifindex}"


def dump_filters(ifindex: int, parent: int) -> Message:
    """Ask for the filters of one qdisc.

    Equivalent to: tc filter show dev IF parent 1:
    """
    body = tcmsg(ifindex, 0, parent)
    return RTM_GETTFILTER, 0, body, f"tc filter show dev if{ifindex} {handle_text(parent)}"
