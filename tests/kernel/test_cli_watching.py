"""status --watch on a real terminal, check --watch on real kernel events."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cni_faasm.cli.check.watching import LOOK_AT_ALL_S
from tests.host import DUAL_STACK, Host, wait_until
from tests.kernel.test_cli_looking import flood, plugin_config
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    bare_host.add_remote()
    tool = Tool(bare_host)
    tool.network()
    return tool


class Terminal:
    """A terminal of tmux in which a command runs: what it shows, and keys for it."""

    def __init__(self, tool: Tool, name: str, *words: str, columns: int = 180) -> None:
        self._tmux = ["tmux", "-L", name, "-f", "/dev/null"]
        size = ["-x", str(columns), "-y", "14"]
        environment = tool.environment() | {"TERM": "tmux-256color"}
        # The shell stays, so that the screen does, and tells how the command ended.
        shell = ["/bin/sh", "-c", '"$@"; echo "ended with $?"; read x', "sh", *tool.argv(*words)]
        command = ["env", "-i", *(f"{k}={v}" for k, v in environment.items()), *shell]
        with tool.host.entered():
            subprocess.run([*self._tmux, "new-session", "-d", *size, *command], check=True)

    @property
    def text(self) -> str:
        shown = subprocess.run(
            [*self._tmux, "capture-pane", "-p"], check=True, capture_output=True, text=True
        )
        return shown.stdout

    def press(self, *keys: str) -> None:
        subprocess.run([*self._tmux, "send-keys", *keys], check=True)

    def wait_for(self, condition: Callable[[str], bool], what: str) -> str:
        try:
            wait_until(lambda: condition(self.text), what, timeout=15)
        except AssertionError as error:
            msg = f"{error} on this screen:\n{self.text}"
            raise AssertionError(msg) from None
        return self.text

    def close(self) -> None:
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)


@pytest.fixture
def terminal(tool: Tool) -> Iterator[Callable[..., Terminal]]:
    terminals: list[Terminal] = []

    def start(*words: str, columns: int = 180) -> Terminal:
        name = f"t{tool.host.number}x{len(terminals)}"
        terminals.append(Terminal(tool, name, *words, columns=columns))
        return terminals[-1]

    yield start
    for one in terminals:
        one.close()


def order(text: str) -> list[str]:
    """Return the containers that the screen shows, from above."""
    return [line.split()[0] for line in text.splitlines() if " eth0 " in line]


def test_status_watch_is_live_and_sortable(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    host = tool.host
    containers = {}
    for name, limit in (("quiet", "90M"), ("busy", "5M")):
        namespace = containers[name] = host.add_container()
        bandwidth = {"ingressRate": limit, "egressRate": limit}
        host.add(namespace, plugin_config(tool) | {"bandwidth": bandwidth}, container_id=name)
    screen = terminal("status", "--watch")
    text = screen.wait_for(lambda text: "90M" in text, "the first look")
    assert order(text) == ["busy", "quiet"]
    assert "2 attachments" in text

    # The rate of a flood at its limit, within a second or two.
    with flood(containers["busy"]):
        screen.wait_for(
            lambda text: any(
                line.startswith(" busy")
                and any(word in line for word in (" 5M ", " 5.0", " 4.9"))
                and line.split()[-4] != "0"
                for line in text.splitlines()
            ),
            "rate and drops of the flood",
        )

    # The heads: CONTAINER NETNS IF NETWORK ADDRESSES OUTSIDE IN LIMIT-IN ...
    for _ in range(7):
        screen.press("Right")
    screen.wait_for(lambda text: "LIMIT IN↓" in text, "the column")
    screen.wait_for(lambda text: order(text) == ["quiet", "busy"], "the larger limit first")
    screen.press("r")
    screen.wait_for(lambda text: order(text) == ["busy", "quiet"], "the other way round")

    host.run(["tc", "qdisc", "del", "dev", "faasm1", "root"])
    screen.wait_for(lambda text: "1 drifted" in text, "the drift")
    another = host.add_container()
    host.add(another, plugin_config(tool), container_id="third")
    screen.wait_for(lambda text: "3 attachments" in text, "a new attachment")
    screen.press("q")
    screen.wait_for(lambda text: "ended with 0" in text, "the end")


# As runtimes and CNI make them: a long id, addresses of both families.
LONG_ID = "3f2a" * 16


def test_80_columns_show_what_matters_in_whole_words(
    tool: Tool, terminal: Callable[..., Terminal]
) -> None:
    config = plugin_config(tool) | {"ipam": tool.host.config(ipam=DUAL_STACK)["ipam"]}
    tool.host.add(tool.host.add_container(), config, container_id=LONG_ID)
    tool.host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    screen = terminal("status", "--watch", columns=80)
    text = screen.wait_for(lambda text: "1 drifted" in text, "the first look")
    heads = next(line for line in text.splitlines() if "CONTAINER" in line)
    assert heads.split() == [
        "CONTAINER↑",
        "IN",
        "LIMIT",
        "IN",
        "OUT",
        "LIMIT",
        "OUT",
        "DROPS",
        "DRIFT",
    ]
    assert f" {LONG_ID[:21]}... " in text
    # A column that has no room is shown when it is chosen.
    screen.press("Left", "Left")
    screen.wait_for(lambda text: "BACKLOG↓" in text and " OUT " in text, "the chosen one")
    screen.press("q")

    status = terminal("status", columns=80)
    text = status.wait_for(lambda text: "ended with 0" in text, "status")
    assert max(map(len, text.splitlines())) <= 80
    # IF has room or not, as many digits as the rates have.
    assert re.search("no room for NETNS, (IF, )?NETWORK, ADDRESSES, OUTSIDE, OVERLIMITS", text)
    expected = (f"{LONG_ID[:21]}...", "20M", "10M", "DRIFT")
    assert [word for word in expected if word not in text.split()] == []

    check = terminal("check", columns=80)
    text = check.wait_for(lambda text: "ended with 1" in text, "check")
    assert max(map(len, text.splitlines())) <= 80
    assert "faasm0: root qdisc: expected htb" in " ".join(text.split())


def test_long_lines_break_between_words(tool: Tool, terminal: Callable[..., Terminal]) -> None:
    """What commands say, and what they complain of."""
    for words in (("check", "x" * 30), ("validate", str(tool.conf_dir), "--strict")):
        (tool.conf_dir / "20-other.conflist").write_text('{"name": "other"}', encoding="utf-8")
        screen = terminal(*words, columns=60)
        text = screen.wait_for(lambda text: "ended with" in text, words[0])
        argv = tool.argv(*words)
        with tool.host.entered():
            whole = subprocess.run(
                argv, check=False, capture_output=True, text=True, env=tool.environment()
            )
        said = [*whole.stdout.split(), *whole.stderr.split()]
        assert max(len(line) for line in (whole.stdout + whole.stderr).splitlines()) > 60
        # tmux itself folds a path that is longer than the terminal.
        assert [word for word in said if word not in text.split() and len(word) < 60] == []


def test_status_watch_without_a_terminal(tool: Tool) -> None:
    assert "needs a terminal" in tool("status", "--watch").expect(3).stderr


class Lines:
    """Read what check --watch prints, as it prints it."""

    def __init__(self, tool: Tool) -> None:
        self.process = tool.start("check", "--watch", "--json")
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        assert self.process.stderr is not None
        assert "watching" in self.process.stderr.readline()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def wait_for(self, event: str, what: str = "", timeout: float = 10) -> float:
        """Wait for an event; return how many seconds it took. Forgets all before it."""
        start = time.monotonic()

        def came() -> bool:
            return any(one["event"] == event and what in one.get("what", "") for one in self.events)

        wait_until(came, f"{event} {what} among {self.events}", timeout)
        self.events.clear()
        return time.monotonic() - start


@pytest.fixture
def lines(tool: Tool) -> Iterator[Lines]:
    for name in ("one", "two"):
        tool.host.add(tool.host.add_container(), plugin_config(tool), container_id=name)
    lines = Lines(tool)
    yield lines
    if lines.process.poll() is None:
        lines.process.kill()
    lines.process.communicate()


def test_check_watch_reports_as_it_happens(tool: Tool, lines: Lines) -> None:
    host = tool.host
    one, _ = host.containers
    assert lines.events == []
    for change, back, what in (
        ("tc qdisc del dev eth0 root", None, "container eth0: root qdisc"),
        ("ip route del default", None, "container eth0: route"),
        ("ip link set eth0 mtu 1300", "ip link set eth0 mtu 1500", "container eth0: MTU"),
    ):
        one.run(change.split())
        assert lines.wait_for("drift", what) < LOOK_AT_ALL_S / 3
        if back is not None:
            one.run(back.split())
        else:
            tool("repair", "one").ok()
        lines.wait_for("mended", what)
    for change, what in (
        ("ip route del 10.200.0.3", "host faasm1: route"),
        ("tc class change dev faasm0 parent 1: classid 1:1 htb rate 1mbit", "class 1:1 rate"),
        ("nft flush table inet faasm_testnet", "masquerade"),
        ("sysctl -q net.ipv4.ip_forward=0", "IPv4 forwarding"),
    ):
        host.run(change.split())
        assert lines.wait_for("drift", what) < LOOK_AT_ALL_S / 3
        tool("repair").ok()
        lines.wait_for("mended", what)
    third = host.add_container()
    host.add(third, plugin_config(tool), container_id="three")
    lines.wait_for("attached")
    third.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    lines.wait_for("drift", "container eth0: root qdisc")
    host.delete_attachment(third, plugin_config(tool), container_id="three")
    lines.wait_for("detached")
    lines.process.send_signal(2)
    assert lines.process.wait(timeout=10) == 0


def test_check_watch_tells_no_drift_while_containers_come_and_go(tool: Tool, lines: Lines) -> None:
    namespace = tool.host.add_container()
    for number in range(8):
        tool.host.add(namespace, plugin_config(tool), container_id=f"x{number}")
        tool.host.delete_attachment(namespace, plugin_config(tool), container_id=f"x{number}")
    time.sleep(1.5)
    assert [one for one in lines.events if one["event"] in ("drift", "mended")] == []
