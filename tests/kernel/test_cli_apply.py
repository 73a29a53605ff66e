"""set-rate --reset, apply and status: running containers and the network's file as it is now."""

import json
from typing import Any

import pytest

from tests.host import Host, Namespace
from tests.kernel.test_cli_looking import plugin_config
from tests.tool import BANDWIDTH, Tool

Limits = tuple[int | None, int | None]


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    tool = Tool(bare_host)
    tool.network()
    return tool


def attach(tool: Tool, **keys: Any) -> Namespace:
    """Attach a container as the file says now, and as its runtime does (keys)."""
    container = tool.host.add_container()
    tool.host.add(container, plugin_config(tool) | keys)
    return container


def limits(tool: Tool, container: Namespace) -> Limits:
    """Return what tc shows: to the container, from it."""
    outer = f"faasm{tool.host.containers.index(container)}"
    found = []
    for namespace, device in ((tool.host, outer), (container, "eth0")):
        classes = namespace.classes(device)
        found.append(classes[0]["rate"] if classes else None)
    return found[0], found[1]


def edit(tool: Tool, ingress: object, egress: object, **keys: Any) -> None:
    bandwidth = {"ingressRate": ingress, "egressRate": egress, **keys.pop("bandwidth", {})}
    tool.network(bandwidth=bandwidth, **keys)


def test_reset_goes_to_the_file_as_it_is_now(tool: Tool) -> None:
    container = attach(tool)
    tool("set-rate", container.name, "--ingress", "1M").ok()
    edit(tool, "50M", "5M")
    done = tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (50_000_000, 5_000_000)
    assert "10-testnet.conflist" in done.stdout
    tool("check").ok()
    assert "set-rate" not in tool("status", container.name).ok().stdout
    edit(tool, 0, "5M")
    tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (None, 5_000_000)
    tool("check").ok()


def test_changed_means_changed(tool: Tool) -> None:
    container = attach(tool)

    def changed(*words: str) -> bool:
        done = tool("set-rate", container.name, *words, "--json").ok()
        return bool(done.document["attachments"][0]["changed"])

    assert not changed("--reset")
    assert not changed("--ingress", str(BANDWIDTH["ingressRate"]))
    assert changed("--ingress", "5M")
    assert not changed("--ingress", "5M")
    assert "as before" in tool("set-rate", container.name, "--ingress", "5M").ok().stdout
    assert changed("--reset")
    assert not changed("--reset")


def test_without_the_file_reset_says_that_it_takes_those_of_add(tool: Tool) -> None:
    container = attach(tool)
    tool("set-rate", container.name, "--egress", "1M").ok()
    (tool.conf_dir / "10-testnet.conflist").unlink()
    folder = ("--state-dir", str(tool.host.state_dir))
    done = tool("set-rate", container.name, "--reset", *folder).ok()
    assert limits(tool, container) == (20_000_000, 10_000_000)
    assert "those of ADD" in done.stdout
    assert str(tool.conf_dir) in done.stdout
    assert "testnet" in tool("apply", "--network", "testnet", *folder).expect(1).stderr


def test_what_the_runtime_asked_for_holds_on_below_the_caps(tool: Tool) -> None:
    wish = {"bandwidth": {"IngressRate": 7_000_000, "IngressBurst": 4294967295}}
    tool.network(capabilities={"bandwidth": True})
    container = attach(tool, runtimeConfig=wish)
    tool("set-rate", container.name, "--ingress", "1M").ok()
    edit(tool, "50M", "5M", capabilities={"bandwidth": True})
    done = tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (7_000_000, 5_000_000)
    [ingress, egress] = done.stdout.splitlines()
    assert "its runtime" in ingress
    assert "10-testnet.conflist" in egress
    edit(tool, "50M", "5M", maxIngressRate="3M", capabilities={"bandwidth": True})
    tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (3_000_000, 5_000_000)
    edit(tool, "50M", "5M")  # runtimes are asked for nothing any more
    tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (50_000_000, 5_000_000)


def test_set_rate_of_many(tool: Tool) -> None:
    first, second, dead = (attach(tool) for _ in range(3))
    dead.delete()
    done = tool("set-rate", "--network", "testnet", "--ingress", "3M")
    assert dead.name in done.expect(0).stderr
    assert [limits(tool, one) for one in (first, second)] == [(3_000_000, 10_000_000)] * 2
    tool.host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    done = tool("set-rate", "--all", "--ingress", "4M", "--json").expect(1)
    assert first.name in done.stderr
    assert [one["ingress"]["limitBitsPerSecond"] for one in done.document["attachments"]] == [
        4_000_000
    ]
    assert [one["containerID"] for one in done.document["failed"]] == [first.name]
    assert limits(tool, second) == (4_000_000, 10_000_000)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--ingress", "1M"], 2),
        (["c", "--all", "--ingress", "1M"], 2),
        (["--network", "testnet", "--all", "--ingress", "1M"], 2),
        (["--network", "", "--ingress", "1M"], 1),
        (["--network", "testnte", "--ingress", "1M"], 1),
    ],
)
def test_nobody_is_meant_by_mistake(tool: Tool, words: list[str], status: int) -> None:
    container = attach(tool)
    words = [container.name if word == "c" else word for word in words]
    tool("set-rate", *words).expect(status)
    assert limits(tool, container) == (20_000_000, 10_000_000)


def test_apply(tool: Tool) -> None:
    plain, by_hand = attach(tool), attach(tool)
    tool("set-rate", by_hand.name, "--egress", "1M").ok()
    assert "as their file" in tool("apply", plain.name).ok().stdout
    edit(tool, "50M", "10M", mtu=1400)
    before = tool.host.snapshot()
    looked = tool("apply", "--dry-run").ok().stdout
    tool.host.assert_unchanged(before)
    assert f"{plain.name}/eth0: would change ingressRate: 50 Mbit/s (was 20 Mbit/s)" in looked
    left = "left as set-rate has set it, egressRate: 1 Mbit/s (10 Mbit/s in the file)"
    assert f"{by_hand.name}/eth0: {left}" in looked
    assert f"{plain.name}/eth0: with the next ADD only: mtu" in looked
    found = tool("apply", "--json").ok().document
    assert found["dryRun"] is False
    rows = {row["containerID"]: row for row in found["attachments"]}
    assert rows[plain.name]["changed"]
    assert rows[plain.name]["nextAdd"] == ["mtu"]
    assert not rows[by_hand.name]["changed"]
    assert limits(tool, plain) == (50_000_000, 10_000_000)
    assert limits(tool, by_hand) == (20_000_000, 1_000_000)
    tool("check").ok()
    tool("set-rate", "--all", "--reset").ok()
    assert limits(tool, by_hand) == (50_000_000, 10_000_000)


def test_apply_brings_what_is_exempt_and_what_the_host_enforces(tool: Tool) -> None:
    container = tool.host.add_container()
    result = tool.host.add(container, plugin_config(tool))
    every: list[dict[str, Any]] = [
        {"unshapedSubnets": ["10.0.0.0/8"]},
        {"unshapedSubnets": ["10.0.0.0/8", "192.168.0.0/16"], "enforceEgress": "host"},
        {"shapedSubnets": ["198.51.100.0/24"], "enforceEgress": "host"},
        {"latency": 100, "ingressBurst": 1_000_000},
        {},
    ]
    for keys in every:
        edit(tool, "20M", "5M", bandwidth=keys)
        done = tool("apply").ok()
        assert f"{container.name}/eth0: changed" in done.stdout, keys
        assert "as their file" in tool("apply").ok().stdout
        tool("check").ok()
        tool("set-rate", container.name, "--egress", "4M").ok()
        tool("check").ok()
        assert ("ifaasm0" in tool.host.links()) == ("enforceEgress" in keys)
        subnets = len(keys.get("unshapedSubnets", keys.get("shapedSubnets", ())))
        shown = tool.host.run(["tc", "filter", "show", "dev", "faasm0"]).stdout
        assert shown.count("flowid 1:") == subnets
        tool("set-rate", container.name, "--reset").ok()
    tool.host.check(container, plugin_config(tool), result).ok()


def test_a_file_with_a_fault_changes_nothing(tool: Tool) -> None:
    container = attach(tool)
    edit(tool, "10Q", "5M")
    done = tool("apply").expect(1)
    assert "ingressRate" in done.stderr
    assert "10-testnet.conflist" in done.stderr
    assert "ingressRate" in tool("set-rate", container.name, "--reset").expect(1).stderr
    assert limits(tool, container) == (20_000_000, 10_000_000)
    assert "10-testnet.conflist" in tool("status").ok().stderr


def test_status_shows_who_differs_from_the_file(tool: Tool) -> None:
    first, second = attach(tool), attach(tool)
    assert "apply" not in tool("status").ok().stdout
    edit(tool, "20M", "30M")
    tool("set-rate", second.name, "--egress", "30M").ok()
    shown = tool("status").ok().stdout
    [line] = [line for line in shown.splitlines() if line.startswith(first.name)]
    assert "10M*" in line
    assert "cni-faasm apply" in shown
    [line] = [line for line in shown.splitlines() if line.startswith(second.name)]
    assert "*" not in line
    detailed = tool("status", first.name).ok().stdout
    assert "egressRate: 10 Mbit/s, in its network's file 30 Mbit/s" in detailed
    rows = tool("status", "--json").ok().document["attachments"]
    found = {row["containerID"]: row["differsFromFile"] for row in rows}
    assert [one["key"] for one in found[first.name]] == ["egressRate"]
    assert found[second.name] == []


def test_a_pool_follows_its_file(tool: Tool) -> None:
    tool("pool", "up", "1").ok()
    assert "as their file" in tool("apply").ok().stdout
    edit(tool, "9M", "8M")
    tool("apply").ok()
    row = tool("pool", "list", "--json").ok().document["members"][0]
    assert tuple(row[way]["limitBitsPerSecond"] for way in ("ingress", "egress")) == (
        9_000_000,
        8_000_000,
    )
    assert row["state"] == "ok"
    tool("pool", "down").ok()


def test_what_apply_brought_is_what_set_rate_goes_by(tool: Tool) -> None:
    container = attach(tool)
    edit(tool, "20M", 0, bandwidth={"unshapedSubnets": ["10.0.0.0/8"]})
    tool("apply").ok()
    tool("set-rate", container.name, "--egress", "2M").ok()
    shown = container.run(["tc", "filter", "show", "dev", "eth0"]).stdout
    assert shown.count("flowid 1:") == 1
    [text] = tool.host.records().values()
    assert json.loads(text)["configured"]["egress"] is None
