"""Claim no address that somebody else on the host's links lives from.

The gateway becomes an address of the host, and a container's address is routed to it. In a pool
that lies in the host's own LAN either may be a router's or another machine's, and the host would
answer for it from then on.
"""

import time
from collections.abc import Iterable

from cni_faasm.attachment.plan import Plan
from cni_faasm.link import veth
from cni_faasm.netlink import dumps, neigh, route
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESS_UNAVAILABLE, CniError

PROBE_TIMEOUT_S = 0.3
_POLL_S = 0.005
# An answer has come, now or earlier, or a person says so (<linux/neighbour.h>).
_ANSWERED = neigh.NUD_REACHABLE | neigh.NUD_PERMANENT


def demand_free(host: Netlink, plan: Plan) -> None:
    """Refuse a plan whose gateway or address is somebody else's.

    The usual case, a range of no link of the host's, costs one exchange, and so does a gateway
    that the host has already.
    Raises: CniError 104; NetlinkError.
    """
    demand(host, plan.gateways, [item.address for item in plan.addresses])


def demand(host: Netlink, gateways: list[bytes], addresses: list[bytes]) -> None:
    """Refuse gateways and addresses that are somebody else's. Raises: as demand_free."""
    wanted = [*gateways, *addresses]
    answers = host.get_tolerant([route.get_route(one) for one in wanted])
    new = []
    for address, answer in zip(wanted, answers, strict=True):
        taken = None if isinstance(answer, NetlinkError) else route.parse_route(answer)
        if taken is not None and taken.type == route.RTN_LOCAL:
            continue  # the host's own; whether a container may have it is asked later
        if address in gateways:
            new.append(address)
        if taken is not None and _answers(host, address, taken):
            raise _theirs(host, address, taken, is_gateway=address in gateways)
    for gateway in sorted(set(new) & _next_hops(host, new)):
        raise CniError(
            ADDRESS_UNAVAILABLE,
            f"the gateway {inet.unpack(gateway)} is a router of the host's: routes go by it",
            "the gateway becomes an address of this host: leave ipam.gateway out, or take a "
            "range of no network that the host is in",
        )


def _next_hops(host: Netlink, gateways: Iterable[bytes]) -> set[bytes]:
    families = {inet.family(one) for one in gateways}
    return {hop for family in families for hop in dumps.next_hops(host, family)}


def _answers(host: Netlink, address: bytes, taken: route.RouteInfo) -> bool:
    """Say whether a machine on a link of the host's, and no container of ours, has an address."""
    if taken.oif is None or taken.gateway is not None or not taken.prefix_len:
        return False
    if taken.prefix_len == len(address) * 8:
        return False  # a route to it alone: of an attachment, or told to be somebody else's
    if _state(host, taken.oif, address) & _ANSWERED:
        return True
    # As DHCP servers do: ask, and wait a moment. The kernel asks, and knows what comes.
    host.execute_tolerant([neigh.use_neigh(taken.oif, address)])
    deadline = time.monotonic() + PROBE_TIMEOUT_S
    while time.monotonic() < deadline:
        state = _state(host, taken.oif, address)
        if state & _ANSWERED:
            return True
        if not state & (neigh.NUD_INCOMPLETE | neigh.NUD_PROBE | neigh.NUD_DELAY):
            return False
        time.sleep(_POLL_S)
    return False


def _state(host: Netlink, ifindex: int, address: bytes) -> int:
    [answer] = host.get_tolerant([neigh.get_neigh(ifindex, address)])
    return 0 if isinstance(answer, NetlinkError) else neigh.parse_neigh(answer).state


def _theirs(host: Netlink, address: bytes, taken: route.RouteInfo, *, is_gateway: bool) -> CniError:
    device = veth.find(host, ifindex=taken.oif or 0)
    what = "the gateway" if is_gateway else "the address"
    where = device.name if device is not None else f"interface {taken.oif}"
    return CniError(
        ADDRESS_UNAVAILABLE,
        f"{what} {inet.unpack(address)} belongs to a machine that answers on {where}",
        "the range lies in a network that the host is in: take another, or keep what is in use "
        "there out of it by rangeStart, rangeEnd and gateway",
    )
