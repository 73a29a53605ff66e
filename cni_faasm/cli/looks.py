"""Look at all that an attachment promises: the pair, as CHECK does, and what a slot has inside."""

from cni_faasm.cli import attachments
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.cli.pool import machines
from cni_faasm.netlink.transport import Netlink


def look(one: Attachment, host: Netlink, inner: Netlink | None = None) -> list[Drift]:
    """Return every drift of an attachment; a namespace that has gone is one.

    inner: a socket inside, where the caller has one. Raises: CniError.
    """
    if inner is None:
        found = attachments.look(one, host)
    else:
        found = attachments.drifts_of(one, host, inner)
    return found or machines.drifts_of(one)
