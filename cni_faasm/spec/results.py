"""Results as JSON, in the shape of every version of the CNI specification.

Up to 0.2.0 a result has one address per family, each with its routes (ip4, ip6); from
0.3.0 lists of interfaces, addresses and routes; in 1.0.0 an address lost its "version";
1.1.0 added the MTU of interfaces and the attributes of routes.
"""

from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import DECODING_FAILURE, CniError

SUPPORTED_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
ROUTE_NUMBERS = ("mtu", "advmss", "priority", "table", "scope")
DNS_KEYS = ("nameservers", "domain", "search", "options")


class Interface:
    """An interface of a result. sandbox: path of its namespace, "" for the host's.

    socket_path, pci_id: what other plugins tell of devices that are theirs, from 1.1.0 on.
    """

    __slots__ = ("mac", "mtu", "name", "pci_id", "sandbox", "socket_path")

    def __init__(
        self,
        *,
        name: str,
        mac: str = "",
        sandbox: str = "",
        mtu: int | None = None,
        socket_path: str = "",
        pci_id: str = "",
    ) -> None:
        self.name = name
        self.mac = mac
        self.sandbox = sandbox
        self.mtu = mtu
        self.socket_path = socket_path
        self.pci_id = pci_id


class IPConfig:
    """An address of a result. interface: index into the result's interfaces."""

    __slots__ = ("address", "gateway", "interface", "prefix_len")

    def __init__(
        self,
        *,
        address: bytes,
        prefix_len: int,
        gateway: bytes | None = None,
        interface: int | None = None,
    ) -> None:
        self.address = address
        self.prefix_len = prefix_len
        self.gateway = gateway
        self.interface = interface


class Route:
    """A route of a configuration or a result. None: not said."""

    __slots__ = ("advmss", "dst", "gateway", "mtu", "prefix_len", "priority", "scope", "table")

    def __init__(
        self,
        *,
        dst: bytes,
        prefix_len: int,
        gateway: bytes | None = None,
        mtu: int | None = None,
        advmss: int | None = None,
        priority: int | None = None,
        table: int | None = None,
        scope: int | None = None,
    ) -> None:
        self.dst = dst
        self.prefix_len = prefix_len
        self.gateway = gateway
        self.mtu = mtu
        self.advmss = advmss
        self.priority = priority
        self.table = table
        self.scope = scope


class Result:
    """What an attachment has been given, in no version's shape."""

    __slots__ = ("dns", "interfaces", "ips", "routes")

    def __init__(
        self,
        *,
        interfaces: list[Interface],
        ips: list[IPConfig],
        routes: list[Route],
        dns: dict[str, object] | None = None,
    ) -> None:
        self.interfaces = interfaces
        self.ips = ips
        self.routes = routes
        self.dns = {} if dns is None else dns


def result_document(result: Result, version: str) -> dict[str, object]:
    """Return a result as the JSON object that a version of the specification prescribes.

    What the version cannot say is left out: up to 0.2.0 a second address of a family,
    before 1.1.0 MTUs and the attributes of routes.
    """
    document: dict[str, object] = {"cniVersion": version}
    if version in ("0.1.0", "0.2.0"):
        for key, length in (("ip4", 4), ("ip6", 16)):
            for ip in result.ips:
                if len(ip.address) == length:
                    document[key] = _old_ip(ip, result.routes)
                    break
    else:
        latest = version == "1.1.0"
        document["interfaces"] = [_interface_document(one, latest) for one in result.interfaces]
        document["ips"] = [_ip_document(ip, version.startswith("0.")) for ip in result.ips]
        document["routes"] = [_route_document(route, latest) for route in result.routes]
    if result.dns:
        document["dns"] = result.dns
    return document


def _old_ip(ip: IPConfig, routes: list[Route]) -> dict[str, object]:
    document: dict[str, object] = {"ip": inet.cidr(ip.address, ip.prefix_len)}
    if ip.gateway is not None:
        document["gateway"] = inet.unpack(ip.gateway)
    own = [_route_document(route, False) for route in routes if len(route.dst) == len(ip.address)]
    if own:
        document["routes"] = own
    return document


def _interface_document(one: Interface, latest: bool) -> dict[str, object]:
    document: dict[str, object] = {"name": one.name}
    if one.mac:
        document["mac"] = one.mac
    if latest and one.mtu:
        document["mtu"] = one.mtu
    if one.sandbox:
        document["sandbox"] = one.sandbox
    if latest and one.socket_path:
        document["socketPath"] = one.socket_path
    if latest and one.pci_id:
        document["pciID"] = one.pci_id
    return document


def _ip_document(ip: IPConfig, with_version: bool) -> dict[str, object]:
    document: dict[str, object] = {}
    if with_version:
        document["version"] = "4" if len(ip.address) == 4 else "6"
    if ip.interface is not None:
        document["interface"] = ip.interface
    document["address"] = inet.cidr(ip.address, ip.prefix_len)
    if ip.gateway is not None:
        document["gateway"] = inet.unpack(ip.gateway)
    return document


def _route_document(route: Route, latest: bool) -> dict[str, object]:
    document: dict[str, object] = {"dst": inet.cidr(route.dst, route.prefix_len)}
    if route.gateway is not None:
        document["gw"] = inet.unpack(route.gateway)
    if latest:
        for key in ROUTE_NUMBERS:
            value = getattr(route, key)
            if value is not None:
                document[key] = value
    return document


def parse_result(document: dict[str, object]) -> Result:
    """Return the result in a JSON object of any version; unknown keys are passed over.

    A result that states no version, as those up to 0.2.0, is read by its shape.
    Raises: CniError 6 that names the key.
    """
    folded = _fold(document)
    stated = folded.get("cniversion")
    if stated is not None and stated != "":
        if not isinstance(stated, str):
            raise _unreadable("cniVersion", stated, "text like 1.0.0")
        if stated not in SUPPORTED_VERSIONS:
            raise _unreadable("cniVersion", stated, "one of " + ", ".join(SUPPORTED_VERSIONS))
        old = stated in ("0.1.0", "0.2.0")
    else:
        old = "ip4" in folded or "ip6" in folded
    result = Result(interfaces=[], ips=[], routes=[])
    if old:
        for key, length in (("ip4", 4), ("ip6", 16)):
            if folded.get(key) is not None:
                _read_old_ip(folded[key], key, length, result)
    else:
        for path, item in _objects(folded, "interfaces", ""):
            result.interfaces.append(_read_interface(item, path))
        for path, item in _objects(folded, "ips", ""):
            result.ips.append(_read_ip(item, path, len(result.interfaces)))
        for path, item in _objects(folded, "routes", ""):
            result.routes.append(_read_route(item, path))
    if folded.get("dns") is not None:
        result.dns = _read_dns(folded["dns"])
    return result


def _fold(document: object) -> dict[str, object]:
    """Return an object by lower-case keys: Go's decoder does not regard case."""
    if not isinstance(document, dict):
        raise _unreadable("", document, "a JSON object")
    return {key.lower(): value for key, value in document.items()}


def _objects(folded: dict[str, object], key: str, path: str) -> list[tuple[str, dict[str, object]]]:
    items = folded.get(key)
    if items is None:
        return []
    if not isinstance(items, list):
        raise _unreadable(path + key, items, "a list")
    found = []
    for index, item in enumerate(items):
        where = f"{path}{key}[{index}]"
        if not isinstance(item, dict):
            raise _unreadable(where, item, "a JSON object")
        found.append((where, _fold(item)))
    return found


def _read_old_ip(value: object, key: str, length: int, result: Result) -> None:
    if not isinstance(value, dict):
        raise _unreadable(key, value, "a JSON object")
    folded = _fold(value)
    address, prefix_len = _cidr(folded, "ip", key)
    if len(address) != length:
        raise _unreadable(f"{key}.ip", folded["ip"], f"an IPv{key[2]} address")
    gateway = _address(folded, "gateway", key)
    result.ips.append(IPConfig(address=address, prefix_len=prefix_len, gateway=gateway))
    for path, item in _objects(folded, "routes", key + "."):
        result.routes.append(_read_route(item, path))


def _read_interface(folded: dict[str, object], path: str) -> Interface:
    texts = {}
    for key in ("name", "mac", "sandbox", "socketpath", "pciid"):
        value = folded.get(key)
        if value is None:
            value = ""
        if not isinstance(value, str):
            raise _unreadable(f"{path}.{key}", value, "text")
        texts[key] = value
    return Interface(
        name=texts["name"],
        mac=texts["mac"],
        sandbox=texts["sandbox"],
        mtu=_number(folded, "mtu", path) or None,
        socket_path=texts["socketpath"],
        pci_id=texts["pciid"],
    )


def _read_ip(folded: dict[str, object], path: str, interfaces: int) -> IPConfig:
    address, prefix_len = _cidr(folded, "address", path)
    interface = _number(folded, "interface", path)
    if interface is not None and interface >= interfaces:
        raise _unreadable(f"{path}.interface", interface, "an index of the interfaces list")
    return IPConfig(
        address=address,
        prefix_len=prefix_len,
        gateway=_address(folded, "gateway", path),
        interface=interface,
    )


def _read_route(folded: dict[str, object], path: str) -> Route:
    dst, prefix_len = _cidr(folded, "dst", path)
    return Route(
        dst=dst,
        prefix_len=prefix_len,
        gateway=_address(folded, "gw", path),
        # Go leaves these out when they are zero, so zero says nothing.
        mtu=_number(folded, "mtu", path) or None,
        advmss=_number(folded, "advmss", path) or None,
        priority=_number(folded, "priority", path) or None,
        table=_number(folded, "table", path),
        scope=_number(folded, "scope", path, 255),
    )


def _read_dns(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _unreadable("dns", value, "a JSON object")
    folded = _fold(value)
    dns: dict[str, object] = {}
    for key in DNS_KEYS:
        item = folded.get(key)
        if not item:
            continue
        if key == "domain":
            if not isinstance(item, str):
                raise _unreadable("dns.domain", item, "text")
        elif not isinstance(item, list) or any(not isinstance(one, str) for one in item):
            raise _unreadable(f"dns.{key}", item, "a list of text")
        dns[key] = item
    return dns


def _cidr(folded: dict[str, object], key: str, path: str) -> tuple[bytes, int]:
    value = folded.get(key)
    try:
        return inet.parse_cidr(value if isinstance(value, str) else "")
    except ValueError:
        raise _unreadable(f"{path}.{key}", value, "an address like 10.1.0.2/16") from None


def _address(folded: dict[str, object], key: str, path: str) -> bytes | None:
    value = folded.get(key)
    if value is None or value == "":
        return None
    try:
        return inet.pack(value if isinstance(value, str) else "")
    except ValueError:
        raise _unreadable(f"{path}.{key}", value, "an address like 10.1.0.1") from None


def _number(folded: dict[str, object], key: str, path: str, most: int = 0xFFFFFFFF) -> int | None:
    value = folded.get(key)
    if value is None:
        return None
    number = jsonio.whole(value)
    if number is None or not 0 <= number <= most:
        raise _unreadable(f"{path}.{key}", value, f"a number from 0 to {most}")
    return number


def _unreadable(path: str, value: object, allowed: str) -> CniError:
    shown = repr(value)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    where = f" at {path}" if path else ""
    return CniError(
        DECODING_FAILURE,
        f"unreadable CNI result{where}: {shown}: expected {allowed}",
        "prevResult must be a result as a plugin printed it",
    )
