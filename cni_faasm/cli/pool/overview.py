"""The command `cni-faasm pool status`: how many slots are free, claimed and so on.

For pools of thousands: it reads the three folders and asks the kernel once for all pairs. It does not
look into the namespaces, as `pool list` does.
"""

import os
from typing import Annotated, Any

import typer

from cni_faasm.cli import output
from cni_faasm.cli.pool import machines, making
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
    """Count a pool's slots: free, claimed, returned, and those whose pair or TAP is not up.

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
    standing = {
        number: end
        for number in free | reserve | claimed
        if (end := ends.get(names.outer(number))) and _stands(end, names.namespace(number))
    }
    broken = (free | reserve | claimed) - standing.keys()
    broken |= _without_tap(files, host, standing)
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
        "broken": sorted(broken),
    }


def _stands(end: link.Link, namespace: str) -> bool:
    """Say whether a member's pair is there and up on both sides."""
    return end.alias.split()[2:3] == [namespace] and end.operstate == link.IF_OPER_UP


def _without_tap(files: SlotFiles, host: Netlink, ends: dict[int, link.Link]) -> set[int]:
    """Return the members whose TAP is not as promised, where they have one.

    The kernel looks it up from here, by the number under which it knows the other end's namespace.
    """
    told = files.machine()
    if told is None:
        return set()
    known = {number: one for number, one in ends.items() if one.link_netnsid is not None}
    questions = [link.get_link(name=told[0], netnsid=one.link_netnsid) for one in known.values()]
    answers = zip(known, host.get_tolerant(questions), strict=True)
    return {number for number, answer in answers if machines.tap_drifts(answer, *told)}


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
            f"{len(broken)} whose pair or TAP is not up: {', '.join(map(str, broken[:_SHOWN]))}{more}"
        )
    return "\n".join(lines)
