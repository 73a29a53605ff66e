"""Let containers of several attachments send from each of their addresses by each of them.

Without source routing a container answers by its first interface, whatever it was asked by. The
host's routing table tells one interface for each address; the sets `also` tell the others.
"""

import errno

from cni_faasm.attachment.plan import Plan
from cni_faasm.link import veth
from cni_faasm.netlink import dumps, nft, nft_set, route
from cni_faasm.netlink.lacking import IfNftables
from cni_faasm.netlink.link import Link
from cni_faasm.netlink.nftables import Nftables
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules.guard import Keys, end_key, look
from cni_faasm.rules.guard_rules import ALSO, is_by_name, table_name


def let_several(plan: Plan, host: Netlink, inner: Netlink) -> None:
    """Put into the guards what a container of several attachments may send from.

    Whether this network is guarded or not: another that is must know its addresses.
    Call it before the new end has addresses, or any time to make whole what is not.
    Raises: NetlinkError.
    """
    additions: dict[str, list[tuple[str, bytes]]] = {}
    for address, other, network in _others(plan, host, inner):
        own, its = additions.setdefault(plan.network, []), additions.setdefault(network, [])
        own.append((plan.host_interface, address))
        its.extend((other.name, item.address) for item in plan.addresses)
    if plan.guard is None or not plan.guard.anti_spoof:
        additions.pop(plan.network, None)
    if not additions:
        return
    inet = nft.NFPROTO_INET
    with IfNftables(), Nftables() as netfilter:
        for network, pairs in additions.items():
            if not is_by_name(look(netfilter, table_name(network))[0]):
                continue  # nothing is bound there, or its next ADD makes all anew
            messages = []
            for end, address in pairs:
                key, place = end_key(end, address), ALSO[len(address)]
                messages.append(nft_set.new_elements(inet, table_name(network), place, [key]))
            try:
                netfilter.nft_batch(messages)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # that network lets everything pass
                    raise


def keys_of_several(plan: Plan, host: Netlink, inner: Netlink) -> Keys:
    """Return what the sets of an attachment's own network hold for its end, beside its own.

    Raises: NetlinkError.
    """
    return [
        (nft.NFPROTO_INET, ALSO[len(address)], end_key(plan.host_interface, address))
        for address, _, _ in _others(plan, host, inner)
    ]


def _others(plan: Plan, host: Netlink, inner: Netlink) -> list[tuple[bytes, Link, str]]:
    """Return (address, the host's end of its pair, network) for the container's other addresses.

    The container itself says what addresses it has, so the host's routes and aliases are asked.
    """
    found = []
    for one in dumps.addrs(inner):
        if one.ifindex in (veth.LOOPBACK_IFINDEX, plan.ifindex) or one.scope:
            continue
        [answer] = host.get_tolerant([route.get_route(one.address)])
        if isinstance(answer, NetlinkError):
            continue
        taken = route.parse_route(answer)
        if not taken.oif or taken.prefix_len != len(one.address) * 8:
            continue
        other = veth.find(host, ifindex=taken.oif)
        words = other.alias.split() if other is not None else []
        if other is not None and words[2:3] == [plan.container_id]:
            found.append((one.address, other, words[1]))
    return found
