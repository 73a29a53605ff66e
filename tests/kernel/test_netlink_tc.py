"""HTB and its leaf on the real kernel, read back by tc and pyroute2; no warnings in its log."""

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute  # type: ignore[import-untyped]

from cni_faasm.netlink import link, tc, tc_parse
from cni_faasm.netlink.transport import Netlink, NetlinkError
from tests.host import Host
from tests.kernels import make_link

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cni_faasm.netlink.wire import Message

ROOT, CLASS, LEAF = 0x10000, 0x10001, 0x100000
EEXIST, ENOENT = 17, 2
LO = 1


@pytest.fixture
def ifindex(rt: Netlink) -> int:
    return make_link(rt, link.new_veth("v0", "v1", None), "v0").ifindex


@pytest.fixture
def kernel_log() -> Iterator[list[str]]:
    """Collect what the kernel logs during a test."""
    lines: list[str] = []
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)
    yield lines
    try:
        while True:
            lines.append(os.read(fd, 8192).decode("utf-8", "replace"))
    except BlockingIOError:
        pass
    finally:
        os.close(fd)
    assert not [line for line in lines if "quantum of class" in line]


def shape(ifindex: int, rate_Bps: int, burst: int) -> "list[Message]":
    return [
        tc.new_qdisc_htb(ifindex, ROOT, 1, 1000),
        tc.new_class_htb(ifindex, ROOT, CLASS, rate_Bps, rate_Bps, burst, burst, 60000),
        tc.new_qdisc_bfifo(ifindex, CLASS, LEAF, 31250),
    ]


def class_line(host: Host) -> str:
    """Return what tc says about the class, rates in plain bit/s and sizes in plain bytes."""
    return host.run(["tc", "-d", "-r", "class", "show", "dev", "v0"]).stdout


@pytest.mark.parametrize(
    "rate_bps",
    [1000, 256_000, 10**6, 10**7, 10**8, 10**9, 5 * 10**9, 40 * 10**9, 10**12, 10**15],
)
def test_every_rate(
    bare_host: Host, rt: Netlink, ifindex: int, kernel_log: list[str], rate_bps: int
) -> None:
    rate_Bps = rate_bps // 8
    burst = max(1600, rate_Bps // 1000)
    rt.execute(shape(ifindex, rate_Bps, burst))
    assert rt.warnings == []

    (root, leaf) = bare_host.qdiscs("v0")
    assert (root["kind"], root["handle"], root["root"]) == ("htb", "1:", True)
    assert (root["options"]["default"], root["options"]["direct_qlen"]) == ("0x1", 1000)
    assert (leaf["kind"], leaf["handle"], leaf["parent"]) == ("bfifo", "10:", "1:1")
    assert leaf["options"]["limit"] == 31250

    line = class_line(bare_host)
    assert "class htb 1:1 root leaf 10: prio 0 quantum 60000 " in line
    assert "linklayer ethernet" in line
    ((body),) = rt.dump(tc.dump_classes(ifindex))
    found = tc_parse.parse_class(body)
    assert found is not None
    assert (found.rate_Bps, found.ceil_Bps, found.quantum) == (rate_Bps, rate_Bps, 60000)
    assert (found.handle, found.parent, found.leaf) == (CLASS, tc.TC_H_ROOT, LEAF)
    assert found.burst_ticks == found.cburst_ticks == tc.burst_ticks(rate_Bps, burst)

    with bare_host.entered(), IPRoute() as other:
        (seen,) = other.get_classes(index=ifindex)
    options = seen.get_attr("TCA_OPTIONS")
    numbers = options.get_attr("TCA_HTB_PARMS")
    assert numbers["rate"] == min(rate_Bps, 2**32 - 1)
    assert options.get_attr("TCA_HTB_RATE64") == (rate_Bps if rate_Bps >= 2**32 else None)
    assert numbers["buffer"] == numbers["cbuffer"] == found.burst_ticks


@pytest.mark.parametrize("burst", [1600, 1733, 12345, 125_000, 999_999])
@pytest.mark.parametrize("rate_bps", [256_000, 10**6, 3_333_333, 10**7, 10**8, 10**9])
def test_tc_prints_the_burst_that_was_asked(
    bare_host: Host, rt: Netlink, ifindex: int, rate_bps: int, burst: int
) -> None:
    rate_Bps = rate_bps // 8
    rt.execute(shape(ifindex, rate_Bps, burst))
    (printed,) = re.findall(r" burst (\d+)b", class_line(bare_host))
    assert int(printed) == tc_parse.burst_bytes(rate_Bps, tc.burst_ticks(rate_Bps, burst))
    microsecond = rate_Bps // 1_000_000  # the step in which tc counts, in bytes
    assert burst <= int(printed) <= burst + microsecond + 1
    if rate_Bps <= 1_000_000 or burst * 1_000_000 % rate_Bps == 0:
        assert int(printed) == burst


def test_tc_made_the_same(bare_host: Host, rt: Netlink, ifindex: int) -> None:
    bare_host.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "v1",
            "root",
            "handle",
            "1:",
            "htb",
            "default",
            "1",
            "direct_qlen",
            "1000",
        ]
    )
    htb = "htb rate 10mbit ceil 10mbit burst 12500 cburst 12500 quantum 60000"
    bare_host.run(f"tc class add dev v1 parent 1: classid 1:1 {htb}".split())
    bare_host.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "v1",
            "parent",
            "1:1",
            "handle",
            "10:",
            "bfifo",
            "limit",
            "31250",
        ]
    )
    rt.execute(shape(ifindex, 1_250_000, 12_500))
    ours, theirs = (
        bare_host.run(["tc", "-d", "class", "show", "dev", dev]).stdout for dev in ("v0", "v1")
    )
    assert ours == theirs
    described = [[{**one, "dev": ""} for one in bare_host.qdiscs(dev)] for dev in ("v0", "v1")]
    assert described[0] == described[1]


def test_a_limit_changes_while_traffic_flows(bare_host: Host, rt: Netlink, ifindex: int) -> None:
    rt.execute(shape(ifindex, 1_250_000, 12_500))
    rt.execute(
        [
            tc.new_class_htb(ifindex, ROOT, CLASS, 5000, 5000, 1600, 1600, 1000, replace=True),
            tc.new_qdisc_bfifo(ifindex, CLASS, LEAF, 20000, replace=True),
        ]
    )
    found = [tc_parse.parse_class(body) for body in rt.dump(tc.dump_classes(ifindex))]
    assert [one and one.rate_Bps for one in found] == [5000]
    assert bare_host.qdiscs("v0")[1]["options"]["limit"] == 20000


def test_single_objects(rt: Netlink, ifindex: int) -> None:
    missing = rt.execute_tolerant(
        [
            tc.get_qdisc(ifindex, CLASS),
            tc.get_qdisc(ifindex, 0, LEAF),
            tc.get_class(ifindex, CLASS),
            tc.del_qdisc(ifindex),
        ]
    )
    assert [one.errno for one in missing if isinstance(one, NetlinkError)] == [ENOENT] * 4
    rt.execute(shape(ifindex, 1_250_000, 12_500))
    asked = rt.execute(
        [tc.get_qdisc(ifindex), tc.get_qdisc(ifindex, CLASS), tc.get_qdisc(ifindex, 0, LEAF)]
    )
    found = [tc_parse.parse_qdisc(body) for (body,) in asked]
    assert [one.kind for one in found] == ["htb", "bfifo", "bfifo"]
    assert (found[0].htb_defcls, found[0].direct_qlen) == (1, 1000)
    assert [one.parent for one in found] == [tc.TC_H_ROOT, CLASS, 0]
    assert [one.limit for one in found] == [None, 31250, 31250]
    ((body,),) = rt.execute([tc.get_class(ifindex, CLASS)])
    one = tc_parse.parse_class(body)
    assert one is not None
    assert one.rate_Bps == 1_250_000


def test_a_dump_knows_other_interfaces_too(rt: Netlink, ifindex: int) -> None:
    rt.execute([*shape(ifindex, 1_250_000, 12_500), *shape(LO, 1_250_000, 12_500)])
    found = [tc_parse.parse_qdisc(body) for body in rt.dump(tc.dump_qdiscs())]
    assert {(one.ifindex, one.kind) for one in found} >= {
        (index, kind) for index in (LO, ifindex) for kind in ("htb", "bfifo")
    }
    classes = [tc_parse.parse_class(body) for body in rt.dump(tc.dump_classes(ifindex))]
    assert [one and one.ifindex for one in classes] == [ifindex]


def test_what_is_there_is_not_made_again(rt: Netlink, ifindex: int) -> None:
    messages = shape(ifindex, 1_250_000, 12_500)
    rt.execute(messages)
    again = rt.execute_tolerant(messages)
    assert [one.errno for one in again if isinstance(one, NetlinkError)] == [EEXIST] * 3


def test_the_qdisc_goes_with_all_below_it(bare_host: Host, rt: Netlink, ifindex: int) -> None:
    rt.execute(shape(ifindex, 1_250_000, 12_500))
    rt.execute([tc.del_class(ifindex, CLASS)])
    assert [one["kind"] for one in bare_host.qdiscs("v0")] == ["htb"]
    rt.execute([tc.del_qdisc(ifindex)])
    assert [one["kind"] for one in bare_host.qdiscs("v0")] in (["noop"], [])


def send_to_itself(host: Host, count: int) -> None:
    """Send packets of 1042 bytes over lo, to a socket that takes them without an answer."""
    with (
        host.entered(),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind(("127.0.0.1", 0))
        for _ in range(count):
            sender.sendto(bytes(1000), receiver.getsockname())


def test_counters(bare_host: Host, rt: Netlink) -> None:
    rt.execute(shape(LO, 1_250_000, 12_500))
    send_to_itself(bare_host, 5)
    (body,) = rt.dump(tc.dump_classes(LO))
    one = tc_parse.parse_class(body)
    assert one is not None
    assert (one.stats.packets, one.stats.drops) == (5, 0)
    assert one.stats.bytes == 5 * 1042
    ((reply,),) = rt.execute([tc.get_qdisc(LO)])
    assert tc_parse.parse_qdisc(reply).stats.packets == 5


def test_overflow_of_the_leaf_is_counted(bare_host: Host, rt: Netlink) -> None:
    rt.execute(
        [
            tc.new_qdisc_htb(LO, ROOT, 1, 1000),
            tc.new_class_htb(LO, ROOT, CLASS, 125, 125, 1600, 1600, 60000),
            tc.new_qdisc_bfifo(LO, CLASS, LEAF, 2500),
        ]
    )
    send_to_itself(bare_host, 8)
    (body,) = rt.dump(tc.dump_classes(LO))
    one = tc_parse.parse_class(body)
    assert one is not None
    assert (one.stats.qlen, one.stats.backlog_bytes) == (2, 2 * 1042)
    ((reply,),) = rt.execute([tc.get_qdisc(LO, CLASS)])
    leaf = tc_parse.parse_qdisc(reply)
    assert leaf.stats.drops > 0
    assert leaf.stats.qlen == 2


def test_fq_codel_is_made_or_refused_by_name(rt: Netlink, ifindex: int) -> None:
    rt.execute(shape(ifindex, 1_250_000, 12_500)[:2])
    message = tc.new_qdisc_fq_codel(ifindex, CLASS, LEAF, limit=100, target_us=6000)
    (result,) = rt.execute_tolerant([message])
    if isinstance(result, NetlinkError):
        assert result.errno == ENOENT
        assert result.ext_ack == "Specified qdisc kind is unknown"
        assert not has_fq_codel()
    else:
        ((reply,),) = rt.execute([tc.get_qdisc(ifindex, CLASS)])
        found = tc_parse.parse_qdisc(reply)
        assert (found.kind, found.limit) == ("fq_codel", 100)


def has_fq_codel() -> bool:
    """Say whether the kernel's own symbols have it."""
    return "fq_codel_enqueue" in Path("/proc/kallsyms").read_text(encoding="ascii")


def test_other_kinds_are_read(bare_host: Host, rt: Netlink, ifindex: int) -> None:
    bare_host.run(
        ["tc", "qdisc", "add", "dev", "v0", "root", "handle", "5:", "pfifo", "limit", "12"]
    )
    bare_host.run(["tc", "qdisc", "add", "dev", "v0", "clsact"])
    found = {
        one.kind: one
        for one in map(tc_parse.parse_qdisc, rt.dump(tc.dump_qdiscs(ifindex)))
        if one.ifindex == ifindex
    }
    assert found["pfifo"].limit == 12
    assert found["clsact"].parent == tc.TC_H_INGRESS
    assert rt.dump(tc.dump_classes(ifindex)) == []
