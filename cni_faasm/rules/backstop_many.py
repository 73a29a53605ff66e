"""Hold many attachments of a network to their limits in one transaction (backstop.py)."""

from collections.abc import Sequence

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import nft, nft_set
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError
from cni_faasm.rules import backstop, limit_tables
from cni_faasm.rules.guard import end_key
from cni_faasm.rules.limit_tables import ROUTED


def ensure(plans: Sequence[Plan], state_dir: str, host: Netlink) -> bool | None:
    """Do as backstop.ensure does, for new pairs of one network. Raises: as that."""
    was_missing = backstop.ensure(plans[0], state_dir, host, is_new=True)
    others = plans[1:]
    if was_missing is None or not others:
        return was_missing
    if not all(limit_tables.elements(plan) for plan in others):
        backstop.take_out(plans[0].network, [plan.host_interface for plan in others], ROUTED)
        return was_missing
    try:
        is_put = _put(others)
    except NetlinkError:
        is_put = False  # others are at work in these tables
    if not is_put:
        for plan in others:
            backstop.ensure(plan, state_dir, host, is_new=True)
    return was_missing


def _put(plans: Sequence[Plan]) -> bool:
    """Make the sets hold what attachments are to have; nothing where there are other sets.

    Raises: NetlinkError.
    """
    name = limit_tables.table_name(plans[0].network)
    listed = [
        (end_key(plan.host_interface), plan.host_interface, one)
        for plan in plans
        for one in limit_tables.elements(plan)
    ]
    messages: list[Message] = []
    with Nftables() as netfilter:
        answers = netfilter.ask(
            [
                *(nft.get_table(family, name) for family in ROUTED),
                *(nft_set.get_element(one.family, name, one.set, key) for key, _, one in listed),
            ]
        )
        tables = [None if body is None else nft.parse_table(body) for body in answers[:2]]
        needed = limit_tables.words(one for _, _, one in listed)
        if limit_tables.SUBNETS in needed or any(
            table is None or limit_tables.words_of(table) - needed for table in tables
        ):
            return False
        for (key, interface, one), body in zip(listed, answers[2:], strict=True):
            present = None if body is None else backstop.bucket_in(body, key)
            if present == one.bucket and not backstop.counts(one):
                continue
            if body is not None:
                messages.append(limit_tables.removal(name, interface, one.family, one.set))
            messages += limit_tables.addition(name, interface, one)
        netfilter.nft_batch(messages)
    return True
