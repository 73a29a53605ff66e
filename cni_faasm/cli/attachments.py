"""Find the attachments of this host, and look at each as CHECK does.

The records say what there is; a namespace that has gone, or a record of an earlier boot,
makes an attachment dead, and everything else about it is still told.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from cni_faasm.attachment import accepted, plan, plan_fields, record
from cni_faasm.cli import names
from cni_faasm.cli.fault import ToolError
from cni_faasm.limits import shaping
from cni_faasm.link import kernel, netns, veth
from cni_faasm.netlink import tc, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.spec import results
from cni_faasm.spec.errors import CniError
from cni_faasm.verbs.check import drifts

Drift = tuple[str, str, str]


class Attachment(NamedTuple):
    """One attachment record. promised: None when the record cannot be read."""

    state_dir: str
    network: str
    container_id: str
    ifname: str
    promised: plan.Plan | None
    fields: dict[str, object]

    @property
    def title(self) -> str:
        """Return what tells it from all others."""
        return f"{self.network}/{self.container_id}/{self.ifname}"

    def identity(self) -> dict[str, str | None]:
        """Return whose attachment it is, for machines."""
        return {
            "network": self.network,
            "containerID": self.container_id,
            "name": self.name or None,
            "ifname": self.ifname,
        }

    @property
    def remarks(self) -> list[str]:
        """Return what ADD had to say of what it was asked, such as a limit that it lowered."""
        kept = self.fields.get(accepted.REMARKS)
        return [str(text) for text in kept] if isinstance(kept, list) else []

    @property
    def name(self) -> str:
        """Return the runtime's name of the container, "" where it has none."""
        kept = self.fields.get(accepted.NAME)
        found = (
            kept
            if isinstance(kept, str)
            else names.of(self.network, self.container_id, self.ifname)
        )
        return "" if found == self.container_id else found

    @property
    def called(self) -> str:
        """Return what people call it: by the runtime's name where there is one."""
        return f"{self.network}/{self.name or self.container_id}/{self.ifname}"

    @property
    def is_of_this_boot(self) -> bool:
        """Say whether what the record tells of links can still be so: they are numbered anew."""
        return self.promised is not None and self.promised.boot_id == record.boot_id()


def every(state_dirs: Sequence[str], network: str = "") -> Iterator[Attachment]:
    """Yield all attachments, by network and in the order of their names."""
    for state_dir in state_dirs:
        for name in record.networks(state_dir):
            if network and name != network:
                continue
            for container_id, ifname in sorted(
                record.list_network(state_dir, name), key=lambda pair: natural(*pair)
            ):
                yield load(state_dir, name, container_id, ifname)


def natural(*texts: str) -> list[tuple[int, int, str]]:
    """Return a sorting key in which faasmns10 comes after faasmns9."""
    key: list[tuple[int, int, str]] = []
    for text in texts:
        digits = ""
        for sign in text + " ":
            if sign.isascii() and sign.isdigit():
                digits += sign
                continue
            if digits:
                key.append((0, int(digits), ""))
                digits = ""
            key.append((1, 0, sign))
    return key


def load(state_dir: str, network: str, container_id: str, ifname: str) -> Attachment:
    fields = record.read(state_dir, network, container_id, ifname)
    promised = None if fields is None else plan_fields.from_fields(fields)
    return Attachment(state_dir, network, container_id, ifname, promised, fields or {})


def matching(attachments: Iterator[Attachment], wanted: str | None) -> list[Attachment]:
    """Return those of a container: by its id, its beginning, its name, or the host's interface.

    wanted: None for all. Raises: ToolError when there is none, or several are meant.
    """
    known = list(attachments)
    if wanted is None:
        return known
    if not wanted:
        # An unset variable of a script: every container begins so, and none was meant.
        raise ToolError("CONTAINER is empty", "name a container; cni-faasm status lists them")
    exact = [one for one in known if one.container_id == wanted]
    if exact:
        return exact
    named = [
        one
        for one in known
        if one.name == wanted
        or (one.promised and one.promised.host_interface == wanted and one.is_of_this_boot)
    ]
    of_pods = [one for one in known if one.name.partition("/")[2] == wanted]
    begins = [one for one in known if one.container_id.startswith(wanted)]
    for found, what in (
        (named, "is the name"),
        (of_pods, "is the pod's name"),
        (begins, "is the beginning"),
    ):
        containers = sorted({one.container_id: _listed(one) for one in found}.values())
        if len(containers) == 1:
            return found
        if containers:
            raise ToolError(
                f"{wanted!r} {what} of {len(containers)} containers: {', '.join(containers[:5])}",
                "give the id, or more of it" if found is not of_pods else "give NAMESPACE/POD",
            )
    raise ToolError(
        f"no attachment of a container {wanted!r}",
        "cni-faasm status lists them; --state-dir looks elsewhere",
    )


def _listed(one: Attachment) -> str:
    return f"{one.container_id} ({one.name})" if one.name else one.container_id


@contextmanager
def opened(one: Attachment, *, keep: bool = False) -> Iterator[Netlink]:
    """Open a socket in an attachment's namespace; keep: the caller closes it.

    Raises: ToolError when the namespace has gone.
    """
    if one.promised is None:
        raise ToolError(
            f"{one.called}: its record cannot be read",
            "cni-faasm gc removes it, unless it is alive",
        )
    if not one.is_of_this_boot:
        raise ToolError(f"{one.called}: it is of an earlier boot", "cni-faasm gc removes it")
    try:
        inner = netns.connect(one.promised.netns)
    except CniError as error:
        raise ToolError(f"{one.called}: {error.msg}", "cni-faasm gc removes what is left") from None
    try:
        yield inner
    finally:
        if not keep:
            inner.close()


def cached_result(one: Attachment) -> results.Result | None:
    """Return what the whole chain of plugins made, as libcni remembers it.

    A later plugin may have changed the MAC address or the MTU, and that is no drift.
    """
    document = names.cached(one.network, one.container_id, one.ifname)
    try:
        return results.parse_result(document["result"])
    except (ValueError, KeyError, TypeError, CniError):
        return None


def look(one: Attachment, host: Netlink) -> list[Drift]:
    """Return every drift of an attachment; a namespace that has gone is one."""
    try:
        with opened(one) as inner:
            return drifts_of(one, host, inner)
    except ToolError as error:
        return [("attachment", "alive", str(error).partition(": ")[2])]


def drifts_of(one: Attachment, host: Netlink, inner: Netlink) -> list[Drift]:
    """Return every drift of an attachment whose namespace is there. Raises: CniError."""
    if one.promised is None:
        return []
    try:
        return drifts(one.promised, host, inner, cached_result(one))
    except NetlinkError as error:
        raise kernel.refusal(error) from None


class Counters(NamedTuple):
    """What one direction has counted, and what waits in its queue now."""

    bytes: int = 0
    packets: int = 0
    drops: int = 0
    overlimits: int = 0
    backlog_bytes: int = 0
    backlog_packets: int = 0


def counters(netlink: Netlink, ifindex: int, shape: shaping.Shape | None) -> Counters | None:
    """Count what passed one end of a pair: by its class, or by the link where none is.

    None when the end has gone.
    """
    try:
        if shape is not None:
            found = tc_parse.parse_class(netlink.get(tc.get_class(ifindex, shaping.CLASS_ID)))
            if found is not None:
                stats = found.stats
                drops, backlog_bytes = _queued(netlink, ifindex, shape, stats)
                return Counters(
                    stats.bytes,
                    stats.packets,
                    drops,
                    stats.overlimits,
                    backlog_bytes,
                    stats.qlen,
                )
    except NetlinkError as error:
        if veth.is_absent(error):
            return None
    try:
        from cni_faasm.netlink import link

        body = netlink.get(link.get_link(ifindex=ifindex, stats=True))
    except NetlinkError:
        return None
    found_link = link.parse_link(body)
    return Counters(found_link.tx_bytes or 0, found_link.tx_packets or 0)


def _queued(
    netlink: Netlink, ifindex: int, shape: shaping.Shape, of_class: tc_parse.Stats
) -> tuple[int, int]:
    """Return what the queue dropped, and how many bytes wait in it.

    HTB counts neither what fq_codel drops from its head, nor the single frames of a super-packet
    that found no room; and before Linux 6.13 a tbf miscounts the bytes of what it cut.
    """
    [answer] = netlink.get_tolerant([tc.get_qdisc(ifindex, parent=shape.leaf_parent)])
    if isinstance(answer, NetlinkError):
        return of_class.drops, of_class.backlog_bytes
    leaf = tc_parse.parse_qdisc(answer)
    if shape.cut_bytes:
        return leaf.stats.drops, leaf.stats.backlog_bytes
    from_head = leaf.stats.drops if leaf.kind == "fq_codel" else 0
    return of_class.drops + from_head, of_class.backlog_bytes
