"""Give running containers another limit that they have together (bandwidth.shared).

Such a limit is of all who share it: who alone is given another rate shares with nobody. So where
one container is named, all who share with it are changed.
"""

from collections.abc import Sequence
from typing import Any

from cni_faasm.cli import filed
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.filed import DIRECTIONS, SHARED, Filed
from cni_faasm.cli.rates import limits
from cni_faasm.config.shared import Shared

# Bits/s by direction; 0 for no limit. A direction that is missing keeps what it has.
Together = dict[str, int]


def mates(known: Sequence[Attachment], chosen: Sequence[Attachment]) -> list[Attachment]:
    """Return those that share a limit with one of the chosen, and are not among these."""
    groups = {_group(one) for one in chosen} - {None}
    names = {one.title for one in chosen}
    return [one for one in known if _group(one) in groups and one.title not in names]


def _group(one: Attachment) -> tuple[object, ...] | None:
    shared = one.promised.shared if one.promised else None
    if shared is None:
        return None
    return one.network, shared.by, shared.of, shared.ingress_bps, shared.egress_bps


def as_shared(one: Attachment, wanted: Together, *, is_whole: bool) -> Attachment:
    """Return an attachment whose record has other limits together with others.

    is_whole: whether all of its network are given them: who shared nothing shares with all then.
    Raises: ToolError.
    """
    promised = one.promised
    if promised is None:
        return one
    now = promised.shared
    if now is None and not is_whole:
        raise ToolError(
            f"{one.called}: it shares no limit",
            f"--network {one.network} gives all of that network one together",
        )
    now = now or Shared()
    rates = [wanted.get(key, getattr(now, f"{key}_bps")) or None for key in DIRECTIONS]
    fields: dict[str, Any] = dict(one.fields)
    limits.keep(fields)
    limits.put(fields, SHARED, Shared(*rates, by=now.by, of=now.of).to_fields())
    return limits.with_fields(one, limits.unless_as_before(fields))


def as_reset(one: Attachment, file: Filed | None) -> Attachment:
    """Return an attachment with the shared limits of its file, or of before; its own as they are."""
    configured = one.fields.get(limits.CONFIGURED)
    if one.promised is None or not isinstance(configured, dict):
        return one
    if file is None:
        usual = configured.get(SHARED) or {}
    else:
        found = filed.shared(one, file)
        usual = found.to_fields() if found else {}
    fields: dict[str, Any] = {**one.fields, limits.CONFIGURED: {**configured, SHARED: usual}}
    limits.put(fields, SHARED, usual)
    return limits.with_fields(one, limits.unless_as_before(fields))
