"""Validate and complete a network that is to be created."""

from collections.abc import Iterable

from cni_faasm.netavark import network as networks
from cni_faasm.netavark.given import Given
from cni_faasm.spec import inet
from cni_faasm.spec.errors import ADDRESSES_EXHAUSTED, INVALID_CONFIG, CniError

Subnets = list[tuple[bytes, int]]

# Beside 10.200.0.0/16, which comes with the installation.
FIRST, LAST = 201, 254


def complete(
    given: dict[str, object],
    of_networks: dict[str, Subnets],
    of_host: Subnets,
    names: dict[str, str],
) -> dict[str, object]:
    """Return a network with what it lacks.

    of_networks: the subnets of podman's other networks. of_host: what else the host knows a way to.
    names: our networks of CNI's, each with its file.
    Raises: CniError 6, 7, 103.
    """
    made = dict(given)
    network = Given(made)
    made["dns_enabled"] = False  # a plugin has no entries in podman's name server
    servers = network.texts("network_dns_servers")
    if servers:
        # podman refuses them without its name server; by this option they are told to containers.
        made["options"] = {"nameservers": " ".join(servers), **network.pairs("options")}
        made["network_dns_servers"] = None
    driver = network.pairs("ipam_options").get("driver", "")
    if driver in ("", networks.HOST_LOCAL):
        subnets = [dict(one.values) for one in network.children("subnets")]
        taken = [one for each in of_networks.values() for one in each]
        made["subnets"] = _completed(network, subnets, [*taken, *of_host])
    faults: list[str] = []
    document = networks.document(network, faults)
    faults += _overlaps(network, of_networks)
    name = network.text("name")
    if name in names:
        # They would share leases and rules, and each follow the other's ranges.
        faults.append(f"{names[name]} is of a network of that name: take another one")
    networks.check(document, faults, "ADD")
    if network.children("subnets"):
        made["ipv6_enabled"] = any(":" in one.text("subnet") for one in network.children("subnets"))
    return made


def _completed(
    network: Given, subnets: list[dict[str, object]], taken: Subnets
) -> list[dict[str, object]]:
    lengths = {16 if ":" in str(one.get("subnet")) else 4 for one in subnets}
    if not subnets:
        subnets = [{"subnet": _free(taken)}]
    if network.flag("ipv6_enabled") and 16 not in lengths:
        subnets = [*subnets, {"subnet": _unique_local(network.text("id"))}]
    for one in subnets:
        gateway = networks.gateway_of({"subnet": str(one.get("subnet"))})
        if not one.get("gateway") and gateway:
            # An internal network gets none from podman, which would lease the address then.
            one["gateway"] = inet.unpack(gateway)
    return subnets


def _free(taken: Subnets) -> str:
    for number in range(FIRST, LAST + 1):
        wanted = bytes((10, number, 0, 0))
        if not any(_overlap((wanted, 16), one) for one in taken):
            return inet.cidr(wanted, 16)
    raise CniError(
        ADDRESSES_EXHAUSTED,
        f"none of the networks 10.{FIRST}.0.0/16 to 10.{LAST}.0.0/16 is free",
        "choose one by --subnet",
    )


def _unique_local(network_id: str) -> str:
    """Return a /64 of a prefix that no other network has (RFC 4193), by the network's id."""
    digits = network_id[:14] if len(network_id) >= 14 else ""
    try:
        bits = bytes.fromhex(digits)
    except ValueError:
        bits = b""
    if len(bits) != 7:
        raise CniError(
            INVALID_CONFIG, f"id: {network_id!r} is no network's", "give an IPv6 --subnet"
        )
    return inet.cidr(b"\xfd" + bits + bytes(8), 64)


def _overlaps(network: Given, of_networks: dict[str, Subnets]) -> Iterable[str]:
    for one in network.children("subnets"):
        text = one.text("subnet")
        try:
            subnet = inet.parse_cidr(text)
        except ValueError:
            continue  # told as a fault of its own
        for name, subnets in of_networks.items():
            if name != network.text("name") and any(_overlap(subnet, each) for each in subnets):
                yield f"--subnet {text}: it overlaps with that of podman's network {name}"


def _overlap(one: tuple[bytes, int], other: tuple[bytes, int]) -> bool:
    shorter = min(one[1], other[1])
    return len(one[0]) == len(other[0]) and inet.contains(one[0], shorter, other[0])
