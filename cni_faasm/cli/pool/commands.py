"""The commands of `cni-faasm pool`."""

import os
import signal
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cni_faasm.cli import looks, networks, output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import claiming, netfolder, overview, removing, serve
from cni_faasm.cli.pool import making as pool
from cni_faasm.cli.pool.offer import offer
from cni_faasm.cli.pool.renewal import renew_returned
from cni_faasm.cli.pool.resting import wake_all
from cni_faasm.cli.pool.slotfiles import CLAIMED, SlotFiles, is_alive
from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec import inet

app = typer.Typer(
    help="Make and remove pools of function namespaces: faasmns1, faasmns2, ...\n\n"
    "Examples:\n\n    cni-faasm pool up 3\n\n    cni-faasm pool exec 2 -- ping -c1 9.9.9.9\n\n"
    "    cni-faasm pool down",
    no_args_is_help=True,
    rich_markup_mode=None,
)

app.command("claim")(claiming.claim)
app.command("return")(claiming.return_)
app.command("serve")(serve.serve)
app.command("status")(overview.status)

MAX_MEMBERS = 65_536
ERRORS_SHOWN = 5

Prefix = Annotated[
    str, typer.Option("--prefix", metavar="P", help="Names are P1, Pp1, Pns1 and so on.")
]


@app.command()
def up(
    size: Annotated[int, typer.Argument(metavar="N", min=1, max=MAX_MEMBERS, help="How many.")],
    prefix: Prefix = "faasm",
    network: Annotated[
        str, typer.Option("--network", metavar="NAME", help="Attach to this network.")
    ] = "",
    conf: Annotated[
        str, typer.Option("--conf", metavar="FILE", help="Attach to the network in this file.")
    ] = "",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    as_json: output.AsJson = False,
) -> None:
    """Bring up the namespaces faasmns1 to faasmnsN, each attached and shaped.

    Number K has the interface faasmK outside and faasmpK inside. What is there already and
    whole is left alone, so an interrupted call may be repeated. Where somebody else has one of
    the names, nothing is made. Members are free to be claimed; those that were returned are made
    as new. Without --network and --conf the network is that of
    10-faasm.conflist, else the first of faasm's, else the one that came with the bundle.

    Examples:

        cni-faasm pool up 10

        cni-faasm pool up 100 --network edge --prefix edge

        cni-faasm pool up 3 --conf ./my.conflist --json
    """
    names = pool.names_of(prefix, size)
    chosen = networks.find(network, conf, conf_dir)
    if chosen.path == networks.delivered_path():
        output.note(f"{conf_dir} has no file of faasm's: taking {chosen.path}")
    # An end asked for by `kill` is the same to us as Ctrl-C: what is half made is undone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with pool.locked(output.note):
        pool.demand_one_network(names, size, chosen.name, conf_dir)
        builder = pool.Builder(names, chosen)
        try:
            builder.demand_free(size, _state_dirs(conf_dir, ""))
            if builder.servers.warning:
                output.note(f"warning: {builder.servers.warning}")
            if chosen.others:
                output.note(
                    f"warning: {chosen.path} lists more plugins, which a pool does not call: "
                    f"{', '.join(chosen.others)}"
                )
            outcomes = []
            returned = []
            with output.Progress("pool up", size, quiet=as_json) as progress:
                files = SlotFiles(prefix)
                files.make()
                if not files.is_served():
                    files.offer_reserve()
                returned = renew_returned(builder, files)
                states = files.states()
                for first in range(1, size + 1, pool.AT_A_TIME):
                    after = min(first + pool.AT_A_TIME, size + 1)
                    builder.make_ahead(range(after, min(after + pool.AT_A_TIME, size + 1)))
                    for outcome in builder.up_many(range(first, after)):
                        outcomes.append(outcome)
                        if outcome.action != "failed" and outcome.number not in states:
                            offer(files, builder, outcome.number, outcome.promised)
                        progress.step()
        finally:
            builder.close()
    for one in returned:
        output.note(f"{names.namespace(one.number)}: {one.error}")
    for warning in dict.fromkeys(builder.warnings):
        output.note(f"warning: {warning}")
    _report(names, outcomes, as_json, chosen.name)


@app.command()
def down(
    numbers: Annotated[
        list[int] | None, typer.Argument(metavar="[N...]", min=1, help="Which; all if none.")
    ] = None,
    prefix: Prefix = "faasm",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    force: Annotated[
        bool,
        typer.Option("--force", help="Also those whose records are not found, and others' own."),
    ] = False,
    as_json: output.AsJson = False,
) -> None:
    """Remove the pool's namespaces with all that belongs to them; of all, or of some.

    The file of their network tells where their records and leases are. Where it has gone, and
    they are in no usual place, --force removes the namespaces and leaves those behind.

    Examples:

        cni-faasm pool down

        cni-faasm pool down 3 4

        cni-faasm pool down --prefix edge
    """
    names = pool.names_of(prefix, 1)
    with pool.locked(output.note):
        known = pool.members(names, _state_dirs(conf_dir, state_dir))
        wanted = set(numbers or ())
        doomed = [member for member in known if not wanted or member.number in wanted]
        files = SlotFiles(prefix)
        if files.is_served():
            raise ToolError(
                f"a pool serve keeps the pool {prefix!r}, and would make again what is removed",
                "end it first, as by systemctl stop cni-faasm-slots",
            )
        if not force:
            doomed = _without_claimed(names, _without_foreign(names, doomed), files)
            removing.demand_none_stranded(names, doomed)
        with output.Progress("pool down", len(doomed), quiet=as_json) as progress:
            outcomes = removing.down(names, doomed, progress.step)
        for one in outcomes:
            if one.action == "removed":
                files.drop(one.number)
        if not wanted and os.path.isdir(files.path):
            wake_all(files)
            files.remove()
    absent = sorted(wanted - {member.number for member in known})
    for number in absent:
        output.note(f"{names.namespace(number)}: there is none")
    _report(names, outcomes, as_json, "")


@app.command("list")
def list_(
    prefix: Prefix = "faasm",
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """List the pool's namespaces, what each is attached to, and its limits.

    Examples:

        cni-faasm pool list

        cni-faasm pool list --json
    """
    names = pool.names_of(prefix, 1)
    with Netlink() as host:
        files = SlotFiles(prefix)
        states = files.states()
        rows = [
            _row(names, member, host) | _slot(files, member.number, states.get(member.number))
            for member in pool.members(names, _state_dirs(conf_dir, state_dir))
        ]
    if as_json:
        output.print_json({"members": rows})
        return
    if not rows:
        typer.echo(f"no namespaces {names.namespace(1)}, {names.namespace(2)}, ...")
        return
    heads = ("NAMESPACE", "OUTSIDE", "INSIDE", "ADDRESSES", "IN", "OUT", "NETWORK", "SLOT", "STATE")
    cells = [
        (
            str(row["namespace"]),
            str(row["hostInterface"] or "-"),
            str(row["ifname"] or "-"),
            ",".join(row["addresses"]) or "-",
            output.rate(row["ingress"]["limitBitsPerSecond"]),
            output.rate(row["egress"]["limitBitsPerSecond"]),
            str(row["network"] or "-"),
            " ".join(str(row[key]) for key in ("slot", "owner") if row[key]) or "-",
            str(row["state"]),
        )
        for row in rows
    ]
    going = ("INSIDE", "NETWORK", "OUTSIDE", "SLOT", "ADDRESSES")
    typer.echo(output.table(heads, cells, right=("IN", "OUT"), dispensable=going))


@app.command(
    "exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def exec_(
    number: Annotated[int, typer.Argument(metavar="K", min=1, help="Which namespace.")],
    command: Annotated[list[str], typer.Argument(metavar="COMMAND...", help="What to run.")],
    prefix: Prefix = "faasm",
) -> None:
    """Run a command in the namespace faasmnsK; its exit status is the command's.

    Examples:

        cni-faasm pool exec 3 -- ping -c1 9.9.9.9

        cni-faasm pool exec 1 -- tc class show dev faasmp1
    """
    name = pool.names_of(prefix, number).namespace(number)
    if not netfolder.exists(name):
        raise ToolError(f"there is no namespace {name}", f"cni-faasm pool up {number} makes it")
    if command[0] == "--":
        command = command[1:]
    if not command:
        raise typer.BadParameter("no command")
    try:
        netfolder.execute(name, command)
    except FileNotFoundError:
        raise ToolError(f"{command[0]}: no such command") from None


def _without_foreign(names: pool.Names, doomed: Sequence[pool.Member]) -> list[pool.Member]:
    """Leave out the namespaces that are somebody's own, and say so."""
    left = []
    for member in doomed:
        found = pool.foreign(names, member)
        if found:
            output.note(
                f"{names.namespace(member.number)}: left alone: it is not attached, and has "
                f"{', '.join(found[:3])}, which no pool makes; --force removes it"
            )
        else:
            left.append(member)
    return left


def _without_claimed(
    names: pool.Names, doomed: Sequence[pool.Member], files: SlotFiles
) -> list[pool.Member]:
    """Leave out the members that somebody has claimed, and say so."""
    claimed = files.numbers(CLAIMED)
    left = []
    for member in doomed:
        owner = files.owner(member.number) if member.number in claimed else None
        if member.number not in claimed or (owner is not None and not is_alive(owner)):
            left.append(member)
            continue
        whose = "somebody" if owner is None else f"process {owner.pid}"
        output.note(
            f"{names.namespace(member.number)}: left alone: {whose} has claimed it; cni-faasm pool "
            f"return {member.number} gives it back, --force removes it"
        )
    return left


def _state_dirs(conf_dir: str, state_dir: str) -> list[str]:
    return networks.state_dirs(networks.installed(conf_dir), state_dir)


def _row(names: pool.Names, member: pool.Member, host: Netlink) -> dict[str, Any]:
    row: dict[str, Any] = {
        "number": member.number,
        "namespace": names.namespace(member.number),
        "network": None,
        "containerID": names.namespace(member.number),
        "ifname": None,
        "hostInterface": None,
        "addresses": [],
        "ingress": output.limit(None, None),
        "egress": output.limit(None, None),
        "state": "ok" if member.namespace else "namespace gone",
    }
    if not member.attachments:
        row["state"] = "not attached"
        return row
    one = member.attachments[0]
    row["network"], row["ifname"] = one.network, one.ifname
    if one.promised is None:
        row["state"] = "record unreadable"
        return row
    if member.namespace and looks.look(one, host):
        row["state"] = "drifted"
    row["hostInterface"] = one.promised.host_interface
    row["addresses"] = [inet.unpack(item.address) for item in one.promised.addresses]
    for key, shape in (
        ("ingress", one.promised.ingress),
        ("egress", one.promised.egress),
    ):
        if shape is not None:
            row[key] = output.limit(shape.rate_bps, shape.burst_bytes)
    return row


def _slot(files: SlotFiles, number: int, state: str | None) -> dict[str, Any]:
    """Return whether a member can be claimed, and the pid of who has."""
    owner = files.owner(number) if state == CLAIMED else None
    return {"slot": state, "owner": owner.pid if owner else None}


def _outcome(names: pool.Names, one: pool.Outcome) -> dict[str, Any]:
    """Return what became of a member, for machines."""
    return {
        "number": one.number,
        "namespace": names.namespace(one.number),
        "action": one.action,
        "addresses": one.address.split(", ") if one.address else [],
        "error": output.error(one.error, one.remedy) if one.error else None,
    }


def _report(
    names: pool.Names, outcomes: Sequence[pool.Outcome], as_json: bool, network: str
) -> None:
    """Say what was done; exit with status 1 when something failed."""
    failed = [one for one in outcomes if one.action == "failed"]
    if as_json:
        members = [_outcome(names, one) for one in outcomes]
        output.print_json({"network": network or None, "members": members})
    else:
        counts: dict[str, int] = {}
        for one in outcomes:
            counts[one.action] = counts.get(one.action, 0) + 1
        text = ", ".join(f"{count} {action}" for action, count in counts.items())
        typer.echo((f"{network}: " if network else "") + (text or "nothing to do"))
    for one in failed[:ERRORS_SHOWN]:
        output.note(f"{names.namespace(one.number)}: {one.error}")
    if len(failed) > ERRORS_SHOWN:
        output.note(f"and {len(failed) - ERRORS_SHOWN} more like these")
    remedies = dict.fromkeys(one.remedy for one in failed if one.remedy)
    for remedy in list(remedies)[:ERRORS_SHOWN]:
        output.complain(remedy)
    if failed:
        raise typer.Exit(1)
