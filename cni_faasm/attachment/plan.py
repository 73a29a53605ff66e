"""Say what an attachment is: names, addresses, routes, rates. Pure; touches nothing.

ADD makes a plan real, the attachment record keeps it, CHECK and the operator's tool read
it back and compare. So whatever is promised to a container stands in one place.
"""

from cni_faasm.config.counted import Counted
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.config.policy import Guard, digest
from cni_faasm.config.ports import Port
from cni_faasm.config.rates import Limit
from cni_faasm.config.shared import Shared
from cni_faasm.limits.shaping import Shape, became, gso_max_bytes, on_host_bps, shape
from cni_faasm.limits.shaping_scope import Scope
from cni_faasm.spec import inet
from cni_faasm.spec.protocol import Request
from cni_faasm.spec.results import ROUTE_NUMBERS, Route

DEFAULT_MTU = 1500
MIN_MTU_IPV6 = 1280  # RFC 8200; below it the kernel gives an interface no IPv6 at all
HOST_LINK_LOCAL = bytes.fromhex("fe800000000000000000000000000001")
MAX_MTU = 65535  # of a veth
IFALIASZ = 256  # <linux/if.h>, with the NUL
RT_SCOPE_LINK = 253  # <linux/rtnetlink.h>
RT_TABLE_MAIN = 254  # <linux/rtnetlink.h>


class PlannedAddress:
    """An address of the container, with the gateway on the host's end of its link."""

    __slots__ = ("address", "gateway")

    def __init__(self, address: bytes, gateway: bytes) -> None:
        self.address = address
        self.gateway = gateway

    @property
    def prefix_len(self) -> int:
        """Return 32 or 128: a routed link has no neighbours."""
        return len(self.address) * 8


class Plan:
    """Everything that ADD promises for one attachment.

    host_interface is a pattern such as "faasm%d" until the kernel has chosen the number;
    both interface indexes are 0 until then. routes are those inside the container that
    the configuration asks for, `subnets` those of its own ranges, both by the gateway.
    shapes_only: the pair is an earlier plugin's, and only its queues are promised.
    ipam_plugin: who leased the addresses, "" for ourselves.
    ports: of the host's, which lead to the container. counted: limits of packets and connections.
    sandbox: "gvisor" where the container's end may lose its addresses and routes, else "".
    """

    __slots__ = (
        "addresses",
        "boot_id",
        "container_id",
        "counted",
        "created",
        "data_dir",
        "dns",
        "egress",
        "guard",
        "host_egress",
        "host_ifindex",
        "host_interface",
        "host_mac",
        "ifindex",
        "ifname",
        "ingress",
        "ip_masq",
        "ipam_plugin",
        "mac",
        "mtu",
        "netns",
        "network",
        "ports",
        "ranges",
        "routes",
        "sandbox",
        "shapes_only",
        "shared",
    )

    def __init__(
        self,
        *,
        network: str,
        container_id: str,
        ifname: str,
        netns: str,
        boot_id: str,
        created: int,
        data_dir: str,
        host_interface: str,
        host_mac: bytes,
        mac: bytes,
        mtu: int,
        addresses: list[PlannedAddress],
        routes: list[Route],
        ranges: list[tuple[bytes, int]],
        ingress: Shape | None,
        egress: Shape | None,
        ip_masq: bool,
        dns: dict[str, object],
        host_ifindex: int = 0,
        ifindex: int = 0,
        shapes_only: bool = False,
        ipam_plugin: str = "",
        guard: Guard | None = None,
        host_egress: Shape | None = None,
        sandbox: str = "",
        ports: list[Port] | None = None,
        counted: Counted | None = None,
        shared: Shared | None = None,
    ) -> None:
        self.network = network
        self.container_id = container_id
        self.ifname = ifname
        self.netns = netns
        self.boot_id = boot_id
        self.created = created
        self.data_dir = data_dir
        self.host_interface = host_interface
        self.host_mac = host_mac
        self.mac = mac
        self.mtu = mtu
        self.addresses = addresses
        self.routes = routes
        self.ranges = ranges
        self.ingress = ingress
        self.egress = egress
        self.ip_masq = ip_masq
        self.dns = dns
        self.host_ifindex = host_ifindex
        self.ifindex = ifindex
        self.shapes_only = shapes_only
        self.ipam_plugin = ipam_plugin
        self.guard = guard
        self.host_egress = host_egress
        self.sandbox = sandbox
        self.ports = [] if ports is None else ports
        self.counted = counted
        self.shared = shared

    @property
    def is_held(self) -> bool:
        """Say whether rules on the host may hold it to limits."""
        return any(one is not None for one in (self.egress, self.counted, self.shared))

    @property
    def alias(self) -> str:
        """Return the outer end's alias, by which a person sees what belongs to whom."""
        return alias(self.network, self.container_id, self.ifname)

    @property
    def alias_prefix(self) -> str:
        """Return what the aliases of all of the network's outer ends begin with."""
        return alias(self.network, "", "").rstrip()

    @property
    def inner_gso_bytes(self) -> int | None:
        """Return the inner end's gso_max_size."""
        return gso_max_bytes(self.egress)

    @property
    def outer_gso_bytes(self) -> int | None:
        """Return the outer end's gso_max_size."""
        return gso_max_bytes(self.ingress)

    @property
    def gateways(self) -> list[bytes]:
        """Return each gateway once: several range sets may share one."""
        found: list[bytes] = []
        for item in self.addresses:
            if item.gateway not in found:
                found.append(item.gateway)
        return found

    @property
    def host_addresses(self) -> list[bytes]:
        """Return what the outer end has: its gateways, with IPv6 a link-local address too.

        For packets that it forwards, the kernel asks for a neighbour by a link-local address
        or not at all (ndisc_solicit in net/ipv6/ndisc.c).
        """
        has_ipv6 = any(len(item.address) == 16 for item in self.addresses)
        if has_ipv6 and HOST_LINK_LOCAL not in self.gateways:
            return [*self.gateways, HOST_LINK_LOCAL]
        return self.gateways

    def inner_routes(self) -> list[Route]:
        """Return the container's routes beyond those to its gateways, gateways filled in.

        Without a default route in the configuration the network's own subnets are still
        reached through the gateway, as ptp does it. A route that is asked for twice, or
        is there anyway, comes once.
        """
        gateways = {len(item.address): item.gateway for item in self.addresses}
        routes: list[Route] = []
        seen = [(gateway, len(gateway) * 8, RT_TABLE_MAIN) for gateway in self.gateways]
        own = [item.address for item in self.addresses]
        asked = [_destination(route) for route in self.routes]
        for net, prefix_len in self.ranges:
            gateway = gateways.get(len(net))
            if (
                gateway is not None
                and (prefix_len < len(net) * 8 or net not in (*own, *self.gateways))
                and not self._has_default(len(net))
                and (net, prefix_len, RT_TABLE_MAIN) not in asked
            ):
                routes.append(Route(dst=net, prefix_len=prefix_len, gateway=gateway))
        said: list[dict[str, object]] = []
        for route in self.routes:
            gateway = gateways.get(len(route.dst))
            if gateway is None:
                continue  # a route of a family in which the container has no address
            if _destination(route) in seen or route_fields(route) in said:
                continue
            said.append(route_fields(route))
            on_link = route.scope is not None and route.scope >= RT_SCOPE_LINK
            if route.gateway is not None or on_link:
                routes.append(route)
            else:
                routes.append(
                    Route(
                        dst=route.dst,
                        prefix_len=route.prefix_len,
                        gateway=gateway,
                        mtu=route.mtu,
                        advmss=route.advmss,
                        priority=route.priority,
                        table=route.table,
                        scope=route.scope,
                    )
                )
        return routes

    def result_routes(self) -> list[Route]:
        """Return the configured routes of the families in which there is an address."""
        lengths = {len(item.address) for item in self.addresses}
        return [route for route in self.routes if len(route.dst) in lengths]

    def _has_default(self, length: int) -> bool:
        return any(
            route.prefix_len == 0
            and len(route.dst) == length
            and route.table in (None, RT_TABLE_MAIN)
            for route in self.routes
        )


def _destination(route: Route) -> tuple[bytes, int, int]:
    return route.dst, route.prefix_len, route.table or RT_TABLE_MAIN


def alias(network: str, container_id: str, ifname: str) -> str:
    """Return the outer end's alias for an attachment, within the kernel's 255 bytes.

    What does not fit is cut, with a hash of the whole that keeps two apart.
    """
    text = f"cni-faasm {network} {container_id} {ifname}"
    if len(text.encode()) < IFALIASZ:
        return text
    return text.encode()[: IFALIASZ - 20].decode("utf-8", "ignore") + f" ~{digest(text)}"


def alias_head(network: str) -> str:
    """Return what the aliases of all of a network's links begin with, also where they are cut."""
    return f"cni-faasm {network} ".encode()[: IFALIASZ - 20].decode("utf-8", "ignore")


def host_interface_pattern(prefix: str, ifname: str) -> str:
    """Return the outer end's name, or the pattern in which the kernel fills in the number.

    A pool's inner end faasmp7 has the outer end faasm7; any other gets the lowest free
    number.
    """
    number = ifname[len(prefix) + 1 :]
    if ifname.startswith(prefix + "p") and number.isascii() and number.isdigit():
        name = prefix + number
        if len(name) <= 15:  # IFNAMSIZ less the NUL
            return name
    return prefix + "%d"


def link_mtu(config: NetworkConfig, uplink_mtu: int) -> int:
    """Return the MTU of both ends: the configured one, else the uplink's as far as it can be.

    uplink_mtu: 0 when there is none.
    """
    if config.mtu:
        return config.mtu
    has_ipv6 = any(len(range_set[0].network) == 16 for range_set in config.range_sets)
    return min(max(uplink_mtu or DEFAULT_MTU, MIN_MTU_IPV6 if has_ipv6 else 0), MAX_MTU)


def make(
    config: NetworkConfig,
    request: Request,
    addresses: list[PlannedAddress],
    *,
    mtu: int,
    queue: str,
    boot_id: str,
    created: int,
    random: bytes,
    scope: Scope | None = None,
) -> Plan:
    """Make the plan of one attachment from its configuration and its lease.

    mtu: of both ends, bytes. queue: the one that the kernel offers. created: seconds
    since the epoch. random: 12 bytes for the two MAC addresses. scope: what the limits
    hold for.
    """
    ranges: list[tuple[bytes, int]] = []
    for range_set in config.range_sets:
        for one in range_set:
            if (one.network, one.prefix_len) not in ranges:
                ranges.append((one.network, one.prefix_len))
    shapes = both_shapes(config, mtu, queue, scope)
    return Plan(
        network=config.name,
        container_id=request.container_id,
        ifname=request.ifname,
        netns=request.netns,
        boot_id=boot_id,
        created=created,
        data_dir=config.data_dir,
        host_interface=host_interface_pattern(config.host_interface_prefix, request.ifname),
        host_mac=_local_mac(random[:6]),
        mac=config.mac or _local_mac(random[6:12]),
        mtu=mtu,
        addresses=addresses,
        routes=config.routes,
        ranges=ranges,
        ingress=shapes[0],
        egress=shapes[1],
        ip_masq=config.ip_masq,
        dns=config.dns,
        ipam_plugin=config.ipam_plugin,
        guard=config.guard,
        host_egress=on_host(config, mtu, queue, scope),
        sandbox=config.sandbox,
        ports=config.ports,
        counted=config.counted,
        shared=config.shared,
    )


def both_shapes(
    config: NetworkConfig, mtu: int, queue: str, scope: Scope | None
) -> tuple[Shape | None, Shape | None]:
    """Return the shapes of the host's end (ingress) and the container's (egress)."""
    return (
        shape(config.ingress, config.latency_ms, mtu, queue, scope and scope.seen_from(host=True)),
        shape(config.egress, config.latency_ms, mtu, queue, scope and scope.seen_from(host=False)),
    )


def burst_warnings(config: NetworkConfig, ingress: Shape | None, egress: Shape | None) -> list[str]:
    """Say which burst of a configuration became another; only with the MTU that is known."""
    found = []
    for key, limit, made in (
        ("ingressBurst", config.ingress, ingress),
        ("egressBurst", config.egress, egress),
    ):
        text = became(limit.burst_bits, made)
        if text:
            found.append(f"{key}: {text}")
    return found


def on_host(config: NetworkConfig, mtu: int, queue: str, scope: Scope | None) -> Shape | None:
    """Return what the host enforces of a container's egress, None for nothing."""
    if not config.enforce_egress or not config.egress.rate_bps:
        return None
    limit = Limit(on_host_bps(config.egress.rate_bps), config.egress.burst_bits)
    return shape(limit, config.latency_ms, mtu, queue, scope and scope.seen_from(host=False))


def _local_mac(random: bytes) -> bytes:
    """Return a unicast, locally administered MAC address (IEEE 802c)."""
    return bytes((random[0] & 0xFC | 0x02,)) + random[1:6]


def route_fields(route: Route) -> dict[str, object]:
    """Return a route as the attachment record keeps it, and as two can be compared."""
    fields: dict[str, object] = {"dst": inet.cidr(route.dst, route.prefix_len)}
    if route.gateway is not None:
        fields["gw"] = inet.unpack(route.gateway)
    for key in ROUTE_NUMBERS:
        value = getattr(route, key)
        if value is not None:
            fields[key] = value
    return fields
