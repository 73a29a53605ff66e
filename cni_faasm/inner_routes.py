"""Make a container's routes, behind those that it has by other interfaces.

The kernel puts an IPv4 route that is appended behind those of its destination and metric, but
makes one IPv6 route with several hops of them, which share the flows: half of what a container
sends would leave by its second interface, past the limit of the first. So an IPv6 route through
a gateway, with no metric asked for, gets the first one from the kernel's own that is free.
"""

from cni_faasm import inet
from cni_faasm.netlink import route
from cni_faasm.netlink.route import RT_TABLE_MAIN
from cni_faasm.netlink.transport import Netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from cni_faasm.netlink.wire import Message
    from cni_faasm.results import Route

IP6_RT_PRIO_USER = 1024  # <linux/ipv6_route.h>
AF_INET6 = 10


def messages(inner: Netlink, ifindex: int, routes: "Iterable[Route]") -> "list[Message]":
    """Return what makes routes by an interface. Raises: NetlinkError."""
    wanted = list(routes)
    taken: set[tuple[object, ...]] = set()
    if any(_would_share(one) for one in wanted):
        from cni_faasm.netlink import dumps  # only IPv6 needs it

        taken = {
            (one.dst, one.prefix_len, one.table, one.priority)
            for one in dumps.routes(inner, AF_INET6, hop=ifindex)
            if one.oif != ifindex
        }
    return [message(ifindex, one, _metric(one, taken)) for one in wanted]


def message(ifindex: int, one: "Route", priority: "int | None" = None) -> "Message":
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


def _would_share(one: "Route") -> bool:
    return len(one.dst) == 16 and one.gateway is not None and one.priority is None


def _metric(one: "Route", taken: "set[tuple[object, ...]]") -> "int | None":
    if not _would_share(one):
        return one.priority
    dst, table = inet.network(one.dst, one.prefix_len), one.table or RT_TABLE_MAIN
    metric = IP6_RT_PRIO_USER
    while (dst, one.prefix_len, table, metric) in taken:
        metric += 1
    return None if metric == IP6_RT_PRIO_USER else metric
