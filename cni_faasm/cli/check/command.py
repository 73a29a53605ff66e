"""Compare every attachment with its record, once or as things change."""

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from cni_faasm.cli import attachments, fitting, networks, output
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.cli.check.looking import document, look_at_all
from cni_faasm.cli.containers import Container


def check(
    container: Container = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Go on, and report changes as they happen.")
    ] = False,
    conf_dir: networks.ConfDir = networks.CONF_DIR,
    state_dir: networks.StateDir = "",
    as_json: output.AsJson = False,
) -> None:
    """Compare attachments with what ADD promised: a row for each drift, status 1 if any.

    With --watch the kernel tells of changes, and each is reported within a moment: as it
    appears, and as it is put right. With --json too, each is one line.

    Examples:

        cni-faasm check

        cni-faasm check 3f2a --json

        cni-faasm check --watch
    """
    folders = networks.state_dirs(networks.installed(conf_dir), state_dir)

    def known() -> list[Attachment]:
        return attachments.matching(attachments.every(folders), container)

    if watch:
        from cni_faasm.cli.check import watching  # pyroute2 takes a fifth of a second

        watching.run(known, as_json)
        return
    every = known()
    found = [(one, drift) for one, drifts in look_at_all(every) for drift in drifts]
    looked = len(every)
    if as_json:
        output.print_json(
            {
                "attachmentCount": looked,
                "drifts": [document(one, drift) for one, drift in found],
                "remarks": [
                    {**one.identity(), "message": text} for one in every for text in one.remarks
                ],
            }
        )
    elif found:
        _print(found)
    else:
        typer.echo(f"{output.count(looked, 'attachment')}, no drift")
    if not as_json:
        for line in _remarks(every):
            output.say(line)
    if found:
        raise typer.Exit(1)


def _print(found: Sequence[tuple[Attachment, Drift]]) -> None:
    """Print a table, or a sentence for each drift where the terminal has no room for it."""
    heads = ("ATTACHMENT", "WHAT", "EXPECTED", "FOUND")
    text = output.table(heads, [(one.called, *drift) for one, drift in found])
    room = fitting.width()
    if room is not None and max(map(len, text.splitlines())) > room:
        text = "\n".join(
            output.line(f"{one.called}: {what}: expected {expected}, found {actual}")
            for one, (what, expected, actual) in found
        )
    typer.echo(text)


def _remarks(every: Sequence[Attachment]) -> Iterator[str]:
    """Yield what ADD remarked; what it did to many, in one line."""
    titles: dict[tuple[str, str], list[str]] = {}
    for one in every:
        for text in one.remarks:
            titles.setdefault((one.network, text), []).append(one.called)
    for (_, text), of in titles.items():
        more = f" and {len(of) - 1} more" if of[1:] else ""
        yield f"{of[0]}{more}: at ADD: {text}"
