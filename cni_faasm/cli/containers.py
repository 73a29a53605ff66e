"""The argument by which commands are told a container, completed by the shell."""

from typing import Annotated

import typer

from cni_faasm.cli import attachments, networks


def complete_containers(incomplete: str) -> list[str]:
    """Return the container ids that begin so, for the shell."""
    try:
        folders = networks.state_dirs(networks.installed(networks.CONF_DIR, quiet=True), "")
        known = {
            text
            for one in attachments.every(folders)
            for text in (one.container_id, one.name)
            if text
        }
    except Exception:
        return []  # a shell that completes has no place for errors
    return sorted(name for name in known if name.startswith(incomplete))


Container = Annotated[
    str | None,
    typer.Argument(
        metavar="[CONTAINER]",
        help="Id of a container, its beginning, its runtime's name, or its interface on the host.",
        autocompletion=complete_containers,
    ),
]
