"""Make a whole attachment between two empty namespaces, to see whether the kernel can.

Apart from status.py, which needs none of it while `rehearsed` says that an earlier one holds.
"""

import os
from collections.abc import Callable

from cni_faasm.attachment import plan, rehearsed
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.ipam.store import Allocation
from cni_faasm.link import egress, features, kernel, netns, veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.rules import backstop, guard, nat
from cni_faasm.spec.protocol import Request
from cni_faasm.verbs import chained


def rehearse(config: NetworkConfig, request: Request, allocations: list[Allocation]) -> None:
    """Make what an ADD would make, and keep that it went well.

    allocations: addresses, none where only limits are made. Raises: CniError, NetlinkError.
    """
    if config.shapes_only:
        _between(lambda sockets, inner_fd: chained.rehearse(config, sockets, inner_fd))
    else:
        _between(lambda sockets, inner_fd: _attach(config, request, allocations, sockets, inner_fd))
    rehearsed.note(config, request.document)


def remarks(config: NetworkConfig) -> list[str]:
    """Return what an ADD would lack that asks for more than all do. Raises: CniError."""
    if not config.offers_ports or config.shapes_only:
        return []
    lacks = features.missing({features.PORTS}, makes_pairs=False)
    if not lacks:
        return []
    error = features.lacking(lacks)
    return [f"STATUS: who asks for published ports is refused: {error.msg}; {error.details}"]


def _between(act: Callable[[tuple[Netlink, Netlink], int], None]) -> None:
    """Run a rehearsal, with sockets in two empty namespaces and the second's descriptor."""
    with netns.Empty():
        inner_fd = netns.open_own()
        try:
            with Netlink() as inner, netns.Empty(), Netlink() as host:
                act((host, inner), inner_fd)
        finally:
            os.close(inner_fd)


def _attach(
    config: NetworkConfig,
    request: Request,
    allocations: list[Allocation],
    sockets: tuple[Netlink, Netlink],
    inner_fd: int,
) -> None:
    host, inner = sockets
    promised = plan.make(
        config,
        request,
        [plan.PlannedAddress(item.address, item.gateway) for item in allocations],
        mtu=plan.link_mtu(config, 0),
        queue=kernel.BFIFO,
        boot_id="",
        created=0,
        random=os.urandom(12),
        scope=kernel.scope(config, "", None),
    )
    promised.ifname = "eth0"
    veth.create(host, inner, promised, inner_fd)
    egress.make(host, promised)
    veth.configure(host, inner, promised)
    host.execute(veth.host_neighs(promised))
    nat.ensure(promised)
    guard.ensure(promised, None)
    backstop.ensure(promised, None, host)
