"""Wait until packets pass: the kernel does two things after it has said that all is done.

The end that came up first drops what it is to send until linkwatch has activated it; since
Linux 6.8 a question after that link has it done at once (net/core/link_watch.c). And what comes
for an IPv6 address is not taken in before a work queue has made the address's route, with
IFA_F_NODAD too (addrconf_dad_work in net/ipv6/addrconf.c).
"""

import time
from collections.abc import Sequence

from cni_faasm.attachment.plan import Plan
from cni_faasm.netlink import link, link_state, route
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import Message, NetlinkError

# Linkwatch does what it does not find urgent once a second.
PATIENCE_S = 1.5
SHORTEST_PAUSE_S = 0.00005
LONGEST_PAUSE_S = 0.005


def wait(
    host: Netlink,
    inner: Netlink,
    plan: Plan,
    *,
    last: Sequence[Message] = (),
    either: bool = False,
) -> None:
    """Return when what is sent to and from the container arrives.

    Or after PATIENCE_S: the pair is made, whatever hides an address from its host.
    last: what the host is told with the first questions, in one exchange.
    either: the end that came up first may be the container's; else it was the host's.
    Raises: NetlinkError when the kernel cannot be asked, or refuses what it is told.
    """
    there = [route.get_route(one.address) for one in plan.addresses if len(one.address) == 16]
    here = [route.get_route(gateway) for gateway in plan.gateways if len(gateway) == 16]
    here.append(link.get_link(ifindex=plan.host_ifindex))
    if either:
        there.append(link.get_link(ifindex=plan.ifindex))
    there, here = _still_open(inner, there), _still_open(host, here, last)
    end, pause = time.monotonic() + PATIENCE_S, SHORTEST_PAUSE_S
    while (there or here) and time.monotonic() < end:
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)
        there, here = _still_open(inner, there), _still_open(host, here)


def _still_open(
    netlink: Netlink, questions: list[Message], told: Sequence[Message] = ()
) -> list[Message]:
    """Return those questions whose answer is not yet that packets pass.

    told: what is said before. Raises: NetlinkError for what is refused of that.
    """
    answers = netlink.execute_tolerant([*told, *questions])
    for answer in answers[: len(told)]:
        if isinstance(answer, NetlinkError):
            raise answer
    left = []
    for question, answer in zip(questions, answers[len(told) :], strict=True):
        body = b"" if isinstance(answer, NetlinkError) or not answer else answer[0]
        if question[0] == link.RTM_GETLINK:
            # For a link that has gone there is nothing to wait.
            is_open = bool(body) and link_state.operstate(body) != link.IF_OPER_UP
        else:
            is_open = not body or route.parse_route(body).type != route.RTN_LOCAL
        if is_open:
            left.append(question)
    return left
