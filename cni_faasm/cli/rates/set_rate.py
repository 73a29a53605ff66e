"""The command that changes running containers' limits in place."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, NamedTuple, TypeVar

import typer

from cni_faasm.cli import attachments, filed, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.containers import complete_containers
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import DIRECTIONS, Filed, Files, UnfiledError
from cni_faasm.cli.rates import limits, sharing
from cni_faasm.cli.rates.limits import Changed, Counts, Wanted
from cni_faasm.cli.rates.sharing import Together
from cni_faasm.config import counted, units
from cni_faasm.limits import shaping
from cni_faasm.limits.shaping import Shape
from cni_faasm.link import kernel
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec.errors import CniError

T = TypeVar("T")


class Failed(NamedTuple):
    """An attachment that could not be changed, and why."""

    attachment: Attachment
    error: str
    remedy: str


class Asked(NamedTuple):
    """What set-rate is asked for. is_whole: of all of a network, or of all networks."""

    rates: Wanted
    counts: Counts
    together: Together
    is_whole: bool


class Set(NamedTuple):
    """What became of an attachment. sources: by direction, whose limits --reset took."""

    changed: Changed
    sources: dict[str, str]
    reason: str = ""


def set_rate(
    container: Annotated[
        str | None,
        typer.Argument(
            metavar="[CONTAINER]",
            help="Id of a container, its beginning, its runtime's name, or its interface on the host.",
            autocompletion=complete_containers,
        ),
    ] = None,
    network: Annotated[
        str | None,
        typer.Option("--network", metavar="NAME", help="All running containers of a network."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All running containers.")] = False,
    ingress: Annotated[
        str, typer.Option("--ingress", metavar="RATE", help="Limit of what it receives; 0: none.")
    ] = "",
    egress: Annotated[
        str, typer.Option("--egress", metavar="RATE", help="Limit of what it sends; 0: none.")
    ] = "",
    burst: Annotated[
        str,
        typer.Option("--burst", metavar="BITS", help="Burst of the directions given, or of both."),
    ] = "",
    ingress_packets: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=counted.MAX_PACKET_RATE,
            help="Packets per second that it receives; 0: no limit.",
        ),
    ] = None,
    egress_packets: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=counted.MAX_PACKET_RATE,
            help="Packets per second that it sends; 0: no limit.",
        ),
    ] = None,
    connections: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            max=counted.MAX_CONNECTIONS,
            help="Connections that it may have; 0: no limit.",
        ),
    ] = None,
    shared_ingress: Annotated[
        str,
        typer.Option(
            metavar="RATE", help="Limit of what it and those that share with it receive; 0: none."
        ),
    ] = "",
    shared_egress: Annotated[
        str,
        typer.Option(
            metavar="RATE", help="Limit of what it and those that share with it send; 0: none."
        ),
    ] = "",
    reset: Annotated[
        bool,
        typer.Option("--reset", help="Go to what the network's file says now, or else to ADD's."),
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Change running containers' limits, while they send and receive.

    Rates are bits/s with a unit: 10M, 1.5G, 256k. The change holds until the container
    goes; check and repair know of it. --reset takes the limits of the network's file as it is
    now; what the runtime asked for at ADD still comes first, and it is said whose they are.
    Of a shared limit, also --reset changes it for all who share it with CONTAINER.

    Examples:

        cni-faasm set-rate faasm3 --ingress 100M --egress 10M

        cni-faasm set-rate --network faasm --egress 5M

        cni-faasm set-rate faasm3 --egress-packets 5000 --connections 200

        cni-faasm set-rate --network faasm --shared-egress 200M

        cni-faasm set-rate faasm3 --reset

        cni-faasm set-rate --all --reset
    """
    counts = _counts(ingress_packets, egress_packets, connections)
    together = _rates({"shared-ingress": shared_ingress, "shared-egress": shared_egress})
    if reset == bool(ingress or egress or burst or counts or together):
        raise typer.BadParameter(
            "give --reset, or any of --ingress, --egress, --burst, --ingress-packets, "
            "--egress-packets, --connections, --shared-ingress, --shared-egress"
        )
    if (container is not None) + (network is not None) + every != 1:
        raise typer.BadParameter("name a CONTAINER, or --network NAME, or --all")
    wanted: Wanted = _wanted(ingress, egress, burst) if ingress or egress or burst else {}
    files = Files(conf_dir)
    chosen = choose(files, state_dir, container, network)
    asked = None if reset else Asked(wanted, counts, together, is_whole=container is None)
    done, failed = each(chosen, lambda one: _set(one, files, asked))
    if container is not None and (reset or together):
        known = attachments.every(networks.state_dirs(files.known, state_dir))
        others = running(sharing.mates(list(known), chosen))
        also, also_failed = each(others, lambda one: _set_shared(one, files, together))
        done += [one for one in also if one.changed.directions]
        failed += also_failed
    if as_json:
        output.print_json(
            {"attachments": [_document(one) for one in done], "failed": failures(failed)}
        )
    else:
        for one in done:
            for line in _lines(one, wanted):
                output.say(line)
        if not done and not failed:
            typer.echo("no running container")
    end(failed)


def choose(
    files: Files, state_dir: str, container: str | None, network: str | None
) -> list[Attachment]:
    """Return a container's attachments, or those of a network (None: of all) that run."""
    known = list(attachments.every(networks.state_dirs(files.known, state_dir)))
    if container is not None:
        return attachments.matching(iter(known), container)
    return running(known if network is None else filed.of_network(known, files, network))


def running(known: Sequence[Attachment]) -> list[Attachment]:
    """Return those whose containers may run; say which do not, and are passed over."""
    found = []
    for one in known:
        try:
            if one.promised is not None:  # what cannot be read is for the caller to fail at
                with attachments.opened(one):
                    pass
        except ToolError as error:
            output.note(f"passed over {error}")
            continue
        found.append(one)
    return found


def each(
    chosen: Sequence[Attachment], act: Callable[[Attachment], T]
) -> tuple[list[T], list[Failed]]:
    """Do something to each attachment; one that fails keeps no other one from it."""
    done, failed = [], []
    for one in chosen:
        try:
            done.append(act(one))
        except ToolError as error:
            failed.append(Failed(one, str(error), error.remedy))
        except CniError as error:
            failed.append(Failed(one, f"{one.called}: {error.msg}", error.details))
        except NetlinkError as error:
            refused = kernel.refusal(error)
            failed.append(Failed(one, f"{one.called}: {refused.msg}", refused.details))
    return done, failed


def end(failed: Sequence[Failed]) -> None:
    """Tell what failed and exit with status 1; nothing when nothing did."""
    for line in dict.fromkeys(one.error for one in failed):
        output.note(line)
    for line in dict.fromkeys(one.remedy for one in failed if one.remedy):
        output.complain(line)
    if failed:
        raise typer.Exit(1)


def _set(one: Attachment, files: Files, asked: Asked | None) -> Set:
    if asked is not None:

        def decide(now: Attachment) -> Attachment:
            after = limits.as_wanted(now, asked.rates) if asked.rates else now
            after = limits.as_counted(after, asked.counts) if asked.counts else after
            if not asked.together:
                return after
            return sharing.as_shared(after, asked.together, is_whole=asked.is_whole)

        return Set(limits.change(one, decide), {})
    try:
        file = files.of(one)
    except UnfiledError as reason:
        return Set(
            limits.change(one, limits.as_before), dict.fromkeys(DIRECTIONS, "add"), str(reason)
        )
    return Set(
        limits.change(one, lambda now: limits.as_filed(now, file)),
        {direction: file.source(direction) for direction in DIRECTIONS},
        file.path,
    )


def _set_shared(one: Attachment, files: Files, together: Together) -> Set:
    """Change what an attachment shares, and nothing else of it. together: {} for --reset."""
    if together:
        return Set(
            limits.change(one, lambda now: sharing.as_shared(now, together, is_whole=True)), {}
        )
    file: Filed | None = None
    with contextlib.suppress(UnfiledError):
        file = files.of(one)
    return Set(limits.change(one, lambda now: sharing.as_reset(now, file)), {})


def _lines(done: Set, wanted: Wanted) -> Iterator[str]:
    one = done.changed.attachment
    for direction in DIRECTIONS:
        shape: Shape | None = getattr(one.promised, direction)
        text = output.exact_rate(shape.rate_bps if shape else None)
        text += f", burst {shape.burst_bytes} bytes" if shape else ""
        became = shaping.became(wanted.get(direction, (None, None))[1], shape)
        text += f" ({became})" if became else ""
        source = done.sources.get(direction)
        if source == "file":
            text += f", as in {done.reason}"
        elif source == "runtime":
            text += ", as its runtime asked"
        elif source == "add":
            text += f", those of ADD, for {done.reason}"
        if direction not in done.changed.directions:
            text += "; as before"
        yield f"{one.called}: {direction} {text}"
    promised = one.promised
    if promised is not None and (promised.counted or filed.COUNTED in done.changed.directions):
        text = output.counted_text(promised.counted)
        text += "" if filed.COUNTED in done.changed.directions else "; as before"
        yield f"{one.called}: at most {text}"
    if promised is not None and (promised.shared or filed.SHARED in done.changed.directions):
        shares = promised.shared
        text = f"at most {output.shared_text(shares)}" if shares else "shares no limit"
        text += "" if filed.SHARED in done.changed.directions else "; as before"
        yield f"{one.called}: {text}"


def failures(failed: Sequence[Failed]) -> list[dict[str, Any]]:
    """Return failures for machines."""
    return [
        {
            **one.attachment.identity(),
            "error": output.error(one.error, one.remedy),
        }
        for one in failed
    ]


def _document(done: Set) -> dict[str, Any]:
    one = done.changed.attachment
    shapes: dict[str, Shape | None] = {
        direction: getattr(one.promised, direction) for direction in DIRECTIONS
    }
    return {
        **one.identity(),
        "changed": bool(done.changed.directions),
        "takenFrom": done.sources or None,
        **{
            direction: output.limit(shape.rate_bps, shape.burst_bytes)
            if shape
            else output.limit(None, None)
            for direction, shape in shapes.items()
        },
        "counted": output.counted(one.promised.counted if one.promised else None),
        "shared": output.shared(one.promised.shared if one.promised else None),
    }


def _wanted(ingress: str, egress: str, burst: str) -> Wanted:
    """Return (rate or None to keep it, burst or None to compute it) by direction."""
    burst_bits = None
    if burst:
        try:
            burst_bits = units.parse_burst(_number(burst))
        except (ValueError, OverflowError):
            raise typer.BadParameter(f"--burst {burst}: allowed is {units.ALLOWED_BURST}") from None
    found = _rates({"ingress": ingress, "egress": egress})
    wanted: Wanted = {key: (rate_bps, burst_bits) for key, rate_bps in found.items()}
    return wanted or dict.fromkeys(DIRECTIONS, (None, burst_bits))


def _rates(given: dict[str, str]) -> dict[str, int]:
    """Return the rates of the options that are given, by direction. Raises: typer.BadParameter."""
    found = {}
    for option, text in given.items():
        if not text:
            continue
        try:
            found[option.removeprefix("shared-")] = units.parse_rate(_number(text))
        except (ValueError, OverflowError):
            raise typer.BadParameter(
                f"--{option} {text}: allowed is {units.ALLOWED_RATE}, or 0 for no limit"
            ) from None
    return found


def _counts(ingress: int | None, egress: int | None, connections: int | None) -> Counts:
    """Return what is given of packets and connections."""
    given = {"ingress": ingress, "egress": egress, "connections": connections}
    return {key: number for key, number in given.items() if number is not None}


def _number(text: str) -> object:
    return int(text) if text.isascii() and text.isdigit() else text
