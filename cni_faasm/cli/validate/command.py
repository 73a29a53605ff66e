"""Say everything that is wrong with a configuration, and what of it will surprise."""

import os
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import typer

from cni_faasm.attachment import plan
from cni_faasm.cli import networks, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.firewall_trust import command as firewall_trust
from cni_faasm.cli.install import networkd
from cni_faasm.cli.validate import files as validate_files
from cni_faasm.cli.validate import kernel as validate_kernel
from cni_faasm.cli.validate import plugin_list as validate_list
from cni_faasm.cli.validate.jsonlines import Lines
from cni_faasm.config import loading as configuration
from cni_faasm.config import schema as config_schema
from cni_faasm.config import units
from cni_faasm.config.loading import NetworkConfig
from cni_faasm.config.rates import Limit
from cni_faasm.limits import shaping
from cni_faasm.link import kernel, veth
from cni_faasm.netlink import dumps
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import inet, jsonio, protocol
from cni_faasm.spec.errors import CniError

# CNI specification, "Configuration format"; the rest is libcni's.
LIST_KEYS = frozenset(
    [
        "cniversion",
        "cniversions",
        "name",
        "plugins",
        "disablecheck",
        "disablegc",
        "loadonlyinlinedplugins",
    ]
)
MAX_BURST_S = 1.0
MAIN_TABLE = 254
CNI_PATH = "/opt/cni/bin:/usr/lib/cni"


class Remark(NamedTuple):
    """One fault, or one warning of what is allowed but will surprise."""

    line: int
    place: str
    text: str
    is_fault: bool


def validate(
    paths: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="Files and folders; - is stdin.")
    ],
    strict: Annotated[
        bool, typer.Option("--strict", help="Warnings count as faults, as in CI.")
    ] = False,
    cni_path: Annotated[
        str, typer.Option("--cni-path", metavar="DIR[:DIR]", help="Where plugins are installed.")
    ] = CNI_PATH,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    as_json: output.AsJson = False,
) -> None:
    """Find all faults of network configurations, with their lines, and what will surprise.

    Warnings are no faults: with warnings only, the status is 0, but for --strict. Of a folder,
    the files with a plugin of type faasm are looked at. The status
    is 3 when a file cannot be read.

    Examples:

        cni-faasm validate /etc/cni/net.d/10-faasm.conflist

        cni-faasm validate --strict conf/*.conflist

        generate-config | cni-faasm validate - --json
    """
    documents: list[dict[str, Any]] = []
    unread: list[str] = []
    for path in validate_files.listed(paths):
        try:
            name, data = validate_files.contents(path)
        except OSError as error:
            unread.append(f"{path}: {error.strerror or error}")
            documents.append(validate_files.unread(path, unread[-1]))
            continue
        remarks = sorted(
            remarks_on(data, path, conf_dir, cni_path),
            key=lambda one: (one.line, not one.is_fault),
        )
        documents.append(_report(name, remarks, strict, as_json))
    together = {"valid": all(one["valid"] for one in documents), "files": documents}
    if as_json:
        output.print_json(together)
    for text in unread:
        output.note(text)
    if unread:
        raise typer.Exit(3)
    if not together["valid"]:
        raise typer.Exit(1)


def _report(path: str, remarks: list[Remark], strict: bool, as_json: bool) -> dict[str, Any]:
    """Print what is said of one file. Returns: the same as a document."""
    is_valid = not any(strict or one.is_fault for one in remarks)
    listed = [
        {
            "line": one.line,
            "place": one.place,
            "severity": "fault" if one.is_fault else "warning",
            "message": one.text,
        }
        for one in remarks
    ]
    if not as_json:
        for one in remarks:
            word = "" if one.is_fault else "warning: "
            place = f"{one.place}: " if one.place else ""
            output.say(f"{path}:{one.line}: {word}{place}{one.text}")
        if is_valid:
            typer.echo(
                f"{path}: valid" + (f", {output.count(len(remarks), 'warning')}" if remarks else "")
            )
    return {"file": path, "valid": is_valid, "remarks": listed, "error": None}


def remarks_on(data: bytes, path: str, conf_dir: str, cni_path: str = CNI_PATH) -> Iterator[Remark]:
    """Yield every remark on a file's contents."""
    try:
        listed = jsonio.load_object(data, "the file")
    except CniError as error:
        yield Remark(_line_in(error.msg), "", f"{error.msg}; {error.details}", True)
        return
    lines = Lines(data.decode("utf-8"))
    for place, position in lines.doubles:
        yield Remark(lines.line_at(position), place, "given twice; the last one counts", False)
    folded = {key.lower(): value for key, value in listed.items()}
    plugins = folded.get("plugins", [listed])
    prefix = "plugins[{}]." if "plugins" in folded else ""
    if not isinstance(plugins, list) or not plugins:
        yield Remark(lines.of("plugins"), "plugins", "a list of plugins is expected", True)
        return
    ours = [
        index
        for index, plugin in enumerate(plugins)
        if isinstance(plugin, dict)
        and any(k.lower() == "type" and v == networks.PLUGIN for k, v in plugin.items())
    ]
    if not ours:
        slips = list(validate_list.misspelt(plugins, prefix))
        for place, text, is_fault in slips:
            yield Remark(lines.of(place), place, text, is_fault)
        if slips:
            return
        yield Remark(lines.of("plugins"), "plugins", "none is of type faasm", True)
        return
    if "plugins" in folded:
        yield from _of_the_list(listed, lines, prefix.format(ours[0]))
    for place, text, is_fault in (
        *validate_list.order(plugins, prefix),
        *validate_list.installed(plugins, prefix, cni_path),
    ):
        yield Remark(lines.of(place), place, text, is_fault)
    for index in ours:
        where = prefix.format(index)
        document: dict[str, object] = dict(plugins[index])
        for key in ("name", "cniVersion"):
            if key.lower() in folded:
                document[key] = folded[key.lower()]
        if index and not any(key.lower() == "ipam" for key in document):
            document["prevResult"] = {"cniVersion": protocol.LATEST_VERSION}  # of the one before
        config, faults = configuration.check_faults(document, prefix=where)
        for fault in faults:
            # The list's own keys are not in the plugin's object, where they were put.
            known = fault.path.removeprefix(where)
            place = known if known in ("name", "cniVersion") else fault.path
            text = str(fault).removeprefix(f"{fault.path}: ")
            yield Remark(lines.of(place), place, text, True)
        if index and "prevResult" not in document:
            text = (
                "must come first: with ipam it makes the interface that others then change; "
                "without ipam it only limits what an earlier plugin made"
            )
            yield Remark(lines.of(where.rstrip(".")), where.rstrip("."), text, True)
        yield from _versions(folded, lines)
        if config is not None:
            for place, text, is_fault in validate_list.of_plugin(config, document, where):
                yield Remark(lines.of(place), place, text, is_fault)
            host = (*validate_kernel.lacks(config, where), *networkd.surprises(config, where))
            surprises = (*_surprises(config, document, where), *host)
            for place, text in (*surprises, *_others(config, path, conf_dir)):
                yield Remark(lines.of(place), place, text, False)


def _of_the_list(listed: dict[str, Any], lines: Lines, where: str) -> Iterator[Remark]:
    """Tell keys of a plugin that stand beside "plugins", where the runtime drops them."""
    for key in listed:
        low = key.lower()
        if low in LIST_KEYS:
            continue
        if low in config_schema.TOP or low in config_schema.BANDWIDTH:
            home = where + (
                config_schema.TOP.get(low) or f"bandwidth.{config_schema.BANDWIDTH[low]}"
            )
            yield Remark(lines.of(key), key, f"it has no meaning here: allowed is {home}", True)
        elif "/" not in key and "." not in key:
            yield Remark(lines.of(key), key, "no such key of a list of plugins", False)


def _line_in(message: str) -> int:
    """Return the line that a message about broken JSON tells."""
    digits = message.partition("at line ")[2].partition(",")[0]
    return int(digits) if digits.isdigit() else 1


def _versions(folded: dict[str, Any], lines: Lines) -> Iterator[Remark]:
    stated = folded.get("cniversion")
    if isinstance(stated, str) and stated not in protocol.SUPPORTED_VERSIONS:
        text = f"value {config_schema.shown(stated)}: allowed is any of {', '.join(protocol.SUPPORTED_VERSIONS)}"
        yield Remark(lines.of("cniVersion"), "cniVersion", text, True)
        return
    offered = folded.get("cniversions")
    every = [stated or "0.1.0", *(offered if isinstance(offered, list) else ())]
    if not any(version in ("0.4.0", "1.0.0", "1.1.0") for version in every):
        text = "before 0.4.0 there is no CHECK, before 1.1.0 no GC: offer later ones, too"
        yield Remark(lines.of("cniVersion"), "cniVersion", text, False)


def _surprises(
    config: NetworkConfig, document: dict[str, object], where: str
) -> Iterator[tuple[str, str]]:
    """Yield (place, text) for what is allowed but not what one would expect."""
    for path in config.unknown:
        yield path, "no such key: faasm passes it over"
    for text in config.warnings:
        yield text.partition(": ")[0], text.partition(": ")[2]
    for direction, limit in (("ingress", config.ingress), ("egress", config.egress)):
        yield from _burst(f"{where}bandwidth.{direction}Burst", limit, plan.link_mtu(config, 0))
    if bool(config.ingress.rate_bps) != bool(config.egress.rate_bps):
        lacking = "egressRate" if config.ingress.rate_bps else "ingressRate"
        yield f"{where}bandwidth", f"{lacking} is not given: that direction has no limit"
    capabilities = {
        key.lower(): value
        for key, value in _objects(document, "capabilities").items()
        if value is True
    }
    if "bandwidth" not in capabilities:
        yield (
            f"{where}capabilities",
            "without bandwidth in it, the limits that a pod asks for are not passed on",
        )
    if config.shapes_only:
        if not config.ingress.rate_bps and not config.egress.rate_bps:
            yield where.rstrip("."), "no rate: limits nothing but what a runtime asks for"
        return
    if config.ipam_plugin:
        return  # its addresses and routes are known when it has given them
    if not config.routes:
        yield f"{where}ipam.routes", "none: containers reach nothing beyond the network's ranges"
    elif not config.ip_masq and any(one.prefix_len == 0 for one in config.routes):
        private = [
            one.subnet_text()
            for range_set in config.range_sets
            for one in range_set
            if _is_private(one.subnet_text())
        ]
        if private:
            yield (
                f"{where}ipMasq",
                (
                    f"off, and {', '.join(private)} is private: answers from outside come back "
                    "only if the routers there know the way"
                ),
            )
    yield from _beside_the_host(config, where)


def _burst(place: str, limit: Limit, mtu: int) -> Iterator[tuple[str, str]]:
    if limit.rate_bps and limit.burst_bits:
        became = shaping.became(
            limit.burst_bits, shaping.shape(limit, None, mtu, queue=kernel.BFIFO)
        )
        if became:
            yield place, became
        seconds = limit.burst_bits / limit.rate_bps
        if seconds > MAX_BURST_S:
            yield (
                place,
                (
                    f"a burst of {seconds:.3g} s at {units.rate_text(limit.rate_bps)}: "
                    "for so long nothing is limited after each pause"
                ),
            )


def _objects(document: dict[str, object], key: str) -> dict[str, object]:
    for name, value in document.items():
        if name.lower() == key and isinstance(value, dict):
            return value
    return {}


def _is_private(subnet: str) -> bool:
    import ipaddress

    return ipaddress.ip_network(subnet).is_private


def _beside_the_host(config: NetworkConfig, where: str) -> Iterator[tuple[str, str]]:
    """Compare with this host: its firewall, its uplink's MTU, its routes."""
    for text in firewall_trust.refusals(config):
        yield f"{where}ipam", text
    for source in firewall_trust.lost_at_reload(config):
        yield (
            f"{where}ipam",
            (
                f"{source} is in a zone of firewalld's now, but not after a reload or restart: "
                "cni-faasm firewall-trust puts it there for good"
            ),
        )
    with Netlink() as host:
        lengths = {len(range_set[0].network) for range_set in config.range_sets}
        uplink_mtu = veth.uplink_mtu(host, lengths)
        if config.mtu and uplink_mtu and config.mtu > uplink_mtu:
            yield (
                f"{where}mtu",
                (
                    f"{config.mtu} is above this host's uplink's {uplink_mtu}: large packets "
                    "are broken up, or lost where that is forbidden"
                ),
            )
        try:
            routes = [
                one for family in (2, 10) for one in dumps.routes(host, family, table=MAIN_TABLE)
            ]
        except NetlinkError as error:
            raise ToolError(str(error)) from None
        for range_set in config.range_sets:
            for one in range_set:
                for other in routes:
                    length = len(one.network)
                    if len(other.dst) != length or other.prefix_len == 0:
                        continue
                    if other.prefix_len == length * 8 and _is_ours(host, other.oif):
                        continue
                    shorter = min(one.prefix_len, other.prefix_len)
                    if inet.network(one.network, shorter) == inet.network(other.dst, shorter):
                        device = veth.find(host, ifindex=other.oif) if other.oif else None
                        yield (
                            f"{where}ipam",
                            f"{one.subnet_text()} overlaps this host's route to "
                            f"{inet.cidr(other.dst, other.prefix_len)}"
                            + (f" by {device.name}" if device else ""),
                        )


def _is_ours(host: Netlink, ifindex: int | None) -> bool:
    found = veth.find(host, ifindex=ifindex) if ifindex else None
    return found is not None and found.alias.startswith("cni-faasm ")


def _others(config: NetworkConfig, path: str, conf_dir: str) -> Iterator[tuple[str, str]]:
    """Compare with the host's other networks."""
    for other in networks.installed(conf_dir):
        if os.path.realpath(other.path) == os.path.realpath(path):
            continue
        if other.name == config.name:
            yield "name", f"{other.path} is of a network {config.name!r}, too"
            continue
        theirs = configuration.load_tolerant(other.document)
        for mine in (one for range_set in config.range_sets for one in range_set):
            for its in (one for range_set in theirs.range_sets for one in range_set):
                if mine.overlaps(its):
                    yield (
                        "plugins",
                        (
                            f"{mine.subnet_text()} overlaps {its.subnet_text()} of the network "
                            f"{other.name!r} in {other.path}"
                        ),
                    )
