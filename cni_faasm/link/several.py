"""Look for many links in one exchange: half of what asking for each takes is the way there."""

from collections.abc import Sequence

from cni_faasm.attachment.plan import Plan
from cni_faasm.link import veth
from cni_faasm.netlink import link
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError


def having_their_names(host: Netlink, plans: Sequence[Plan]) -> list[Plan]:
    """Return those attachments whose end has its name, or nobody: it may have gone before.

    Raises: NetlinkError.
    """
    questions = [link.get_link(name=plan.host_interface) for plan in plans]
    return [
        plan
        for plan, found in zip(plans, _find(host, questions), strict=True)
        if found is None or veth.owned(found, plan.alias, plan.host_mac)
    ]


def find_outer(host: Netlink, plans: Sequence[Plan]) -> list[link.Link]:
    """Return the outer ends of attachments that there are, verified to be theirs.

    Raises: NetlinkError.
    """
    known = [plan for plan in plans if plan.host_ifindex]
    questions = [link.get_link(ifindex=plan.host_ifindex) for plan in known]
    ends = [
        end
        for plan, end in zip(known, _find(host, questions), strict=True)
        if end is not None
        and end.ifindex == plan.host_ifindex
        and veth.owned(end, plan.alias, plan.host_mac)
    ]
    others = [veth.find_outer(host, plan) for plan in plans if not plan.host_ifindex]
    return ends + [end for end in others if end is not None]


def _find(host: Netlink, questions: Sequence[Message]) -> list[link.Link | None]:
    found: list[link.Link | None] = []
    for answer in host.get_tolerant(questions):
        if not isinstance(answer, NetlinkError):
            found.append(link.parse_link(answer))
        elif veth.is_absent(answer):
            found.append(None)
        else:
            raise answer
    return found
