"""Run the demo as a person would: to its end, with a plugin that cheats, and with Ctrl-C."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host import BUNDLE, REPO, SYSTEM_PATH, processes, wait_until

ROW = re.compile(
    r"^   faasmns(\d) +(in|out) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)% +([\d,]+)$", re.MULTILINE
)


def environment(bundle: Path = BUNDLE) -> dict[str, str]:
    """Return variables with which the demo takes the bundle that is there, and builds none."""
    return {"PATH": SYSTEM_PATH, "LC_ALL": "C.UTF-8", "FAASM_BUNDLE": str(bundle)}


def machine() -> dict[str, object]:
    """Return what the demo could have left behind on the machine that it runs on."""

    def output(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout

    places = [
        Path(p) for p in ("/run", "/run/netns", "/etc/cni", "/opt/cni", "/var/lib/cni", "/etc")
    ]
    return {
        "links": output("ip", "-br", "address"),
        "nft": output("nft", "list", "ruleset"),
        "mounts": Path("/proc/self/mounts").read_text(encoding="utf-8"),
        **{str(place): sorted(os.listdir(place)) for place in places},
    }


def test_the_demo_keeps_its_promises() -> None:
    before, running = machine(), processes()
    start = time.monotonic()
    done = subprocess.run(
        [REPO / "bin" / "demo.sh"],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - start < 60
    assert "Everything was as promised" in done.stdout
    assert "NOT SO" not in done.stdout
    assert "Traceback" not in done.stderr

    rows = ROW.findall(done.stdout)
    assert [(row[0], row[1]) for row in rows] == [(n, d) for n in "123" for d in ("out", "in")]
    for _, _, limit, payload, measured, share, unlimited in rows:
        assert float(payload) == pytest.approx(float(limit) * 1448 / 1514, abs=0.01)
        assert float(measured) == pytest.approx(float(payload), rel=0.05)
        assert float(share) == pytest.approx(100, abs=5)
        assert float(unlimited.replace(",", "")) > 2 * float(limit)
    assert '"cniVersion": "1.1.0"' in done.stdout
    assert "qdisc htb 1: root" in done.stdout
    assert "class htb 1:1 root leaf 11:" in done.stdout
    assert machine() == before
    assert processes().keys() <= running.keys()


@pytest.fixture
def visible_path() -> Iterator[Path]:
    """Return a directory that a nested private host sees too: it hides /run, where tmp_path is."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


def test_the_demo_notices_a_broken_promise(visible_path: Path) -> None:
    """A plugin that sets another limit than it was asked for must not pass."""
    cheat = visible_path / "faasm"
    cheat.write_text(
        "#!/bin/sh\n"
        f"""sed 's/"ingressRate": 10000000,/"ingressRate": 8000000,/' | exec {BUNDLE}/faasm\n""",
        encoding="utf-8",
    )
    cheat.chmod(0o755)
    done = subprocess.run(
        [REPO / "bin" / "demo.sh", "--seconds", "2"],
        env=environment(visible_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "[NOT SO] faasmns2 in : class 1:1 on faasm2  has 10.00 Mbit/s" in done.stdout
    assert "2 of the promises were not kept" in done.stdout


def ctrl_c(process: "subprocess.Popen[bytes]") -> None:
    os.killpg(process.pid, signal.SIGINT)


def ask_to_end(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)


def kill(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGKILL)


@pytest.mark.parametrize(
    ("end", "status"), [(ctrl_c, 130), (ask_to_end, 143), (kill, -signal.SIGKILL)]
)
@pytest.mark.parametrize(
    ("command", "running_when"),
    [
        ([str(REPO / "bin" / "demo.sh")], "iperf3 --json"),
        (
            [
                *(str(REPO / "bin" / "private_host.sh"), sys.executable, "-m", "pytest", "-q"),
                *("tests/runtime/test_runtimes.py", "-k", "shaped and containerd"),
            ],
            "iperf3 --json",
        ),
    ],
    ids=["demo", "tests"],
)
def test_nothing_outlives_an_interrupted_run(
    command: list[str],
    running_when: str,
    end: "Callable[[subprocess.Popen[bytes]], None]",
    status: int,
) -> None:
    """Stop the demo, or tests with a containerd, in the middle of a measurement."""
    before, running = machine(), processes()
    process = subprocess.Popen(
        command,
        cwd=REPO,
        env=environment() | {"HOME": "/run/home"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_until(
            lambda: any(
                running_when in name for pid, name in processes().items() if pid not in running
            ),
            "a measurement to begin",
            timeout=60,
        )
        end(process)
        output, _ = process.communicate(timeout=30)
        assert process.returncode == status, output.decode()
        wait_until(lambda: processes().keys() <= running.keys(), "every process to end", timeout=5)
        assert machine() == before
    finally:
        process.kill()
        process.wait()
