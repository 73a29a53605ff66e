"""podman 5 with netavark, as Debian 13 has them, with the guest itself as the host.

Run by tests/vm/test_podman.py in a guest.
"""

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attached import add_remote, answers
from tests.host import CommandFailedError, Namespace, wait_until
from tests.rates import Flow, assert_flows, serve
from tests.runtime.runtimes import make_root_filesystem
from tests.vm.jobs.firewalld import Machine

PODMAN = ("podman", "--cgroup-manager", "cgroupfs", "--storage-driver", "vfs")
EVENTS = ("--events-backend", "none")
NETWORKS = Path("/etc/containers/networks")
PLUGIN = Path("/usr/libexec/netavark/faasm")
STATE, LEASES = Path("/var/lib/cni/faasm"), Path("/var/lib/cni/networks")
OUT, IN = 1_000_000, 2_000_000
KILLED_AT = (8, 14)  # which of setup's messages to the kernel


class Podman:
    """podman on the guest, which is root there."""

    def __init__(self, machine: Machine, root_filesystem: Path) -> None:
        self.machine = machine
        self.root_filesystem = root_filesystem

    def __call__(self, *words: str) -> str:
        print("podman", *words, flush=True)
        done = self.machine.run([*PODMAN, *EVENTS, *words], check=False, timeout=300)
        if done.returncode:
            raise CommandFailedError(done.stdout + done.stderr)
        return done.stdout.strip()

    def refused(self, *words: str) -> str:
        """Return what a command says that must fail."""
        with pytest.raises(CommandFailedError) as caught:
            self(*words)
        return str(caught.value)

    def run(self, name: str, *options: str) -> Namespace:
        sleep = ["/bin/busybox", "sleep", "3000"]
        rootfs = ["--rootfs", str(self.root_filesystem)]
        self("run", "--detach", "--name", name, "--cap-add", "NET_RAW", *options, *rootfs, *sleep)
        return self.namespace(name)

    def pid(self, name: str) -> int:
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def namespace(self, name: str) -> Namespace:
        return Namespace(name, path=f"/proc/{self.pid(name)}/ns/net")

    def remove(self, *names: str) -> None:
        self("rm", "--force", "--time", "0", *names)


def install(machine: Machine) -> None:
    """Install the bundle, and what podman asks for before it runs anything."""
    machine.run_ok("/checkout/dist/faasm/cni-faasm", "install")
    assert PLUGIN.is_symlink()
    policy = Path("/etc/containers/policy.json")
    policy.parent.mkdir(exist_ok=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """Return the guest with an uplink and the bundle installed."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    add_remote(made)
    install(made)
    yield made
    for process in made.processes:
        process.kill()
        process.wait()
    for remote in made.remotes:
        remote.delete()


@pytest.fixture(scope="module")
def podman(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Podman:
    folder = tmp_path_factory.mktemp("rootfs")
    make_root_filesystem(folder)
    found = Podman(machine, folder)
    words = "{{.Host.NetworkBackend}} {{.Host.NetworkBackendInfo.Version}}"
    print(found("--version"), found("info", "--format", words), flush=True)
    assert found("--version").startswith("podman version 5.")
    return found


@pytest.fixture(scope="module")
def network(podman: Podman) -> str:
    """Create a network by the words that the documentation has."""
    rates = ["-o", f"egressRate={OUT}", "-o", f"ingressRate={IN // 1_000_000}M"]
    podman("network", "create", "-d", "faasm", *rates, "-o", "maxEgressRate=6M", "fn")
    return "fn"


@pytest.fixture(autouse=True)
def nothing_is_left(podman: Podman) -> Iterator[None]:
    yield
    left = podman("ps", "--all", "--format", "{{.Names}}").split()
    if left:
        podman.remove(*left)
    assert attachments() == []
    wait_until(lambda: ends(podman.machine) == [], "the hosts' ends to go", 60)


def attachments() -> list[str]:
    """Return the records and leases that are there."""
    leases = [path for path in LEASES.glob("*/*") if path.name[0].isdigit() or ":" in path.name]
    return sorted(path.name for path in (*STATE.glob("*/*@*"), *leases))


def ends(machine: Machine) -> list[str]:
    return [name for name in machine.links() if name.startswith("faasm")]


def reaches(podman: Podman, name: str, address: str = "198.51.100.1") -> bool:
    try:
        podman("exec", name, "/bin/busybox", "ping", "-c1", "-W5", address)
    except CommandFailedError:
        return False
    return True


def rates(container: Namespace, ifname: str = "eth0") -> list[int]:
    return [one["rate"] for one in container.classes(ifname)]


def test_a_network(podman: Podman, network: str) -> None:
    [made] = json.loads(podman("network", "inspect", network))
    assert made["subnets"] == [{"subnet": "10.201.0.0/16", "gateway": "10.201.0.1"}]
    assert (made["dns_enabled"], made["driver"]) == (False, "faasm")
    for words, told in (
        (["-o", "egresRate=1M"], "option egresRate: no such option: allowed is egressRate"),
        (["-o", "egressRate=1Q"], 'option egressRate: value "1Q": allowed is 1 kbit/s'),
        (["--subnet", "10.201.7.0/24"], "it overlaps with that of podman's network fn"),
        (["--ipam-driver", "none"], "no subnet: give --subnet"),
    ):
        assert told in podman.refused("network", "create", "-d", "faasm", *words, "bad")
    assert "is of a network of that name" in podman.refused(
        "network", "create", "-d", "faasm", "faasm"
    )
    podman("network", "create", "-d", "faasm", "--dns", "9.9.9.9", "--ipv6", "six")
    [made] = json.loads(podman("network", "inspect", "six"))
    assert [one["subnet"][:3] for one in made["subnets"]] == ["10.", "fd" + made["id"][0]]
    assert (made["ipv6_enabled"], made["options"]) == (True, {"nameservers": "9.9.9.9"})
    inside = podman.run("both", "--network", "six")
    assert reaches(podman, "both", "2001:db8:100::1")
    assert "nameserver 9.9.9.9" in podman("exec", "both", "/bin/busybox", "cat", "/etc/resolv.conf")
    assert len(inside.addresses("eth0")) == 2
    podman.remove("both")
    podman("network", "rm", "six")


def test_limits_both_ways(podman: Podman, network: str) -> None:
    machine = podman.machine
    inside = podman.run("web", "--network", network)
    [found] = json.loads(podman("inspect", "web"))
    told = found["NetworkSettings"]["Networks"][network]
    assert inside.addresses("eth0") == [f"{told['IPAddress']}/32"]
    assert told["Gateway"] == "10.201.0.1"
    link = inside.link("eth0")
    assert link is not None
    assert link["address"] == told["MacAddress"]
    serve(machine, machine.remotes[0])
    for download, limit in ((False, OUT), (True, IN)):
        flow = Flow(inside, "198.51.100.1", download=download)
        # Where a processor is emulated, iperf3 begins to count late, with what waited until then.
        assert_flows([flow], limit, seconds=8, low=0.85, high=1.1)
    # By podman's name, with all of the tool.
    [row] = json.loads(machine.run_ok("cni-faasm", "status", "web", "--json").stdout)["attachments"]
    assert (row["name"], row["network"]) == ("web", network)
    machine.run_ok("cni-faasm", "set-rate", "web", "--egress", "3M")
    assert rates(inside) == [3_000_000]
    inside.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    machine.run_ok("cni-faasm", "check", "web", status=1)
    machine.run_ok("cni-faasm", "repair")
    machine.run_ok("cni-faasm", "set-rate", "web", "--reset")
    assert rates(inside) == [OUT]
    machine.run_ok("cni-faasm", "check")


def test_restart_and_reload(podman: Podman, network: str) -> None:
    podman.run("again", "--network", network, "--ip", "10.201.7.7")
    assert reaches(podman, "again")
    podman("restart", "--time", "0", "again")
    assert rates(podman.namespace("again")) == [OUT]
    assert reaches(podman, "again")
    podman.machine.run(["nft", "flush", "ruleset"])
    assert not reaches(podman, "again")
    podman("network", "reload", "again")
    assert reaches(podman, "again")
    assert podman.namespace("again").addresses("eth0") == ["10.201.7.7/32"]
    assert len(attachments()) == 2  # a record, a lease
    podman("stop", "--time", "0", "again")
    assert attachments() == []
    podman("start", "again")
    assert reaches(podman, "again")


def test_two_networks_and_what_a_container_asks_for(podman: Podman, network: str) -> None:
    podman("network", "create", "-d", "faasm", "--subnet", "10.60.0.0/24", "second")
    fixed = "ip=10.60.0.9,mac=02:00:00:00:00:09,interface_name=net9,egressRate=1M"
    inside = podman.run(
        "two", "--network", f"{network}:egressRate=50M", "--network", f"second:{fixed}"
    )
    assert inside.addresses("net9") == ["10.60.0.9/32"]
    link = inside.link("net9")
    assert link is not None
    assert link["address"] == "02:00:00:00:00:09"
    assert rates(inside, "net9") == [1_000_000]
    assert rates(inside) == [6_000_000]  # the network's cap
    assert reaches(podman, "two")
    podman("network", "disconnect", "second", "two")
    assert len(attachments()) == 2
    assert reaches(podman, "two")
    podman("network", "connect", "second", "two")
    assert len(attachments()) == 4
    command = ["--rootfs", str(podman.root_filesystem), "/bin/sh"]
    told = podman.refused("run", "--network", f"{network}:egresRate=1M", *command)
    assert "the container's option egresRate: no such option: allowed is egressRate" in told
    podman.remove("two")
    podman("network", "rm", "second")


def test_published_ports(podman: Podman, network: str) -> None:
    remote = podman.machine.remotes[0]
    publish = [
        "--publish",
        "8080:80",
        "--publish",
        "127.0.0.1:8081:80",
        "--publish",
        "7000-7002:80-82",
    ]
    for options in ([*publish, "--network", network], [*publish, "--network", network]):
        inside = podman.run("ports", *options)
        assert answers(inside, remote, "", port=80, to=("198.51.100.2", 8080))
        assert answers(inside, remote, "", port=82, to=("198.51.100.2", 7002))
        assert not answers(inside, remote, "", port=80, to=("198.51.100.2", 8081))
        assert answers(inside, podman.machine, "", port=80, to=("127.0.0.1", 8081))
        podman.remove("ports")
    podman.run("ports", *publish, "--network", network)
    podman("network", "reload", "ports")  # while conmon keeps the ports
    inside = podman.namespace("ports")
    assert answers(inside, remote, "", port=80, to=("198.51.100.2", 8080))
    podman.machine.run_ok("cni-faasm", "check")
    podman("restart", "--time", "0", "ports")
    inside = podman.namespace("ports")
    assert answers(inside, remote, "", port=80, to=("198.51.100.2", 8080))


def test_what_podman_forgets(podman: Podman, network: str) -> None:
    """Containers die, and all that podman keeps in /run is gone, as after a reboot."""
    podman.run("lost", "--network", network, "--ip", "10.201.0.77")
    [found] = json.loads(podman("inspect", "lost"))
    os.kill(int(Path(found["ConmonPidFile"]).read_text()), signal.SIGKILL)
    os.kill(found["State"]["Pid"], signal.SIGKILL)
    path = found["NetworkSettings"]["SandboxKey"]
    podman.machine.run(["umount", path])
    Path(path).unlink()
    for folder in ("/run/libpod", "/run/containers", "/run/crun"):
        shutil.rmtree(folder, ignore_errors=True)
    wait_until(lambda: ends(podman.machine) == [], "the pair to go", 60)
    assert len(attachments()) == 2
    podman("start", "lost")
    assert podman.namespace("lost").addresses("eth0") == ["10.201.0.77/32"]
    assert reaches(podman, "lost")
    assert len(attachments()) == 2


def test_a_setup_that_is_killed(podman: Podman, network: str) -> None:
    """Podman knows of nothing then; gc finds what is left."""
    real = PLUGIN.readlink()
    PLUGIN.unlink()
    killed = f"strace -f -qq -o /dev/null -e inject=sendto,sendmsg:signal=KILL:when=WHEN {PLUGIN.parent}/"
    try:
        for when in KILLED_AT:
            script = f'#!/bin/sh\nexec {killed.replace("WHEN", str(when))}{real} "$@"\n'
            PLUGIN.write_text(script)
            PLUGIN.chmod(0o755)
            told = podman.refused(
                *("run", "--name", f"killed{when}", "--network", network),
                *("--rootfs", str(podman.root_filesystem), "/bin/sh"),
            )
            assert "faasm" in told
            PLUGIN.unlink()
    finally:
        PLUGIN.unlink(missing_ok=True)
        PLUGIN.symlink_to(real)
    podman.remove(*(f"killed{when}" for when in KILLED_AT))
    podman.machine.run_ok("cni-faasm", "gc")
    assert attachments() == []


def test_rootless(podman: Podman) -> None:
    podman.machine.run_ok("useradd", "--create-home", "somebody")
    for name in ("subuid", "subgid"):
        Path("/etc", name).write_text("")  # else a program is needed that the guest has not
    script = "XDG_RUNTIME_DIR=/tmp/run-somebody"
    script += f" {' '.join((*PODMAN, *EVENTS))} network create -d faasm mine"
    shutil.rmtree("/tmp/run-somebody", ignore_errors=True)
    done = subprocess.run(
        ["su", "somebody", "-c", f"mkdir -m 0700 /tmp/run-somebody; {script}"],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    told: Any = done.stdout + done.stderr
    assert done.returncode != 0, told
    assert "rootless podman: faasm makes its links on the host" in told
