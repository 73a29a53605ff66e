"""A network's configuration as everybody else reads it."""

from cni_faasm.config.counted import Counted
from cni_faasm.config.defaults import (
    DEFAULT_DATA_DIR,
    DEFAULT_IPAM_TIMEOUT_MS,
    DEFAULT_LOCK_TIMEOUT_MS,
    DEFAULT_PREFIX,
    DEFAULT_STATE_DIR,
)
from cni_faasm.config.policy import Guard
from cni_faasm.config.ports import Port
from cni_faasm.config.ranges import Range
from cni_faasm.config.rates import Limit
from cni_faasm.config.shared import Shared
from cni_faasm.config.slot import Slot
from cni_faasm.spec.results import SUPPORTED_VERSIONS, Result, Route


class NetworkConfig:
    """A configuration, with the runtime's wishes worked in.

    accepted: the text of it for the record, set by ADD. called: the runtime's name of the container,
    set by ADD, too. dns_is_told: no other source's counts. mtu None: that of the default
    route's interface. ingress: to the container; egress: from it. latency_ms None: the
    shaping's default. subnets: (packed, prefix length) of those whose traffic alone is not
    limited, or with subnets_only alone is. counted: limits of packets and connections. enforce_egress: on the host, too. range_sets: one address of each. requested_addresses: packed, each in
    another range set. ipam_plugin: another plugin that leases the addresses, "" for
    ourselves. ports: of the host's, which are to lead to the container. offers_ports: whether the runtime may ask for such. guard: what containers must not do, None for nothing. prev_result: of the plugins before this one, or at CHECK and DEL of the whole
    chain's ADD. shapes_only: there is no "ipam", and the pair is an earlier plugin's.
    slot: what members of pools have inside. valid_attachments: GC's (container id, ifname) pairs, None when it was given none.
    warnings: what was changed. unknown: the paths of keys that nobody reads.
    """

    __slots__ = (
        "accepted",
        "called",
        "cni_version",
        "counted",
        "data_dir",
        "dns",
        "dns_is_told",
        "egress",
        "enforce_egress",
        "guard",
        "host_interface_prefix",
        "ingress",
        "ip_masq",
        "ipam_plugin",
        "ipam_timeout_ms",
        "latency_ms",
        "lock_timeout_ms",
        "mac",
        "mtu",
        "name",
        "offers_ports",
        "plugin_type",
        "ports",
        "prev_result",
        "range_sets",
        "requested_addresses",
        "routes",
        "sandbox",
        "shapes_only",
        "shared",
        "slot",
        "state_dir",
        "subnets",
        "subnets_only",
        "unknown",
        "valid_attachments",
        "warnings",
    )

    def __init__(self, *, name: str = "", cni_version: str = SUPPORTED_VERSIONS[-1]) -> None:
        self.accepted = ""
        self.called = ""
        self.cni_version = cni_version
        self.name = name
        self.plugin_type = "faasm"
        self.mtu: int | None = None
        self.ip_masq = False
        self.host_interface_prefix = DEFAULT_PREFIX
        self.state_dir = DEFAULT_STATE_DIR
        self.data_dir = DEFAULT_DATA_DIR
        self.ingress = Limit()
        self.egress = Limit()
        self.latency_ms: int | None = None
        self.counted: Counted | None = None
        self.shared: Shared | None = None
        self.subnets: list[tuple[bytes, int]] = []
        self.subnets_only = False
        self.ports: list[Port] = []
        self.offers_ports = False
        self.range_sets: list[list[Range]] = []
        self.routes: list[Route] = []
        self.requested_addresses: list[bytes] = []
        self.mac: bytes | None = None
        self.dns: dict[str, object] = {}
        self.dns_is_told = False
        self.lock_timeout_ms = DEFAULT_LOCK_TIMEOUT_MS
        self.enforce_egress = False
        self.guard: Guard | None = None
        self.sandbox = ""
        self.slot: Slot | None = None
        self.ipam_plugin = ""
        self.ipam_timeout_ms = DEFAULT_IPAM_TIMEOUT_MS
        self.prev_result: Result | None = None
        self.shapes_only = False
        self.valid_attachments: list[tuple[str, str]] | None = None
        self.warnings: list[str] = []
        self.unknown: list[str] = []
