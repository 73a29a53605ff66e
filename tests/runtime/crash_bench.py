"""Stop calls where a test wants it, and compare what the machine holds with what it held.

A Bench is one host with one network and two containers. The network is one of VARIANTS, which
between them make all that the plugin can make.
"""

import errno
import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.host import (
    DUAL_STACK,
    REFERENCE_PLUGINS,
    CniCall,
    Host,
    Namespace,
    compare,
    reference_plugin,
    wait_until,
)

ERRORS = ("ENOSPC", "EIO", "ENOMEM", "EMFILE", "EPERM", "EBUSY", "EEXIST", "ENETDOWN")
# Calls that strace cannot let fail, or that never do: the kernel's brk answers with an address,
# and any other number is one to the C library.
NEVER = {"exit_group", "execve", "rt_sigreturn", "exit", "restart_syscall", "brk"}
# So many findings are enough to go on with.
ENOUGH = 20

Point = tuple[str, int]  # name of a call, and which one of that name

LIMITS = {"ingressRate": 8_000_000, "egressRate": 4_000_000}
ON_HOST = {
    **LIMITS,
    "enforceEgress": "host",
    "unshapedSubnets": ["198.51.100.0/24", "2001:db8:100::/64"],
}
PORTS: list[dict[str, Any]] = [
    {"hostPort": 8080, "containerPort": 80},
    {"hostPort": 5353, "containerPort": 53, "protocol": "udp", "hostIP": "198.51.100.2"},
]


def masquerading(host: Host) -> dict[str, Any]:
    return host.config(ipMasq=True, bandwidth=LIMITS)


def everything(host: Host) -> dict[str, Any]:
    return host.config(
        ipMasq=True,
        isolated=True,
        allowHost=["udp/53", "icmp", "icmpv6"],
        bandwidth=ON_HOST,
        ipam=DUAL_STACK,
        runtimeConfig={"portMappings": PORTS},
    )


def chained(host: Host) -> dict[str, Any]:
    # The leases are the earlier plugin's, in the same folder.
    folder = str(host.data_dir)
    return host.config(cniVersion="1.0.0", ipam=None, bandwidth=ON_HOST, dataDir=folder)


def delegated(host: Host) -> dict[str, Any]:
    return host.config(ipMasq=True, bandwidth=LIMITS, ipam={"delegate": True})


VARIANTS: dict[str, Callable[[Host], dict[str, Any]]] = {
    one.__name__: one for one in (masquerading, everything, chained, delegated)
}


def _newer_host_local(directory: Path) -> Path:
    """Put the reference's host-local where it answers to 1.1.0, as its newer releases do."""
    folder = directory / "plugins"
    folder.mkdir()
    path = folder / "host-local"
    real = REFERENCE_PLUGINS / "host-local"
    path.write_text(
        f"""#!/bin/sh
[ "$CNI_COMMAND" != GC ] || exit 0
exec {real} <<END
$(sed 's/"cniVersion": *"1.1.0"/"cniVersion": "1.0.0"/')
END
""",
        encoding="utf-8",
    )
    path.chmod(0o755)
    return folder


class Bench:
    """Two containers on one host, whose state is compared quickly and often."""

    def __init__(self, host: Host, directory: Path, variant: str) -> None:
        self.host = host
        self.variant = variant
        self.container = host.add_container()
        self.other = host.add_container()
        self.log = directory / "strace"
        self.config = self.configuration()
        # strace would count, and disturb, the calls of another IPAM plugin too.
        self.follow = [] if variant == "delegated" else ["-f"]
        self.earlier: dict[str, dict[str, Any]] = {}
        self.findings: list[str] = []
        self.tried = 0
        self.environment: dict[str, str] = {}
        if variant == "delegated":
            self.environment["CNI_PATH"] = str(_newer_host_local(directory))
        if variant == "chained":
            for one in (self.container, self.other):
                self._make_pair(one)
        # What stays by design is there before.
        for one in (self.container, self.other):
            self.add(one)
            self.delete(one)
        self.before = self.state()

    def configuration(self) -> dict[str, Any]:
        """Return what the network is."""
        return VARIANTS[self.variant](self.host)

    def _make_pair(self, container: Namespace) -> None:
        """Have the reference's ptp make the pair; it stays, and the lease is its own."""
        first = {**self.host.config(cniVersion="1.0.0"), "type": "ptp"}
        result = self.host.add(container, first, plugin=reference_plugin("ptp"))
        self.earlier[container.name] = {"prevResult": result}
        for one in (self.host, container):
            wait_until(lambda one=one: not one.json("ip", "-j", "addr", "show", "tentative"), "DAD")

    def document(self, container: Namespace) -> dict[str, Any]:
        """Return the configuration as the runtime gives it for a container."""
        document = {**self.config, **self.earlier.get(container.name, {})}
        if "runtimeConfig" in document and container is self.other:  # has ports of its own
            ports = [{**one, "hostPort": one["hostPort"] + 1} for one in PORTS]
            document["runtimeConfig"] = {"portMappings": ports}
        return document

    def call(self, verb: str, container: Namespace | None, *tracer: str, **keys: Any) -> CniCall:
        """Call the plugin, or a command that calls it; keys: of the configuration."""
        document = self.config if container is None else self.document(container)
        return self.host.cni(
            verb,
            container,
            {**document, **keys},
            plugin=[*tracer, *self.host.plugin],
            env=self.environment,
            timeout=60,
        )

    def add(self, container: Namespace) -> None:
        self.call("ADD", container).ok()

    def delete(self, container: Namespace | None = None) -> None:
        self.call("DEL", container or self.container).ok()

    def gc(self, *valid: Namespace) -> None:
        attachments = [{"containerID": one.name, "ifname": "eth0"} for one in valid]
        asked = {"cniVersion": "1.1.0", "cni.dev/valid-attachments": attachments}
        self.call("GC", None, **asked).ok()

    def renew(self) -> None:
        """Make anew what stays after the last DEL, and a GC takes away."""
        self.add(self.other)
        self.delete(self.other)

    def recover(self, number: int) -> None:
        """Do what may come next, in turn."""
        if number % 3 == 0:
            self.delete()
        elif number % 3 == 1:
            self.gc()
            self.renew()
        else:
            self.add(self.other)
            self.gc(self.other)
            found = sorted(self.host.records())
            assert found == [f"{self.config['name']}/{self.other.name}@eth0"], found
            assert self.other.links() == ["eth0"], "a GC took what it was to keep"
            self.delete(self.other)

    # -- before and after ----------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return all that is configured anywhere, but for the cursors and what was learnt.

        Nor does it tell of the sets' elements: they are of interfaces' indexes, which no later
        one gets, and wait for a sweep (guard.py).
        """
        found = self.host.snapshot()
        # A seal is of the rules' handles, too, and those that were made anew have others.
        found["nft"] = json.loads(re.sub(r"seal_[0-9a-f]{8}", "seal", json.dumps(found["nft"])))
        found["torn"] = [
            str(path)
            for folder in (self.host.data_dir, self.host.state_dir)
            for path in folder.rglob(".*")
        ]
        return found

    def assert_clean(self) -> None:
        """Compare with the beginning; a deleted link is unlisted a moment before it is gone."""
        for _ in range(40):
            after = self.state()
            if after == self.before:
                return
        lines = compare("", self.before, after)
        raise AssertionError("\n".join(lines))

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        """Note what does not hold, put it right and go on: `report` tells of it."""
        self.tried += 1
        try:
            yield
            self.assert_clean()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            self.findings.append(f"{what}: {error}")
            if len(self.findings) == ENOUGH:
                self.report()
            try:
                self.delete()
                self.gc()
                self.renew()
            except AssertionError as worse:
                self.findings.append(f"and it stays so: {worse}")
                self.report()
            self.before = self.state()

    def report(self) -> None:
        """Fail with all that was found; pytest's -rP shows how much was tried."""
        print(f"{self.variant}: {self.tried} calls stopped, {len(self.findings)} left something")
        if self.findings:
            raise AssertionError("\n\n".join(self.findings))

    # -- calls that are stopped ----------------------------------------------------------

    def traced(self, verb: str, *options: str) -> CniCall:
        """Call under strace."""
        tracer = ["strace", *self.follow, "-qq", "-o", str(self.log), *options]
        return self.call(verb, self.container, *tracer)

    def points(self, verb: str, *, from_input: bool) -> list[Point]:
        """Return every call that the process makes, after what it has read from stdin or all.

        Those of an ADD that finds the kernel done: how often one asks again is chance.
        """
        while True:
            self.traced(verb).ok()
            found = read_points(self.log, "read(0" if from_input else "")
            if verb != "ADD" or ("clock_nanosleep", 1) not in found:
                return found
            self.delete()


def read_points(log: Path, after: str) -> list[Point]:
    """Return every call of the first process in strace's output, from the one after `after` on.

    after: how a call begins; "": from the first on.
    """
    counts: Counter[str] = Counter()
    found: list[Point] = []
    first_pid = None
    begun = not after
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d*)\s*((\w+)\(.*)", line)
        if match is None:
            continue
        pid, text, name = match.groups()
        first_pid = pid if first_pid is None else first_pid
        if pid != first_pid:
            continue
        counts[name] += 1
        if begun and name not in NEVER:
            found.append((name, counts[name]))
        begun = begun or text.startswith(after)
    return found


class Forks:
    """DEL's children, whose calls are stopped by tests/runtime/fork_fault.c."""

    def __init__(self, bench: Bench, directory: Path) -> None:
        self.bench = bench
        self.tracer = directory / "fork_fault"
        source = Path(__file__).with_name("fork_fault.c")
        subprocess.run(["gcc", "-O1", "-Wall", "-o", self.tracer, source], check=True)

    def delete(self, which: int, nth: int, what: str) -> CniCall:
        """Call DEL; what: "kill" or the name of an error, for the nth call of a child."""
        number = 0 if what == "kill" else getattr(errno, what)
        tracer = [self.tracer, self.bench.log, which, nth, number]
        return self.bench.call("DEL", self.bench.container, *map(str, tracer))

    def calls(self, which: int) -> int:
        """Return how many calls a child makes: 0 when there is no such child."""
        self.delete(which, 0, "kill").ok()
        return len(self.bench.log.read_text(encoding="ascii").split())


def killed(call: CniCall) -> bool:
    """Say whether a call was ended by SIGKILL, as strace or a shell tells it."""
    return call.status in (-signal.SIGKILL, 128 + signal.SIGKILL)
