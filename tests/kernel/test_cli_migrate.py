"""migrate: from the reference chain to ours, with containers running."""

import json
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, Host
from tests.tool import Done, Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    bare_host.add_remote()
    return Tool(bare_host)


def old_list(host: Host, first: str, **keys: Any) -> dict[str, Any]:
    plugin = {"type": first, "mtu": 1400, "ipam": host.config()["ipam"], **keys}
    limits = {"ingressRate": 8_000_000, "ingressBurst": 80_000}
    bandwidth = {"type": "bandwidth", **limits, "capabilities": {"bandwidth": True}}
    return {
        "cniVersion": "1.0.0",
        "name": "testnet",
        "plugins": [plugin, bandwidth, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def migrate(tool: Tool, listed: dict[str, Any]) -> Done:
    path = tool.host.directory / "old.conflist"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(listed), encoding="utf-8")
    return tool("migrate", "--from", str(path))


def migrated(tool: Tool, listed: dict[str, Any]) -> tuple[dict[str, Any], str]:
    done = migrate(tool, listed).ok()
    return json.loads(done.stdout), done.stderr


def test_translates(tool: Tool) -> None:
    made, notes = migrated(tool, old_list(tool.host, "ptp"))
    own, portmap = made["plugins"]
    assert portmap["type"] == "portmap"
    assert own["bandwidth"] == {"ingressRate": 8_000_000, "ingressBurst": 80_000}
    assert own["capabilities"] == {"bandwidth": True}
    assert (own["mtu"], own["ipam"]) == (1400, tool.host.config()["ipam"])
    assert "HTB" in notes
    assert "neighbours" not in notes


def test_tells_what_a_bridge_did_otherwise(tool: Tool) -> None:
    listed = old_list(
        tool.host, "bridge", bridge="br0", isDefaultGateway=True, hairpinMode=True, vlan=5
    )
    listed["plugins"][0]["ipam"].pop("routes")
    made, notes = migrated(tool, listed)
    assert made["plugins"][0]["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}]
    assert "bridge" not in made["plugins"][0]
    for words in ("neighbours on a bridge", "hairpinMode:", "vlan:"):
        assert words in notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"type": "macvlan"}, "'macvlan' cannot be translated"),
        ({"ipam": {}}, "no addresses"),
        ({"mtu": 5}, "mtu"),
        ({"ipam": {"type": "dhcp"}}, "dhcp cannot ask"),
    ],
)
def test_refuses(tool: Tool, change: dict[str, Any], words: str) -> None:
    assert words in migrate(tool, old_list(tool.host, "ptp", **change)).expect(1).stderr


@pytest.mark.parametrize("first", ["ptp", "bridge"])
def test_moves_with_containers_running(tool: Tool, first: str) -> None:
    host = tool.host
    listed = old_list(host, first)
    listed["plugins"] = listed["plugins"][:2]
    old, new = host.add_container(), host.add_container()
    before = host.snapshot()
    result = host.chain("ADD", old, listed)
    made, _ = migrated(tool, listed)
    made["plugins"][0]["stateDir"] = str(host.state_dir)

    fresh = host.chain("ADD", new, made)
    assert fresh["ips"][0]["address"].split("/")[0] != result["ips"][0]["address"].split("/")[0]
    assert len(host.leases()) == 2
    host.chain("DEL", old, {**made, "prevResult": result})
    assert old.links() == []
    assert len(host.leases()) == 1
    host.chain("DEL", new, {**made, "prevResult": fresh})
    assert host.leases() == {}
    if first == "ptp":
        host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
