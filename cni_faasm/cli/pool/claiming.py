"""The commands `cni-faasm pool claim` and `pool return`, for people and scripts."""

import json
from typing import Annotated

import typer

from cni_faasm import slots
from cni_faasm.cli import attachments, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import making
from cni_faasm.cli.pool.offer import limit_of
from cni_faasm.cli.pool.slotfiles import SlotFiles
from cni_faasm.cli.rates import limits
from cni_faasm.config import units

Prefix = Annotated[str, typer.Option("--prefix", metavar="P", help="The pool's name.")]


def claim(
    rate: Annotated[
        str, typer.Option("--rate", metavar="RATE", help="Limit of both directions; 0: none.")
    ] = "",
    owner: Annotated[
        int,
        typer.Option("--owner", metavar="PID", min=0, help="At whose end it may be taken back."),
    ] = 0,
    prefix: Prefix = "faasm",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Claim a free slot of a pool and print its number.

    Programs do the same by rename(2) in /run/cni-faasm/pools, in microseconds: docs/slots.md.
    Without --owner the slot is yours until it is returned; in a script --owner $$ lets `pool
    serve` take it back when the script has ended.

    Examples:

        cni-faasm pool claim

        cni-faasm pool claim --rate 10M --owner $$ --json
    """
    names = making.names_of(prefix, 1)
    wanted = _rate(rate)
    try:
        slot = slots.claim(names.prefix, pid=owner or -1)
    except slots.NoSlotError as error:
        raise ToolError(
            str(error),
            f"cni-faasm pool up N{_option(prefix)} makes some, pool serve keeps some free",
        ) from None
    if wanted is not None:
        try:
            _limit(slot, wanted, networks.state_dirs(networks.installed(conf_dir), state_dir))
        except BaseException:
            slot.give_back()
            raise
    if as_json:
        output.print_json(slot.document)
    else:
        typer.echo(str(slot.number))


def return_(
    number: Annotated[int, typer.Argument(metavar="K", min=1, help="Which slot.")],
    prefix: Prefix = "faasm",
    as_json: output.AsJson = False,
) -> None:
    """Give a claimed slot back; it is made as new before anybody gets it again.

    `pool serve` does that at once. Without it, the next `pool up` does.

    Examples:

        cni-faasm pool return 3
    """
    names = making.names_of(prefix, number)
    try:
        slots.give_back(number, names.prefix)
    except FileNotFoundError:
        raise ToolError(
            f"slot {number} of the pool {prefix!r} is not claimed",
            f"cni-faasm pool list{_option(prefix)} tells which are",
        ) from None
    if as_json:
        output.print_json({"pool": prefix, "slot": number})


def _option(prefix: str) -> str:
    return "" if prefix == "faasm" else f" --prefix {prefix}"


def _rate(text: str) -> limits.Wanted | None:
    if not text:
        return None
    number: object = int(text) if text.isascii() and text.isdigit() else text
    try:
        rate_bps = units.parse_rate(number)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            f"--rate {text}: allowed is {units.ALLOWED_RATE}, or 0 for no limit"
        ) from None
    return {"ingress": (rate_bps, None), "egress": (rate_bps, None)}


def _limit(slot: slots.Slot, wanted: limits.Wanted, state_dirs: list[str]) -> None:
    """Give a slot's attachment other limits, and its file."""
    one = _attachment(slot, state_dirs)
    promised = limits.change(one, lambda now: limits.as_wanted(now, wanted)).attachment.promised
    if promised is None:
        raise ToolError(f"{one.called}: its record cannot be read")
    slot.document["ingress"] = limit_of(promised.ingress)
    slot.document["egress"] = limit_of(promised.egress)
    _rewrite(slot)


def _attachment(slot: slots.Slot, state_dirs: list[str]) -> Attachment:
    names = making.names_of(slot.pool, slot.number)
    name, ifname = names.namespace(slot.number), names.inner(slot.number)
    network = str(slot.document.get("network"))
    for state_dir in state_dirs:
        found = attachments.load(state_dir, network, name, ifname)
        if found.fields:
            return found
    raise ToolError(
        f"{name}: its record is not found", "say by --state-dir where the pool's records are"
    )


def _rewrite(slot: slots.Slot) -> None:
    """Say the slot's new limits in its file, which is ours alone, and keep the owner's line."""
    files = SlotFiles(slot.pool)
    path = f"{files.path}/{slots.CLAIMED}/{slot.number}"
    with open(path, "rb") as file:
        _, _, rest = file.read().partition(b"\n")
    output.write_whole(path, json.dumps(slot.document).encode() + b"\n" + rest)
