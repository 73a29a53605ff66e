"""Put back what has drifted from an attachment's promise, and only that.

Each drift that CHECK finds names the thing that is wrong; here stands what puts each
thing right in a running container. What is added or changed is done by messages that
replace or stand beside, so that no connection is cut; only a root qdisc of a wrong kind has to go first.
A drift that no message can put right (the pair is gone) needs a new ADD.
"""

from typing import TYPE_CHECKING, NamedTuple

from cni_faasm.attachment.plan import RT_TABLE_MAIN, Plan
from cni_faasm.cli import attachments
from cni_faasm.cli.attachments import Attachment, Drift
from cni_faasm.config.policy import group
from cni_faasm.ipam.store import Allocation, Store
from cni_faasm.limits import shaping, shaping_scope
from cni_faasm.link import (
    egress,
    first_packet,
    forwarding,
    inner_routes,
    kernel,
    netns,
    veth,
)
from cni_faasm.netlink import addr, dumps, link, neigh, route, tc, tc_filter, tc_parse
from cni_faasm.netlink.transport import Netlink
from cni_faasm.netlink.wire import NetlinkError
from cni_faasm.rules import (
    backstop,
    backstop_drifts,
    guard,
    guard_several,
    nat,
    ports,
    ports_drifts,
)
from cni_faasm.spec import inet
from cni_faasm.spec.errors import CniError
from cni_faasm.spec.results import Route

if TYPE_CHECKING:
    from cni_faasm.netlink.wire import Message

# What the kernel makes good a moment after it has said so.
_LATE = (": state", ": address")
# Putting an interface up brings routes to light that went with it, and the like.
MAX_ROUNDS = 4

NEW_ADD = "restart the container, so that its runtime calls DEL and ADD"
COMES_BACK = "it comes back each time: somebody else sets it"


class Mended(NamedTuple):
    """done: what was put back. left: drifts that stay, each with the reason."""

    done: list[Drift]
    left: list[tuple[Drift, str]]


def mend(one: Attachment, host: Netlink, inner: Netlink, *, dry_run: bool = False) -> Mended:
    """Put back all that can be put back, then look again.

    dry_run: change nothing; done is then what would be put back, or come back with it.
    Raises: CniError.
    """
    promised = one.promised
    if promised is None:
        return Mended([], [])
    # By what and what is expected: an end has several addresses and routes.
    seen: dict[tuple[str, str], Drift] = {}
    reasons: dict[tuple[str, str], str] = {}
    left: list[Drift] = []
    for _ in range(MAX_ROUNDS):
        left = attachments.drifts_of(one, host, inner)
        seen = {drift[:2]: drift for drift in left} | seen
        todo = [drift for drift in left if not hopeless(drift)]
        if dry_run:
            return Mended(todo, [(drift, hopeless(drift)) for drift in left if drift not in todo])
        if not todo:
            break
        mender = _Mender(promised, one.state_dir, host, inner)
        for drift in todo:
            # A step may fail because one before it did its work too; the next look tells.
            try:
                mender.put_back(drift)
            except NetlinkError as error:
                reasons[drift[:2]] = kernel.refusal(error).msg
            except CniError as error:
                reasons[drift[:2]] = error.msg
    stuck = {drift[:2] for drift in left}
    done = [drift for key, drift in seen.items() if key not in stuck]
    if any(what.endswith(_LATE) for what, _, _ in done):
        first_packet.wait(host, inner, promised, either=True)
    return Mended(
        done, [(drift, hopeless(drift) or reasons.get(drift[:2], COMES_BACK)) for drift in left]
    )


def hopeless(drift: Drift) -> str:
    """Return why a drift cannot be put back without a new ADD; "" when it can."""
    what, _, found = drift
    if what.endswith(": interface") and not what.startswith("prevResult"):
        return NEW_ADD
    if what.startswith("prevResult"):
        return "the runtime's cached result differs: " + NEW_ADD
    if what.startswith("lease ") and what.endswith(": owner"):
        return f"the address is leased to {found}: {NEW_ADD}"
    if what == "attachment":
        return "cni-faasm gc removes what is left of it"
    return ""


class _Mender:
    """The repairs of one attachment, each for one kind of drift."""

    def __init__(self, promised: Plan, state_dir: str, host: Netlink, inner: Netlink) -> None:
        self.promised = promised
        self.state_dir = state_dir
        self.host = host
        self.inner = inner

    def put_back(self, drift: Drift) -> None:
        """Put one thing right. Raises: NetlinkError, CniError."""
        what = drift[0]
        where, _, thing = what.partition(": ")
        if where.startswith("lease "):
            self._lease(where.removeprefix("lease "))
        elif what.endswith("forwarding on the host"):
            self._forwarding(4 if what.startswith("IPv4") else 16)
        elif where.startswith(("masquerade", "forwarding")):
            nat.ensure(self.promised, renew=where.startswith("masquerade"))
        elif thing == "egress":
            egress.renew(self.host, self.promised)
        elif where == "guard":
            if what.endswith(": sets"):  # no MAC is to be learnt anew for that
                guard.complete(self.promised)
            else:
                guard.ensure(self.promised, self.state_dir, renew=True)
            guard_several.let_several(self.promised, self.host, self.inner)
        elif where == backstop_drifts.WHERE:
            renew = not what.endswith(backstop_drifts.ELEMENT)
            backstop.ensure(self.promised, self.state_dir, self.host, renew=renew)
        elif where == ports_drifts.WHERE:
            renew = not what.endswith(ports_drifts.ELEMENTS)
            ports.ensure(self.promised, self.state_dir, renew=renew)
        elif where == "container lo":
            self.inner.execute([link.set_link(veth.LOOPBACK_IFINDEX, up=True)])
        elif thing.startswith("/proc/sys/"):
            self._setting(where.startswith("container "), thing, drift[1])
        else:
            self._end(where.startswith("container "), thing, drift)

    def _lease(self, text: str) -> None:
        promised = self.promised
        address = inet.pack(text)
        gateway = next(item.gateway for item in promised.addresses if item.address == address)
        with Store(promised.data_dir, promised.network) as store:
            if store.owner(address) is None:
                allocation = Allocation(address, len(address) * 8, gateway, -1)
                store.commit(
                    [allocation], promised.container_id, promised.ifname, move_cursor=False
                )

    def _forwarding(self, length: int) -> None:
        forwarding.switch_on({length})

    def _setting(self, inside: bool, path: str, value: str) -> None:
        if not inside:
            forwarding.write(path, value)
            return
        own_fd = netns.open_own()
        netns_fd = -1
        try:
            netns_fd = netns.open_container(self.promised.netns, own_fd)
            with netns.Inside(netns_fd, own_fd):
                forwarding.write(path, value)
        finally:
            netns.close(netns_fd, own_fd)

    def _end(self, inside: bool, thing: str, drift: Drift) -> None:
        """Put right what is wrong with one end of the pair."""
        promised = self.promised
        netlink = self.inner if inside else self.host
        ifindex = promised.ifindex if inside else promised.host_ifindex
        shape = promised.egress if inside else promised.ingress
        messages: "list[Message]" = []
        if thing == "state":
            messages = [link.set_link(ifindex, up=True)]
        elif thing == "MAC":
            # Not the record's: a later plugin of the chain may have chosen another.
            messages = [link.set_link(ifindex, address=inet.parse_mac(drift[1]))]
        elif thing == "MTU":
            messages = [link.set_link(ifindex, mtu=int(drift[1]))]
        elif thing in ("gso_max_size", "gso_ipv4_max_size"):
            # Those of IPv4 follow when the other changes, and not when it is set to what it is.
            size = int(drift[1])
            messages = [link.set_link(ifindex, gso_max_size=n) for n in (size - 1, size)]
        elif thing in ("gro_max_size", "gro_ipv4_max_size"):
            size = int(drift[1])
            messages = [link.set_link(ifindex, gro_max_size=n) for n in (size - 1, size)]
        elif thing == "name":
            messages = [link.set_link(ifindex, name=promised.host_interface)]
        elif thing == "group":
            messages = [link.set_link(ifindex, group=group(promised.network))]
        elif thing == "alias":
            messages = [link.set_link(ifindex, alias=promised.alias)]
        elif thing == "address":
            self._address(netlink, ifindex, drift)
        elif thing == "route":
            one_side = self._inner_routes if inside else self._host_routes
            messages = one_side(drift[1])
        elif not thing.startswith("neighbour "):
            messages = reshape(netlink, ifindex, shape, thing)
        netlink.execute(messages)
        if thing in ("MAC", "state", "address") or thing.startswith("neighbour "):
            self._neighbours()

    def _address(self, netlink: Netlink, ifindex: int, drift: Drift) -> None:
        address, prefix_len = inet.parse_cidr(drift[1])
        wrong = [
            one
            for one in dumps.addrs(netlink, ifindex)
            if one.address == address and one.prefix_len != prefix_len
        ]
        removals = [addr.del_addr(ifindex, one.address, one.prefix_len) for one in wrong]
        addition = addr.new_addr(ifindex, address, prefix_len, replace=True)
        # IPv4 may have an address twice, so the right one comes first; IPv6 refuses it.
        netlink.execute([*removals, addition] if len(address) == 16 else [addition, *removals])

    def _host_routes(self, expected: str) -> "list[Message]":
        """Return what makes the host's route to the address that is expected."""
        address, _ = inet.parse_cidr(expected.split(maxsplit=1)[0])
        if address == veth.LOOPBACK_IPV6:
            return veth.loopback_routes(self.promised)
        return [
            route.new_route(item.address, item.prefix_len, self.promised.host_ifindex, replace=True)
            for item in self.promised.addresses
            if inet.cidr(item.address, item.prefix_len) == expected.split(maxsplit=1)[0]
        ]

    def _inner_routes(self, expected: str) -> "list[Message]":
        """Return what makes the container's route that is expected, then removes a wrong one.

        Other interfaces of the container may have routes to the same destination.
        """
        promised, ifindex = self.promised, self.promised.ifindex
        wanted = [
            Route(dst=gateway, prefix_len=len(gateway) * 8)
            for gateway in promised.gateways
            if inet.cidr(gateway, len(gateway) * 8) == expected
        ]
        for one in promised.inner_routes():
            text = inet.cidr(inet.network(one.dst, one.prefix_len), one.prefix_len)
            if one.gateway is not None:
                text += f" via {inet.unpack(one.gateway)}"
            if text == expected:
                wanted.append(one)
        messages = []
        for one in wanted:
            messages += inner_routes.messages(self.inner, ifindex, [one])
            for found in dumps.routes(self.inner, inet.family(one.dst), oif=ifindex):
                if (
                    found.dst == inet.network(one.dst, one.prefix_len)
                    and found.prefix_len == one.prefix_len
                    and found.table == (one.table or RT_TABLE_MAIN)
                    and found.gateway != one.gateway
                ):
                    messages.append(
                        route.del_route(
                            found.dst,
                            found.prefix_len,
                            ifindex,
                            gateway=found.gateway,
                            table=found.table,
                        )
                    )
        return messages

    def _neighbours(self) -> None:
        """Tell both ends the other's MAC, as ADD did: what goes with an address or an end."""
        promised = self.promised
        self.host.execute_tolerant(veth.host_neighs(promised))
        self.inner.execute_tolerant(
            neigh.new_neigh(promised.ifindex, gateway, promised.host_mac, veth.NUD_PERMANENT)
            for gateway in promised.gateways
        )


def reshape(
    netlink: Netlink, ifindex: int, shape: shaping.Shape | None, thing: str
) -> "list[Message]":
    """Return what puts one end's queues right.

    thing: what CHECK says is wrong; a wrong number is changed where it stands, and the
    packets that wait stay.
    """
    if shape is None:
        return [tc.del_qdisc(ifindex)]
    if thing == "filters":
        wanted = [] if shape.scope is None else shaping_scope.messages(ifindex, shape.scope)
        return [tc_filter.del_filters(ifindex, shaping.ROOT_HANDLE), *wanted]
    if thing.startswith("class 1:1"):
        return [shaping.class_message(ifindex, shape, replace=True)]
    if thing.startswith("tbf "):
        return shaping.queue_messages(ifindex, shape, replace=True)
    if thing == "bfifo limit" or (thing.startswith("fq_codel ") and thing != "fq_codel flows"):
        return [shaping.leaf_message(ifindex, shape, replace=True)]
    if thing == "class":
        return shaping.messages(ifindex, shape)[1:]
    if thing in ("leaf qdisc", "fq_codel flows"):
        removal = _removal(netlink, ifindex, shape.leaf_parent)
        return [*removal, shaping.leaf_message(ifindex, shape)]
    if thing == "cutter qdisc":
        removal = _removal(netlink, ifindex, shaping.CLASS_ID)
        return [*removal, *shaping.queue_messages(ifindex, shape)]
    return [*_removal(netlink, ifindex, tc.TC_H_ROOT), *shaping.messages(ifindex, shape)]


def _removal(netlink: Netlink, ifindex: int, parent: int) -> "list[Message]":
    """Return what takes away the qdisc at a place, nothing where only the default is."""
    [answer] = netlink.get_tolerant([tc.get_qdisc(ifindex, parent=parent)])
    if isinstance(answer, NetlinkError) or not tc_parse.parse_qdisc(answer).handle:
        return []
    return [tc.del_qdisc(ifindex, parent)]
