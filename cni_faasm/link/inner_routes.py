"""Make a container's routes, behind those that it has by other interfaces.

Of several routes of one destination and metric the kernel takes none for the first. It makes
one IPv6 route with several hops of them, which share the flows; of IPv4 default routes it takes
the next at each look, as long as their gateways have permanent neighbour entries. So half of
what a container sends would leave by its second interface, past the limit of the first. That is
why a route through a gateway, with no metric asked for, gets the first one from the kernel's own
that is free.
"""

from collections.abc import Iterable

from cni_faasm.netlink import dumps, route
from cni_faasm.netlink.route import RT_TABLE_MAIN
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message
from cni_faasm.spec import inet
from cni_faasm.spec.results import Route

# By an address's length: what the kernel takes where no metric is given, <linux/ipv6_route.h>.
OWN_METRICS = {4: 0, 16: 1024}


def messages(inner: Netlink, ifindex: int, routes: Iterable[Route]) -> list[Message]:
    """Return what makes routes by an interface. Raises: NetlinkError."""
    wanted = list(routes)
    taken: set[tuple[object, ...]] = set()
    for family in sorted({inet.family(one.dst) for one in wanted if _would_share(one)}):
        taken |= {
            (one.dst, one.prefix_len, one.table, one.priority or 0)
            for one in dumps.routes(inner, family, hop=ifindex)
            if one.oif != ifindex
        }
    return [message(ifindex, one, _metric(one, taken)) for one in wanted]


def message(ifindex: int, one: Route, priority: int | None = None) -> Message:
    """Return what makes one route. priority: None for the kernel's own."""
    return route.new_route(
        one.dst,
        one.prefix_len,
        ifindex,
        gateway=one.gateway,
        scope=one.scope,
        mtu=one.mtu,
        advmss=one.advmss,
        priority=priority,
        table=one.table,
        append=True,
    )


def _would_share(one: Route) -> bool:
    return one.gateway is not None and one.priority is None


def _metric(one: Route, taken: set[tuple[object, ...]]) -> int | None:
    if not _would_share(one):
        return one.priority
    dst, table = inet.network(one.dst, one.prefix_len), one.table or RT_TABLE_MAIN
    metric = own_metric = OWN_METRICS[len(dst)]
    while (dst, one.prefix_len, table, metric) in taken:
        metric += 1
    return None if metric == own_metric else metric
