"""Limit not all of a container's traffic: what is exempt, or alone is limited, by subnet.

On the container's end the subnet is where packets go to, on the host's where they come from.
What is not limited goes past HTB's classes, by its direct queue.
"""

from __future__ import annotations

from collections.abc import Sequence

from cni_faasm.netlink import tc_filter
from cni_faasm.netlink.transport import Message
from cni_faasm.spec import inet

ROOT_HANDLE = 0x10000  # 1:, HTB's word for "past all classes" too
LIMITED = 0x10001  # 1:1


class Scope:
    """What one direction's limit holds for.

    subnets: (packed network, prefix length) of the other side. only: they alone are limited;
    else they alone are not. by_source: the other side is the sender. classifier: how the
    kernel is asked for it.
    """

    __slots__ = ("by_source", "classifier", "only", "subnets")

    def __init__(
        self,
        subnets: list[tuple[bytes, int]],
        *,
        only: bool,
        classifier: str,
        by_source: bool = False,
    ) -> None:
        self.subnets = subnets
        self.only = only
        self.classifier = classifier
        self.by_source = by_source

    def seen_from(self, *, host: bool) -> Scope:
        """Return the same for the host's end, or for the container's."""
        return Scope(self.subnets, only=self.only, classifier=self.classifier, by_source=host)

    def filters(self) -> list[tc_filter.Filter]:
        """Return one filter for each subnet."""
        classid = LIMITED if self.only else ROOT_HANDLE
        return [
            tc_filter.Filter(network, prefix_len, classid, by_source=self.by_source)
            for network, prefix_len in self.subnets
        ]

    def to_fields(self) -> dict[str, object]:
        """Return the scope as the attachment record keeps it."""
        return {
            "subnets": [inet.cidr(*subnet) for subnet in self.subnets],
            "only": self.only,
            "bySource": self.by_source,
            "classifier": self.classifier,
        }

    @classmethod
    def from_fields(cls, fields: dict[str, object]) -> Scope:
        """Return the scope a record keeps. Raises: KeyError, TypeError, ValueError."""
        subnets = fields["subnets"]
        if not isinstance(subnets, list):
            raise TypeError("subnets")
        if fields["classifier"] not in (tc_filter.U32, tc_filter.FLOWER):
            raise ValueError("classifier")
        return cls(
            [inet.parse_cidr(text) for text in subnets],
            only=fields["only"] is True,
            by_source=fields["bySource"] is True,
            classifier=str(fields["classifier"]),
        )


def messages(ifindex: int, scope: Scope) -> list[Message]:
    """Return what makes the filters of one end."""
    return [
        tc_filter.new_filter(ifindex, ROOT_HANDLE, scope.classifier, one) for one in scope.filters()
    ]


def drifts(where: str, scope: Scope | None, bodies: Sequence[bytes]) -> list[tuple[str, str, str]]:
    """Compare the filters of one end, as they were dumped, with what was promised.

    Returns: (what, expected, found), at most one: all are made anew.
    """
    found = [one for one in map(tc_filter.parse_filter, bodies) if one is not None]
    foreign = [body for body in bodies if tc_filter.is_foreign(body)]
    wanted = [] if scope is None else scope.filters()
    if not foreign and sorted(map(_key, found)) == sorted(map(_key, wanted)):
        return []
    text = _text(found) + (", and somebody else's" if foreign else "")
    return [(f"{where}: filters", _text(wanted), text)]


def _key(one: tc_filter.Filter) -> tuple[bytes, int, int, bool]:
    return one.network, one.prefix_len, one.classid, one.by_source


def _text(filters: list[tc_filter.Filter]) -> str:
    parts = [
        f"{'from' if one.by_source else 'to'} {inet.cidr(one.network, one.prefix_len)} "
        f"{'limited' if one.classid == LIMITED else 'not limited'}"
        for one in filters
    ]
    return ", ".join(parts) or "none"
