"""Translate a list of the reference plugins into one of ours, and say what differs."""

import json
from typing import Annotated, Any

import typer

from cni_faasm.cli import output
from cni_faasm.cli.fault import ToolError
from cni_faasm.config import loading as configuration
from cni_faasm.config.rates import SUBNET_KEYS
from cni_faasm.spec import jsonio, protocol
from cni_faasm.spec.errors import CniError

FIRST = ("ptp", "bridge")
# Keys of ptp and bridge that mean the same to us.
SAME = ("mtu", "ipMasq", "dns", "ipam", "capabilities", "args")
RATES = ("ingressRate", "ingressBurst", "egressRate", "egressBurst")
CAPABILITIES = ("bandwidth", "ips", "ipRanges", "mac", "dns")
# What a bridge can do, and what becomes of it on routed links.
LOST = {
    "bridge": "there is no bridge: each container has a routed link of its own",
    "hairpinMode": "without a bridge a container reaches its own published port by routing",
    "promiscMode": "there is no bridge to be promiscuous",
    "vlan": "routed links carry no VLANs: give each VLAN's containers a network of their own",
    "vlanTrunk": "routed links carry no VLANs",
    "macspoofchk": "there is no segment on which another's MAC address would be of use",
    "forceAddress": "the gateway's address is on each link: nothing has to be forced",
    "preserveDefaultVlan": "routed links carry no VLANs",
    "disableContainerInterface": "an interface that is down is of no use to a container",
    "isGateway": "the host is always the gateway",
    "isDefaultGateway": "",
    "ipMasqBackend": "masquerading is done by nftables, one rule set for the network",
}


def migrate(
    source: Annotated[str, typer.Option("--from", metavar="FILE", help="The list to translate.")],
    as_json: output.AsJson = False,
) -> None:
    """Print the list of ours that does what a list of ptp or bridge does.

    Translates ptp or bridge with its ipam, and bandwidth; other plugins stay behind them.
    What differs is said on stderr. Containers that the old list attached keep their leases,
    and faasm's DEL detaches them.

    Examples:

        cni-faasm migrate --from /etc/cni/net.d/87-ptp.conflist > 10-mine.conflist

        cni-faasm migrate --from old.conflist --json
    """
    try:
        with open(source, "rb") as file:
            listed = jsonio.load_object(file.read(), source)
    except CniError as error:
        raise ToolError(error.msg, error.details) from None
    made, notes = translate(listed)
    if as_json:
        output.print_json({"conflist": made, "differences": notes})
        return
    typer.echo(json.dumps(made, indent=2))
    for note in notes:
        output.note(note)


def translate(listed: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return our list, and what differs. Raises: ToolError when it cannot be translated."""
    plugins = listed.get("plugins")
    if not isinstance(plugins, list):  # a single configuration, as before lists
        plugins = [
            {key: value for key, value in listed.items() if key not in ("name", "cniVersion")}
        ]
    if not plugins or not all(isinstance(one, dict) for one in plugins):
        raise ToolError("plugins: no list of objects", "give a list file (*.conflist)")
    first, rest = plugins[0], plugins[1:]
    if first.get("type") not in FIRST:
        raise ToolError(
            f"plugins[0].type: {first.get('type')!r} cannot be translated",
            f"known are {' and '.join(FIRST)}; after others faasm can only limit (without ipam)",
        )
    ipam = first.get("ipam")
    if not isinstance(ipam, dict) or not ipam.get("type"):
        raise ToolError(
            "plugins[0].ipam: without it the old list gives no addresses",
            "faasm needs an ipam object, or to stand after the plugin that makes the interface",
        )
    if ipam["type"] == "dhcp":
        raise ToolError(
            "plugins[0].ipam.type: dhcp cannot ask for an address on a routed link",
            "give the network a range of its own, leased by host-local",
        )
    notes: list[str] = []
    own: dict[str, Any] = {"type": "faasm"}
    own |= {key: first[key] for key in SAME if key in first}
    _first(first, own, notes)
    others = []
    for one in rest:
        if one.get("type") == "bandwidth":
            _bandwidth(one, own, notes)
        else:
            others.append(one)
    made: dict[str, Any] = {
        "cniVersion": listed.get("cniVersion", "1.0.0"),
        "name": listed.get("name", ""),
        "plugins": [own, *others],
    }
    if "disableCheck" in listed:
        made["disableCheck"] = listed["disableCheck"]
    if "cniVersions" in listed:
        made["cniVersions"] = listed["cniVersions"]
    elif made["cniVersion"] != protocol.LATEST_VERSION:
        made["cniVersions"] = sorted({"0.4.0", "1.0.0", "1.1.0", str(made["cniVersion"])})
    document = {"name": made["name"], "cniVersion": made["cniVersion"], **own}
    _, faults = configuration.check_faults(document)
    if faults:
        raise ToolError(
            "the old list has what faasm does not take: " + "; ".join(map(str, faults)),
            "correct it there first",
        )
    return made, notes


def _first(first: dict[str, Any], own: dict[str, Any], notes: list[str]) -> None:
    kind = first["type"]
    if kind == "bridge":
        notes.append(
            "containers were neighbours on a bridge: now each has a routed /32 link, so nothing "
            "on layer 2 (broadcasts, multicast discovery, foreign MAC addresses) passes between "
            "them; and those still on the bridge look for the new ones there, in vain"
        )
    for key, why in LOST.items():
        if key != "bridge" and first.get(key) and why:
            notes.append(f"{key}: {why}")
    routes = own["ipam"].get("routes") or []
    has_default = any(one.get("dst") in ("0.0.0.0/0", "::/0") for one in routes)
    if first.get("isDefaultGateway") and not has_default:
        own["ipam"] = {**own["ipam"], "routes": [*routes, *_defaults(own["ipam"])]}
    unknown = set(first) - set(SAME) - set(LOST) - {"type", "name", "cniVersion"}
    notes.extend(f"{key}: not known to {kind}, left out" for key in sorted(unknown))
    if first.get("ipMasq"):
        notes.append(
            f"ipMasq: containers that {kind} attached keep its iptables rules, which only its own "
            "DEL takes away; detach them by the old list where that matters"
        )


def _defaults(ipam: dict[str, Any]) -> list[dict[str, str]]:
    """Return a default route for each family of the ranges."""
    subnets = [str(ipam["subnet"])] if "subnet" in ipam else []
    subnets += [str(one.get("subnet", "")) for group in ipam.get("ranges") or [] for one in group]
    found = ["0.0.0.0/0"] if any("." in one for one in subnets) else []
    found += ["::/0"] if any(":" in one for one in subnets) else []
    return [{"dst": one} for one in found]


def _bandwidth(one: dict[str, Any], own: dict[str, Any], notes: list[str]) -> None:
    rates = {key: one[key] for key in (*RATES, *SUBNET_KEYS) if one.get(key)}
    if rates:
        own["bandwidth"] = rates
    asked = {**(own.get("capabilities") or {}), **(one.get("capabilities") or {})}
    if asked:
        own["capabilities"] = {key: asked[key] for key in asked if key in CAPABILITIES}
    notes.append(
        "bandwidth: limits are HTB classes on both ends of the pair instead of TBF and an ifb; "
        "a burst is no longer needed, and leaving it out makes it 1 ms of the rate"
    )
