"""The tool as it is delivered: on a host without Python, each command by its help."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.host import BUNDLE, Host
from tests.kernel.test_cli_looking import plugin_config
from tests.kernel.test_cli_watching import Terminal
from tests.tool import Tool

EXECUTABLE = BUNDLE / "cni-faasm"
# What the tool itself needs on PATH: nothing. These are for pool exec and the tests.
COMMANDS = ("cat", "env", "sh")


class BareTool(Tool):
    """The built tool, with a PATH on which there is no Python."""

    path = ""

    def environment(self) -> dict[str, str]:
        found = super().environment() | {"PATH": self.path}
        del found["PYTHONPATH"]
        return found


@pytest.fixture
def tool(bare_host: Host, tmp_path: Path) -> Iterator[BareTool]:
    assert EXECUTABLE.exists(), "no dist/faasm/cni-faasm: run ./build.sh first"
    bare_host.add_remote()
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in COMMANDS:
        found = shutil.which(name)
        assert found
        (folder / name).symlink_to(found)
    tool = BareTool(bare_host, [str(EXECUTABLE)])
    tool.path = str(folder)
    assert shutil.which("python3", path=tool.path) is None
    tool.network()
    yield tool
    tool("pool", "down")


def commands(tool: Tool) -> list[list[str]]:
    """Return every command by walking through the helps."""

    def below(words: list[str]) -> list[str]:
        text = subprocess.run(
            [*tool.command, *words, "--help"],
            check=True,
            capture_output=True,
            text=True,
            env=tool.environment(),
        ).stdout
        _, _, listed = text.partition("Commands:\n")
        return [
            line.split()[0]
            for line in listed.splitlines()
            if line.startswith("  ") and line[2] != " "
        ]

    found = [[name] for name in below([]) if name != "pool"]
    return [*found, *(["pool", name] for name in below(["pool"]))]


def test_every_command_has_a_help_with_examples_and_json(tool: BareTool) -> None:
    found = commands(tool)
    names = {" ".join(words) for words in found}
    assert names >= {
        "version", "install", "uninstall", "status", "check", "repair", "set-rate", "gc",
        "metrics", "validate", "network-check", "iperf-servers",
        "pool up", "pool down", "pool list", "pool exec",
    }  # fmt: skip
    for words in found:
        done = subprocess.run(
            [*tool.command, *words, "--help"],
            check=True,
            capture_output=True,
            text=True,
            env=tool.environment(),
        )
        assert "Examples:\n" in done.stdout, words
        assert f"cni-faasm {' '.join(words)}" in done.stdout
        if words != ["pool", "exec"]:
            assert "--json" in done.stdout, words
        refused = subprocess.run(
            [*tool.command, *words, "--no-such-option"],
            check=False,
            capture_output=True,
            text=True,
            env=tool.environment(),
        )
        if words != ["pool", "exec"]:  # there, what follows is the command's
            assert refused.returncode == 2, words
        assert "Traceback" not in refused.stderr


def test_a_pool_from_up_to_down(tool: BareTool) -> None:
    host = tool.host
    document = tool("pool", "up", "3", "--json").ok().document
    assert [one["action"] for one in document["members"]] == ["made"] * 3
    p = tool.prefix
    assert "rate 20Mbit" in host.run(["tc", "class", "show", "dev", f"{p}3"]).stdout
    inside = ["ip", "netns", "exec", f"{p}ns3", "tc", "class", "show", "dev", f"{p}p3"]
    assert "rate 10Mbit" in host.run(inside).stdout
    assert len(tool("pool", "list", "--json").ok().document["members"]) == 3
    # A command inside must not get the libraries of the bundle.
    seen = tool("pool", "exec", "2", "--", "env").ok().stdout
    assert "LD_LIBRARY_PATH" not in seen
    rows = tool("status", "--json").ok().document["attachments"]
    assert len(rows) == 3
    tool("set-rate", f"{p}2", "--egress", "1M").ok()
    assert "rate 1Mbit" in host.run([*inside[:3], f"{p}ns2", *inside[4:-1], f"{p}p2"]).stdout
    host.run(["tc", "qdisc", "del", "dev", f"{p}1", "root"])
    assert "root qdisc" in tool("check").expect(1).stdout
    assert "put back" in tool("repair").ok().stdout
    tool("check", "--json").ok()
    assert "cni_faasm_limit_bytes_per_second" in tool("metrics").ok().stdout
    assert tool("gc", "--dry-run").ok().stdout == "nothing to remove\n"
    tool("validate", str(tool.conf_dir / "10-testnet.conflist")).ok()
    tool("pool", "down").ok()
    assert host.links() == ["uplink"]


def test_watching(tool: BareTool) -> None:
    host = tool.host
    host.add(host.add_container(), plugin_config(tool), container_id="watched")
    screen = Terminal(tool, f"b{host.number}", "status", "--watch")
    try:
        screen.wait_for(lambda text: "watched" in text and "LIMIT IN" in text, "the attachment")
        screen.press("q")
        screen.wait_for(lambda text: "ended with 0" in text, "the end")
    finally:
        screen.close()

    process = tool.start("check", "--watch", "--json")
    assert process.stderr is not None
    assert process.stdout is not None
    try:
        assert "watching 1" in process.stderr.readline()
        host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
        event = json.loads(process.stdout.readline())
        assert (event["event"], event["what"]) == ("drift", "host faasm0: root qdisc")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
    finally:
        process.kill()
        process.communicate()


def test_shell_completion(tool: BareTool) -> None:
    def complete(*words: str) -> list[str]:
        environment = tool.environment() | {
            "_CNI_FAASM_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("cni-faasm", *words)),
            "COMP_CWORD": str(len(words)),
        }
        done = subprocess.run(
            tool.command, check=False, capture_output=True, text=True, env=environment
        )
        assert "Traceback" not in done.stderr
        return done.stdout.split()

    assert complete("pool", "u") == ["up"]
    assert "set-rate" in complete("s")
    assert complete("set-rate", "x", "--re") == ["--reset"]


def test_the_quickest_command_starts_quickly(tool: BareTool) -> None:
    """Pools are measured with the start of the tool, so what it imports counts."""
    times = []
    for _ in range(5):
        start = time.monotonic()
        subprocess.run([*tool.command, "version"], check=True, capture_output=True, env={})
        times.append(time.monotonic() - start)
    assert min(times) < 0.4


def test_nobody_reads_on(tool: BareTool) -> None:
    """As under `| head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [*tool.command, "metrics", "--conf-dir", str(tool.conf_dir)],
        check=False,
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
        env=tool.environment(),
    )
    os.close(write)
    assert "Traceback" not in done.stderr
