"""--json: one vocabulary by a schema, a document on failure too, and status 3.

That each document is as the schema says is demanded wherever a test calls the tool.
"""

import json
import subprocess
from typing import Any

import pytest

from tests.host import Host, Namespace
from tests.jsonschemas import demand_valid, schema
from tests.kernel.test_cli_looking import plugin_config
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    tool = Tool(bare_host)
    tool.network()
    return tool


@pytest.fixture
def container(tool: Tool) -> Namespace:
    container = tool.host.add_container()
    tool.host.add(container, plugin_config(tool))
    return container


def test_the_same_thing_has_the_same_name(tool: Tool, container: Namespace) -> None:
    who = {"network": "testnet", "containerID": container.name, "ifname": "eth0"}

    def row(*words: str, of: str = "attachments", status: int = 0) -> dict[str, Any]:
        document = tool(*words, "--json").expect(status).document
        assert document["schema"] == 1
        assert document["command"] == words[0]
        found: dict[str, Any] = document[of][0]
        assert found.items() >= who.items()
        return found

    status = row("status")
    assert status["ingress"]["limitBitsPerSecond"] == 20_000_000
    changed = row("set-rate", container.name, "--egress", "5M")
    assert changed["egress"]["limitBitsPerSecond"] == 5_000_000
    assert changed["ingress"].items() <= status["ingress"].items()
    assert row("apply")["setByHand"]
    tool.host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    drift = row("check", of="drifts", status=1)
    assert row("repair", of="repaired") == drift


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (["check", "nobody"], 3, "nobody"),
        (["status", "nobody"], 3, "nobody"),
        (["status", "--sort", "colour"], 3, "colour"),
        (["check", "--colour"], 2, "--colour"),
        (["set-rate", "--all"], 2, "--reset"),
        (["set-rate", "nobody", "--reset"], 1, "nobody"),
        (["migrate", "--from", "/nowhere/x"], 1, "/nowhere/x"),
        (["pool", "up", "1", "--network", "nosuch"], 1, "nosuch"),
    ],
)
def test_a_failure_is_a_document(tool: Tool, words: list[str], status: int, text: str) -> None:
    done = tool(*words, "--json").expect(status)
    assert done.document["command"] == " ".join(words[: 2 if words[0] == "pool" else 1])
    assert text in done.document["error"]["message"]
    assert text in done.stderr
    assert tool(*words).expect(status).stdout == ""


def test_a_file_that_cannot_be_read_hides_no_other(tool: Tool) -> None:
    path = str(tool.network(mtu=1))
    done = tool("validate", "/nowhere/x.conflist", path, "--json").expect(3)
    missing, faulty = done.document["files"]
    assert missing["valid"] is None
    assert "/nowhere/x.conflist" in missing["error"]["message"]
    assert faulty["valid"] is False
    assert faulty["error"] is None
    done = tool("validate", "/nowhere/x.conflist", path).expect(3)
    assert "plugins[0].mtu" in done.stdout
    assert "/nowhere/x.conflist" in done.stderr


def test_who_may_not_look_has_not_found_anything(tool: Tool, container: Namespace) -> None:
    """Status 1 would mean that something has drifted."""
    with tool.host.entered():
        done = subprocess.run(
            ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
             *tool.argv("check", "--state-dir", str(tool.host.state_dir), "--json")],
            capture_output=True, text=True, check=False, env=tool.environment(),
        )  # fmt: skip
    assert done.returncode == 3, done
    document = json.loads(done.stdout)
    demand_valid(document)
    assert "error" in document
    assert container.name not in done.stdout


def test_a_command_inside_a_pool_may_have_the_option_too(tool: Tool) -> None:
    done = tool("pool", "exec", "9", "--", "ip", "--json", "link").expect(1)
    assert done.stdout == ""


def test_every_command_has_its_schema(tool: Tool) -> None:
    known = {one["properties"]["command"].get("const") for one in schema()["oneOf"]}
    assert known >= {
        "version", "install", "uninstall", "node-install", "status", "check", "repair", "set-rate",
        "apply", "gc", "metrics", "validate", "migrate", "firewall-trust", "network-check",
        "iperf-servers", "pool up", "pool down", "pool list", "pool status", "pool claim", "pool return",
    }  # fmt: skip
    for words in (
        ("version",),
        ("gc",),
        ("metrics",),
        ("pool", "list"),
        ("pool", "status"),
        ("pool", "down"),
    ):
        assert tool(*words, "--json").ok().document["command"] == " ".join(words)
