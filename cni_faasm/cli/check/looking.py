"""Look at attachments as CHECK does, and tell machines what drifted."""

from collections.abc import Callable, Sequence

from cni_faasm.cli import looks
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.netlink.transport import Netlink


def look_at_all(
    known: Sequence[Attachment], step: Callable[[], None] = lambda: None
) -> list[tuple[Attachment, list[Drift]]]:
    """Return each attachment with its drifts."""
    looked = []
    with Netlink() as host:
        for one in known:
            looked.append((one, looks.look(one, host)))
            step()
    return looked


def document(one: Attachment, drift: Drift) -> dict[str, str | None]:
    """Return a drift for machines."""
    what, expected, found = drift
    return {**one.identity(), "what": what, "expected": expected, "found": found}
