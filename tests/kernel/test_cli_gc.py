"""gc: what belongs to nothing alive goes, everything else stays."""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, Namespace, wait_until
from tests.kernel.test_cli_looking import plugin_config
from tests.kernel.test_gc_status import TABLES
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    tool = Tool(bare_host)
    tool.network()
    return tool


def add(tool: Tool) -> Namespace:
    namespace = tool.host.add_container()
    tool.host.add(namespace, plugin_config(tool))
    return namespace


def outcome(tool: Tool, *words: str) -> dict[str, Any]:
    networks = tool("gc", "--json", *words).ok().document["networks"]
    [one] = [one for one in networks if one["network"] == "testnet"]
    assert isinstance(one, dict)
    return one


def test_a_container_without_its_namespace_is_collected(tool: Tool) -> None:
    host = tool.host
    kept, lost = add(tool), add(tool)
    lost.delete()
    wait_until(lambda: host.link("faasm1") is None, "the pair to go")
    before = host.snapshot()
    would = outcome(tool, "--dry-run")
    assert would["removed"] == [f"attachment {lost.name} eth0"]
    assert host.snapshot() == before
    assert outcome(tool) == would
    assert list(host.leases().values()) == [f"{kept.name}\r\neth0"]
    assert len(host.records()) == 1
    assert kept.link("eth0") is not None
    assert sorted(host.nft_tables()) == TABLES
    assert tool("gc").ok().stdout == "nothing to remove\n"


def test_the_last_one_takes_the_table_along(tool: Tool) -> None:
    add(tool).delete()
    wait_until(lambda: tool.host.link("faasm0") is None, "the pair to go")
    text = tool("gc").ok().stdout
    assert "removed nft table faasm_testnet" in text
    assert tool.host.nft_tables() == []
    assert tool.host.leases() == {}
    assert tool.host.records() == {}


def test_a_process_keeps_its_namespace_alive(tool: Tool) -> None:
    """The name is gone, as after the crash of a runtime, but somebody runs inside."""
    container = add(tool)
    sleeper = container.start(["sleep", "60"])
    try:
        container.delete()
        assert outcome(tool)["removed"] == []
        assert tool.host.link("faasm0") is not None
        assert len(tool.host.leases()) == 1
    finally:
        sleeper.kill()
        sleeper.communicate()


def test_a_link_without_a_record(tool: Tool) -> None:
    host = tool.host
    container = add(tool)
    [name] = host.records()
    record = host.state_dir / name
    saved = record.read_bytes()
    record.unlink()
    kept = outcome(tool)
    assert kept["removed"] == []
    assert "its namespace is alive" in kept["kept"][0]
    record.write_bytes(saved)
    # A pair of which both ends are here belongs to no container.
    container.run(["ip", "link", "set", "eth0", "netns", f"/run/netns/{host.name}"])
    record.unlink()
    for lease in host.data_dir.glob("testnet/10.*"):
        os.utime(lease, (time.time() - 3600,) * 2)
    assert any(line.startswith("link faasm0") for line in outcome(tool)["removed"])
    assert host.links() == []
    assert host.leases() == {}


@pytest.mark.parametrize("content", [b"", b"{", b"null", b'{"boot', b"\0" * 400])
@pytest.mark.parametrize("members", [1, 2])
def test_a_torn_record_of_what_is_alive(tool: Tool, content: bytes, members: int) -> None:
    """What a power cut or a full disk leaves: the container runs on, so all of it stays."""
    host = tool.host
    containers = [add(tool) for _ in range(members)]
    name = next(name for name in host.records() if containers[0].name in name)
    (host.state_dir / name).write_bytes(content)
    for lease in host.data_dir.glob("testnet/10.*"):
        os.utime(lease, (time.time() - 3600,) * 2)
    leases, links = host.leases(), host.links()
    told = outcome(tool)
    assert told["removed"] == []
    [kept] = told["kept"]
    assert containers[0].name in kept
    assert "cannot be read" in kept
    assert (host.leases(), host.links()) == (leases, links)
    assert sorted(host.nft_tables()) == TABLES
    containers[0].delete()
    wait_until(lambda: host.link("faasm0") is None, "the pair to go")
    assert f"attachment {containers[0].name} eth0" in outcome(tool)["removed"]
    assert len(host.leases()) == members - 1


def test_a_torn_record_and_no_alias(tool: Tool) -> None:
    """Its address in a living namespace is a trace of life, too."""
    add(tool)
    [name] = tool.host.records()
    (tool.host.state_dir / name).write_bytes(b"")
    tool.host.run(["ip", "link", "set", "faasm0", "alias", ""])
    assert outcome(tool)["removed"] == []
    assert tool.host.links() == ["faasm0"]


def test_leases_without_a_record(tool: Tool) -> None:
    """host-local's: dead are those whose address is on no interface of the host."""
    host = tool.host
    other = host.add_container()
    other.run(["ip", "addr", "add", "10.200.0.50/16", "dev", "lo"])
    folder = host.data_dir / "testnet"
    folder.mkdir(parents=True)
    hour_ago = time.time() - 3600
    for address, owner, age in (
        ("10.200.0.50", "used", hour_ago),
        ("10.200.0.51", "dead", hour_ago),
        ("10.200.0.52", "young", time.time()),
    ):
        path = folder / address
        path.write_bytes(f"{owner}\r\neth0".encode())
        os.utime(path, (age, age))
    assert outcome(tool)["removed"] == ["lease of dead eth0"]
    assert set(host.leases()) == {"testnet/10.200.0.50", "testnet/10.200.0.52"}


def test_an_earlier_boot(tool: Tool) -> None:
    host = tool.host
    container = add(tool)
    [(name, text)] = host.records().items()
    fields = text.replace(Path("/proc/sys/kernel/random/boot_id").read_text().strip(), "f" * 36)
    (host.state_dir / name).write_text(fields, encoding="utf-8")
    host.run(["ip", "link", "del", "faasm0"])
    assert outcome(tool)["removed"][0] == f"attachment {container.name} eth0"
    assert host.leases() == {}


def test_a_table_of_a_network_that_is_not_configured(tool: Tool) -> None:
    add(tool).delete()
    wait_until(lambda: tool.host.link("faasm0") is None, "the pair to go")
    for path in tool.conf_dir.iterdir():
        path.unlink()
    assert "nft table faasm_testnet" in tool("gc").ok().stdout
    assert tool.host.nft_tables() == []


def test_uninstall_strands_nobody(tool: Tool) -> None:
    """It is refused before anything is removed."""
    container = add(tool)
    told = tool("uninstall").expect(1).stderr
    assert f"testnet/{container.name}/eth0" in told
    assert "--force" in told
