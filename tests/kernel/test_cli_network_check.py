"""The network check against a remote machine: iperf3 is real, and so is everything that fails."""

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import browser
from tests.host import BUNDLE, REPO, Host, Namespace, is_listening, wait_until
from tests.jsonschemas import demand_valid
from tests.rates import ATTEMPTS, FIRST_PORT, serve
from tests.tool import SOURCE_TOOL, Done, Tool

REMOTE = "198.51.100.1"
RESOLV_CONF = Path("/etc/resolv.conf")


@pytest.fixture
def tool(bare_host: Host) -> Iterator[Tool]:
    tool = Tool(bare_host)
    before = RESOLV_CONF.read_text(encoding="utf-8") if RESOLV_CONF.exists() else None
    RESOLV_CONF.write_text("nameserver 9.9.9.9\n", encoding="utf-8")
    tool.network()
    yield tool
    tool("pool", "down").ok()
    if before is None:
        RESOLV_CONF.unlink()
    else:
        RESOLV_CONF.write_text(before, encoding="utf-8")


@pytest.fixture
def remote(bare_host: Host) -> Namespace:
    return bare_host.add_remote()


def words(tool: Tool, *more: str, server: str = REMOTE) -> list[str]:
    return ["network-check", server, "--prefix", tool.prefix, *more]


def check(tool: Tool, *more: str, server: str = REMOTE) -> Done:
    return tool(*words(tool, *more, server=server), timeout=90)


def check_limits(tool: Tool, *more: str, low: float = 0.0) -> Done:
    """Check until nothing is too slow, as a busy machine makes it; see rates.assert_near.

    low: what share of what is allowed each must have, by the document; 0 for the verdicts alone.
    """
    for _ in range(ATTEMPTS):
        done = check(tool, *more)
        if "TOO FAST" in done.stdout:
            break
        shares = [row["measuredToAllowed"] for row in done.document["rows"]] if low else []
        if "TOO SLOW" not in done.stdout and all(share is None or share >= low for share in shares):
            break
    return done


def rows(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["namespace"], row["direction"]): row for row in document["rows"]}


def iperf3_clients() -> list[str]:
    """Return the command lines of all iperf3 that measure (and do not only ask)."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if "iperf3 --json" in line and "--time" in line:
            found.append(line)
    return found


# -- measuring -------------------------------------------------------------------------------


def test_three_namespaces_at_once_and_a_page_about_it(
    tool: Tool, remote: Namespace, tmp_path: Path
) -> None:
    serve(tool.host, remote, 3)
    tool("pool", "up", "4").ok()
    page = tmp_path / "report.html"
    document = check_limits(tool, "-t", "3", "--json", "--html", str(page), low=0.95).ok().document
    names = [f"{tool.prefix}ns{number}" for number in (1, 2, 3)]  # of four the first three

    assert document["ok"]
    assert document["problems"] == []
    assert document["atOnce"]
    assert document["ports"] == [5201, 5202, 5203]
    assert document["rules"]["statement"] == (
        "all 3 namespaces have the same rules; both ends of each are as configured"
    )
    assert [end["interface"] for end in document["rules"]["ends"]] == [
        f"{tool.prefix}{middle}{number}" for number in (1, 2, 3) for middle in ("", "p")
    ]
    found = rows(document)
    assert list(found) == [
        (name, way) for name in ("host", *names) for way in ("egress", "ingress") if name == "host"
    ] + [(name, way) for way in ("egress", "ingress") for name in names]
    for (name, way), row in found.items():
        if name == "host":
            assert row["verdict"] == "no limit"
            assert row["measuredBitsPerSecond"] > 100_000_000
            continue
        limit = 10_000_000 if way == "egress" else 20_000_000
        assert row["limitBitsPerSecond"] == limit
        assert row["allowedBitsPerSecond"] == pytest.approx(limit * 1448 / 1514)
        assert row["measuredToAllowed"] == pytest.approx(1, abs=0.05)
        assert row["unshapedHostBitsPerSecond"] == found["host", way]["measuredBitsPerSecond"]
        assert row["rttSource"] == "ping"
        assert 0.5 < row["loadedRttMs"] < 60  # the queue is bounded to 25 ms
        assert isinstance(row["retransmits"], int)
        assert row["verdict"] == "ok"
    for flow in document["flows"]:
        assert flow["samples"][-1]["second"] == pytest.approx(3, abs=0.3)
        assert len(flow["samples"]) >= 10

    look_at_page(page, names)


def look_at_page(page: Path, names: list[str]) -> None:
    text = page.read_text(encoding="utf-8")
    # One file that needs no other: nothing is loaded, nothing is executed.
    assert not re.search(r"<script|<link|<img|\bsrc=|@import|url\(", text)
    shown = browser.dom(page)
    assert "Every limit is kept" in shown
    assert shown.count("<svg") == 8
    for name in names:
        assert f"{name} egress" in shown
        assert f"<td>{name}</td><td>ingress</td>" in shown
    assert 'id="rules"' in shown
    for dark in (False, True):
        picture = browser.screenshot(page, dark=dark)
        back = picture[2][2]
        assert (sum(back) < 150) == dark, f"background {back}"
        colours = {colour for row in picture for colour in row}
        # Text, and the curves, limits and verdicts in blue, red and green.
        assert max(browser.contrast(back, colour) for colour in colours) > 12
        for strongest in range(3):
            vivid = [c for c in colours if c[strongest] > max(c[:strongest] + c[strongest + 1 :])]
            assert max(browser.contrast(back, colour) for colour in vivid) > 4


def test_one_server_means_one_after_the_other(tool: Tool, remote: Namespace) -> None:
    serve(tool.host, remote, 1)
    tool("pool", "up", "2").ok()
    done = check_limits(tool, "-t", "1").ok()
    assert "only one iperf3 server answers (port 5201)" in done.stdout
    assert "one after the other" in done.stdout
    assert "cni-faasm iperf-servers 2" in done.stdout
    assert [line for line in done.stderr.splitlines() if line.startswith("measuring")] == [
        *("measuring host, egress (2 s)", "measuring host, ingress (2 s)"),
        *(
            f"measuring {tool.prefix}ns{number}, {way} (2 s)"
            for way in ("egress", "ingress")
            for number in (1, 2)
        ),
    ]
    assert "Every limit is kept." in done.stdout
    assert "configured x MSS / (MTU + 14)" in done.stdout
    assert done.stdout.count(" ok") == 4


def test_a_lost_qdisc_is_told_and_measured(tool: Tool, remote: Namespace, tmp_path: Path) -> None:
    serve(tool.host, remote, 2)
    tool("pool", "up", "2").ok()
    tool.host.run(["tc", "qdisc", "del", "dev", f"{tool.prefix}2", "root"])
    done = check(tool, "-t", "1", "--json", "--html", str(tmp_path / "page.html")).expect(1)
    document = done.document
    assert not document["ok"]
    assert "1 of 4 ends is not as configured" in document["rules"]["statement"]
    found = rows(document)
    name = f"{tool.prefix}ns2"
    assert found[name, "ingress"]["verdict"] == "TOO FAST"
    assert [key for key, row in found.items() if row["verdict"] not in ("ok", "no limit")] == [
        (name, "ingress")
    ]
    assert len(document["problems"]) == 2
    assert f"cni-faasm repair {name}" in done.stderr
    shown = browser.dom(tmp_path / "page.html")
    assert "Not as it should be" in shown
    assert "TOO FAST" in shown


def test_a_line_slower_than_the_limits_is_named(tool: Tool, remote: Namespace) -> None:
    serve(tool.host, remote, 1)
    tool("pool", "up", "1").ok()
    shape = ("tbf", "rate", "5mbit", "burst", "10k", "latency", "50ms")
    tool.host.run(["tc", "qdisc", "add", "dev", "uplink", "root", *shape])
    done = check(tool, "-t", "2").expect(1)
    assert "TOO SLOW" in done.stdout
    assert f"{tool.prefix}ns1 egress: the host itself reaches only" in done.stdout
    assert f"{tool.prefix}ns1 ingress" not in done.stdout  # that way nothing is slow


# -- what is missing -------------------------------------------------------------------------


def test_what_is_missing_is_said_with_its_remedy(tool: Tool, tmp_path: Path) -> None:
    host = tool.host
    first = f"{tool.prefix}ns1"
    done = check(tool).expect(3)
    assert f"there are no namespaces {first}" in done.stderr
    assert "cni-faasm pool up 3" in done.stderr
    assert "there is no namespace /run/netns/nowhere" in check(tool, "-n", "nowhere").stderr
    stranger = host.add_container()
    assert "has no attachment" in check(tool, "-n", stranger.name).expect(3).stderr
    assert check(tool, "-n", "3-1").expect(2).stderr
    assert check(tool, "-t", "0").expect(2).stderr
    tool("pool", "up", "1").ok()

    with host.entered():
        without = subprocess.run(
            tool.argv(*words(tool)),
            env=tool.environment() | {"PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert without.returncode == 3
    assert "iperf3 is missing on this host" in without.stderr
    assert "apt-get install iperf3" in without.stderr

    assert f"this host has no route to {REMOTE}" in check(tool).expect(3).stderr
    assert "own loopback address" in check(tool, server="127.0.0.1").expect(3).stderr
    assert "/etc/resolv.conf" in check(tool, server="no.such.host").expect(3).stderr
    assert "cannot write" in check(tool, "--html", "/nowhere/page.html").expect(3).stderr

    remote = host.add_remote()
    done = check(tool).expect(3)
    assert f"no iperf3 server answers on {REMOTE}, port 5201" in done.stderr
    assert "cni-faasm iperf-servers 1" in done.stderr
    assert "htb 1: default 1:1" in done.stdout  # the rules are shown nevertheless
    with remote.entered():
        old_iperf = socket.create_server((REMOTE, 5001))
    with old_iperf:
        assert "iperf (version 2) seems to run there" in check(tool).expect(3).stderr
    done = check(tool, server="198.51.100.77").expect(3)
    assert "198.51.100.77 cannot be reached on port 5201" in done.stderr

    serve(host, remote, 1)
    RESOLV_CONF.write_text("nameserver 127.0.0.53\n", encoding="utf-8")
    Path(f"/etc/netns/{first}/resolv.conf").unlink()
    host.sysctl("net.ipv4.ip_forward", "0")
    done = check(tool).expect(3)
    assert "/etc/resolv.conf has no nameserver" in done.stdout
    assert f"{first} does not reach {REMOTE}" in done.stderr
    assert "sysctl -w net.ipv4.ip_forward=1" in done.stderr
    host.sysctl("net.ipv4.ip_forward", "1")

    inside = Namespace(first, path=f"/run/netns/{first}")
    inside.run(["ip", "route", "del", "default"])
    done = check(tool).expect(3)
    assert f"{first} does not reach {REMOTE} (Network is unreachable): it has no route" in (
        done.stderr
    )
    gateway = ["via", "10.200.0.1", "dev", f"{tool.prefix}p1"]
    inside.run(["ip", "route", "add", "default", *gateway])
    host.run(["nft", "flush", "ruleset"])
    assert "nft table inet faasm_testnet" in check(tool).expect(3).stderr


def test_a_server_that_is_busy_or_no_iperf3_is_told(tool: Tool, remote: Namespace) -> None:
    tool("pool", "up", "1").ok()
    with remote.entered():
        listener = socket.create_server((REMOTE, FIRST_PORT))

    def greet() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.recv(64)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=greet)
    thread.start()
    try:
        assert "does not answer as an iperf3 server" in check(tool).expect(3).stderr
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()
    serve(tool.host, remote, 1)
    other = tool.host.start(["iperf3", "--json", "-c", REMOTE, "-t", "20", "-b", "1M"])
    try:
        wait_until(lambda: bool(established(remote)), "the other test to begin")
        assert "serves somebody else's test" in check(tool).expect(3).stderr
    finally:
        other.kill()
        other.communicate()


def established(namespace: Namespace) -> str:
    argv = ["ss", "-Htn", "state", "established", f"sport = :{FIRST_PORT}"]
    return namespace.run(argv).stdout.strip()


# -- ending ----------------------------------------------------------------------------------


def test_ctrl_c_leaves_nothing(tool: Tool, remote: Namespace, tmp_path: Path) -> None:
    """Press Ctrl-C on a terminal while three namespaces are measured; the bar is seen there."""
    serve(tool.host, remote, 3)
    tool("pool", "up", "3").ok()
    before = tool.host.snapshot()
    folder = tmp_path / "pages"
    folder.mkdir()
    argv = tool.argv(*words(tool, "-t", "1", "--html", str(folder / "page.html")))
    child, terminal = pty.fork()
    if child == 0:
        try:
            with tool.host.entered():
                os.execve(argv[0], argv, tool.environment() | {"COLUMNS": "120"})  # noqa: S606 -- in place of this child
        finally:
            os._exit(127)
    shown = b""
    pressed = False
    clients: list[str] = []
    end = time.monotonic() + 40
    while time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:  # EIO: the other side has closed
                break
        if not pressed and b"all namespaces at once, egress" in shown:
            wait_until(lambda: len(iperf3_clients()) == 3, "three clients at once")
            clients = iperf3_clients()
            os.write(terminal, b"\x03")
            pressed = True
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert clients, shown.decode()
    assert {re.findall(r"--port (\d+)", line)[0] for line in clients} == {"5201", "5202", "5203"}
    assert os.waitstatus_to_exitcode(status) == 130
    assert b"interrupted" in shown
    assert b"Traceback" not in shown
    assert iperf3_clients() == []
    assert os.listdir(folder) == []
    tool.host.assert_unchanged(before)


def test_kill_leaves_nothing(tool: Tool, remote: Namespace, tmp_path: Path) -> None:
    serve(tool.host, remote, 1)
    tool("pool", "up", "1").ok()
    process = tool.start(*words(tool, "-t", "5", "--html", str(tmp_path / "page.html")))
    try:
        wait_until(lambda: bool(iperf3_clients()), "a measurement to begin", timeout=20)
        process.terminate()
        output, errors = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 143, output + errors
    assert iperf3_clients() == []
    assert not list(tmp_path.glob("*.html"))


# -- the servers, the script, the bundle -----------------------------------------------------


def start_servers(
    tool: Tool, remote: Namespace, *argv: str
) -> "subprocess.Popen[str] | subprocess.Popen[bytes]":
    return remote.start(
        [*SOURCE_TOOL, "iperf-servers", *argv],
        env=tool.environment() | {"PYTHONUNBUFFERED": "1"},
        cwd=REPO,
    )


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 0), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_iperf_servers_serve_until_they_are_ended(
    tool: Tool, remote: Namespace, number: int, status: int
) -> None:
    servers = start_servers(tool, remote, "2", "--json")
    try:
        wait_until(lambda: all(is_listening(remote, port) for port in (5201, 5202)), "both servers")
        assert servers.stdout is not None
        document: dict[str, Any] = {}
        text = ""
        while not document:
            text += str(servers.stdout.readline(), "utf-8")  # type: ignore[arg-type]
            if text.endswith("\n}\n"):
                document = json.loads(text)
        assert [one["port"] for one in document["servers"]] == [5201, 5202]
        demand_valid(document)
        if number == signal.SIGINT:
            done = Done([], *run(remote, tool, "iperf-servers", "3"))
            assert "ports in use: 5201, 5202" in done.expect(1).stderr
            os.kill(document["servers"][0]["pid"], signal.SIGKILL)  # one that ends is started again
            wait_until(lambda: not is_listening(remote, 5201), "the first server to end")
            wait_until(lambda: is_listening(remote, 5201), "the first server to be back")
        os.kill(servers.pid, number)
        servers.wait(10)
    finally:
        servers.kill()
        servers.communicate()
    assert servers.returncode == status
    wait_until(lambda: not any(is_listening(remote, port) for port in (5201, 5202)), "their end")


def run(namespace: Namespace, tool: Tool, *argv: str) -> tuple[int, str, str]:
    with namespace.entered():
        done = subprocess.run(
            [*SOURCE_TOOL, *argv],
            env=tool.environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    return done.returncode, done.stdout, done.stderr


def test_the_script_runs_the_bundle_without_any_python(
    tool: Tool, remote: Namespace, tmp_path: Path
) -> None:
    """bin/network_check.sh with nothing on PATH but what it says that it needs."""
    assert (BUNDLE / "cni-faasm").exists(), "no dist/faasm: run ./build.sh first"
    serve(tool.host, remote, 1)
    tool("pool", "up", "1").ok()
    for name in ("sh", "dirname", "iperf3"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True)
        (tmp_path / name).symlink_to(found.stdout.strip())
    page = tmp_path / "page.html"
    arguments = words(tool, "-t", "1", "--conf-dir", str(tool.conf_dir), "--html", str(page))[1:]
    with tool.host.entered():
        done = subprocess.run(
            [str(REPO / "bin" / "network_check.sh"), *arguments],
            env={"PATH": str(tmp_path), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every limit is kept." in done.stdout
    assert "<svg" in page.read_text(encoding="utf-8")
