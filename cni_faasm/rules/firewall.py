"""Find out whether the host's firewall refuses what a network's containers send or get.

No accept of ours overrules what another chain at the same hook drops. So ADD warns, STATUS says
code 51, and the operator's tool what to do. Looked at are the chains in which hosts forbid
forwarding: firewalld's, iptables' FORWARD, and `forward` in a table `filter`, as in the
/etc/nftables.conf of distributions. Said is only what is certain for every new TCP connection:
a firewall that lets some pass is left to who wrote it.
"""

from __future__ import annotations

from cni_faasm.config import policy
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.link import veth
from cni_faasm.netlink import nft
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import nat, packet
from cni_faasm.rules.packet import Packet
from cni_faasm.rules.packet_path import Table
from cni_faasm.spec import inet
from cni_faasm.spec.errors import LIMITED_CONNECTIVITY, CniError

Network = tuple[bytes, int]

_FAMILIES = {4: nft.NFPROTO_IPV4, 16: nft.NFPROTO_IPV6}
_FIREWALLD = (nft.NFPROTO_INET, "firewalld", "filter_FORWARD")
_FIREWALLD_OF_IPTABLES = "FORWARD_direct"  # a chain that it makes with that backend
_NFT = ("filter", "forward")
_IPTABLES = ("filter", "FORWARD")
FIREWALLD = "firewalld"

TO_OUTSIDE = "send to the outside"
TO_EACH_OTHER = "send to one another"
ANSWERS = "get back from the outside"


class Senders:
    """Whose packets are followed: ranges, and names of interfaces as packet.Packet has them."""

    __slots__ = ("interface", "isolated", "network", "ranges")

    def __init__(
        self, network: str, ranges: list[Network], interface: str, *, isolated: bool
    ) -> None:
        self.network = network
        self.ranges = ranges
        self.interface = interface
        self.isolated = isolated

    @classmethod
    def of(cls, config: NetworkConfig) -> Senders:
        """Return all that a network may have, by its configuration."""
        return cls(
            config.name,
            [(one.network, one.prefix_len) for listed in config.range_sets for one in listed],
            f"{config.host_interface_prefix}*",
            isolated=config.guard is not None and config.guard.isolated,
        )


class Refusal:
    """What one chain refuses: (range, one of the texts above) each. owner: FIREWALLD or ""."""

    __slots__ = ("chain", "owner", "refused")

    def __init__(self, chain: nft.Chain, owner: str) -> None:
        self.chain = chain
        self.owner = owner
        self.refused: list[tuple[Network, str]] = []

    def __str__(self) -> str:
        one = self.chain
        place = f"nft chain {nft.family_name(one.family, one.table, one.name)}"
        by_ranges: dict[str, list[str]] = {}
        for way in dict.fromkeys(way for _, way in self.refused):
            ranges = ", ".join(inet.cidr(*net) for net, its in self.refused if its == way)
            by_ranges.setdefault(ranges, []).append(way)
        ways = "; ".join(f"what {key} {' and '.join(found)}" for key, found in by_ranges.items())
        return f"{self.owner or 'a firewall'} ({place}) refuses {ways}"

    def remedy(self, senders: Senders) -> str:
        """Return what the operator can do."""
        if self.owner == FIREWALLD:
            return (
                f"cni-faasm firewall-trust --network {senders.network} puts its ranges into "
                "firewalld's zone trusted"
            )
        one = self.chain
        place = nft.family_name(one.family, one.table, one.name)
        return (
            f'let it pass there: nft insert rule {place} iifname "{senders.interface}" accept; '
            f'nft insert rule {place} oifname "{senders.interface}" '
            "ct state established,related accept"
        )


def error(found: list[Refusal], senders: Senders) -> CniError:
    """Return the one error that tells of all of them."""
    return CniError(
        LIMITED_CONNECTIVITY,
        f"network {senders.network!r} is cut off: " + "; ".join(str(one) for one in found),
        "; ".join(dict.fromkeys(one.remedy(senders) for one in found)),
    )


def refusals(host: Netlink, senders: Senders, *, all_chains: bool = True) -> list[Refusal]:
    """Return the chains that refuse all of some way that containers should have.

    host: a socket in the namespace that forwards. all_chains: iptables' FORWARD, too, which
    may be long.
    Raises: NetlinkError.
    """
    lengths = sorted({len(net) for net, _ in senders.ranges})
    places = [_FIREWALLD, (nft.NFPROTO_INET, *_NFT)]
    for length in lengths:
        places.append((_FAMILIES[length], *_NFT))
        if all_chains:
            places.append((_FAMILIES[length], *_IPTABLES))
    with Nftables() as netfilter:
        bodies = netfilter.ask([nft.get_chain(*place) for place in places])
        chains = [nft.parse_chain(body) for body in bodies if body is not None]
        # One that is no base chain, or of another hook, is somebody's with the same name.
        chains = [one for one in chains if one.hook == nft.NF_INET_FORWARD]
        if not chains:
            return []
        return _follow(netfilter, chains, _ways(host, senders, lengths))


def _follow(
    netfilter: Netlink,
    chains: list[nft.Chain],
    ways: list[tuple[Network, str, Packet]],
) -> list[Refusal]:
    found = []
    for chain in chains:
        table = Table(netfilter, chain.family, chain.table)
        refusal = Refusal(chain, _owner(table, chain))
        up_to = _before_ours(table, chain)
        for net, way, one in ways:
            if chain.family in (nft.NFPROTO_INET, one.family) and table.refuses(chain, one, up_to):
                refusal.refused.append((net, way))
        if refusal.refused:
            found.append(refusal)
    return found


def _owner(table: Table, chain: nft.Chain) -> str:
    if chain.table == _FIREWALLD[1]:
        return FIREWALLD
    is_its = chain.name == _IPTABLES[1] and _FIREWALLD_OF_IPTABLES in table.targets(chain.name)
    return FIREWALLD if is_its else ""


def _before_ours(table: Table, chain: nft.Chain) -> int | None:
    """Return after how many rules those of `nat` accept, None when there are none.

    Whether or not they are there yet: the next ADD makes them.
    """
    if (chain.table, chain.name) != _IPTABLES or chain.policy != nft.NF_DROP:
        return None
    targets = table.targets(chain.name)
    return max((i + 1 for i, name in enumerate(targets) if name in nat.OPERATORS), default=0)


def _ways(host: Netlink, senders: Senders, lengths: list[int]) -> list[tuple[Network, str, Packet]]:
    """Return the ways that containers should have, as (range, text, packet)."""
    own, group = senders.interface, policy.group(senders.network)
    found = []
    for length in lengths:
        family = _FAMILIES[length]
        uplink = veth.uplink_name(host, length)
        for net in senders.ranges:
            if len(net[0]) != length:
                continue
            if uplink:
                out = packet.Packet(
                    family,
                    source=net,
                    not_to=[one for one in senders.ranges if len(one[0]) == length],
                    come_by=own,
                    leave_by=uplink,
                    groups=(group, None),
                )
                back = packet.Packet(
                    family,
                    destination=net,
                    come_by=uplink,
                    leave_by=own,
                    groups=(None, group),
                    state=packet.ESTABLISHED,
                )
                found += [(net, TO_OUTSIDE, out), (net, ANSWERS, back)]
            if not senders.isolated:
                between = packet.Packet(
                    family,
                    source=net,
                    destination=net,
                    come_by=own,
                    leave_by=own,
                    groups=(group, group),
                )
                found.append((net, TO_EACH_OTHER, between))
    return found
