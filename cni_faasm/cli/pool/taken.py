"""Find the names that a pool needs and that somebody else has, before anything is made.

Containers of the same hostInterfacePrefix have faasm0, faasm1 and so on outside, whichever is
free; a namespace of the pool's name may be somebody's own.
"""

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from cni_faasm.cli import names, output
from cni_faasm.cli.attachments import Attachment
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.pool import netfolder
from cni_faasm.link import netns, veth
from cni_faasm.netlink import dumps, link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec.errors import CniError

IFF_UP = 1  # <linux/if.h>
_ALIAS = "cni-faasm"
_NAMED = 5  # in one message


class Wanted(NamedTuple):
    """The names of one member, and the attachments that go by its namespace's name."""

    namespace: str
    inner: str
    outer: str
    attachments: Sequence[Attachment]


def demand_free(wanted: Sequence[Wanted], prefix: str) -> None:
    """Refuse names that others have. Raises: ToolError that tells which, and whose they are."""
    with Netlink() as host:
        taken = [text for one in wanted for text in _taken(host, one)]
    if taken:
        more = f"; and {len(taken) - _NAMED} more" if len(taken) > _NAMED else ""
        raise ToolError(
            f"{output.count(len(taken), 'name')} of the pool {'is' if len(taken) == 1 else 'are'} "
            f"taken, so nothing was made: {'; '.join(taken[:_NAMED])}{more}",
            f"choose other names, as by --prefix {_other(prefix)}, or stop those who have these",
        )


def _other(prefix: str) -> str:
    return "pool" if prefix != "pool" else "edge"


def _taken(host: Netlink, wanted: Wanted) -> Iterator[str]:
    own = {one.ifname: one for one in wanted.attachments}
    outer = veth.find(host, name=wanted.outer)
    if outer is not None and not _is_own(outer, own):
        words = outer.alias.split()
        if words[:1] != [_ALIAS] or len(words) < 3:
            yield f"{wanted.outer} is an interface of this host"
        elif words[2] != wanted.namespace:
            whose = names.of(*words[1:4]) if len(words) == 4 else ""
            yield (
                f"{wanted.outer} belongs to the container {whose or words[2]} "
                f"of the network {words[1]!r}"
            )
    if wanted.inner in own:
        return
    try:
        status = os.lstat(netfolder.path_of(wanted.namespace))
    except FileNotFoundError:
        return
    if netfolder.exists(wanted.namespace):
        found = foreign_interfaces(wanted.namespace, wanted.inner)
        if found:
            yield f"{wanted.namespace} is somebody's namespace, with {', '.join(found[:3])} in it"
    elif not stat.S_ISREG(status.st_mode) or status.st_size:
        yield f"{netfolder.path_of(wanted.namespace)} is no namespace"


def _is_own(outer: link.Link, own: Mapping[str, Attachment]) -> bool:
    return any(
        one.promised is not None and veth.owned(outer, one.promised.alias, one.promised.host_mac)
        for one in own.values()
    )


def foreign_interfaces(namespace: str, inner_name: str) -> list[str]:
    """Return what is up in a namespace that no pool puts there: beside lo and the inner end."""
    try:
        with netns.connect(netfolder.path_of(namespace)) as inner:
            found = dumps.all_links(inner)
    except CniError:
        return []  # it goes this moment
    return [
        one.name
        for one in found
        if one.flags & IFF_UP and one.ifindex != veth.LOOPBACK_IFINDEX and one.name != inner_name
    ]
