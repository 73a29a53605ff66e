"""Hold many attachments of a network to their limits in one transaction (backstop.py)."""

from collections.abc import Sequence

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import nft_set
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.rules import backstop
from cni_faasm.rules.guard import end_key
from cni_faasm.rules.guard_rules import FAMILIES


def ensure(plans: Sequence[Plan], state_dir: str, host: Netlink) -> bool | None:
    """Do as backstop.ensure does, for new pairs of one network. Raises: as that."""
    was_missing = backstop.ensure(plans[0], state_dir, host)
    others = plans[1:]
    if was_missing is None or not others:
        return was_missing
    if any(backstop.bucket(plan) is None for plan in others):
        backstop.take_out(plans[0].network, [plan.host_interface for plan in others])
        return was_missing
    try:
        _put(others)
    except NetlinkError:
        # Others are at work in these tables.
        for plan in others:
            backstop.ensure(plan, state_dir, host)
    return was_missing


def _put(plans: Sequence[Plan]) -> None:
    """Make the sets hold what attachments are to have. Raises: NetlinkError."""
    name = backstop.table_name(plans[0].network)
    places = [(family, plan) for family in FAMILIES for plan in plans]
    messages: list[Message] = []
    with Netlink(NETLINK_NETFILTER) as netfilter:
        answers = netfilter.ask(
            [
                nft_set.get_element(family, name, backstop.SET, end_key(plan.host_interface))
                for family, plan in places
            ]
        )
        for (family, plan), body in zip(places, answers, strict=True):
            key, wanted = end_key(plan.host_interface), backstop.bucket(plan)
            present = None if body is None else backstop.bucket_in(body, key)
            if wanted is None or present == wanted:
                continue
            if body is not None:
                messages.append(nft_set.del_elements(family, name, backstop.SET, [key]))
            messages.append(
                nft_set.new_elements(family, name, backstop.SET, [key], wanted.encode())
            )
        netfilter.nft_batch(messages)
