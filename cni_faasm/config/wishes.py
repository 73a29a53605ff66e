"""Read which addresses and which MAC address are asked for, for one container.

Three places may ask, and they join, as in host-local: nerdctl gives an IPv4 address by CNI_ARGS and
an IPv6 one by runtimeConfig. Where two ask for the same thing the order is runtimeConfig,
args.cni, CNI_ARGS, and it is said.
"""

from cni_faasm.config import ranges, schema
from cni_faasm.config.ranges import Range
from cni_faasm.config.schema import Fault, Faults, Section
from cni_faasm.config.values import NetworkConfig
from cni_faasm.spec import inet

Wanted = tuple[str, object]

_MAC_ALLOWED = "a MAC address like 02:00:00:00:00:01"


def read_wishes(
    config: NetworkConfig,
    top: Section,
    runtime: Section | None,
    args: dict[str, str],
    verb: str,
) -> None:
    """Fill in the addresses and the MAC address asked for, and what was not heeded of them."""
    raw_args = top.section("args", schema.ARGS)
    cni = raw_args.section("cni", schema.ARGS_CNI) if raw_args else None
    places = [one for one in (runtime, cni) if one is not None]
    macs = [
        (f"{one.path}mac", found)
        for one in places
        if (found := one.parsed("mac", schema.mac, _MAC_ALLOWED))
    ]
    if args.get("MAC"):
        try:
            macs.append(("CNI_ARGS.MAC", inet.parse_mac(args["MAC"])))
        except ValueError:
            top.faults.append(Fault("CNI_ARGS.MAC", args["MAC"], _MAC_ALLOWED))
    for path, mac in macs:
        if config.mac is None:
            config.mac = mac
        elif config.mac != mac:
            config.warnings.append(
                f"{path}: {inet.mac_text(mac)} passed over for {inet.mac_text(config.mac)} of "
                f"{macs[0][0]}"
            )
    wanted: list[list[Wanted]] = [
        [(f"{one.path}ips[{index}]", item) for index, item in enumerate(one.items("ips"))]
        for one in places
    ]
    if args.get("IP"):
        wanted.append([("CNI_ARGS.IP", args["IP"])])
    # Another IPAM plugin reads itself which addresses are asked for.
    if verb == "ADD" and not config.ipam_plugin:
        config.requested_addresses = read_requested(
            config.range_sets, wanted, top.faults, config.warnings
        )


def read_requested(
    range_sets: list[list[Range]],
    wanted: list[list[Wanted]],
    faults: Faults,
    warnings: list[str],
) -> list[bytes]:
    """Return the addresses asked for, which may have a prefix length that says nothing.

    wanted: (path, value) of each, by the place that asks, the one that wins first. Two
    addresses of one range set are a fault where one place asks for both.
    """
    found: list[bytes] = []
    winners: dict[int, tuple[int, str, bytes]] = {}
    every = ""
    for place, path, value in (
        (place, path, value) for place, items in enumerate(wanted) for path, value in items
    ):
        try:
            if isinstance(value, str) and "/" in value:
                packed = inet.parse_cidr(value)[0]
            else:
                packed = schema.address(value)
        except ValueError:
            faults.append(Fault(path, value, "an address like 10.200.0.7"))
            continue
        if packed in found:
            continue
        where = ranges.find(range_sets, packed)
        if where is None:
            every = every or ", ".join(
                f"{inet.unpack(one.first)}-{inet.unpack(one.last)}"
                for range_set in range_sets
                for one in range_set
            )
            faults.append(Fault(path, value, f"an address of the ranges: {every or 'none'}"))
            continue
        winner = winners.get(where[0])
        if winner is not None and winner[0] != place:
            warnings.append(
                f"{path}: {inet.unpack(packed)} passed over for {inet.unpack(winner[2])} of "
                f"{winner[1]}, which is of the same range set"
            )
        elif packed == where[1].gateway:
            faults.append(Fault(path, value, "any but the gateway"))
        elif winner is not None:
            allowed = f"one address of each range set; {winner[1]} is of the same"
            faults.append(Fault(path, value, allowed))
        else:
            winners[where[0]] = place, path, packed
            found.append(packed)
    return found
