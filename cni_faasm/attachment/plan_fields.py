"""Turn plans into the fields of attachment records, and back.

Records are read by later versions and may have been written by earlier ones: what is not a
plan is no error here, but None.
"""

from cni_faasm.attachment import record
from cni_faasm.attachment.plan import Plan, PlannedAddress, route_fields
from cni_faasm.config import ports
from cni_faasm.config.counted import Counted
from cni_faasm.config.policy import PROTOCOLS, Guard
from cni_faasm.config.ports import Port
from cni_faasm.config.shared import Shared
from cni_faasm.limits.shaping import Shape
from cni_faasm.spec import inet
from cni_faasm.spec.results import ROUTE_NUMBERS, Route

RECORD_VERSION = 1
_U32 = 0xFFFFFFFF  # what the kernel's fields take
_S32 = 0x7FFFFFFF


def to_fields(plan: Plan) -> dict[str, object]:
    """Return the plan as the attachment record keeps it (JSON types only)."""
    return {
        "version": RECORD_VERSION,
        "network": plan.network,
        "containerID": plan.container_id,
        "ifname": plan.ifname,
        "netns": plan.netns,
        "bootID": plan.boot_id,
        "created": plan.created,
        "dataDir": plan.data_dir,
        "hostInterface": plan.host_interface,
        "hostIfindex": plan.host_ifindex,
        "ifindex": plan.ifindex,
        "hostMAC": inet.mac_text(plan.host_mac),
        "mac": inet.mac_text(plan.mac),
        "mtu": plan.mtu,
        "addresses": [
            {"address": inet.unpack(item.address), "gateway": inet.unpack(item.gateway)}
            for item in plan.addresses
        ],
        "routes": [route_fields(route) for route in plan.routes],
        "ranges": [inet.cidr(net, prefix_len) for net, prefix_len in plan.ranges],
        "ingress": plan.ingress and plan.ingress.to_fields(),
        "egress": plan.egress and plan.egress.to_fields(),
        "ipMasq": plan.ip_masq,
        "dns": plan.dns,
        **({"shapesOnly": True} if plan.shapes_only else {}),
        **({"ipamPlugin": plan.ipam_plugin} if plan.ipam_plugin else {}),
        **({"guard": _guard_fields(plan.guard)} if plan.guard is not None else {}),
        **({"sandbox": plan.sandbox} if plan.sandbox else {}),
        **({"ports": [one.to_fields() for one in plan.ports]} if plan.ports else {}),
        **({"counted": plan.counted.to_fields()} if plan.counted is not None else {}),
        **({"shared": plan.shared.to_fields()} if plan.shared is not None else {}),
        **({"hostEgress": plan.host_egress.to_fields()} if plan.host_egress is not None else {}),
    }


def load(
    state_dir: str, network: str, container_id: str, ifname: str, known: Plan | None = None
) -> Plan | None:
    """Return what ADD promised, or None when no readable record is there. Raises: CniError 5.

    known: what was read of this record before; where it is the same ADD's still, that is returned.
    """
    fields = record.read(state_dir, network, container_id, ifname)
    if fields is None:
        return None
    if (
        known is not None
        and fields.get("hostMAC") == inet.mac_text(known.host_mac)
        and fields.get("hostIfindex") == known.host_ifindex
    ):
        return known
    return from_fields(fields)


def from_fields(fields: dict[str, object]) -> Plan | None:
    """Return the plan that a record keeps; None when its fields are not a plan."""
    try:
        return _from_fields(fields)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None


def _from_fields(fields: dict[str, object]) -> Plan:
    addresses = [
        PlannedAddress(inet.pack(_text(item, "address")), inet.pack(_text(item, "gateway")))
        for item in _dicts(fields["addresses"])
    ]
    if any(len(item.gateway) != len(item.address) for item in addresses):
        raise ValueError("addresses")
    routes = []
    for item in _dicts(fields["routes"]):
        dst, prefix_len = inet.parse_cidr(_text(item, "dst"))
        numbers = {key: _number(item, key) for key in ROUTE_NUMBERS if key in item}
        gateway = inet.pack(_text(item, "gw")) if "gw" in item else None
        if gateway is not None and len(gateway) != len(dst):
            raise ValueError("gw")
        routes.append(Route(dst=dst, prefix_len=prefix_len, gateway=gateway, **numbers))
    ranges = fields["ranges"]
    if not isinstance(ranges, list):
        raise TypeError("ranges")
    return Plan(
        network=_text(fields, "network"),
        container_id=_text(fields, "containerID"),
        ifname=_text(fields, "ifname"),
        netns=_text(fields, "netns"),
        boot_id=_text(fields, "bootID"),
        created=_number(fields, "created"),
        data_dir=_text(fields, "dataDir"),
        host_interface=_text(fields, "hostInterface"),
        host_ifindex=_number(fields, "hostIfindex", _S32),
        ifindex=_number(fields, "ifindex", _S32),
        host_mac=inet.parse_mac(_text(fields, "hostMAC")),
        mac=inet.parse_mac(_text(fields, "mac")),
        mtu=_number(fields, "mtu"),
        addresses=addresses,
        routes=routes,
        ranges=[inet.parse_cidr(text) for text in ranges],
        ingress=_shape(fields["ingress"]),
        egress=_shape(fields["egress"]),
        ip_masq=fields["ipMasq"] is True,
        dns=_dict(fields["dns"]),
        shapes_only=fields.get("shapesOnly") is True,
        ipam_plugin=_text(fields, "ipamPlugin") if "ipamPlugin" in fields else "",
        guard=_guard(_dict(fields["guard"])) if "guard" in fields else None,
        host_egress=_shape(fields.get("hostEgress")),
        sandbox=_text(fields, "sandbox") if "sandbox" in fields else "",
        ports=_ports(fields["ports"]) if "ports" in fields else [],
        counted=Counted.from_fields(_dict(fields["counted"])) if "counted" in fields else None,
        shared=Shared.from_fields(_dict(fields["shared"])) if "shared" in fields else None,
    )


def _guard_fields(guard: Guard) -> dict[str, object]:
    return {
        "antiSpoof": guard.anti_spoof,
        "isolated": guard.isolated,
        "allowHost": [list(one) for one in guard.allow_host],
    }


def _guard(fields: dict[str, object]) -> Guard:
    allowed = fields["allowHost"]
    if not isinstance(allowed, list):
        raise TypeError("allowHost")
    return Guard(
        anti_spoof=fields["antiSpoof"] is True,
        isolated=fields["isolated"] is True,
        allow_host=[_service(one) for one in allowed],
    )


def _service(value: object) -> tuple[str, int]:
    if not isinstance(value, list):
        raise TypeError("allowHost")
    protocol, port = value
    if protocol not in PROTOCOLS or not isinstance(port, int) or not 0 <= port <= 65535:
        raise ValueError("allowHost")
    return protocol, port


def _ports(value: object) -> list[Port]:
    if not isinstance(value, list):
        raise TypeError("ports")
    return [ports.from_fields(one) for one in value]


def _dict(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError(value)
    return value


def _dicts(value: object) -> list[dict[str, object]]:
    if not isinstance(value, list):
        raise TypeError(value)
    return [_dict(item) for item in value]


def _text(fields: dict[str, object], key: str) -> str:
    value = fields[key]
    if not isinstance(value, str):
        raise TypeError(key)
    if "\0" in value:
        raise ValueError(key)
    return value


def _number(fields: dict[str, object], key: str, most: int = _U32) -> int:
    value = fields[key]
    if not isinstance(value, int):
        raise TypeError(key)
    if not 0 <= value <= most:
        raise ValueError(key)
    return value


def _shape(value: object) -> Shape | None:
    return None if value is None else Shape.from_fields(_dict(value))
