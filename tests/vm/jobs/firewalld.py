"""firewalld under systemd, with the guest itself as the host: its interfaces, the installed bundle.

tests/vm/run.sh trixie -k firewalld

What it does to containers is tested by tests/kernel/test_firewalld.py; here is what a machine adds:
its start and reload by systemctl, polkit, the kernel's own modules, and the tool as installed.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attached import REMOTE, add_remote, answers
from tests.host import DUAL_STACK, Host, Namespace, wait_until

CONFLIST = Path("/etc/cni/net.d/10-faasm.conflist")
HOST = {4: "198.51.100.2", 6: "2001:db8:100::2"}
RANGES = ("10.200.0.0/16", "fd00:200::/64")
NOTHING: set[str] = set()
EVERYTHING = {f"{what} {version}" for what in ("world", "container", "host") for version in (4, 6)}


class Machine(Host):
    """The guest's own namespace, where daemons see what is done."""

    def __init__(self, directory: Path) -> None:
        Namespace.__init__(self, "machine", path="/proc/1/ns/net")
        self.number = 0
        self.directory = directory
        self.containers, self.remotes, self.processes = [], [], []
        self.addresses_of: dict[str, dict[int, str]] = {}
        self._uplinks = 0

    def run_ok(self, *command: str, status: int = 0) -> "subprocess.CompletedProcess[str]":
        """Run a command, which must end with a status; say so, for all this takes its time."""
        print(" ".join(command), flush=True)
        done = self.run(command, check=False, timeout=300)
        assert done.returncode == status, (
            f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done

    def systemctl(self, verb: str) -> None:
        self.run_ok("systemctl", verb, "firewalld")
        if verb != "stop":
            wait_until(
                lambda: self.run(["firewall-cmd", "--state"], check=False).returncode == 0,
                "firewalld",
                120,
            )


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """The guest with an uplink and the bundle installed, and two containers in a pool."""
    made = Machine(tmp_path_factory.mktemp("machine"))
    made.run_ok("systemctl", "stop", "firewalld")
    add_remote(made)
    made.run_ok("/checkout/dist/faasm/cni-faasm", "install")
    listed = json.loads(CONFLIST.read_text())
    ranges = {key: DUAL_STACK[key] for key in ("ranges", "routes")}
    listed["plugins"][0]["ipam"] |= ranges
    CONFLIST.write_text(json.dumps(listed, indent=2))
    made.run_ok("cni-faasm", "pool", "up", "2")
    for each in json.loads(made.run_ok("cni-faasm", "pool", "list", "--json").stdout)["members"]:
        name = each["namespace"]
        made.containers.append(Namespace(name, path=f"/run/netns/{name}"))
        made.addresses_of[name] = dict(zip((4, 6), each["addresses"], strict=True))
    yield made
    made.run_ok("cni-faasm", "pool", "down")
    made.run_ok("systemctl", "stop", "firewalld")
    for remote in made.remotes:
        remote.delete()


def reached(machine: Machine) -> set[str]:
    """Return what the first container reaches by TCP."""
    one, other = machine.containers
    ways: dict[str, tuple[Namespace, str]] = {}
    for version in (4, 6):
        ways[f"world {version}"] = machine.remotes[0], REMOTE[version]
        ways[f"container {version}"] = other, machine.addresses_of[other.name][version]
        ways[f"host {version}"] = machine, HOST[version]
    return {what for what, (server, address) in ways.items() if answers(server, one, address)}


def status(machine: Machine) -> dict[str, Any]:
    """Call STATUS as containerd does; return its error, {} when all is well."""
    listed = json.loads(CONFLIST.read_text())
    document = {**listed["plugins"][0], "name": listed["name"], "cniVersion": "1.1.0"}
    done = subprocess.run(
        ["/opt/cni/bin/faasm"],
        input=json.dumps(document).encode(),
        capture_output=True,
        check=False,
        env={"CNI_COMMAND": "STATUS", "CNI_PATH": "/opt/cni/bin", "PATH": os.environ["PATH"]},
    )
    assert (done.returncode != 0) == bool(done.stdout), done
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return found


def test_start_reload_restart(machine: Machine) -> None:
    assert reached(machine) == EVERYTHING
    assert status(machine) == {}
    machine.systemctl("start")
    assert reached(machine) == NOTHING
    told = status(machine)
    assert (told["code"], "firewalld (nft chain inet firewalld" in told["msg"]) == (51, True)
    remedy = "cni-faasm firewall-trust --network faasm"
    assert remedy in told["details"]
    assert remedy in machine.run_ok("cni-faasm", "validate", str(CONFLIST)).stdout
    assert remedy in machine.run_ok("/checkout/dist/faasm/cni-faasm", "install").stderr

    done = machine.run_ok("cni-faasm", "firewall-trust", "--network", "faasm")
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(RANGES)
    assert reached(machine) == EVERYTHING
    for change in ("--reload", "reload", "restart", "--complete-reload"):
        if change.startswith("--"):
            # It gives up after D-Bus's 25 s, which an emulated processor may need.
            wait_until(
                lambda change=change: (
                    machine.run(["firewall-cmd", change], check=False, timeout=300).returncode == 0
                ),
                f"firewall-cmd {change}",
                300,
            )
        else:
            machine.systemctl(change)
        assert reached(machine) == EVERYTHING, change
        assert status(machine) == {}, change
    machine.run_ok("cni-faasm", "check")
    for each in RANGES:
        machine.run_ok("firewall-cmd", "--permanent", "--zone=trusted", f"--query-source={each}")

    machine.run_ok("cni-faasm", "firewall-trust", "--remove")
    assert reached(machine) == NOTHING
    machine.systemctl("restart")
    assert reached(machine) == NOTHING
    assert status(machine)["code"] == 51
    machine.systemctl("stop")
    assert reached(machine) == EVERYTHING
    machine.run_ok("cni-faasm", "check")
