"""pool serve: it keeps slots free, takes back what nobody returns, and may be killed."""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm import slots
from cni_faasm.cli.pool import making
from cni_faasm.cli.pool.slotfiles import RESERVE, SlotFiles
from tests.host import Host, wait_until
from tests.jsonschemas import demand_valid
from tests.tool import Tool

Serve = Callable[..., "Served"]


class Served:
    """A server that runs, and what it has said."""

    def __init__(self, tool: Tool, *words: str) -> None:
        self.tool = tool
        self.files = SlotFiles(tool.prefix)
        self.process = tool.start("pool", "serve", "--json", *words)
        self.lines: list[dict[str, Any]] = []

    def hear(self, event: str) -> dict[str, Any]:
        """Read on until an event is told."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))
            demand_valid(self.lines[-1])
            assert "event" in self.lines[-1], self.lines
            if self.lines[-1]["event"] == event:
                return self.lines[-1]
        raise AssertionError(f"no {event!r}: {self.lines}, {self.process.communicate()}")

    def end(self, how: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(how)
        _, errors = self.process.communicate(timeout=30)
        assert "Traceback" not in errors, errors
        if how == signal.SIGTERM:
            assert self.process.returncode == 0, errors
        return errors


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    tool.network(dns={"nameservers": ["9.9.9.9"]})
    yield tool
    tool("pool", "down", "--force").ok()
    assert not Path(f"{slots.ROOT}/{tool.prefix}").exists()
    assert tool.host.leases() == {}


@pytest.fixture
def serve(tool: Tool) -> Iterator[Serve]:
    started: list[Served] = []

    def start(*words: str) -> Served:
        started.append(Served(tool, *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


def free(tool: Tool) -> set[int]:
    return SlotFiles(tool.prefix).numbers(slots.FREE)


def leases(tool: Tool) -> dict[str, str]:
    """Return who holds each address."""
    return {
        name.rpartition("/")[2]: text.partition("\r\n")[0]
        for name, text in tool.host.leases().items()
    }


@pytest.fixture
def inode() -> Iterator[Callable[[str], int]]:
    """Tell a namespace's number, and keep it from being another's."""
    with contextlib.ExitStack() as stack:

        def look(path: str) -> int:
            kept = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, kept)
            return os.fstat(kept).st_ino

        yield look


def test_it_keeps_slots_free_and_makes_returned_ones_as_new(
    tool: Tool, serve: Serve, inode: Callable[[str], int]
) -> None:
    server = serve("3", "--reserve", "0", "--rest", "0")
    server.hear("ready")
    assert free(tool) == {1, 2, 3}
    claimed = [slots.claim(tool.prefix) for _ in range(3)]
    wait_until(lambda: free(tool) == {4, 5, 6}, "three more")
    assert {one.number for one in claimed} == {1, 2, 3}
    inodes = {inode(one.netns) for one in claimed}
    for one in claimed:
        one.give_back()
    wait_until(lambda: not server.files.numbers(slots.RETURNED), "them to be taken away")
    assert free(tool) == {4, 5, 6}
    assert not any(Path(one.netns).exists() for one in claimed)
    again = slots.claim(tool.prefix)
    wait_until(lambda: len(free(tool)) == 3, "another one")
    assert free(tool) & {1, 2, 3}
    assert os.stat(again.netns).st_ino not in inodes
    assert "pool serve keeps" in tool("pool", "down").expect(1).stderr
    assert "another pool serve" in tool("pool", "serve", "1").expect(1).stderr
    server.end()
    # Without it, what is free can be claimed, and returned.
    with slots.claim(tool.prefix) as slot:
        assert Path(slot.netns).exists()


def test_what_comes_back_is_exchanged_for_one_in_reserve(tool: Tool, serve: Serve) -> None:
    server = serve("1", "--most", "1", "--reserve", "2", "--rest", "0")
    server.hear("ready")
    files = server.files

    def settled() -> bool:
        return len(files.numbers(RESERVE)) == 2 and not files.numbers(slots.RETURNED)

    wait_until(settled, "the reserve")
    slot = slots.claim(tool.prefix)
    assert not free(tool), "--most counts what is free and claimed"
    in_reserve = files.numbers(RESERVE)
    assert tool("pool", "status", "--json").ok().document["reserve"] == 2
    assert "2 in reserve" in tool("pool", "status").ok().stdout
    with making.locked(lambda _: None):  # nothing can be made or taken away now
        slot.give_back()
        wait_until(lambda: bool(free(tool)), "another one")
        assert free(tool) <= in_reserve
        assert Path(slot.netns).exists()
    wait_until(settled, "the reserve to be filled up, and the old one to go")
    assert not Path(slot.netns).exists() or slot.number in files.numbers(RESERVE)
    tool.host.run(["ip", "link", "del", f"{tool.prefix}{min(files.numbers(RESERVE))}"])
    server.end(signal.SIGKILL)
    kept = files.numbers(RESERVE)
    server = serve("1", "--most", "1", "--reserve", "2", "--rest", "0", "--look", "1")
    assert server.hear("replaced")["slot"] == min(kept)
    server.end()
    tool("pool", "up", "1").ok()
    assert not files.numbers(RESERVE), "what no server keeps may be claimed"


def test_an_owner_that_ends_loses_its_slots(tool: Tool, serve: Serve) -> None:
    server = serve("1", "--rest", "0")
    server.hear("ready")
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as process:
        slot = slots.claim(tool.prefix, pid=process.pid)
        wait_until(lambda: free(tool), "another one")
        nobodys = slots.claim(tool.prefix, pid=-1)
        wait_until(lambda: free(tool), "another one")
        handed = slots.claim(tool.prefix, pid=process.pid)
        handed.hand_over(os.getpid())
        process.kill()
    told = server.hear("taken back")
    assert (told["slot"], told["reason"]) == (slot.number, f"process {process.pid} has ended")
    wait_until(lambda: not Path(slot.netns).exists(), "it to go")
    assert server.files.numbers(slots.CLAIMED) == {nobodys.number, handed.number}
    server.end()
    with subprocess.Popen(["true"]) as process:
        dead = slots.claim(tool.prefix, pid=process.pid)
    server = serve("1", "--rest", "0")
    assert server.hear("taken back")["slot"] == dead.number


def test_what_has_drifted_is_replaced(tool: Tool, serve: Serve) -> None:
    server = serve("2", "--look", "1", "--rest", "0")
    server.hear("ready")
    tool.host.run(["tc", "qdisc", "del", "dev", f"{tool.prefix}1", "root"])
    told = server.hear("replaced")
    assert told["slot"] == 1
    assert "root qdisc" in told["reason"]
    wait_until(lambda: len(free(tool)) == 2, "another one")
    tool("check").ok()


def test_an_address_rests_and_the_host_forgets_it(tool: Tool, serve: Serve) -> None:
    host = tool.host
    host.add_remote()
    server = serve("1", "--most", "2", "--rest", "2")
    server.hear("ready")
    slot = slots.claim(tool.prefix)
    [address] = [one.partition("/")[0] for one in slot.addresses]
    command = ["busybox", "ping", "-c1", "-W2", "198.51.100.1"]
    host.run(["nsenter", f"--net={slot.netns}", *command])
    holder = leases(tool)[address]
    assert holder == slot.document["containerID"]
    begin = time.monotonic()
    slot.give_back()
    wait_until(lambda: not Path(slot.netns).exists(), "it to go")
    assert leases(tool)[address] == f"resting-{holder}"
    assert Path(f"{slots.ROOT}/{tool.prefix}/resting/{address}").exists()
    server.end(signal.SIGKILL)
    serve("1", "--most", "2", "--rest", "2")
    wait_until(lambda: address not in leases(tool), "the lease to go")
    assert time.monotonic() - begin >= 2
    assert not Path(f"{slots.ROOT}/{tool.prefix}/resting/{address}").exists()
    with host.entered():
        tracked = Path("/proc/net/nf_conntrack")
        assert not tracked.exists() or address not in tracked.read_text(encoding="ascii")


def test_it_takes_over_what_is_there(tool: Tool, serve: Serve, inode: Callable[[str], int]) -> None:
    tool("pool", "up", "5").ok()
    files = SlotFiles(tool.prefix)
    kept, used = (inode(f"/run/netns/{tool.prefix}ns{number}") for number in (1, 2))
    for number in (2, 3):
        files.drop(number)  # as pool up of an earlier version leaves them, or a kill
    tool.host.run(["ip", "netns", "del", f"{tool.prefix}ns5"])
    with tool.host.start(["ip", "netns", "exec", f"{tool.prefix}ns3", "sleep", "1000"]) as process:
        inside = os.stat(f"/run/netns/{tool.prefix}ns3").st_ino
        wait_until(lambda: os.stat(f"/proc/{process.pid}/ns/net").st_ino == inside, "sleep")
        server = serve("4", "--rest", "0")
        assert server.hear("left alone")["slot"] == 3
        assert server.hear("replaced")["slot"] == 5
        server.hear("ready")
        process.kill()
    assert len(free(tool)) == 4
    assert {1, 4} <= free(tool)
    assert 3 not in free(tool)
    assert os.stat(f"/run/netns/{tool.prefix}ns1").st_ino == kept
    assert used not in {
        os.stat(f"/run/netns/{tool.prefix}ns{number}").st_ino for number in free(tool)
    }
    tool("check").ok()


def test_a_name_that_somebody_has_is_passed_over(tool: Tool, serve: Serve) -> None:
    tool.host.run(["ip", "link", "add", f"{tool.prefix}1", "type", "bridge"])
    tool.host.run(["ip", "netns", "add", f"{tool.prefix}ns2"])
    server = serve("2", "--reserve", "0")
    server.hear("ready")
    assert free(tool) == {2, 3}, "it took the empty namespace for half made"
    assert [one["slot"] for one in server.lines if one["event"] == "failed"] == [1]
    tool.host.run(["ip", "link", "del", f"{tool.prefix}1"])


def test_a_failure_is_told_and_tried_again(tool: Tool, serve: Serve) -> None:
    path = next(tool.conf_dir.iterdir())
    text = path.read_text(encoding="utf-8")
    tool.network(ipam={"subnet": "10.201.0.0/30"})  # one address
    server = serve("2", "--rest", "0")
    assert "no address is free" in server.hear("failed")["reason"]
    assert len(free(tool)) == 1
    slots.claim(tool.prefix).give_back()
    wait_until(lambda: len(free(tool)) == 1, "it to be free again", 15)
    path.write_text(text, encoding="utf-8")


def test_pool_up_makes_returned_ones_as_new(tool: Tool, inode: Callable[[str], int]) -> None:
    tool("pool", "up", "2").ok()
    with slots.claim(tool.prefix) as slot:
        before = inode(slot.netns)
    counts = tool("pool", "up", "2").ok().stdout
    assert "1 kept" in counts
    assert "1 made" in counts
    assert free(tool) == {1, 2}
    assert os.stat(slot.netns).st_ino != before
    assert len(tool.host.leases()) == 2


def test_it_may_be_killed_at_any_moment(tool: Tool, serve: Serve) -> None:
    chance = random.Random(5)
    held: list[slots.Slot] = []
    for _ in range(8):
        server = serve("4", "--rest", "0.2")
        end = time.monotonic() + 0.4 + chance.random()
        while time.monotonic() < end:
            with contextlib.suppress(slots.NoSlotError):
                held.append(slots.claim(tool.prefix))
            if len(held) > 3 or (held and chance.random() < 0.3):
                held.pop(chance.randrange(len(held))).give_back()
            time.sleep(0.01)
        server.end(signal.SIGKILL)
        for slot in held:
            assert Path(slot.netns).exists()
    server = serve("4", "--rest", "0.2")
    server.hear("ready")
    for slot in held:
        slot.give_back()
    wait_until(lambda: not server.files.numbers(slots.RETURNED), "them to be taken away")
    wait_until(lambda: len(free(tool)) == 4, "four")
    wait_until(lambda: len(server.files.numbers(RESERVE)) == 1, "the reserve")
    there_is = free(tool) | server.files.numbers(RESERVE)
    names = {f"{tool.prefix}ns{number}" for number in there_is}
    wait_until(lambda: set(leases(tool).values()) == names, "the rest to end")
    there = {name for name in os.listdir("/run/netns") if name.startswith(f"{tool.prefix}ns")}
    assert there == names
    there = {name for name in os.listdir("/etc/netns") if name.startswith(f"{tool.prefix}ns")}
    assert there == names
    tool("check").ok()
    links = json.loads(tool.host.run(["ip", "-j", "link", "show", "type", "veth"]).stdout)
    assert {one["ifname"] for one in links} == {f"{tool.prefix}{number}" for number in there_is}
