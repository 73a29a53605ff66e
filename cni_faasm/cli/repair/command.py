"""The command that puts back what has drifted."""

from typing import Annotated

import typer

from cni_faasm.cli import attachments, networks, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.check.looking import document
from cni_faasm.cli.containers import Container
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.repair import mending
from cni_faasm.cli.repair.mending import Mended
from cni_faasm.netlink.transport import Netlink


def repair(
    container: Container = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Only say what would be put back.")
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Put back what has drifted, and only that; connections go on.

    What cannot be put back in a running container is said, and the status is 1.

    Examples:

        cni-faasm repair --dry-run

        cni-faasm repair

        cni-faasm repair faasm3
    """
    folders = networks.state_dirs(networks.installed(conf_dir), state_dir)
    known = attachments.matching(attachments.every(folders), container)
    with Netlink() as host:
        results = [(one, _repair(one, host, dry_run)) for one in known]
    if as_json:
        output.print_json(
            {
                "dryRun": dry_run,
                "repaired": [document(one, drift) for one, got in results for drift in got.done],
                "left": [
                    {**document(one, drift), "reason": reason}
                    for one, got in results
                    for drift, reason in got.left
                ],
            }
        )
    else:
        _print(results, dry_run)
    if any(got.left for _, got in results):
        raise typer.Exit(1)


def _repair(one: Attachment, host: Netlink, dry_run: bool) -> Mended:
    try:
        with attachments.opened(one) as inner:
            return mending.mend(one, host, inner, dry_run=dry_run)
    except ToolError as error:
        drift = ("attachment", "alive", str(error).partition(": ")[2])
        return Mended([], [(drift, error.remedy)])


def _print(results: list[tuple[Attachment, Mended]], dry_run: bool) -> None:
    word = "would put back" if dry_run else "put back"
    nothing = True
    for one, got in results:
        for what, expected, found in got.done:
            nothing = False
            output.say(f"{one.called}: {word} {what}: {expected} (was {found})")
        for (what, expected, found), reason in got.left:
            nothing = False
            left = f"cannot put back {what}: expected {expected}, found {found}; {reason}"
            output.say(f"{one.called}: {left}")
    if nothing:
        typer.echo(f"{output.count(len(results), 'attachment')}, nothing to repair")
