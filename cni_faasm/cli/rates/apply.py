"""The command that brings running containers to their network's file as it is now."""

from typing import Annotated, Any, NamedTuple

import typer

from cni_faasm.cli import filed, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.containers import Container
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import Difference, Files, UnfiledError
from cni_faasm.cli.rates import limits
from cni_faasm.cli.rates.set_rate import choose, each, end, failures


class Applied(NamedTuple):
    """What became of an attachment. next_add: keys that only a new ADD can heed.

    by_hand: set-rate has set its limits, so they are left.
    """

    attachment: Attachment
    differences: list[Difference]
    next_add: list[str]
    by_hand: bool
    changed: bool


def apply(
    container: Container = None,
    network: Annotated[
        str | None, typer.Option("--network", metavar="NAME", help="Those of one network only.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be changed.")
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Bring running containers to their network's file as it is now: limits, while they run.

    What the runtime asked for at ADD still comes first. Limits that set-rate has set are left;
    set-rate --reset ends them. Other keys that have changed need a new ADD, and are named.

    Examples:

        cni-faasm apply --dry-run

        cni-faasm apply

        cni-faasm apply --network faasm
    """
    if container is not None and network is not None:
        raise typer.BadParameter("name a CONTAINER, or --network NAME, or nothing for all")
    files = Files(conf_dir)
    chosen = choose(files, state_dir, container, network)
    done, failed = each(chosen, lambda one: _apply(one, files, dry_run=dry_run))
    if as_json:
        output.print_json(
            {
                "dryRun": dry_run,
                "attachments": [_document(one) for one in done],
                "failed": failures(failed),
            }
        )
    else:
        _print(done, dry_run=dry_run)
    end(failed)


def _apply(one: Attachment, files: Files, *, dry_run: bool) -> Applied:
    try:
        file = files.of(one)
    except UnfiledError as reason:
        raise ToolError(f"network {one.network}: {reason}") from None
    differences = filed.differences(one, file)
    by_hand = limits.CONFIGURED in one.fields
    changed = False
    if differences and not by_hand and not dry_run:
        changed = bool(limits.change(one, lambda now: limits.as_filed(now, file)).directions)
    return Applied(one, differences, filed.next_add(one, file), by_hand, changed)


def _print(done: list[Applied], *, dry_run: bool) -> None:
    word = "would change" if dry_run else "changed"
    nothing = True
    for row in done:
        title = row.attachment.called
        for one in {(one.key, one.now, one.file): one for one in row.differences}.values():
            nothing = False
            if row.by_hand:
                told = f"left as set-rate has set it, {one.key}: {one.now} ({one.file} in the file)"
            else:
                told = f"{word} {one.key}: {one.file} (was {one.now})"
            typer.echo(f"{title}: {told}")
        if row.next_add:
            nothing = False
            output.say(f"{title}: with the next ADD only: {', '.join(row.next_add)}")
    if nothing and done:
        typer.echo(f"{output.count(len(done), 'attachment')}, as their file")
    elif not done:
        typer.echo("no running container")


def _document(row: Applied) -> dict[str, Any]:
    one = row.attachment
    return {
        **one.identity(),
        "changed": row.changed,
        "setByHand": row.by_hand,
        "differsFromFile": [difference._asdict() for difference in row.differences],
        "nextAdd": row.next_add,
    }
