"""Turn a network configuration into validated values; every key, default and unit.

docs/configuration.md tells each key to the operator. A value given in several places:
what the runtime says (runtimeConfig) wins over args.cni, that over CNI_ARGS, and all of
them over the file; the addresses they ask for join. All faults are found in one go.
"""

from cni_faasm.config import counted, dns, ports, schema, shared, units
from cni_faasm.config.defaults import DEFAULT_DATA_DIR, DEFAULT_STATE_DIR, GVISOR
from cni_faasm.config.guard import read_guard
from cni_faasm.config.ipam import read_plugin, read_range_sets, read_routes
from cni_faasm.config.rates import SUBNET_KEYS, Limit, limit, read_subnets
from cni_faasm.config.schema import Fault, Section
from cni_faasm.config.slot import read_slot
from cni_faasm.config.values import NetworkConfig
from cni_faasm.config.wishes import read_wishes
from cni_faasm.spec.errors import INVALID_CONFIG, CniError
from cni_faasm.spec.protocol import MAX_NETWORK_NAME, is_name
from cni_faasm.spec.results import Route, parse_result

__all__ = [
    "DEFAULT_DATA_DIR",
    "DEFAULT_STATE_DIR",
    "Fault",
    "Limit",
    "NetworkConfig",
    "Route",
    "check_faults",
    "load",
    "load_tolerant",
]

MAX_TIMEOUT_MS = 600_000
MAX_FAULTS = 50  # that are told
# The second is the name in libcni before 1.2.
ATTACHMENT_KEYS = ("cni.dev/valid-attachments", "cni.dev/attachments")
MIN_MTU = 68  # RFC 791
MIN_MTU_IPV6 = 1280  # RFC 8200
MAX_PREFIX = 11  # leaves four digits of an interface name's 15 bytes
MAX_PATH = 3000  # of PATH_MAX, with room for "/<network>/<containerID>@<ifname>"
_PREFIX_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


def load(
    document: dict[str, object], args: dict[str, str] | None = None, verb: str = "ADD"
) -> NetworkConfig:
    """Validate a configuration for a verb.

    args: CNI_ARGS as protocol.parse_request returns it. Only ADD looks at the addresses
    that were asked for, and reads ipam.resolvConf.
    Raises: CniError 7 that names every fault.
    """
    config, faults = _read(document, args, "plugins[0].", verb)
    if faults:
        named = [str(fault) for fault in faults[:MAX_FAULTS]]
        if len(faults) > len(named):
            named.append(f"and {len(faults) - len(named)} more")
        raise CniError(
            INVALID_CONFIG,
            "invalid configuration: " + "; ".join(named),
            f"correct {'it' if len(faults) == 1 else f'these {len(faults)} places'} in the "
            "network configuration; docs/configuration.md lists every key",
        )
    return config


def load_tolerant(document: dict[str, object], verb: str = "DEL") -> NetworkConfig:
    """Take what is usable of a configuration and defaults for the rest, for DEL and GC.

    A name that no network can have gives "". Never raises for what the document holds.
    """
    return _read(document, None, "", verb)[0]


def check_faults(
    document: dict[str, object],
    args: dict[str, str] | None = None,
    prefix: str = "plugins[0].",
    verb: str = "ADD",
) -> tuple[NetworkConfig | None, list[Fault]]:
    """Return (configuration, []) or (None, every fault).

    prefix: of the paths of what stands in the plugin's own object of the file.
    """
    config, faults = _read(document, args, prefix, verb)
    return (None if faults else config), faults


def _read(
    document: dict[str, object], args: dict[str, str] | None, prefix: str, verb: str
) -> tuple[NetworkConfig, schema.Faults]:
    faults = schema.Faults(prefix)
    config = NetworkConfig()
    top = Section(document, schema.TOP, prefix, faults)
    # What the runtime or the list adds does not stand in the plugin's own object.
    outer = Section({}, schema.TOP, "", faults)
    outer.values = top.values
    runtime = outer.section("runtimeConfig", schema.RUNTIME)
    config.cni_version = outer.text("cniVersion") or "0.1.0"
    config.name = _name(outer)
    config.plugin_type = top.text("type") or "faasm"
    _read_flat(config, top)
    _read_shaping(config, top, runtime, document, args or {})
    config.guard = read_guard(top)
    config.slot = read_slot(top)
    config.ipam_plugin = read_plugin(top, config.plugin_type)
    ipam = None if config.ipam_plugin else top.section("ipam", schema.IPAM)
    # After another plugin, like `bandwidth`: nothing of the addresses is ours.
    config.shapes_only = "ipam" not in top.values and (
        "prevResult" in outer.values or verb in ("GC", "STATUS")
    )
    if not config.ipam_plugin:
        config.range_sets = read_range_sets(
            top, ipam, runtime, config.cni_version, needed=not config.shapes_only
        )
    if ipam:
        config.routes = read_routes(ipam)
    _read_folders(config, top, ipam)
    has_ipv6 = any(len(range_set[0].network) == 16 for range_set in config.range_sets)
    if config.mtu is not None and config.mtu < MIN_MTU_IPV6 and has_ipv6:
        top.fault("mtu", f"at least {MIN_MTU_IPV6}, since a range is IPv6")
    read_wishes(config, top, runtime, args or {}, verb)
    if runtime and "portMappings" in runtime.values:
        config.ports = ports.read(runtime)
    _read_dns(config, top, runtime, ipam, verb)
    capabilities = top.section("capabilities", {}) and top.values["capabilities"]
    config.offers_ports = isinstance(capabilities, dict) and bool(capabilities.get("portMappings"))
    if "prevResult" in outer.values:
        _read_prev_result(config, outer)
    _read_attachments(config, outer, document)
    config.unknown = faults.unknown
    return config, faults


def _name(outer: Section) -> str:
    name = outer.text("name")
    if name is not None and is_name(name) and len(name) <= MAX_NETWORK_NAME:
        return name
    if name is not None or "name" not in outer.values:
        outer.fault(
            "name",
            'a letter or digit, then letters, digits, "_", "." or "-", at most '
            f"{MAX_NETWORK_NAME} in all",
        )
    return ""


def _read_flat(config: NetworkConfig, top: Section) -> None:
    mtu = top.number("mtu", 0, 65535)
    if mtu:  # 0 is "not set" to the reference plugins
        if mtu < MIN_MTU:
            top.fault("mtu", f"{MIN_MTU} to 65535, or 0 for the uplink's")
        else:
            config.mtu = mtu
    config.ip_masq = top.flag("ipMasq") or False
    top.flag("ratesByArgs")  # ADD reads it, before anything is validated
    config.sandbox = top.text("sandbox") or ""
    if config.sandbox not in ("", GVISOR):
        top.fault("sandbox", f'"{GVISOR}", or "" for containers with the host\'s kernel')
    _path(top, "logFile")  # __main__ reads it, before anything is validated
    prefix = top.text("hostInterfacePrefix")
    if prefix is not None:
        if (
            1 <= len(prefix) <= MAX_PREFIX
            and _PREFIX_CHARACTERS.issuperset(prefix)
            and prefix.strip(".")
        ):
            config.host_interface_prefix = prefix
        else:
            top.fault(
                "hostInterfacePrefix",
                f'1 to {MAX_PREFIX} letters, digits, "_", "." or "-": with a number after it, '
                "it must fit an interface name's 15 bytes",
            )
    timeout = top.number("lockTimeout", 1, MAX_TIMEOUT_MS)
    if timeout is not None:
        config.lock_timeout_ms = timeout
    timeout = top.number("ipamTimeout", 1, MAX_TIMEOUT_MS)
    if timeout is not None:
        config.ipam_timeout_ms = timeout


def _read_folders(config: NetworkConfig, top: Section, ipam: Section | None) -> None:
    config.state_dir = _path(top, "stateDir") or DEFAULT_STATE_DIR
    data_dir = _path(top, "dataDir")
    leases_dir = _path(ipam, "dataDir") if ipam else None
    if ipam and data_dir and leases_dir and data_dir != leases_dir:
        ipam.fault("dataDir", must=f"be that of {top.path}dataDir: use only one of them")
    config.data_dir = leases_dir or data_dir or DEFAULT_DATA_DIR
    if config.data_dir == config.state_dir:
        top.fault("stateDir", must="differ from dataDir")


def _path(section: Section, key: str) -> str | None:
    """Return an absolute path without a slash at its end."""
    text = section.text(key)
    if not text:  # the reference plugins take "" for the default
        return None
    parts = text.split("/")
    path = "/" + "/".join(part for part in parts if part not in ("", "."))
    if not text.startswith("/") or ".." in parts or not text.isprintable() or path == "/":
        section.fault(key, 'an absolute path below "/", without ".."')
        return None
    if len(path.encode("utf-8")) > MAX_PATH:
        section.fault(key, f"a path of at most {MAX_PATH} bytes")
        return None
    return path


def _labels(document: dict[str, object]) -> object:
    """Return args.cni.labels, where it is."""
    found: object = document
    for key in ("args", "cni", "labels"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _read_shaping(
    config: NetworkConfig,
    top: Section,
    runtime: Section | None,
    document: dict[str, object],
    args: dict[str, str],
) -> None:
    nested = top.section("bandwidth", schema.BANDWIDTH)
    asked = runtime.section("bandwidth", schema.RUNTIME_BANDWIDTH) if runtime else None
    config.ingress = limit("ingress", top, nested, asked, config.warnings)
    config.egress = limit("egress", top, nested, asked, config.warnings)
    if nested:
        config.latency_ms = nested.parsed("latency", units.parse_latency, units.ALLOWED_LATENCY)
        where = nested.text("enforceEgress") or ""
        if where not in ("", "host"):
            nested.fault("enforceEgress", '"host", or "" for the container\'s end alone')
        config.enforce_egress = where == "host"
        config.counted = counted.read(nested)
        config.shared = shared.read(nested, args, _labels(document))
    places = [place for place in (asked, nested, top) if place is not None]
    if any(key in place.values for place in places for key in SUBNET_KEYS):
        config.subnets, config.subnets_only = read_subnets(places)


def _read_dns(
    config: NetworkConfig,
    top: Section,
    runtime: Section | None,
    ipam: Section | None,
    verb: str,
) -> None:
    section = top.section("dns", schema.DNS)
    asked = runtime.section("dns", schema.RUNTIME_DNS) if runtime else None
    if section or asked:
        config.dns, config.dns_is_told = dns.read(section, asked, config.warnings)
    path = _path(ipam, "resolvConf") if ipam else None
    if ipam and path and verb == "ADD" and not config.dns_is_told:
        try:
            config.dns = dns.read_resolv_conf(path, config.warnings)
        except OSError as error:
            ipam.fault("resolvConf", f"a file that can be read ({error.strerror})")


def _read_prev_result(config: NetworkConfig, outer: Section) -> None:
    value = outer.values["prevResult"]
    if not isinstance(value, dict):
        outer.fault("prevResult", "a JSON object")
        return
    try:
        config.prev_result = parse_result(value)
    except CniError as error:
        outer.fault("prevResult", f"a result as a plugin printed it; {error.msg}")


def _read_attachments(config: NetworkConfig, outer: Section, document: dict[str, object]) -> None:
    """Take GC's list; a list with a fault counts as none, lest GC remove what is valid.

    null is an empty list: libcni writes a slice so that is nil, as CRI-O's on an empty node.
    """
    key = next((one for one in ATTACHMENT_KEYS if one in outer.values), None)
    if key is None:
        if any(one.lower() in ATTACHMENT_KEYS for one in document):
            config.valid_attachments = []
        return
    value = outer.values[key]
    if not isinstance(value, list):
        outer.items(key)
        return
    before = len(outer.faults)
    found = []
    for item in schema.objects(value, schema.ATTACHMENT, key, outer.faults):
        if len(outer.faults) > before + MAX_FAULTS:
            return
        container_id, ifname = item.text("containerID"), item.text("ifname")
        if container_id is not None and ifname is not None:
            found.append((container_id, ifname))
        else:
            for name in ("containerID", "ifname"):
                if name not in item.values:
                    item.fault(name, "text")
    if len(outer.faults) == before:
        config.valid_attachments = found
