"""The agent does what the plugin alone does, in the same surroundings, or leaves it to it."""

import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agent import SOCKET, Agent, agent, children, descriptors, send
from tests.host import AFTER_LAST_DEL, BUNDLE, CniCall, Host, Namespace, built_plugin, wait_until

PLUGIN = BUNDLE / "faasm"


# An IPAM plugin that writes down in which surroundings it runs.
TELLER = """#!/usr/bin/python3 -IS
import json, os, sys
files = [n for n in sorted(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd/" + n)]
mask = os.umask(0)
with open({!r}, "a") as file:
    print(json.dumps([dict(os.environ), mask, os.getcwd(), files]), file=file)
print("said by the plugin", file=sys.stderr)
if os.environ["CNI_COMMAND"] == "ADD":
    ips = [{{"address": "10.9.0.2/24", "gateway": "10.9.0.1"}}]
    print(json.dumps({{"cniVersion": "1.0.0", "ips": ips}}))
"""


@pytest.fixture
def host(make_host: Callable[[list[str]], Host]) -> Host:
    assert (BUNDLE / "faasm").exists(), "no dist/faasm/faasm: run ./build.sh first"
    return make_host(built_plugin())


class Log:
    """Which process has done the last call: the debug log tells."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "log"
        self.env = {"CNI_FAASM_LOG": str(self.path)}

    def process(self) -> int:
        wait_until(self.path.exists, "the log")  # which is written when all has been told
        return int(self.path.read_text(encoding="utf-8").splitlines()[-1].split()[1])


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path)


def call(host: Host, log: Log, verb: str, *arguments: Any, **options: Any) -> CniCall:
    """Make one call, whose process the log is to tell."""
    log.path.unlink(missing_ok=True)
    return host.cni(verb, *arguments, env=log.env, **options)


class Background:
    """A call that takes its time."""

    def __init__(self, host: Host, *arguments: Any, **options: Any) -> None:
        self.answer: CniCall | None = None

        def run() -> None:
            self.answer = host.cni(*arguments, **options)

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def end(self) -> CniCall:
        self.thread.join(timeout=30)
        assert self.answer is not None
        return self.answer


def at_work(host: Host, running: Agent) -> list[int]:
    """Return the workers that have the leases' lock open, which waits for nobody."""
    lock = str(host.data_dir / "testnet" / "lock")
    return [pid for pid in running.workers() if lock in descriptors(pid)]


def test_each_verb_is_done_by_a_worker_as_without(host: Host, log: Log) -> None:
    container, other = host.add_container(), host.add_container()
    network = host.config(
        ipMasq=True, bandwidth={"ingressRate": "10M", "egressRate": "5M"}, isolated=True
    )
    host.add(other, network)
    alone = host.add(container, network)
    before = host.snapshot()
    host.delete_attachment(container, network)
    (host.data_dir / "testnet" / "last_reserved_ip.0").write_text("10.200.0.2")

    with agent(host) as running:
        result = call(host, log, "ADD", container, network).ok()
        assert log.process() in running.workers()
        for one, another in zip(alone["interfaces"], result["interfaces"], strict=True):
            del one["mac"], another["mac"]
        assert result == alone
        after = host.snapshot()
        for section in ("rules", "qdiscs", "classes", "up", "leases"):
            assert after[section] == before[section]
        checked = {**network, "prevResult": result}
        call(host, log, "CHECK", container, checked).ok()
        assert log.process() in running.workers()
        host.run(["tc", "qdisc", "del", "dev", "faasm1", "root"])
        assert "qdisc" in call(host, log, "CHECK", container, checked).error(107)["msg"]
        valid = [{"containerID": other.name, "ifname": "eth0"}]
        call(host, log, "GC", None, {**network, "cni.dev/valid-attachments": valid}).ok()
        assert log.process() in running.workers()
        wait_until(lambda: host.links() == ["faasm0", "uplink"] or host.links() == ["faasm0"], "")
        call(host, log, "STATUS", None, network).ok()
        call(host, log, "DEL", other, network).ok()
        assert log.process() in running.workers()
        assert (
            "1.1.0" in host.cni("VERSION", None, {"cniVersion": "1.1.0"}).ok()["supportedVersions"]
        )
        assert host.cni("ADD", container, b"{").error(6)
        assert host.leases() == {}
        assert host.records() == {}
        assert running.end() == -signal.SIGTERM
    call(host, log, "ADD", container, network).ok()
    assert log.process() != 0
    host.delete_attachment(container, network)


def test_a_long_result_is_told_in_full(host: Host, log: Log) -> None:
    container = host.add_container()
    network = host.config(dns={"search": [f"{number}.example.org" for number in range(8000)]})
    with agent(host) as running:
        result = call(host, log, "ADD", container, network).ok()
        assert log.process() in running.workers()
        assert result["dns"] == network["dns"]
        # A runtime that is gone when it comes: the attachment is undone.
        host.delete_attachment(container, network)
        before = host.snapshot()
        closed = ["sh", "-c", f'exec "{PLUGIN}" >&-']
        assert host.cni("ADD", container, network, plugin=closed).status == 1
        broken = ["sh", "-c", f'"{PLUGIN}" | true; exit 3']
        assert host.cni("ADD", container, network, plugin=broken).status == 3
        host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_a_call_finds_its_own_surroundings(host: Host, tmp_path: Path) -> None:
    """What another program would see of them: an IPAM plugin tells."""
    container = host.add_container()
    plugin = tmp_path / "teller"
    plugin.write_text(TELLER.format(str(tmp_path / "told")))
    plugin.chmod(0o755)
    network = host.config(cniVersion="1.0.0", ipam={"type": "teller", "subnet": None})
    env = {"CNI_PATH": str(tmp_path), "SOMETHING": "of the caller", "TZ": "UTC"}
    script = f'umask 027; cd {tmp_path}; exec "{PLUGIN}"'

    def told() -> tuple[list[Any], bytes]:
        (tmp_path / "told").unlink(missing_ok=True)
        made = host.cni("ADD", container, network, env=env, plugin=["sh", "-c", script])
        made.ok()
        host.delete_attachment(container, network, env=env, plugin=["sh", "-c", script])
        lines = (tmp_path / "told").read_text().splitlines()
        return [json.loads(line) for line in lines], made.stderr

    alone = told()
    environment, mask, folder, open_files = alone[0][0]
    assert environment["SOMETHING"] == "of the caller"
    assert (mask, folder, open_files) == (0o027, str(tmp_path), ["0", "1", "2"])
    assert [each[0]["CNI_COMMAND"] for each in alone[0]] == ["ADD", "DEL"]
    assert b"said by the plugin" in alone[1]
    with agent(host):
        assert told() == alone
        # And the next call has its own.
        env["SOMETHING"] = "of another"
        assert told()[0][0][0]["SOMETHING"] == "of another"


def test_whom_it_does_not_serve(
    host: Host, log: Log, tmp_path: Path, make_host: Callable[[list[str]], Host]
) -> None:
    """They do it themselves."""
    container = host.add_container()
    network = host.config()
    copy = tmp_path / "copy"
    shutil.copytree(BUNDLE, copy, symlinks=True)
    elsewhere = make_host(built_plugin())
    there = elsewhere.add_container()
    with agent(host) as running:
        for plugin in (
            [str(copy / "faasm")],
            ["unshare", "--mount", str(PLUGIN)],
        ):
            call(host, log, "ADD", container, network, plugin=plugin).ok()
            assert log.process() not in running.workers()
            call(host, log, "DEL", container, network, plugin=plugin).ok()
            assert log.process() not in running.workers()
        # Another host: its links would be made in the wrong one.
        call(elsewhere, log, "ADD", there, elsewhere.config()).ok()
        assert log.process() not in running.workers()
        assert elsewhere.links() == ["faasm0"]
        assert host.links() == []
        elsewhere.delete_attachment(there, elsewhere.config())


def test_who_is_not_root_cannot_even_connect(host: Host) -> None:
    with agent(host):
        assert stat.S_IMODE(SOCKET.parent.stat().st_mode) == 0o700
        script = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); "
        script += f"sys.exit(s.connect_ex({str(SOCKET)!r}))"
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script],
            user=65534,
            group=65534,
            extra_groups=[],
            check=False,
        )
        assert done.returncode == 13  # EACCES


def test_an_agent_of_somebody_else_is_not_asked(host: Host) -> None:
    """Somebody listens where ours would, and waits for descriptors."""
    SOCKET.parent.mkdir(mode=0o700, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    asked = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(SOCKET))
        os.seteuid(65534)  # whose credentials a socket has from listen() on
        try:
            listener.listen()
        finally:
            os.seteuid(0)

        def serve() -> None:
            caller, _ = listener.accept()
            with caller:
                asked.append(caller.recv(1000))

        thread = threading.Thread(target=serve)
        thread.start()
        container = host.add_container()
        host.add(container, host.config())
        thread.join(timeout=5)
        host.delete_attachment(container, host.config(), timeout=60)
    SOCKET.unlink()
    assert asked == [b""]


@pytest.mark.parametrize("answer", ["", "n", "x", "yy", "y n"])
def test_nonsense_is_no_answer(host: Host, answer: str) -> None:
    SOCKET.parent.mkdir(mode=0o700, exist_ok=True)
    SOCKET.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(SOCKET))
        listener.listen()

        def serve() -> None:
            for _ in range(2):
                caller, _ = listener.accept()
                with caller:
                    for word in answer.split():
                        caller.send(word.encode())
                    caller.recv(1000)

        thread = threading.Thread(target=serve)
        thread.start()
        container = host.add_container()
        result = host.add(container, host.config())
        assert result["interfaces"][1]["sandbox"] == container.path
        host.delete_attachment(container, host.config())
        thread.join(timeout=5)
    SOCKET.unlink()


def test_an_agent_that_hangs_is_not_waited_for(host: Host) -> None:
    container = host.add_container()
    with agent(host) as running:
        stopped = running.stop()
        try:
            host.add(container, host.config())
            begin = time.monotonic()
            host.delete_attachment(container, host.config())
            assert 1 <= time.monotonic() - begin < 30
        finally:
            for pid in stopped:
                send(pid, signal.SIGCONT)
        # What it finds when it wakes up is nothing to do any more.
        host.add(container, host.config())
        assert len(host.records()) == 1
        host.delete_attachment(container, host.config())
    assert host.leases() == {}


def test_a_namespace_by_a_path_of_the_callers_own(host: Host) -> None:
    """To the agent /proc/self is the agent."""
    container = host.add_container()
    network = host.config()
    script = 'exec 9<"$1" && CNI_NETNS=/proc/self/fd/9 exec "$0"'
    plugin = ["sh", "-c", script, str(PLUGIN), container.path]
    with agent(host):
        result = host.add(container, network, plugin=plugin)
        assert container.addresses("eth0") == [result["ips"][0]["address"]]
        host.delete_attachment(container, network)


def test_a_worker_that_is_killed(host: Host) -> None:
    container = host.add_container()
    network = host.config()
    host.add(container, network)
    host.delete_attachment(container, network)
    before = host.snapshot()
    with agent(host) as running:
        with host.lock_held():
            adding = Background(host, "ADD", container, network)
            wait_until(lambda: at_work(host, running), "a worker to wait for the lock")
            for pid in at_work(host, running):
                os.kill(pid, signal.SIGKILL)
            error = adding.end().error(11)
            assert "try again" in error["msg"]
        host.delete_attachment(container, network)
        host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
        host.add(container, network)
        host.delete_attachment(container, network)
        assert running.process.poll() is None
        # Idle ones, too: others come in their place.
        took = []
        for _ in range(3):  # a busy machine withholds its processors for a moment
            for pid in running.workers():
                send(pid, signal.SIGKILL)
            wait_until(running.workers, "another worker")
            begin = time.monotonic()
            host.add(container, network)
            took.append(time.monotonic() - begin)
            host.delete_attachment(container, network)
        assert min(took) < 1


def test_a_caller_that_is_killed(host: Host) -> None:
    """Nobody will ever learn of its attachment, so there must be none."""
    container = host.add_container()
    network = host.config(ipMasq=True)
    host.add(container, network)
    host.delete_attachment(container, network)
    before = host.snapshot()
    with agent(host) as running:
        with host.lock_held():
            plugin = ["timeout", "--signal", "KILL", "0.5", str(PLUGIN)]
            adding = Background(host, "ADD", container, network, plugin=plugin)
            wait_until(lambda: at_work(host, running), "a worker to wait for the lock")
            assert adding.end().status in (-signal.SIGKILL, 128 + signal.SIGKILL)
        wait_until(lambda: not at_work(host, running), "the worker to end the call")
        host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_an_agent_that_is_ended_ends_its_calls(host: Host) -> None:
    container = host.add_container()
    network = host.config()
    with agent(host) as running:
        with host.lock_held():
            adding = Background(host, "ADD", container, network)
            wait_until(lambda: at_work(host, running), "a worker to wait for the lock")
            workers = running.workers()
            assert running.end() == -signal.SIGTERM
        adding.end().ok()
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers), "their end")
    host.delete_attachment(container, network)  # by itself
    assert host.leases() == {}


def test_another_version_is_installed(host: Host, log: Log, tmp_path: Path) -> None:
    container = host.add_container()
    network = host.config()
    old, new = tmp_path / "bundle", tmp_path / "new"
    for path in (old, new):
        shutil.copytree(BUNDLE, path, symlinks=True)
    plugin = [str(old / "faasm")]
    with agent(host, old) as running:
        call(host, log, "ADD", container, network, plugin=plugin).ok()
        assert log.process() in running.workers()
        old.rename(tmp_path / "before")
        new.rename(old)
        # Its own interpreter, and so its own code, does it.
        call(host, log, "DEL", container, network, plugin=plugin).ok()
        assert log.process() not in running.workers()
        assert running.process.wait(timeout=10) == 0
    with agent(host, old) as running:
        call(host, log, "ADD", container, network, plugin=plugin).ok()
        assert log.process() in running.workers()
        call(host, log, "DEL", container, network, plugin=plugin).ok()


def test_there_is_one_agent(host: Host) -> None:
    with agent(host) as running:
        another = host.start([str(PLUGIN), "--agent"])
        output, _ = another.communicate(timeout=10)
        assert another.returncode == 1
        assert b"there is an agent already" in output
        # The lock is its own, not its workers'.
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
    with agent(host) as running:
        assert running.workers()


@pytest.mark.parametrize("fault", ["others may enter", "belongs to user", "cannot open"])
def test_a_folder_that_others_have_is_refused(host: Host, fault: str) -> None:
    shutil.rmtree(SOCKET.parent, ignore_errors=True)
    if fault == "cannot open":
        SOCKET.parent.symlink_to("/run/netns")
    else:
        SOCKET.parent.mkdir()
        SOCKET.parent.chmod(0o755 if fault == "others may enter" else 0o700)
        os.chown(SOCKET.parent, 0 if fault == "others may enter" else 65534, 0)
    try:
        refused = host.start([str(PLUGIN), "--agent"])
        output, _ = refused.communicate(timeout=10)
        assert refused.returncode == 1
        assert fault in output.decode()
    finally:
        if SOCKET.parent.is_symlink():
            SOCKET.parent.unlink()
        else:
            shutil.rmtree(SOCKET.parent)


def test_nothing_grows_in_it(host: Host) -> None:
    """Neither descriptors nor processes; and a worker ends after its share of calls."""
    containers = [host.add_container() for _ in range(8)]
    network = host.config(ipMasq=True, bandwidth={"ingressRate": 8_000_000})

    def live(container: Namespace, cycles: int) -> None:
        for _ in range(cycles):
            host.add(container, network)
            host.delete_attachment(container, network)

    def opened() -> set[tuple[str, ...]]:
        return {tuple(descriptors(pid)) for pid in running.workers()}

    with agent(host) as running:
        live(containers[0], 3)
        wait_until(lambda: len(opened()) == 1 and all(opened()), "all to be idle")
        first = running.workers()
        [quiet] = opened() - {()}
        threads = [threading.Thread(target=live, args=(one, 20)) for one in containers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(running.workers()) > 2
        wait_until(lambda: len(running.workers()) <= 2, "those that are too many to end", 20)
        wait_until(lambda: opened() == {quiet}, f"all to have open {quiet}")
        for pid in running.workers():
            wait_until(lambda pid=pid: children(pid) == [], "what waits for the kernel")
        for _ in range(1600):
            host.cni("VERSION", None, b'{"cniVersion": "1.0.0"}')
        assert not set(first) & set(running.workers())
        watched = [each for each in descriptors(running.process.pid) if "pidfd" in each]
        assert len(watched) == len(running.workers())
        assert host.leases() == {}
        assert json.dumps(host.records()) == "{}"


def test_a_slow_caller_holds_nobody_up(host: Host) -> None:
    """A runtime that keeps stdin open, many times."""
    container = host.add_container()
    network = host.config()
    with agent(host):
        waiting = [
            host.start(
                [str(PLUGIN)],
                stdin=subprocess.PIPE,
                env={"CNI_COMMAND": "VERSION"},
                stderr=subprocess.DEVNULL,
            )
            for _ in range(20)
        ]
        took = []
        for _ in range(3):  # as above
            begin = time.monotonic()
            host.add(container, network)
            took.append(time.monotonic() - begin)
            host.delete_attachment(container, network)
        assert min(took) < 2
        for process in waiting:
            output, _ = process.communicate(b'{"cniVersion": "1.0.0"}', timeout=10)
            assert b"1.1.0" in output
