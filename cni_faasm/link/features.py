"""Know what networks need of the kernel, by module, and look which of it is missing.

One table for ADD, STATUS, `cni-faasm validate` and docs/kernels.md. What the kernel says of a
thing that it does not know differs by thing and version, and mostly names none. So nothing is
read out of it: where something was refused, each feature is tried by itself, in a namespace
that vanishes. Trying loads the modules that there are.
"""

import errno
import os
from collections.abc import Callable, Iterable

from cni_faasm.config.loading import NetworkConfig
from cni_faasm.link import netns, probes
from cni_faasm.netlink import (
    nft,
    nft_expr,
    nft_match,
    tc,
    tc_filter,
    tc_mirred,
)
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import KERNEL_LACKS_FEATURE, CniError

OLDEST = (5, 10)
# What the kernel answers to a request for what it does not have. Anything else says nothing of
# that: a lack of rights or memory, say.
_MISSING = (
    errno.ENOENT,
    errno.EINVAL,
    errno.EOPNOTSUPP,
    errno.EPROTONOSUPPORT,
    errno.EAFNOSUPPORT,
)


class Feature:
    """One thing of the kernel's.

    name: in words. module: what has it, or what to build it with. keys: those of the
    configuration that need it; () for each attachment. after: the feature without which it
    cannot be tried. remedy: what else can be done than to get the module.
    """

    __slots__ = ("after", "keys", "module", "name", "probe", "remedy")

    def __init__(  # noqa: PLR0917 -- a table, in the order of its columns
        self,
        name: str,
        module: str,
        keys: tuple[str, ...],
        probe: Callable[[Netlink], None],
        after: str = "",
        remedy: str = "",
    ) -> None:
        self.name = name
        self.module = module
        self.keys = keys
        self.probe = probe
        self.after = after
        self.remedy = remedy


class Lack:
    """A feature that is missing, and the keys of a configuration that need it."""

    __slots__ = ("feature", "keys")

    def __init__(self, feature: Feature, keys: tuple[str, ...]) -> None:
        self.feature = feature
        self.keys = keys

    def __str__(self) -> str:
        feature = self.feature
        needed_by = f"{' and '.join(self.keys)} need{'' if self.keys[1:] else 's'}"
        return (
            f"{feature.name} ({feature.module}), which "
            f"{needed_by if self.keys else 'each attachment needs'}"
        )


RATES = "bandwidth"
BACKSTOP = "bandwidth.egressRate"  # which holds without it, but for who has CAP_NET_RAW
BACKSTOP_BRIDGED = "bandwidth.egressRate at a bridge's port"
PACKETS = "bandwidth.packetRate"
CONNECTIONS = "bandwidth.maxConnections"
SHARED = "bandwidth.shared"
ENFORCE = "bandwidth.enforceEgress"
SUBNETS = "bandwidth.unshapedSubnets"
SHAPED = "bandwidth.shapedSubnets"
MASQ = "ipMasq"
SPOOF = "antiSpoof"
ISOLATED = "isolated"
PORTS = "portMappings"
RANGES6 = "an IPv6 range of ipam"
FORWARD = "iptables' FORWARD chain with the policy drop"  # of the host, as Docker and ufw set it
_INET, _ARP = nft.NFPROTO_INET, nft.NFPROTO_ARP
_NO_RULES = 'set "antiSpoof": false, leave ipMasq and isolated out, and publish no ports'
_NO_NAT = "leave ipMasq out, and let the routers know the way back; and publish no ports"
_NO_SPOOF = 'set "antiSpoof": false, and containers can spoof'

FEATURES = (
    Feature("veth pairs", "veth", (), probes.devices("probe0", "veth")),
    Feature(
        "IPv6",
        "ipv6, and no ipv6.disable=1",
        (RANGES6,),
        probes.ipv6,
        remedy="leave the ranges out",
    ),
    Feature(
        "HTB",
        "sch_htb",
        (RATES,),
        lambda netlink: probes.execute(netlink, tc.new_qdisc_htb(probes.LOOPBACK, probes.ROOT, 0)),
        remedy="leave bandwidth out, and nothing is limited",
    ),
    Feature(
        "clsact",
        "sch_ingress",
        (ENFORCE,),
        lambda netlink: probes.execute(netlink, tc_mirred.new_clsact(probes.LOOPBACK)),
        remedy="leave bandwidth.enforceEgress out",
    ),
    Feature(
        "ifb devices",
        "ifb",
        (ENFORCE,),
        probes.devices("probe1", "ifb"),
        remedy="leave bandwidth.enforceEgress out",
    ),
    Feature(
        "the classifier u32",
        "cls_u32",
        (ENFORCE,),
        probes.classifier(tc_mirred.CLSACT_INGRESS, tc_filter.U32),
        "clsact",
        "leave bandwidth.enforceEgress out",
    ),
    Feature(
        "the action mirred",
        "act_mirred",
        (ENFORCE,),
        lambda netlink: probes.execute(
            netlink, tc_mirred.new_redirect(probes.LOOPBACK, probes.LOOPBACK)
        ),
        "the classifier u32",
        "leave bandwidth.enforceEgress out",
    ),
    Feature(
        "a classifier for subnets",
        "cls_u32 or cls_flower",
        (SUBNETS, SHAPED),
        probes.classifier(probes.ROOT, tc_filter.U32, tc_filter.FLOWER),
        "HTB",
        "leave the subnets out, and all traffic is limited",
    ),
    Feature(
        "nf_tables",
        "nf_tables, nfnetlink",
        (MASQ, SPOOF, ISOLATED, PORTS),
        probes.nftables(),
        remedy=_NO_RULES,
    ),
    Feature(
        "nf_tables' family inet",
        "nf_tables with CONFIG_NF_TABLES_INET",
        (MASQ, SPOOF, ISOLATED, PORTS),
        probes.rule(_INET),
        "nf_tables",
        _NO_RULES,
    ),
    Feature(
        "nf_tables' family arp",
        "nf_tables with CONFIG_NF_TABLES_ARP",
        (SPOOF,),
        probes.rule(_ARP),
        "nf_tables",
        _NO_SPOOF,
    ),
    Feature(
        "NAT in nf_tables",
        "nft_chain_nat",
        (MASQ, PORTS),
        probes.rule(_INET, type="nat"),
        "nf_tables' family inet",
        _NO_NAT,
    ),
    Feature(
        "masquerading in nf_tables",
        "nft_masq",
        (MASQ, PORTS),
        probes.rule(_INET, nft_expr.masquerade(), type="nat"),
        "NAT in nf_tables",
        _NO_NAT,
    ),
    Feature(
        "destinations by maps of nf_tables",
        "nft_nat, and nft_fib_inet with nft_fib_ipv4 and nft_fib_ipv6",
        (PORTS,),
        probes.nftables(*probes.redirect()),
        "NAT in nf_tables",
        "publish no ports, or by the plugin portmap",
    ),
    Feature(
        "routing lookups in nf_tables",
        "nft_fib_inet, with nft_fib_ipv4 and nft_fib_ipv6",
        (SPOOF,),
        probes.rule(_INET, nft_match.source_not_routed_back()),
        "nf_tables' family inet",
        _NO_SPOOF,
    ),
    Feature(
        "connection tracking in nf_tables",
        "nft_ct, nf_conntrack",
        (ISOLATED,),
        probes.rule(_INET, nft_match.known_connection()),
        "nf_tables' family inet",
        "leave isolated out",
    ),
    Feature(
        "counters in nf_tables",
        "nft_counter; part of nf_tables since Linux 5.17",
        (SPOOF, ISOLATED),
        probes.rule(_INET, nft_expr.counter()),
        "nf_tables' family inet",
        'set "antiSpoof": false and leave isolated out',
    ),
    Feature(
        "limits in sets of nf_tables",
        "nft_limit, and nf_tables with CONFIG_NF_TABLES_INET and CONFIG_NF_TABLES_ARP",
        (BACKSTOP,),
        probes.nftables(*probes.limits(nft.NFPROTO_INET, nft.NFPROTO_ARP)),
        "",
        "do without, and containers with CAP_NET_RAW can send more",
    ),
    Feature(
        "limits of packets in nf_tables",
        "nft_limit, nft_counter, and nf_tables with CONFIG_NF_TABLES_INET and CONFIG_NF_TABLES_ARP",
        (PACKETS,),
        probes.nftables(*probes.limits(nft.NFPROTO_INET, nft.NFPROTO_ARP)),
        "",
        "leave packetRate and its like out of bandwidth",
    ),
    Feature(
        "maps to limits in nf_tables",
        "nft_limit, nft_objref",
        (SHARED,),
        probes.nftables(*probes.maps()),
        "",
        "leave shared out of bandwidth",
    ),
    Feature(
        "counts of connections in nf_tables",
        "nft_connlimit of Linux 5.17 or later, nf_conncount, nf_conntrack",
        (CONNECTIONS,),
        probes.nftables_of(probes.counts),
        "",
        "leave maxConnections out of bandwidth",
    ),
    Feature(
        "refusals in nf_tables",
        "nft_reject_inet, nft_ct",
        (CONNECTIONS,),
        probes.rule(_INET, nft_match.new_connection(), nft_match.refuse()),
        "",
        "leave maxConnections out of bandwidth",
    ),
    Feature(
        "limits in nf_tables' family bridge",
        "nft_limit, and nf_tables with CONFIG_NF_TABLES_BRIDGE",
        (BACKSTOP_BRIDGED,),
        probes.nftables(*probes.limits(nft.NFPROTO_BRIDGE)),
        "",
        "do without, and containers with CAP_NET_RAW can send more",
    ),
    Feature(
        "iptables' matches in nf_tables",
        "nft_compat, xt_conntrack, xt_comment",
        (FORWARD,),
        probes.rule(
            nft.NFPROTO_IPV4,
            nft_expr.iptables_accept(
                saddr=(bytes(4), 1), states=nft_expr.XT_CONNTRACK_STATE_ESTABLISHED
            ),
        ),
        "nf_tables",
        "let the network pass there by a rule of your own",
    ),
)


def keys_of(config: NetworkConfig) -> set[str]:
    """Return the keys of FEATURES that a configuration uses; () stands for the pair itself."""
    used = set()
    if config.ingress.rate_bps or config.egress.rate_bps:
        used.add(RATES)
        if config.subnets:
            used.add(SHAPED if config.subnets_only else SUBNETS)
    if config.enforce_egress and config.egress.rate_bps:
        used.add(ENFORCE)
    if config.counted is not None and (config.counted.ingress or config.counted.egress):
        used.add(PACKETS)
    if config.shared is not None:
        used.add(SHARED)
    if config.counted is not None and config.counted.connections:
        used.add(CONNECTIONS)
    if config.shapes_only:
        return used
    if config.ip_masq:
        used.add(MASQ)
    if config.guard is not None and config.guard.anti_spoof:
        used.add(SPOOF)
    if config.guard is not None and config.guard.isolated:
        used.add(ISOLATED)
    if config.ports:
        used.add(PORTS)
    if any(len(one.network) == 16 for listed in config.range_sets for one in listed):
        used.add(RANGES6)
    return used


def missing(keys: set[str] | None = None, *, makes_pairs: bool = True) -> list[Lack]:
    """Return what this kernel lacks of what these keys need (None: of everything).

    A feature is not told whose base is missing, too. makes_pairs: whether a pair is needed.
    Raises: CniError 5 when no namespace can be made.
    """
    found: list[Lack] = []
    tried: dict[str, bool] = {}
    with netns.Empty(), Netlink() as netlink:
        for feature in FEATURES:
            used = tuple(key for key in feature.keys if keys is None or key in keys)
            is_needed = bool(used) if feature.keys else makes_pairs
            is_base = any(other.after == feature.name for other in FEATURES)
            if not is_needed and not is_base:
                continue
            has_base = tried.get(feature.after, True)
            tried[feature.name] = has_base and _has(feature, netlink)
            if is_needed and has_base and not tried[feature.name]:
                found.append(Lack(feature, used))
    return found


def _has(feature: Feature, netlink: Netlink) -> bool:
    try:
        feature.probe(netlink)
    except NetlinkError as error:
        return error.errno not in _MISSING
    return True


def lacking(lacks: Iterable[Lack]) -> CniError:
    """Return the one error that names all that is missing."""
    listed = list(lacks)
    modules = [one.feature.module.split(",")[0].split(";")[0] for one in listed]
    remedies = dict.fromkeys(one.feature.remedy for one in listed if one.feature.remedy)
    details = (
        f"`modprobe {modules[0].split()[0]}` says why; install the package that has the module, or "
        "build it (docs/kernels.md)"
    )
    if remedies:
        details += f"; or {', '.join(remedies)}"
    text = "; ".join(filter(None, (*map(str, listed), age())))
    return CniError(KERNEL_LACKS_FEATURE, f"this kernel lacks {text}", details)


def age() -> str:
    """Return what there is to say of a kernel that is older than any that is tested, else ""."""
    release = os.uname().release
    if version(release) >= OLDEST:
        return ""
    return f"it is Linux {release}, and the oldest that faasm is made for is 5.10"


def version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a kernel's release ("6.1.0-50-cloud-amd64"); (0, 0) when odd."""
    major, _, rest = release.partition(".")
    minor = ""
    for sign in rest:
        if not sign.isdigit():
            break
        minor += sign
    if not (major.isascii() and major.isdigit() and minor.isascii() and minor):
        return 0, 0
    return int(major), int(minor)
