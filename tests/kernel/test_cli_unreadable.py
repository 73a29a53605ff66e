"""What the tool cannot read: it is told, never passed over in silence."""

import json
import os

import pytest

from tests.host import Host
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    tool = Tool(bare_host)
    tool.network()
    return tool


def test_files_of_networks(tool: Tool) -> None:
    (tool.conf_dir / "20-torn.conflist").write_text('{"name": "torn", "plugins": [')
    (tool.conf_dir / "30-gone.conflist").symlink_to("nowhere")
    os.mkfifo(tool.conf_dir / "40-fifo.conf")
    (tool.conf_dir / "50-folder.conf").mkdir()
    (tool.conf_dir / "60-notes.txt").write_text("{")
    told = tool("status").ok().stderr.splitlines()
    assert [line.split("net.d/")[1].partition(":")[0] for line in told] == [
        "20-torn.conflist",
        "30-gone.conflist",
        "40-fifo.conf",
    ]
    assert "broken JSON at line 1" in told[0]
    done = tool("pool", "list", "--json").ok()  # reads the folder several times
    assert done.document is not None
    assert done.stderr.count("20-torn.conflist") == 1


def test_validate_finds_a_torn_file_in_a_folder(tool: Tool) -> None:
    path = tool.conf_dir / "20-torn.conflist"
    tool("validate", str(tool.conf_dir)).ok()
    path.write_text('{"name": "torn", "plugins": [')
    done = tool("validate", str(tool.conf_dir), "--json").expect(1).document
    assert {os.path.basename(one["file"]): one["valid"] for one in done["files"]} == {
        "10-testnet.conflist": True,
        "20-torn.conflist": False,
    }


@pytest.mark.parametrize("option", ["--conf-dir", "--state-dir"])
@pytest.mark.parametrize("command", ["status", "check", "repair", "gc", "metrics"])
def test_a_folder_that_is_not_there(tool: Tool, command: str, option: str) -> None:
    done = tool(command, option, "/run/nowhere").expect(2)
    assert option in done.stderr
    assert "/run/nowhere is not there" in done.stderr
    assert done.stdout == ""


def test_a_torn_record_keeps_uninstall_from_stranding_its_container(tool: Tool) -> None:
    host = tool.host
    namespace = host.add_container()
    listed = json.loads((tool.conf_dir / "10-testnet.conflist").read_text())
    config = {**listed["plugins"][0], "name": "testnet", "cniVersion": "1.0.0"}
    host.add(namespace, config)
    (host.state_dir / "testnet" / f"{namespace.name}@eth0").write_bytes(b"")
    done = tool("uninstall").expect(1)
    assert "1 attachment would be stranded" in done.stderr
    assert "its record cannot be read" in tool("check").expect(1).stdout
    done = tool("set-rate", namespace.name, "--egress", "1M").expect(1)
    assert "unless it is alive" in done.stderr
    host.delete_attachment(namespace, config)
    assert host.links() == []


def test_a_burst_needs_a_limit(tool: Tool) -> None:
    host = tool.host
    namespace = host.add_container()
    host.add(namespace, host.config())
    before = host.records()
    for words in (["--burst", "1M"], ["--egress", "0", "--burst", "1M"]):
        done = tool("set-rate", namespace.name, *words).expect(1)
        assert "--burst is of a limit, and there is none" in done.stderr
        assert "--ingress RATE" in done.stderr
    assert host.records() == before
    tool("set-rate", namespace.name, "--egress", "10M", "--burst", "1M").ok()
    [one] = namespace.classes("eth0")
    assert one["burst"] == pytest.approx(125_000, rel=0.01)
    tool("set-rate", namespace.name, "--burst", "2M").ok()
    [one] = namespace.classes("eth0")
    assert one["burst"] == pytest.approx(250_000, rel=0.01)
