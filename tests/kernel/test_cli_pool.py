"""Pools: what is there afterwards, what an interrupted call leaves, and that all of it goes."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.cli.pool import making
from tests.host import AFTER_LAST_DEL, REPO, Host, Namespace, wait_until
from tests.tool import BANDWIDTH, Tool

RESOLV_CONF = Path("/etc/resolv.conf")


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    before = RESOLV_CONF.read_text(encoding="utf-8") if RESOLV_CONF.exists() else None
    RESOLV_CONF.write_text("nameserver 127.0.0.53\nnameserver 9.9.9.9\n", encoding="utf-8")
    tool.network()
    yield tool
    tool("pool", "down").ok()
    if before is None:
        RESOLV_CONF.unlink()
    else:
        RESOLV_CONF.write_text(before, encoding="utf-8")


def member(tool: Tool, number: int) -> Namespace:
    name = f"{tool.prefix}ns{number}"
    return Namespace(name, path=f"/run/netns/{name}")


def rules(tool: Tool, number: int) -> list[str]:
    """Return what tc says about both ends of a member, by the four commands of the README."""
    p, k = tool.prefix, number
    commands = (
        f"tc qdisc show dev {p}{k}",
        f"tc class show dev {p}{k}",
        f"ip netns exec {p}ns{k} tc qdisc show dev {p}p{k}",
        f"ip netns exec {p}ns{k} tc class show dev {p}p{k}",
    )
    return [tool.host.run(command.split()).stdout for command in commands]


def test_up_makes_shaped_namespaces_that_all_look_the_same(tool: Tool) -> None:
    host = tool.host
    host.add_remote()
    document = tool("pool", "up", "3", "--json").ok().document
    assert [one["action"] for one in document["members"]] == ["made"] * 3
    first = rules(tool, 1)
    assert "htb 1:" in first[0]
    assert "rate 20Mbit ceil 20Mbit" in first[1]
    assert "htb 1:" in first[2]
    assert "rate 10Mbit ceil 10Mbit" in first[3]
    assert rules(tool, 2) == rules(tool, 3) == first
    for number in (1, 2, 3):
        inside = member(tool, number)
        [lo] = inside.json("ip", "-j", "link", "show", "lo")
        assert "UP" in lo["flags"]
        assert inside.addresses(f"{tool.prefix}p{number}") == [f"10.200.0.{number + 1}/32"]
        assert len(inside.routes(dst="default")) == 1
        inside.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    path = Path(f"/etc/netns/{tool.prefix}ns2/resolv.conf")
    assert "nameserver 9.9.9.9\n" in path.read_text(encoding="utf-8")
    assert "127.0.0.53" not in path.read_text(encoding="utf-8")


def test_up_again_changes_nothing_and_grows(tool: Tool) -> None:
    tool("pool", "up", "2").ok()
    before = [tool.host.snapshot(), member(tool, 1).snapshot()]
    assert "2 kept" in tool("pool", "up", "2").ok().stdout
    assert [tool.host.snapshot(), member(tool, 1).snapshot()] == before
    assert tool("pool", "up", "4").ok().stdout == "testnet: 2 kept, 2 made\n"


def test_up_says_what_became_of_a_burst_that_no_packet_fits_into(tool: Tool) -> None:
    tool.network(bandwidth={"ingressRate": "1M", "ingressBurst": 8})
    said = tool("pool", "up", "2").ok().stderr
    assert re.findall(r"warning: (.*) raised to \d+(.*)", said) == [
        ("ingressBurst: 8 bits", ": one packet must fit")
    ]


def test_up_completes_what_is_missing_and_leaves_the_rest(tool: Tool) -> None:
    tool("pool", "up", "5").ok()
    prefix, host = tool.prefix, tool.host
    index = host.link(f"{prefix}5")
    host.run(["ip", "link", "del", f"{prefix}1"])
    host.run(["ip", "netns", "del", f"{prefix}ns2"])
    host.run(["tc", "qdisc", "del", "dev", f"{prefix}3", "root"])
    member(tool, 4).run(["ip", "link", "set", f"{prefix}p4", "down"])
    os.unlink(f"/etc/netns/{prefix}ns5/resolv.conf")
    document = tool("pool", "up", "5", "--json").ok().document
    actions = [one["action"] for one in document["members"]]
    assert actions == ["completed", "made", "completed", "completed", "completed"]
    assert {tuple(rules(tool, number)) for number in range(1, 6)} == {tuple(rules(tool, 5))}
    after = host.link(f"{prefix}5")
    assert index is not None
    assert after is not None
    assert after["ifindex"] == index["ifindex"]
    assert tool("check").ok().stdout


def until_it_makes(process: "subprocess.Popen[str]") -> None:
    """Wait until a command has got to its work, or has ended."""

    def has_lock() -> bool:
        for link in Path(f"/proc/{process.pid}/fd").glob("*"):
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link) == making.LOCK:
                    return True
        return process.poll() is not None

    wait_until(has_lock, "the lock of pool commands", timeout=60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_up_is_completed_by_the_next(tool: Tool, how: signal.Signals) -> None:
    chance = random.Random(7)
    for _ in range(4):
        process = tool.start("pool", "up", "12")
        until_it_makes(process)
        time.sleep(chance.random() * 0.1)
        process.send_signal(how)
        _, errors = process.communicate(timeout=30)
        if how != signal.SIGKILL:
            assert "Traceback" not in errors
    tool("pool", "up", "12").ok()
    assert {tuple(rules(tool, number)) for number in range(1, 13)} == {tuple(rules(tool, 1))}
    assert len(tool.host.leases()) == 12
    tool("check").ok()


def test_down_removes_some_then_all(tool: Tool) -> None:
    before = tool.host.snapshot()
    tool("pool", "up", "4").ok()
    assert tool("pool", "down", "2", "4").ok().stdout == "2 removed\n"
    rows = tool("pool", "list", "--json").ok().document["members"]
    assert [row["number"] for row in rows] == [1, 3]
    tool("pool", "down", "77").ok()
    tool("pool", "down").ok()
    # The network's nft table and its forwarding stay, as after any last DEL.
    tool.host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    left = [name for name in os.listdir("/run/netns") if name.startswith(tool.prefix)]
    left += [name for name in os.listdir("/etc/netns") if name.startswith(tool.prefix)]
    assert left == []


def test_a_resolv_conf_of_somebody_else_stays(tool: Tool) -> None:
    path = Path(f"/etc/netns/{tool.prefix}ns1/resolv.conf")
    path.parent.mkdir(parents=True)
    path.write_text("nameserver 192.0.2.1\n", encoding="utf-8")
    tool("pool", "up", "1").ok()
    assert path.read_text(encoding="utf-8") == "nameserver 192.0.2.1\n"
    tool("pool", "down").ok()
    assert path.read_text(encoding="utf-8") == "nameserver 192.0.2.1\n"
    path.unlink()
    path.parent.rmdir()


@pytest.mark.parametrize(
    ("servers", "written", "said"),
    [
        ("nameserver 127.0.0.53", None, "names cannot be resolved inside"),
        ("nameserver 127.0.0.53\nnameserver 10.1.1.1", "10.1.1.1", "no public nameserver"),
        ("nameserver 10.1.1.1\nnameserver 1.1.1.1", "1.1.1.1", ""),
        ("nameserver 2620:fe::fe\nnameserver 1.1.1.1", "1.1.1.1", ""),
        ("", None, "add one to it"),
    ],
)
def test_nameservers_of_the_host(tool: Tool, servers: str, written: str | None, said: str) -> None:
    RESOLV_CONF.write_text(servers + "\n", encoding="utf-8")
    done = tool("pool", "up", "1").ok()
    path = Path(f"/etc/netns/{tool.prefix}ns1/resolv.conf")
    if said:
        assert said in done.stderr
    else:
        assert done.stderr == ""
    if written is None:
        assert not path.exists()
    else:
        lines = path.read_text(encoding="utf-8").splitlines()[1:]
        assert lines == [f"nameserver {written}"]


def test_nameservers_of_the_network(tool: Tool) -> None:
    tool.network(
        dns={"nameservers": ["192.0.2.53"], "search": ["a.test", "b.test"], "options": ["ndots:5"]}
    )
    tool("pool", "up", "1").ok()
    done = tool("pool", "exec", "1", "--", "cat", "/etc/resolv.conf").ok()
    assert done.stdout.splitlines()[1:] == [
        "nameserver 192.0.2.53",
        "search a.test b.test",
        "options ndots:5",
    ]


def test_list_and_exec(tool: Tool) -> None:
    assert "no namespaces" in tool("pool", "list").ok().stdout
    tool("pool", "up", "2").ok()
    text = tool("pool", "list").ok().stdout
    assert f"{tool.prefix}ns1" in text
    [one, _] = tool("pool", "list", "--json").ok().document["members"]
    assert one == {
        "number": 1,
        "namespace": f"{tool.prefix}ns1",
        "containerID": f"{tool.prefix}ns1",
        "hostInterface": f"{tool.prefix}1",
        "ifname": f"{tool.prefix}p1",
        "addresses": ["10.200.0.2"],
        "ingress": {"limitBitsPerSecond": BANDWIDTH["ingressRate"], "burstBytes": 45000},
        "egress": {"limitBitsPerSecond": BANDWIDTH["egressRate"], "burstBytes": 22500},
        "network": "testnet",
        "slot": "free",
        "owner": None,
        "state": "ok",
    }
    done = tool("pool", "exec", "2", "--", "ls", "/sys/class/net").ok()
    assert done.stdout.split() == ["lo", f"{tool.prefix}p2"]
    tool("pool", "exec", "2", "sh", "-c", "exit 7").expect(7)
    assert "no such command" in tool("pool", "exec", "2", "--", "nosuch").expect(1).stderr
    assert "no namespace" in tool("pool", "exec", "9", "--", "true").expect(1).stderr


def test_what_cannot_be_is_refused_with_a_reason(tool: Tool) -> None:
    tool("pool", "up", "0").expect(2)
    tool("pool", "up").expect(2)
    tool("pool", "up", "many").expect(2)
    assert "at most 11" in tool("pool", "up", "1", "--prefix", "abcdefghijkl").expect(1).stderr
    assert "testnet" in tool("pool", "up", "1", "--network", "nosuch").expect(1).stderr
    done = tool("pool", "up", "1", "--conf", "/nowhere/x.conflist").expect(1)
    assert "/nowhere/x.conflist" in done.stderr
    broken = tool.conf_dir / "broken.conflist"
    broken.write_text("{", encoding="utf-8")
    assert "line 1" in tool("pool", "up", "1", "--conf", str(broken)).expect(1).stderr


def test_a_full_range_is_said_and_what_fits_stays(tool: Tool) -> None:
    tool.network(ipam={"subnet": "10.200.0.0/29"})
    done = tool("pool", "up", "8", "--json").expect(1)
    actions = [one["action"] for one in done.document["members"]]
    assert actions == ["made"] * 5 + ["failed"] * 3
    assert "no address is free" in done.stderr
    assert "no address is free" in done.document["members"][-1]["error"]["message"]


def test_another_network_by_its_name_or_file(tool: Tool) -> None:
    path = tool.network(name="edge", ipam={"subnet": "10.77.0.0/16"}, plugins=[{"type": "portmap"}])
    done = tool("pool", "up", "1", "--network", "edge").ok()
    assert done.stdout == "edge: 1 made\n"
    assert "does not call: portmap" in done.stderr
    [row] = tool("pool", "list", "--json").ok().document["members"]
    assert (row["network"], row["addresses"]) == ("edge", ["10.77.0.2"])
    tool("pool", "down").ok()
    assert tool("pool", "up", "2", "--conf", str(path)).ok().stdout == "edge: 2 made\n"
    # Members of another network are left alone, and said to be in the way.
    told = tool("pool", "up", "3", "--network", "testnet").expect(1).stderr
    assert f"{tool.prefix}ns1, {tool.prefix}ns2: attached to the network 'edge'" in told
    assert "--network edge" in told
    assert len(tool.host.leases()) == 2
    assert not Path(f"/run/netns/{tool.prefix}ns3").exists()


def test_progress_is_shown_where_somebody_looks(tool: Tool) -> None:
    command = " ".join(tool.argv("pool", "up", "40"))
    with tool.host.entered():
        done = subprocess.run(
            ["script", "-qec", command, "/dev/null"],
            check=True,
            capture_output=True,
            text=True,
            env=tool.environment(),
            stdin=subprocess.DEVNULL,
        )
    assert "40/40" in done.stdout
    assert "40/40" not in tool("pool", "up", "40").ok().stderr


def test_list_tells_what_has_drifted(tool: Tool) -> None:
    tool("pool", "up", "3").ok()
    tool.host.run(["ip", "link", "del", f"{tool.prefix}1"])
    tool.host.run(["tc", "qdisc", "del", "dev", f"{tool.prefix}3", "root"])
    members = tool("pool", "list", "--json").ok().document["members"]
    assert [one["state"] for one in members] == ["drifted", "ok", "drifted"]
    tool("pool", "up", "3").ok()
    members = tool("pool", "list", "--json").ok().document["members"]
    assert [one["state"] for one in members] == ["ok"] * 3


def test_a_broken_file_is_not_replaced_by_another_network(tool: Tool) -> None:
    (tool.conf_dir / "10-faasm.conflist").write_text('{"name": "faasm"', encoding="utf-8")
    done = tool("pool", "up", "1").expect(1)
    assert "10-faasm.conflist: broken JSON at line 1" in done.stderr
    assert tool("pool", "list", "--json").ok().document["members"] == []


def without_conf(tool: Tool, folder: Path) -> Tool:
    """Return the tool as pip installs it: the package, and nothing beside it."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPO / "cni_faasm", folder / "cni_faasm", ignore=ignored)
    script = "import sys; sys.path.insert(0, sys.argv.pop(1)); from cni_faasm.cli.main import main"
    return Tool(tool.host, [sys.executable, "-c", f"{script}; main()", str(folder)])


def test_where_there_is_no_network_it_is_said_what_to_do(tool: Tool, tmp_path: Path) -> None:
    tool.network().unlink()
    packaged = without_conf(tool, tmp_path)
    told = packaged("pool", "up", "1").expect(1).stderr
    assert told == (
        f"cni-faasm: no network: {tool.conf_dir} has no file of faasm's, and none came with this "
        "cni-faasm, a Python package\n"
        "put one there, or say which by --conf FILE; the README has one to copy, "
        "docs/configuration.md every key\n"
    )
    told = packaged("pool", "up", "1", "--network", "edge").expect(1).stderr
    assert "no configuration in" in told
    assert "'edge'" in told


def test_the_network_that_came_along_is_not_taken_in_silence(tool: Tool) -> None:
    tool.network().unlink()
    done = tool("pool", "up", "1").ok()
    assert done.stdout == "faasm: 1 made\n"
    assert f"{tool.conf_dir} has no file of faasm's: taking {REPO}/conf/10-faasm" in done.stderr
    tool("pool", "down").ok()


@pytest.mark.parametrize("own_state", [False, True])
def test_a_pool_without_its_network_s_file_is_left_alone(tool: Tool, own_state: bool) -> None:
    keys: dict[str, Any] = {"stateDir": str(tool.host.directory / "edge")} if own_state else {}
    path = tool.network(name="edge", ipam={"subnet": "10.77.0.0/16"}, **keys)
    tool("pool", "up", "1", "--network", "edge").ok()
    saved = path.rename(tool.host.directory / "saved.conflist")
    before = tool.host.snapshot()
    told = tool("pool", "up", "2").expect(1).stderr
    assert f"{tool.prefix}ns1: attached to the network 'edge', not to 'testnet'" in told
    assert f"{tool.conf_dir} has no file of 'edge'" in told
    assert "--conf" in told
    tool.host.assert_unchanged(before)
    assert not Path(f"/run/netns/{tool.prefix}ns2").exists()
    assert tool("pool", "up", "2", "--conf", str(saved)).ok().stdout == "edge: 1 kept, 1 made\n"
    saved.rename(path)
    tool("pool", "down").ok()


def test_down_strands_nothing_in_silence(tool: Tool) -> None:
    """Without the network's file nobody knows where its records are."""
    host = tool.host
    path = tool.network()
    tool("pool", "up", "2").ok()
    saved = path.read_bytes()
    path.unlink()
    told = tool("pool", "down").expect(1).stderr
    assert "testnet" in told
    assert "--force" in told
    assert f"{tool.prefix}ns1" in told
    assert len(host.leases()) == 2
    assert member(tool, 1).link(f"{tool.prefix}p1") is not None
    path.write_bytes(saved)
    tool("pool", "down", "1").ok()
    assert len(host.leases()) == 1
    path.unlink()
    tool("pool", "down", "--force").ok()
    assert len(host.leases()) == 1  # left behind, as was said
    path.write_bytes(saved)
    tool("gc").ok()


def pool_traces(tool: Tool) -> list[str]:
    """Return the namespaces of a pool's names, and what is kept for them in /etc/netns."""
    return [
        f"{folder}/{name}"
        for folder in ("/run/netns", "/etc/netns")
        for name in sorted(os.listdir(folder))
        if name.startswith(tool.prefix)
    ]


def test_names_of_containers_are_named_before_anything_is_made(tool: Tool) -> None:
    """A container of the same prefix has the pool's p2, and the host a p3 of its own."""
    host = tool.host
    path = tool.network(hostInterfacePrefix=tool.prefix)
    listed = json.loads(path.read_text(encoding="utf-8"))
    config = {**listed["plugins"][0], "name": "testnet", "cniVersion": "1.1.0"}
    for container_id in ("web", "db", "cache"):
        host.add(host.add_container(), config, container_id=container_id)
    host.run(["ip", "link", "del", f"{tool.prefix}1"])
    host.run(["ip", "link", "add", f"{tool.prefix}3", "type", "veth", "peer", "name", "other"])
    before = host.snapshot()
    done = tool("pool", "up", "4").expect(1)
    assert (
        f"2 names of the pool are taken, so nothing was made: {tool.prefix}2 belongs to the "
        f"container cache of the network 'testnet'; {tool.prefix}3 is an interface of this host"
    ) in done.stderr
    assert "--prefix pool" in done.stderr
    assert pool_traces(tool) == []
    assert host.snapshot() == before
    assert len(host.leases()) == 3
    # What was made earlier stays usable, and a pool of other names comes up beside them.
    assert tool("pool", "up", "1").ok().stdout == "testnet: 1 made\n"
    assert "2 names" in tool("pool", "up", "5").expect(1).stderr
    assert tool("pool", "up", "1").ok().stdout == "testnet: 1 kept\n"


def test_a_namespace_of_somebody_else_is_neither_taken_nor_removed(tool: Tool) -> None:
    theirs = Namespace(f"{tool.prefix}ns2")
    try:
        theirs.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far"])
        theirs.run(["ip", "link", "set", "eth0", "up"])
        before = theirs.snapshot()
        told = tool("pool", "up", "2").expect(1).stderr
        assert f"{theirs.name} is somebody's namespace, with eth0 in it" in told
        assert pool_traces(tool) == [f"/run/netns/{theirs.name}"]
        tool("pool", "up", "1").ok()
        assert f"{theirs.name}: left alone" in tool("pool", "down").ok().stderr
        assert theirs.snapshot() == before
        assert tool("pool", "down", "2", "--force").ok().stdout == "1 removed\n"
        assert pool_traces(tool) == []
    finally:
        theirs.delete()


def test_nothing_stays_of_a_member_that_cannot_be_attached(tool: Tool) -> None:
    tool.network(ipam={"subnet": "10.200.0.0/30"})
    tool("pool", "up", "3").expect(1)
    name = f"{tool.prefix}ns1"
    assert pool_traces(tool) == [f"/run/netns/{name}", f"/etc/netns/{name}"]
    blocked = Path(f"/run/netns/{tool.prefix}ns2")
    blocked.mkdir()
    try:
        assert f"{blocked} is no namespace" in tool("pool", "up", "2").expect(1).stderr
    finally:
        blocked.rmdir()


@pytest.mark.parametrize("more", [{}, {"enforceEgress": "host"}])
def test_down_leaves_nothing_in_the_rules(tool: Tool, more: dict[str, str]) -> None:
    tool.network(bandwidth={**BANDWIDTH, **more}, antiSpoof=True)
    tool("pool", "up", "3").ok()
    of_members = rf'"{tool.prefix}[123]"'
    assert re.search(of_members, tool.host.run(["nft", "list", "ruleset"]).stdout)
    links = tool.host.run(["ip", "-brief", "link"]).stdout
    assert (f"i{tool.prefix}1 " in links) is bool(more)
    assert tool("pool", "down").ok().stdout == "3 removed\n"
    assert not re.search(of_members, tool.host.run(["nft", "list", "ruleset"]).stdout)
    assert f"{tool.prefix}1" not in tool.host.run(["ip", "-brief", "link"]).stdout
    assert tool.host.leases() == {}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_down_is_completed_by_the_next(tool: Tool, how: signal.Signals) -> None:
    before = tool.host.snapshot()
    chance = random.Random(11)
    tool("pool", "up", "12").ok()
    for _ in range(3):
        process = tool.start("pool", "down")
        time.sleep(0.35 + chance.random() * 0.25)
        process.send_signal(how)
        process.communicate(timeout=30)
    tool("pool", "down").ok()
    assert tool("pool", "list", "--json").ok().document["members"] == []
    assert tool.host.leases() == {}
    tool.host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    assert not re.search(rf'"{tool.prefix}\d', tool.host.run(["nft", "list", "ruleset"]).stdout)


def test_many_are_made_as_one_is(tool: Tool) -> None:
    dual = [[{"subnet": "10.211.0.0/24"}], [{"subnet": "fd00:211::/64"}]]
    tool.network(
        ipam={"subnet": None, "ranges": dual},
        bandwidth={**BANDWIDTH, "enforceEgress": "host"},
        antiSpoof=True,
        isolated=True,
    )
    tool("pool", "up", "1").ok()
    [alone] = tool.host.records().values()
    tool("pool", "up", "5").ok()
    assert tool("check").ok().stdout
    assert {tuple(rules(tool, number)) for number in range(1, 6)} == {tuple(rules(tool, 1))}
    records = [json.loads(text) for text in tool.host.records().values()]
    assert len(records) == 5
    assert {frozenset(one) for one in records} == {frozenset(json.loads(alone))}
    assert len({one["hostMAC"] for one in records}) == 5


def test_many_heed_what_an_earlier_end_of_a_name_has_left(tool: Tool) -> None:
    tool("pool", "up", "1").ok()
    [table] = re.findall(
        r"table inet (limit\S+) ", tool.host.run(["nft", "list", "ruleset"]).stdout
    )
    for family in ("inet", "arp"):
        element = f"{tool.prefix}3 limit rate over 1000 bytes/second burst 1000 bytes"
        tool.host.run(["nft", "add", "element", family, table, "egress", f"{{ {element} }}"])
    tool("pool", "up", "4").ok()
    listed = tool.host.run(["nft", "list", "table", "inet", table]).stdout
    limits = re.findall(rf'"{tool.prefix}\d" (limit rate over \S+ \S+)', listed)
    assert len(limits) == 4
    assert len(set(limits)) == 1
    assert tool("check").ok().stdout
