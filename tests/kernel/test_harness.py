"""Prove the harness on the reference plugins: it must call, measure and compare rightly."""

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import (
    AFTER_LAST_DEL,
    REPO,
    CommandFailedError,
    Host,
    Namespace,
    in_private_host,
    wait_until,
)

PRIVATE_HOST = str(REPO / "bin" / "private_host.sh")
COPY = "/usr/src/faasm/bin/private_host.sh"


@pytest.fixture
def conflist(bare_host: Host) -> dict[str, Any]:
    return {
        "cniVersion": "1.0.0",
        "name": "reference",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": True,
                "ipam": bare_host.config()["ipam"],
            },
            {"type": "bandwidth", "ingressRate": 8_000_000, "ingressBurst": 80_000},
        ],
    }


def test_is_private() -> None:
    assert in_private_host()


@pytest.mark.parametrize("folder", ["/etc", "/opt", "/usr", "/usr/bin", "/usr/lib", "/var/lib"])
def test_what_is_written_is_not_on_the_machine(folder: str, tmp_path: Path) -> None:
    """A mount of / without what is mounted upon it shows the machine's own folders."""
    written = Path(folder) / f"faasm-test-{os.getpid()}"
    script = f'mount --bind / "{tmp_path}" && ls -a "{tmp_path}{folder}"'
    written.write_text("", encoding="ascii")
    try:
        seen = subprocess.run(
            ["unshare", "--mount", "sh", "-ec", script], check=True, capture_output=True, text=True
        ).stdout.split()
    finally:
        written.unlink()
    assert ".." in seen
    assert written.name not in seen


# What a machine that is no private host may have below /usr: a mount, and these sources.
MACHINE = """\
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /usr/src
mkdir -p /usr/src/local /usr/src/faasm/bin
echo machine >/usr/src/local/word
mount --bind /usr/src/local /usr/local
umount --lazy /usr/src
mkdir -p /usr/src/faasm/bin
cp "$1" /usr/src/faasm/bin
echo ready
exec sleep 1000
"""


@pytest.fixture
def machine() -> Iterator[list[str]]:
    """Return how to begin a command on such a machine."""
    begun = ["unshare", "--mount", "sh", "-ec", MACHINE, "sh", PRIVATE_HOST]
    with subprocess.Popen(begun, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield ["nsenter", "--mount", f"--target={process.pid}", "--"]
        process.kill()
    shutil.rmtree("/usr/src/faasm")


def run(*argv: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=60)


def test_mounts_below_usr_are_seen_and_cannot_be_written_to(machine: list[str]) -> None:
    script = (
        "cat /usr/local/word; echo x >/usr/made && cat /usr/made; echo private >/usr/local/word"
    )
    done = run(*machine, COPY, "bash", "-c", script)
    assert (done.returncode, done.stdout) == (1, "machine\nx\n")
    assert "Read-only file system" in done.stderr
    assert run(*machine, "cat", "/usr/local/word").stdout == "machine\n"
    assert not Path("/usr/made").exists()


def test_sources_below_usr_can_be_written_to(machine: list[str]) -> None:
    """Benchmarks leave their results there."""
    done = run(*machine, COPY, "touch", "/usr/src/faasm/result")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("/usr/src/faasm/result").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left_of_it_when_it_is_ended(machine: list[str], number: signal.Signals) -> None:
    """Neither a mount nor a process nor a file."""
    mounts = run(*machine, "cat", "/proc/self/mountinfo").stdout
    mark = f"sleep 6{os.getpid()}.25"

    def is_there() -> bool:
        return bool(run("pgrep", "-f", f"^{mark}").stdout)

    with subprocess.Popen(
        [*machine, COPY, "sh", "-c", f"touch /usr/made && exec {mark}"], start_new_session=True
    ) as running:
        wait_until(is_there, "what runs inside")  # a shell may miss a signal while it forks
        if number == signal.SIGINT:  # as the terminal sends it: to all of them
            os.killpg(running.pid, number)
        else:
            running.send_signal(number)
        assert running.wait(10) == (-9 if number == signal.SIGKILL else 128 + number)
    wait_until(lambda: not is_there(), "the end of what ran inside")
    assert run(*machine, "cat", "/proc/self/mountinfo").stdout == mounts
    assert not Path("/usr/made").exists()


def test_a_container_reaches_the_remote_machine(bare_host: Host, conflist: dict[str, Any]) -> None:
    remote = bare_host.add_remote()
    container = bare_host.add_container()
    before = bare_host.snapshot()
    result = bare_host.chain("ADD", container, conflist)
    assert result["ips"][0]["address"].startswith("10.200.")
    assert container.routes(dst="default")
    assert list(bare_host.leases()) == ["reference/" + result["ips"][0]["address"].split("/")[0]]
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    assert remote.addresses("eth0")[0] == "198.51.100.1/24"

    bare_host.chain("CHECK", container, {**conflist, "prevResult": result})
    bare_host.chain("DEL", container, {**conflist, "prevResult": result})
    assert container.links() == []
    bare_host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


@pytest.mark.parametrize(
    ("argv", "section"),
    [
        (["ip", "link", "add", "d0", "type", "ifb"], "links.d0"),
        (["ip", "addr", "add", "192.0.2.9/24", "dev", "uplink"], "addresses.uplink"),
        (["ip", "route", "add", "192.0.2.0/24", "dev", "uplink"], "routes"),
        (["ip", "rule", "add", "from", "192.0.2.1", "table", "9"], "rules"),
        (["tc", "qdisc", "add", "dev", "uplink", "root", "handle", "1:", "htb"], "qdiscs"),
        (["nft", "add", "table", "inet", "x"], "nft"),
    ],
)
def test_snapshot_notices(bare_host: Host, argv: list[str], section: str) -> None:
    bare_host.add_remote()
    before = bare_host.snapshot()
    bare_host.assert_unchanged(before, patience=0)
    bare_host.run(argv)
    with pytest.raises(AssertionError, match=section):
        bare_host.assert_unchanged(before, patience=0)


def test_snapshot_notices_leases_records_and_containers(bare_host: Host) -> None:
    container = bare_host.add_container()
    before = bare_host.snapshot()
    (bare_host.data_dir / "net").mkdir(parents=True)
    (bare_host.data_dir / "net" / "10.0.0.2").write_text("id\r\neth0", encoding="ascii")
    (bare_host.data_dir / "net" / "last_reserved_ip.0").write_text("10.0.0.2", encoding="ascii")
    (bare_host.state_dir / "net").mkdir(parents=True)
    (bare_host.state_dir / "net" / "id@eth0").write_text("{}", encoding="ascii")
    container.run(["ip", "link", "set", "lo", "mtu", "1280"])
    with pytest.raises(AssertionError) as caught:
        bare_host.assert_unchanged(before, patience=0)
    for part in ("leases.net/10.0.0.2", "records.net/id@eth0", f"containers.{container.name}"):
        assert part in str(caught.value)
    assert "last_reserved_ip" not in str(caught.value)


def test_a_failing_command_says_what_and_why(bare_host: Host) -> None:
    with pytest.raises(
        CommandFailedError, match=r"ip link del nosuch: status 1\n.*Cannot find device"
    ):
        bare_host.run(["ip", "link", "del", "nosuch"])


def test_hosts_are_apart(make_host: Callable[[list[str]], Host]) -> None:
    one, two = make_host(["/bin/true"]), make_host(["/bin/true"])
    one.run(["ip", "link", "add", "d0", "type", "ifb"])
    assert (one.links(), two.links()) == (["d0"], [])
    one.sysctl("net.ipv4.ip_forward", "1")
    assert (one.sysctl("net.ipv4.ip_forward"), two.sysctl("net.ipv4.ip_forward")) == ("1", "0")
    inner: Namespace = two.add_container()
    two.close()
    assert inner.name not in one.run(["ip", "netns", "list"]).stdout


def test_tc_classes_are_read(bare_host: Host) -> None:
    bare_host.add_remote()
    qdisc = "tc qdisc add dev uplink root handle 1: htb default 1"
    made = "parent 1: classid 1:1 htb rate 12345kbit ceil 1gbit burst 12500 cburst 32kb"
    bare_host.run(qdisc.split())
    bare_host.run(["tc", "class", "add", "dev", "uplink", *made.split()])
    bare_host.run(
        [
            "tc",
            "qdisc",
            "add",
            "dev",
            "uplink",
            "parent",
            "1:1",
            "handle",
            "10:",
            "bfifo",
            "limit",
            "20000",
        ]
    )
    (found,) = bare_host.classes("uplink")
    counters = ("bytes", "packets", "dropped", "overlimits", "backlog_bytes")
    assert all(isinstance(found.pop(name), int) for name in counters)
    assert found.pop("quantum") > 1000
    assert found == {
        "kind": "htb",
        "handle": "1:1",
        "parent": "root",
        "leaf": "10:",
        "rate": 12_345_000,
        "ceil": 1_000_000_000,
        "burst": pytest.approx(12_500, rel=0.01),
        "cburst": pytest.approx(32_768, rel=0.01),
    }
    before = bare_host.snapshot()
    bare_host.run(
        ["tc", "class", "change", "dev", "uplink", "classid", "1:1", "htb", "rate", "10mbit"]
    )
    with pytest.raises(AssertionError, match=r"classes\.uplink"):
        bare_host.assert_unchanged(before, patience=0)
