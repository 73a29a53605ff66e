"""The socket owner on the real kernel: batches, dumps, losses, strangers."""

import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from cni_faasm.netlink import addr, link, nft, route, tc, wire
from cni_faasm.netlink.transport import (
    BATCH_MESSAGES,
    NETLINK_NETFILTER,
    SOL_SOCKET,
    Netlink,
    NetlinkError,
)
from cni_faasm.spec import inet
from tests.host import Host
from tests.kernels import ECHOES_LINKS, HTB_REMARKS, kernel_version

LO = 1
EADDRNOTAVAIL, EAGAIN, EEXIST, ENOBUFS, ENODEV, ENOENT, ETIMEDOUT = 99, 11, 17, 105, 19, 2, 110


def new_addr(number: int) -> "wire.Message":
    return addr.new_addr(LO, inet.from_int(0x0A000000 + number, 4), 32)


def addresses(rt: Netlink) -> set[int]:
    """Return the numbers of what new_addr has added."""
    # Not of LO only: under such a dump the kernel does not notice changes.
    found = [addr.parse_addr(body) for body in rt.dump(addr.dump_addrs(family=2))]
    return {inet.to_int(one.address) - 0x0A000000 for one in found} - {0x75000001}


def test_a_socket_stays_in_its_namespace(bare_host: Host, rt: Netlink) -> None:
    bare_host.run(["ip", "link", "add", "only-here", "type", "veth", "peer", "name", "peer"])
    names = {link.parse_link(body).name for body in rt.dump(link.dump_links())}
    assert names == {"lo", "only-here", "peer"}
    with Netlink() as outside, pytest.raises(NetlinkError) as caught:
        outside.execute([link.get_link(name="only-here")])
    assert caught.value.errno == ENODEV


def test_the_descriptor_is_not_inherited(rt: Netlink) -> None:
    assert not os.get_inheritable(rt.fileno())


def test_a_closed_socket_is_closed(bare_host: Host) -> None:
    with Netlink() as netlink:
        fd = netlink.fileno()
        assert os.readlink(f"/proc/self/fd/{fd}").startswith("socket:")
    assert netlink.fileno() == -1


def test_nothing_costs_nothing(rt: Netlink) -> None:
    assert rt.execute([]) == []
    rt.nft_batch([])


@pytest.mark.parametrize("count", [1, BATCH_MESSAGES, BATCH_MESSAGES + 1, 500])
def test_every_message_of_a_large_batch_is_answered(rt: Netlink, count: int) -> None:
    assert rt.execute(new_addr(number) for number in range(count)) == [[]] * count
    assert addresses(rt) == set(range(count))


def test_echoes_and_answers_go_to_their_messages(rt: Netlink) -> None:
    results = rt.execute(
        [
            link.new_veth("faasm%d", "a", None),
            new_addr(1),
            link.get_link(name="lo"),
            link.new_veth("faasm%d", "b", None),
        ]
    )
    names = [[link.parse_link(body).name for body in bodies] for bodies in results]
    if kernel_version() < ECHOES_LINKS:
        assert names == [[], [], ["lo"], []]
    else:
        assert names == [["faasm0"], [], ["lo"], ["faasm1"]]


def test_the_first_failure_is_raised_after_all_was_carried_out(rt: Netlink) -> None:
    with pytest.raises(NetlinkError) as caught:
        rt.execute([new_addr(1), new_addr(1), link.del_link(name="nope"), new_addr(2)])
    assert caught.value.errno == EEXIST
    assert caught.value.label == "ip address add 10.0.0.1/32 dev if1"
    assert addresses(rt) == {1, 2}


def test_failures_stand_in_their_places(rt: Netlink) -> None:
    results = rt.execute_tolerant(
        [new_addr(1), new_addr(1), addr.del_addr(LO, inet.pack("10.9.9.9"), 32), new_addr(2)]
    )
    errors = [one.errno if isinstance(one, NetlinkError) else 0 for one in results]
    assert errors == [0, EEXIST, EADDRNOTAVAIL, 0]
    assert addresses(rt) == {1, 2}


def test_the_kernels_explanation_is_told(rt: Netlink) -> None:
    with pytest.raises(NetlinkError) as caught:
        rt.execute([route.new_route(inet.pack("10.9.0.0"), 16, LO, gateway=inet.pack("99.0.0.1"))])
    assert str(caught.value) == (
        "ip route add 10.9.0.0/16 via 99.0.0.1 dev if1: Network is unreachable "
        "(Nexthop has invalid gateway)"
    )


def test_a_dump_of_many_receives_is_whole(bare_host: Host, rt: Netlink) -> None:
    count = 3000  # some 180 KB
    bare_host.run(
        ["ip", "-batch", "-"],
        stdin="".join(f"route add 10.1.{n >> 8}.{n & 255}/32 dev lo\n" for n in range(count)),
    )
    found = [
        route.parse_route(body)
        for body in rt.dump(route.dump_routes(oif=LO, table=route.RT_TABLE_MAIN))
    ]
    assert len({one.dst for one in found}) == len(found) == count


def test_one_answer_of_more_than_64_kb(bare_host: Host, rt: Netlink) -> None:
    bare_host.run(["ip", "link", "add", "many", "type", "veth", "peer", "name", "peer"])
    names = [f"{number:03}".ljust(127, "x") for number in range(495)]
    bare_host.run(  # ip's own buffer takes seven such names at a time
        ["ip", "-batch", "-"],
        stdin="".join(
            f"link property add dev many {' '.join(f'altname {n}' for n in names[i : i + 5])}\n"
            for i in range(0, len(names), 5)
        ),
    )
    ((body,),) = rt.execute([link.get_link(name="many", stats=True)])
    assert len(body) > 65536
    assert link.parse_link(body).name == "many"


def test_answers_that_the_kernel_dropped_are_missed(rt: Netlink) -> None:
    """Failures are answered unasked; one that did not fit must not count as success."""
    again = [new_addr(number) for number in range(20)]
    rt.execute(again)
    rt._socket.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, 1)  # the kernel makes it 2304
    results = rt.execute_tolerant(again)
    assert all(isinstance(one, NetlinkError) for one in results)
    errors = [one for one in results if isinstance(one, NetlinkError)]
    assert {error.errno for error in errors} == {EEXIST, ENOBUFS}
    assert "dropped" in str(errors[-1])
    rt._socket.setsockopt(SOL_SOCKET, socket.SO_RCVBUF, 212992)
    assert addresses(rt) == set(range(20))


def test_a_batch_is_acknowledged_once_and_each_failure_is_told(rt: Netlink) -> None:
    rt.execute([new_addr(1), new_addr(3)])
    results = rt.execute_tolerant([new_addr(number) for number in range(5)])
    failed = [isinstance(one, NetlinkError) for one in results]
    assert failed == [False, True, False, True, False]
    assert addresses(rt) == set(range(5))


def test_silence_ends_in_a_timeout(bare_host: Host) -> None:
    with bare_host.entered():
        netlink = Netlink(timeout_s=0.05)
    with netlink:
        forgotten = wire.Replies(4711, 1, netlink._port)
        assert netlink._collect(forgotten) == ETIMEDOUT
        netlink.execute([new_addr(1)])


def test_a_protocol_without_a_listener_is_an_error(bare_host: Host) -> None:
    with Netlink(2) as netlink, pytest.raises(NetlinkError) as caught:  # NETLINK_USERSOCK
        netlink.execute([new_addr(1)])
    assert caught.value.label == "netlink send"


def test_another_process_cannot_answer_for_the_kernel(bare_host: Host, rt: Netlink) -> None:
    with bare_host.entered():
        stranger = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
    with stranger:
        forged = struct.pack("=iIHHII", 0, 36, 20, 5, rt._sequence, 0)
        header = (16 + len(forged), wire.NLMSG_ERROR, wire.NLM_F_CAPPED, rt._sequence, rt._port)
        stranger.sendto(struct.pack("=IHHII", *header) + forged, (rt._port, 0))
        with pytest.raises(NetlinkError) as caught:
            rt.execute([link.del_link(name="nope")])
    assert caught.value.errno == ENODEV


def test_late_answers_of_an_earlier_exchange_are_passed_over(rt: Netlink) -> None:
    rt._send([(link.RTM_GETLINK, wire.NLM_F_DUMP, bytes(16), "all")])
    rt._send([link.del_link(name="nope")], 0)
    assert rt.execute([new_addr(1)]) == [[]]
    assert addresses(rt) == {1}


class Racing(Netlink):
    """Let something happen in the middle of a dump: between its first two receives."""

    __slots__ = ("race",)

    def __init__(self) -> None:
        super().__init__()
        self.race: Callable[[], object] | None = None

    def _receive(self, flags: int) -> bytes:
        data = super()._receive(flags)
        if self.race is not None:
            self.race()
        return data


@pytest.fixture
def racing(bare_host: Host) -> Iterator[Racing]:
    with bare_host.entered():
        netlink = Racing()
    yield netlink
    netlink.close()


def test_a_dump_that_something_changed_under_is_repeated(rt: Netlink, racing: Racing) -> None:
    rt.execute(new_addr(number) for number in range(1000))

    def change_once() -> None:
        racing.race = None
        rt.execute([addr.del_addr(LO, inet.pack("10.0.0.0"), 32), new_addr(5000)])

    racing.race = change_once
    assert addresses(racing) == {*range(1, 1000), 5000}


def test_a_dump_that_changes_all_the_time_is_given_up(rt: Netlink, racing: Racing) -> None:
    rt.execute(new_addr(number) for number in range(1000))
    numbers = iter(range(5000, 9000))
    racing.race = lambda: rt.execute([new_addr(next(numbers))])
    with pytest.raises(NetlinkError, match="changed each time") as caught:
        addresses(racing)
    assert caught.value.errno == EAGAIN


def test_a_dump_of_what_is_not_there(rt: Netlink) -> None:
    with pytest.raises(NetlinkError, match="FIB table does not exist") as caught:
        rt.dump(route.dump_routes(table=4000))
    assert caught.value.errno == ENOENT
    with pytest.raises(NetlinkError) as caught:
        rt.dump(addr.dump_addrs(999))
    assert caught.value.errno == ENODEV


def test_what_the_kernel_remarks_about_a_success_is_kept(rt: Netlink) -> None:
    rt.execute(
        [
            link.new_veth("a", "b", None),
            tc.new_qdisc_htb(LO, 0x10000, 1),
            tc.new_class_htb(LO, 0x10000, 0x10001, 1250, 1250, 1600, 1600, 60000),
        ]
    )
    assert rt.warnings == []
    rt.execute([tc.new_class_htb(LO, 0x10000, 0x10002, 1250, 1250, 1600, 1600, 0)])
    if kernel_version() < HTB_REMARKS:
        assert rt.warnings == []
        return
    (warning,) = rt.warnings
    assert warning.startswith("tc class add dev if1 parent 1: classid 1:2 htb rate 10000bit: ")
    assert "quantum of class 10002 is small" in warning


def test_a_large_nft_transaction(bare_host: Host) -> None:
    with bare_host.entered():
        netfilter = Netlink(NETLINK_NETFILTER)
    chains = 4000  # some 300 KB in one send
    with netfilter:
        netfilter.nft_batch(
            [
                nft.new_table(nft.NFPROTO_INET, "big"),
                *(nft.new_chain(nft.NFPROTO_INET, "big", f"c{n}") for n in range(chains)),
            ]
        )
        ((body,),) = netfilter.execute([nft.get_table(nft.NFPROTO_INET, "big")])
        assert nft.parse_table(body).use == chains
        found = [nft.parse_chain(one) for one in netfilter.dump(nft.dump_chains())]
        assert len(found) == chains


def test_without_rights_everything_is_refused(bare_host: Host) -> None:
    with bare_host.entered():
        netlink, netfilter = Netlink(), Netlink(NETLINK_NETFILTER)
    with netlink, netfilter:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.setuid(65534)
                refused = 0
                with pytest.raises(NetlinkError) as caught:
                    netlink.execute([new_addr(1)])
                refused += caught.value.errno == 1
                with pytest.raises(NetlinkError) as caught:
                    netfilter.nft_batch([nft.new_table(1, "t")])
                refused += caught.value.errno == 1
                status = 0 if refused == 2 else 2
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class Garbling(Netlink):
    """Cut the next answers short, as a broken kernel might."""

    __slots__ = ("cut",)

    def __init__(self) -> None:
        super().__init__()
        self.cut = 0

    def _receive(self, flags: int) -> bytes:
        data = super()._receive(flags)
        return data[: -self.cut] if self.cut else data


@pytest.mark.parametrize("cut", [1, 4, 20, 33])
def test_a_malformed_answer_spoils_no_later_exchange(bare_host: Host, cut: int) -> None:
    with bare_host.entered():
        netlink = Garbling()
    with netlink:
        netlink.cut = cut
        with pytest.raises(NetlinkError, match="malformed") as caught:
            netlink.execute([new_addr(1), link.get_link(name="lo"), new_addr(2)])
        assert caught.value.errno == wire.EBADMSG
        netlink.cut = 0
        assert addresses(netlink) == {1, 2}


def test_an_unknown_protocol_is_an_os_error() -> None:
    with pytest.raises(NetlinkError, match="not supported"):
        Netlink(999)
