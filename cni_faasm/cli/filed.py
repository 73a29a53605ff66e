"""Tell what the file of its network says of a running container now.

The file as it is, with what the container's runtime asked for at ADD, which the record keeps:
what an ADD of this moment would be given.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from cni_faasm.attachment import accepted, plan, record
from cni_faasm.cli import networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.config import loading as configuration
from cni_faasm.config.shared import Shared
from cni_faasm.ipam import reclaim
from cni_faasm.limits.shaping import Shape
from cni_faasm.link import kernel
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError

DIRECTIONS = ("ingress", "egress")
SHARED = "shared"  # of the record, too
COUNTED = "counted"  # of the record: limits of packets and connections
APPLIED = "applied"  # of the record: the configuration whose limits it has, if not that of ADD
SUBNET_KEYS = ("unshapedSubnets", "shapedSubnets")
RUNTIMES = ("runtimeconfig", "args")
# Keys that decide limits, are of one call, or change nothing of what ADD makes.
_NO_MATTER = frozenset(
    [
        "cniversion",
        "cniversions",
        "name",
        "type",
        "bandwidth",
        "ingressrate",
        "egressrate",
        "ingressburst",
        "egressburst",
        "maxingressrate",
        "maxegressrate",
        "ratesbyargs",
        "unshapedsubnets",
        "shapedsubnets",
        "logfile",
        "locktimeout",
        "ipamtimeout",
        "hostinterfaceprefix",
        "runtimeconfig",
        "args",
        "capabilities",
        "prevresult",
    ]
)
_DEFAULTS: dict[str, object] = {"antispoof": True, "mtu": 0}

Shapes = dict[str, Shape | None]


class Filed(NamedTuple):
    """What a network's file gives a container.

    document: with the runtime's wishes. config: that document's. bare: without them.
    """

    path: str
    document: dict[str, Any]
    config: configuration.NetworkConfig
    bare: configuration.NetworkConfig

    def source(self, direction: str) -> str:
        """Say whose a direction's limit is: "file" or "runtime"."""
        one, other = (getattr(config, direction) for config in (self.config, self.bare))
        is_same = (one.rate_bps, one.burst_bits) == (other.rate_bps, other.burst_bits)
        return "file" if is_same else "runtime"


class Difference(NamedTuple):
    """One limit that a container has otherwise than its file says, in words."""

    key: str
    direction: str
    now: str
    file: str


class UnfiledError(Exception):
    """There is no file to go by; the text says why."""


class Files:
    """The files of a folder's networks, each read once."""

    def __init__(self, conf_dir: str) -> None:
        self.conf_dir = conf_dir
        self.known = networks.installed(conf_dir)

    def of(self, one: Attachment) -> Filed:
        """Return what an attachment's file says now. Raises: UnfiledError; ToolError for its faults."""
        network = next((found for found in self.known if found.name == one.network), None)
        if network is None:
            raise UnfiledError(
                f"no configuration in {self.conf_dir} that can be read is of the network "
                f"{one.network!r}"
            )
        if network.faults:
            raise ToolError(f"{network.path}: {'; '.join(network.faults)}")
        given = accepted_document(one.fields)
        if given is None:
            raise UnfiledError("its record does not keep what its runtime asked for")
        bare = dict(network.document)
        version = next((given[key] for key in given if key.lower() == "cniversion"), None)
        if isinstance(version, str):
            bare["cniVersion"] = version
        document = {**_wishes(given, bare), **bare}
        try:
            configs = [configuration.load(each, None, "STATUS") for each in (document, bare)]
        except CniError as error:
            raise ToolError(
                f"{network.path}: {error.msg}", f"cni-faasm validate {network.path} shows the lines"
            ) from None
        return Filed(network.path, document, *configs)


def accepted_document(fields: dict[str, object]) -> dict[str, Any] | None:
    """Return the configuration that ADD was given; None when the record does not keep it."""
    return _document(fields, accepted.KEY)


def limits_document(fields: dict[str, object]) -> dict[str, Any]:
    """Return the configuration whose limits an attachment has, {} when nothing tells it."""
    return _document(fields, APPLIED) or _document(fields, accepted.KEY) or {}


def _document(fields: dict[str, object], key: str) -> dict[str, Any] | None:
    text = fields.get(key)
    found = json.loads(text) if isinstance(text, str) and text else None
    return found if isinstance(found, dict) else None


def _wishes(given: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return what the runtime put beside the file's keys, and would put there again."""
    wishes = {
        key: value
        for key, value in given.items()
        if key.lower() in RUNTIMES and key.lower() not in {name.lower() for name in now}
    }
    # Without the capability a runtime passes no limits.
    if _is_capable(given) and not _is_capable(now):
        for key, value in wishes.items():
            if key.lower() == "runtimeconfig" and isinstance(value, dict):
                wishes[key] = {
                    name: one for name, one in value.items() if name.lower() != "bandwidth"
                }
    return wishes


def _is_capable(document: dict[str, Any]) -> bool:
    found = next((document[key] for key in document if key.lower() == "capabilities"), None)
    return isinstance(found, dict) and found.get("bandwidth") is True


def shapes(one: Attachment, filed: Filed) -> Shapes:
    """Return an attachment's shapes by its file: ingress, egress, hostEgress."""
    promised = one.promised
    if promised is None:
        raise ToolError(f"{one.called}: its record cannot be read", "cni-faasm gc removes it")
    queue = queue_of(one)
    marker = reclaim.read_marker(one.state_dir, one.network)
    scope = kernel.scope(filed.config, record.boot_id(), marker)
    ingress, egress = plan.both_shapes(filed.config, promised.mtu, queue, scope)
    on_host = plan.on_host(filed.config, promised.mtu, queue, scope)
    return {"ingress": ingress, "egress": egress, "hostEgress": on_host}


def differences_of(one: Attachment, files: Files) -> list[Difference]:
    """Return the limits that an attachment has otherwise than its file says now.

    Raises: UnfiledError, ToolError, CniError, NetlinkError.
    """
    return differences(one, files.of(one))


def differences(one: Attachment, file: Filed) -> list[Difference]:
    """Return the limits that an attachment has otherwise than its file says."""
    promised = one.promised
    wanted = shapes(one, file)
    if promised is None:
        return []
    now = {"ingress": promised.ingress, "egress": promised.egress}
    found = [
        each
        for direction in DIRECTIONS
        for each in _of_direction(direction, now[direction], wanted[direction])
    ]
    enforced = [bool(shape) for shape in (promised.host_egress, wanted["hostEgress"])]
    # Without a limit there is nothing to enforce.
    if enforced[0] != enforced[1] and promised.egress and wanted["egress"]:
        words = ['"host"' if each else '""' for each in enforced]
        found.append(Difference("enforceEgress", "egress", *words))
    counts = [each.to_fields() if each else {} for each in (promised.counted, file.config.counted)]
    for key in output.COUNTED:
        numbers = [each.get(key) for each in counts]
        if numbers[0] != numbers[1]:
            direction = next((each for each in DIRECTIONS if key.startswith(each)), "both")
            found.append(
                Difference(key, direction, *(str(each or "unlimited") for each in numbers))
            )
    now_shared, file_shared = promised.shared, shared(one, file)
    for direction in DIRECTIONS:
        rates = [getattr(each, f"{direction}_bps", None) for each in (now_shared, file_shared)]
        if rates[0] != rates[1]:
            words = [output.exact_rate(rate_bps) for rate_bps in rates]
            found.append(Difference(f"shared.{direction}Rate", direction, *words))
    return found


def shared(one: Attachment, file: Filed) -> Shared | None:
    """Return what an attachment shares by its file.

    With whom, ADD has been told: only a new one can be told otherwise.
    """
    wanted = file.config.shared
    now = one.promised.shared if one.promised else None
    if wanted is None or (now is None and wanted.by):
        return None
    by, of = (now.by, now.of) if now else ("", "")
    return Shared(wanted.ingress_bps, wanted.egress_bps, by=by, of=of)


def _of_direction(direction: str, now: Shape | None, file: Shape | None) -> Iterator[Difference]:
    if now is None or file is None or now.rate_bps != file.rate_bps:
        if now is not None or file is not None:
            words = [output.exact_rate(shape.rate_bps if shape else None) for shape in (now, file)]
            yield Difference(f"{direction}Rate", direction, *words)
        return
    for key, name in ((f"{direction}Burst", "burst_bytes"), ("latency", "leaf_bytes")):
        numbers = [getattr(shape, name) for shape in (now, file)]
        if numbers[0] != numbers[1]:
            extra = " of queue" if key == "latency" else ""
            yield Difference(key, direction, *(f"{number} bytes{extra}" for number in numbers))
    scopes = [
        (shape.scope.only, sorted(inet.cidr(*subnet) for subnet in shape.scope.subnets))
        if shape.scope
        else (False, [])
        for shape in (now, file)
    ]
    if scopes[0] != scopes[1]:
        words = [f"{SUBNET_KEYS[only]} {', '.join(subnets) or 'none'}" for only, subnets in scopes]
        yield Difference("subnets", direction, *words)


def queue_of(one: Attachment) -> str:
    """Return the queue to use: that of the attachment, else what the kernel offers."""
    promised = one.promised
    for shape in (promised.ingress, promised.egress) if promised else ():
        if shape is not None:
            return shape.queue
    marker = reclaim.read_marker(one.state_dir, one.network)
    return kernel.queue(one.state_dir, one.network, record.boot_id(), marker)


def next_add(one: Attachment, filed: Filed) -> list[str]:
    """Return the file's keys that have changed since ADD and that only a new one can heed."""
    given = accepted_document(one.fields) or {}
    before, now = (
        {key.lower(): (key, value) for key, value in document.items()}
        for document in (given, filed.document)
    )
    changed = []
    for key in dict.fromkeys((*now, *before)):
        if key in _NO_MATTER:
            continue
        values = []
        for found in (before, now):
            value = found[key][1] if key in found else None
            values.append(_DEFAULTS.get(key) if value is None else value)
        if values[0] != values[1] and any(values):
            changed.append((now.get(key) or before[key])[0])
    return changed


def same_but_version(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Say whether two configurations differ in their version at most."""
    return _without_version(one) == _without_version(other)


def _without_version(document: dict[str, Any]) -> dict[str, Any]:
    return {
        key.lower(): value
        for key, value in document.items()
        if key.lower() not in ("cniversion", "prevresult")
    }


def of_network(known: Sequence[Attachment], files: Files, network: str) -> list[Attachment]:
    """Return those of one network. Raises: ToolError when nothing is of that name."""
    if not network:
        raise ToolError("--network is empty", "name a network; cni-faasm status shows them")
    names = {found.name for found in files.known} | {one.network for one in known}
    if network not in names:
        raise ToolError(
            f"no configuration in {files.conf_dir} and no attachment is of a network {network!r}",
            f"there are: {', '.join(sorted(names)) or 'none'}",
        )
    return [one for one in known if one.network == network]
