"""Let a network's containers pass firewalld: put its ranges into a zone that accepts."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import firewall
from cni_faasm.spec import inet

if TYPE_CHECKING:
    from cni_faasm.cli.firewall_trust.firewalld import Firewalld

TRUSTED = "trusted"


class Step(NamedTuple):
    """What happened to one range. action: added, removed, kept (as it was)."""

    source: str
    network: str
    action: str
    zone: str


def firewall_trust(
    ranges: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RANGE]...", help="Other ranges than those of configurations."),
    ] = None,
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="This network alone.")
    ] = "",
    conf: Annotated[
        str, typer.Option("--conf", metavar="FILE", help="The network of this file.")
    ] = "",
    zone: Annotated[
        str, typer.Option("--zone", metavar="ZONE", help="The zone to put them into.")
    ] = TRUSTED,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take them out of the zone again.")
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    as_json: output.AsJson = False,
) -> None:
    """Have firewalld let containers pass: put their ranges into one of its zones.

    Now and for good: it holds after a reload, a restart and a reboot. Without options the
    ranges are those of all networks of this host. Calling it again changes nothing.

    Examples:

        cni-faasm firewall-trust

        cni-faasm firewall-trust --network faasm --remove

        cni-faasm firewall-trust 10.244.0.0/16 --zone internal
    """
    from cni_faasm.cli.firewall_trust.firewalld import (  # 50 ms, for this command alone
        AbsentError,
        Firewalld,
    )

    configs = [] if ranges else _configs(network, conf, conf_dir)
    wanted = [("", _canonical(text)) for text in ranges or ()]
    wanted += [(config.name, source) for config in configs for source in sources(config)]
    steps: list[Step] = []
    overlaps: list[str] = []
    try:
        with Firewalld() as firewalld:
            for name, source in wanted:
                step = _take_out if remove else _put_in
                steps.append(step(firewalld, zone, source, name))
            if not remove:
                overlaps = _overlaps(firewalld, zone, [source for _, source in wanted])
    except AbsentError as error:
        raise ToolError(str(error), _without_it(configs)) from None
    finally:
        if not as_json:
            for one in steps:
                typer.echo(_words(one, remove=remove))
    refused = [] if remove else [text for one in configs for text in refusals(one)]
    if as_json:
        output.print_json({"steps": [_step(one) for one in steps], "refused": refused})
    if zone == TRUSTED and any(one.action == "added" for one in steps):
        open_to = [one.name for one in configs if one.guard is None or not one.guard.isolated]
        if open_to:
            output.note(
                f"containers of {', '.join(open_to)} reach all ports of this host now, too; "
                '"isolated": true closes it, or a zone of your own (docs/firewalls.md)'
            )
    for text in (*overlaps, *refused):
        output.note(text)
    if refused:
        raise typer.Exit(1)


def _step(one: Step) -> dict[str, str | None]:
    """Return a step for machines; network: null for a range that was given."""
    return {**one._asdict(), "network": one.network or None}


def _configs(network: str, conf: str, conf_dir: str) -> list[NetworkConfig]:
    """Return the networks that are meant and have ranges."""
    found = (
        [networks.find(network, conf, conf_dir)]
        if network or conf
        else networks.installed(conf_dir)
    )
    if not found:
        raise ToolError(
            f"no configuration in {conf_dir} is of a faasm network", "--conf FILE reads another"
        )
    configs = [configuration.load_tolerant(one.document) for one in found]
    usable = [one for one in configs if one.range_sets]
    if not usable:
        raise ToolError(
            f"{', '.join(one.name for one in configs)}: the configuration has no ranges of its own",
            "name them: cni-faasm firewall-trust RANGE...",
        )
    return usable


def _canonical(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError as error:
        raise ToolError(f"RANGE {text!r}: {error}") from None


def sources(config: NetworkConfig) -> list[str]:
    """Return a network's ranges, as firewalld writes them."""
    listed = [(one.network, one.prefix_len) for each in config.range_sets for one in each]
    return list(dict.fromkeys(inet.cidr(*one) for one in listed))


def refusals(config: NetworkConfig) -> list[str]:
    """Return what this host's firewall refuses to a network's containers, with the remedy."""
    if not config.range_sets:
        return []
    senders = firewall.Senders.of(config)
    try:
        with Netlink() as host:
            found = firewall.refusals(host, senders)
    except NetlinkError:
        return []  # who may not read the rules cannot be told
    return [f"{one}: {one.remedy(senders)}" for one in found]


def _put_in(firewalld: "Firewalld", zone: str, source: str, network: str) -> Step:
    for where in (firewalld.zone_now(source), firewalld.zone_kept(source)):
        if where not in ("", zone):
            raise ToolError(
                f"{source} is in firewalld's zone {where}, and can be in one alone",
                f"take it out there, or say --zone {where}: firewall-cmd --permanent "
                f"--zone={where} --remove-source={source}, and the same without --permanent",
            )
    return Step(source, network, "added" if firewalld.add(zone, source) else "kept", zone)


def _overlaps(firewalld: "Firewalld", zone: str, wanted: Sequence[str]) -> list[str]:
    """Return the sources of other zones that share addresses with these."""
    ours = [ipaddress.ip_network(one) for one in wanted]
    found = []
    for other, its in firewalld.sources_now().items():
        for source in its if other != zone else ():
            try:
                theirs = ipaddress.ip_network(source)
            except ValueError:
                continue  # a MAC address or an ipset
            found += [
                f"{source} of zone {other} overlaps {one}: firewalld takes the zone whose name "
                "comes first, or whose priority"
                for one in ours
                if theirs.version == one.version and theirs.overlaps(one)
            ]
    return found


def _take_out(firewalld: "Firewalld", zone: str, source: str, network: str) -> Step:
    return Step(source, network, "removed" if firewalld.remove(zone, source) else "kept", zone)


def _words(one: Step, *, remove: bool) -> str:
    name = f"{one.network}: " if one.network else ""
    if one.action == "kept":
        return f"{name}{one.source} is {'not in' if remove else 'already in'} zone {one.zone}"
    return f"{name}{one.source} {one.action} {'from' if remove else 'to'} zone {one.zone}"


def _without_it(configs: Iterable[NetworkConfig]) -> str:
    """Return what else refuses, where firewalld is not what does."""
    found = [text for config in configs for text in refusals(config)]
    return "\n".join(found) or "nothing else that can be seen refuses what containers send"


def refused_to_installed() -> list[str]:
    """Return what this host's firewall refuses to any of its networks."""
    return [text for config in _installed(networks.CONF_DIR) for text in refusals(config)]


def left_behind(conf_dir: str) -> list[str]:
    """Return how to take the ranges of this host's networks out of firewalld's zones."""
    from cni_faasm.cli.firewall_trust.firewalld import Firewalld

    every = [source for config in _installed(conf_dir) for source in sources(config)]
    commands = []
    try:
        with Firewalld() as firewalld:
            for source in dict.fromkeys(every):
                zone = firewalld.zone_kept(source) or firewalld.zone_now(source)
                if zone:
                    rest = f"--zone={zone} --remove-source={source}"
                    commands.append(f"firewall-cmd {rest}; firewall-cmd --permanent {rest}")
    except ToolError:
        return []
    return commands


def _installed(conf_dir: str) -> list[NetworkConfig]:
    found = networks.installed(conf_dir)
    return [configuration.load_tolerant(one.document) for one in found]


def lost_at_reload(config: NetworkConfig) -> list[str]:
    """Return the ranges that are in a zone of firewalld's now, and not after a reload."""
    from cni_faasm.cli.firewall_trust.firewalld import Firewalld

    try:
        with Firewalld() as firewalld:
            return [
                source
                for source in sources(config)
                if firewalld.zone_now(source) and not firewalld.zone_kept(source)
            ]
    except ToolError:
        return []
