"""The command `cni-faasm pool status`: how many slots are free, claimed and so on.

For pools of thousands: it reads the three folders and asks the kernel once for all pairs. It does not
look into the namespaces, as `pool list` does.
"""

import os
from typing import Annotated, Any

import typer

from cni_faasm.cli import output
from cni_faasm.cli.pool import making
from cni_faasm.cli.pool.slotfiles import (
    CLAIMED,
    FREE,
    PLACES,
    RESERVE,
    RESTING,
    RETURNED,
    SlotFiles,
    is_alive,
)
from cni_faasm.netlink import dumps, link
from cni_faasm.netlink.transport import Netlink

_SHOWN = 10


def status(
    prefix: Annotated[
        str, typer.Option("--prefix", metavar="P", help="The pool's name.")
    ] = "faasm",
    as_json: output.AsJson = False,
) -> None:
    """Count a pool's slots: free, claimed, returned, and those whose pair is not up.

    It takes a fraction of a second for thousands; `pool list` looks into each of them.

    Examples:

        cni-faasm pool status

        cni-faasm pool status --prefix edge --json
    """
    names = making.names_of(prefix, 1)
    with Netlink() as host:
        counted = count(names, SlotFiles(prefix), host)
    if as_json:
        output.print_json(counted)
    else:
        typer.echo(text(counted))


def count(names: making.Names, files: SlotFiles, host: Netlink) -> dict[str, Any]:
    """Return what there is of a pool, for machines."""
    free, reserve, claimed, returned = map(files.numbers, (FREE, RESERVE, CLAIMED, RETURNED))
    owners = {number: files.owner(number) for number in claimed}
    ends = {one.name: one for one in dumps.links(host, "veth")}
    broken = [
        number
        for number in sorted(free | reserve | claimed)
        if not _stands(ends.get(names.outer(number)), names.namespace(number))
    ]
    return {
        "pool": files.pool,
        "served": files.is_served(),
        "free": len(free),
        "reserve": len(reserve),
        "claimed": len(claimed),
        "ownersEnded": sum(one is not None and not is_alive(one) for one in owners.values()),
        "ownersUnknown": sum(one is None for one in owners.values()),
        "returned": len(returned),
        "restingAddresses": _resting(files),
        "broken": broken,
    }


def _stands(end: link.Link | None, namespace: str) -> bool:
    """Say whether a member's pair is there and up on both sides."""
    if end is None or end.alias.split()[2:3] != [namespace]:
        return False
    return end.operstate == link.IF_OPER_UP


def _resting(files: SlotFiles) -> int:
    try:
        names = os.listdir(f"{files.path}/{RESTING}")
    except FileNotFoundError:
        return 0
    return sum(not name.startswith(".") for name in names)


def text(counted: dict[str, Any]) -> str:
    """Return the same for people."""
    slots = sum(counted[state] for state in PLACES)
    if not slots:
        return f"{counted['pool']}: no slots"
    lines = [
        f"{counted['pool']}: {output.count(slots, 'slot')}, "
        f"{counted['free']} free, {counted['claimed']} claimed, {counted['returned']} returned; "
        + ("a server keeps them" if counted["served"] else "no server runs")
    ]
    if counted["reserve"]:
        lines.append(f"{counted['reserve']} in reserve")
    if counted["ownersEnded"]:
        lines.append(f"{counted['ownersEnded']} claimed by processes that have ended")
    if counted["ownersUnknown"]:
        lines.append(f"{counted['ownersUnknown']} claimed by nobody who is named")
    if counted["restingAddresses"]:
        lines.append(f"{output.count(counted['restingAddresses'], 'lease')} at rest")
    broken = counted["broken"]
    if broken:
        more = ", ..." if len(broken) > _SHOWN else ""
        lines.append(
            f"{len(broken)} whose pair is not up: {', '.join(map(str, broken[:_SHOWN]))}{more}"
        )
    return "\n".join(lines)
