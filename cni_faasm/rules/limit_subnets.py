"""Write down the chains of limits that hold for some subnets (limit_tables.py).

An element counts when it is found, so a packet is compared with the subnets before.
"""

from collections.abc import Iterable

from cni_faasm.attachment.plan import Plan
from cni_faasm.config.policy import digest
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.netlink import nft, nft_expr, nft_match
from cni_faasm.spec import inet

TO = "to_"  # the chains of subnets begin so, the sets with SCOPED
SCOPED = "egress_"

Scopes = dict[str, Scope]  # by mark


def mark(scope: Scope) -> str:
    """Return what tells a list of subnets from others, in names of sets and chains."""
    subnets = sorted(inet.cidr(*one) for one in scope.subnets)
    return digest(" ".join(("only" if scope.only else "all but", *subnets)))[:8]


def scopes(plans: Iterable[Plan]) -> Scopes:
    """Return all lists of subnets of some attachments."""
    found = (plan.egress.scope for plan in plans if plan.egress is not None)
    return {mark(scope): scope for scope in found if scope is not None}


DROP = nft_expr.counter() + nft_expr.verdict(nft_expr.DROP)


def hold(name: str) -> bytes:
    """Drop what is above its bucket in a set."""
    listed = nft_match.listed(nft_match.INTERFACE, name)
    return listed + DROP


def scope_rules(family: int, one: str, scope: Scope) -> list[bytes]:
    """Return the rules of the chain of a list of subnets."""
    above = hold(SCOPED + one)
    if scope.only:
        return [_to(family, *subnet) + above for subnet in _outermost(scope)]
    back = nft_expr.verdict(nft_expr.RETURN)
    return [*(_to(family, *subnet) + back for subnet in _outermost(scope)), above]


def _to(family: int, network: bytes, prefix_len: int) -> bytes:
    if family == nft.NFPROTO_BRIDGE:
        return nft_match.bridged_to(network, prefix_len)
    return nft_expr.match_daddr(network, prefix_len)


def _outermost(scope: Scope) -> list[tuple[bytes, int]]:
    """Return the subnets without those that lie in others: no packet is to count twice."""
    found: list[tuple[bytes, int]] = []
    for network, prefix_len in sorted(scope.subnets, key=lambda one: one[1]):
        if not any(
            len(other) == len(network) and inet.network(network, length) == other
            for other, length in found
        ):
            found.append((network, prefix_len))
    return sorted(found)
