"""Do the network check step by step: find, read the rules, find servers, measure, judge."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from types import FrameType

from cni_faasm.cli import output
from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.network_check import targets as look
from cni_faasm.cli.network_check.measure import (
    BUSY,
    FIRST_PORT,
    OMIT_S,
    REFUSED,
    Iperf3,
    Job,
    old_iperf_listens,
)
from cni_faasm.cli.network_check.model import (
    DIRECTIONS,
    HOST,
    Finding,
    Flow,
    Limit,
    Row,
    judge,
    shared_line,
)
from cni_faasm.cli.network_check.names import nameserver_findings, resolve
from cni_faasm.link import forwarding
from cni_faasm.rules import nat
from cni_faasm.spec.errors import CniError


class InterruptedBySignalError(Exception):
    """A signal asked the check to end. Its first argument is the signal's number."""


class Interruption:
    """Note SIGINT, SIGTERM and SIGHUP; they take effect where `check` is called.

    So no process that was just started can escape its clean-up. A second signal acts at
    once, in case something hangs.
    """

    def __init__(self) -> None:
        self.signal = 0

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number

    def check(self) -> None:
        """Raise InterruptedBySignalError when a signal has come."""
        if self.signal:
            raise InterruptedBySignalError(self.signal)

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Note signals during a block."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = [signal.signal(number, self._note) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)


class Check:
    """One run of the check, and what it found.

    phase: called as each measurement begins, with its title and length in seconds.
    tick: called about ten times a second while waiting.
    """

    def __init__(self, server: str, *, seconds: int, first_port: int = FIRST_PORT) -> None:
        self.server = server
        self.seconds = seconds
        self.first_port = first_port
        self.started = time.time()
        self.phase: Callable[[str, float], None] = lambda _title, _seconds: None
        self.tick: Callable[[], None] = lambda: None
        self.address = resolve(server)
        self.iperf3 = Iperf3(self.address, self._tick)
        self.targets: list[look.Target] = []
        self.ports: list[int] = []
        self.findings: list[Finding] = []
        self.rows: list[Row] = []
        self.flows: list[Flow] = []

    def _tick(self) -> None:
        self.tick()

    def close(self) -> None:
        """Close the namespaces."""
        look.close_all(self.targets)
        self.targets = []

    # -- before anything is measured -----------------------------------------------------

    def find(self, names: list[str], state_dirs: list[str]) -> None:
        """Open the namespaces and read their rules. Raises: ToolError."""
        self.targets = look.open_all(names, state_dirs)
        self.findings += look.read_rules(self.targets)
        self.findings += nameserver_findings(names)

    def find_servers(self) -> None:
        """Find the ports that answer, and whether every namespace reaches them.

        Raises: ToolError saying all that is missing and how to get it.
        """
        if not look.route_to(None, self.address):
            raise ToolError(
                f"this host has no route to {self.server}",
                "look at `ip route`: a default route is missing, or the address is wrong",
            )
        wanted = range(self.first_port, self.first_port + len(self.targets))
        answers = dict(zip(wanted, self._answers(wanted, [None] * len(wanted)), strict=True))
        self.ports = [port for port, error in answers.items() if not error]
        if not self.ports:
            raise self._no_server(answers)
        # A host's failing forwarding or a firewall is better found now than as a measured 0.
        errors: list[str] = []
        for batch in self.batches():
            fds: list[int | None] = [target.fd for target in batch]
            errors += self._answers(self.ports[: len(batch)], fds)
        missing = [
            self._unreachable(target, error)
            for target, error in zip(self.targets, errors, strict=True)
            if error
        ]
        if missing:
            remedies = dict.fromkeys(one.remedy for one in missing)
            raise ToolError("\n".join(one.text for one in missing), "\n".join(remedies))

    def _answers(self, ports: "list[int] | range", fds: "list[int | None]") -> list[str]:
        """Ask ports; those that are busy once more, for it may be with our last question."""
        self.tick()
        errors = self.iperf3.answering(ports, fds)
        again = [n for n, error in enumerate(errors) if BUSY in error]
        if again:
            time.sleep(0.5)
            second = self.iperf3.answering([ports[n] for n in again], [fds[n] for n in again])
            for n, error in zip(again, second, strict=True):
                errors[n] = error
        return errors

    def batches(self) -> list[list[look.Target]]:
        """Return the targets in groups that can be measured at the same time."""
        size = len(self.ports)
        return [self.targets[i : i + size] for i in range(0, len(self.targets), size)]

    def mode(self) -> str:
        """Say which ports answer and what that means."""
        first, last = self.first_port, self.first_port + len(self.targets) - 1
        found, wanted = len(self.ports), len(self.targets)
        if found == wanted:
            which = f"port {first}" if wanted == 1 else f"ports {first} to {last}"
            together = "" if wanted == 1 else ": all namespaces are measured at once"
            return f"{self.server} answers on {which}{together}"
        if found == 1:
            how = "one after the other"
            which = f"only one iperf3 server answers (port {self.ports[0]})"
        else:
            how = f"in groups of {found}"
            which = f"only {found} iperf3 servers answer (ports {', '.join(map(str, self.ports))})"
        return (
            f"{which}, and each serves one test at a time: the namespaces are measured {how}. "
            f"To measure all at once, run `cni-faasm iperf-servers {wanted}` on {self.server}"
        )

    def _no_server(self, answers: dict[int, str]) -> ToolError:
        first, last = min(answers), max(answers)
        ports = f"port {first}" if first == last else f"ports {first} to {last}"
        start = (
            f"on {self.server}, install iperf3 (not iperf) and run "
            f"`cni-faasm iperf-servers {len(answers)}`, or by hand `iperf3 -s -p {first}`"
        )
        errors = list(answers.values())
        if all(REFUSED in error for error in errors):
            other = ""
            if old_iperf_listens(self.address):
                other = "; iperf (version 2) seems to run there on port 5001: it is another program"
            return ToolError(f"no iperf3 server answers on {self.server}, {ports}{other}", start)
        if any(BUSY in error for error in errors):
            return ToolError(
                f"the iperf3 server on {self.server} serves somebody else's test",
                "each server serves one test at a time: wait, or give other ports by --port",
            )
        said = next(error for error in errors if REFUSED not in error)
        said = said.removeprefix("unable to connect to server: ")
        if "unreachable" in said or "timed out" in said or "No route" in said:
            return ToolError(
                f"{self.server} cannot be reached on {ports}: {said}",
                f"is the address right, the machine up, TCP {first}-{last} open in its firewall?\n"
                f"Then, {start}",
            )
        return ToolError(f"{self.server} does not answer as an iperf3 server: {said}", start)

    def _unreachable(self, target: look.Target, error: str) -> Finding:
        """Find out why a namespace does not reach a server that the host reaches."""
        error = error.removeprefix("unable to connect to server: ")
        text = f"{target.name} does not reach {self.server} ({error})"
        length = len(self.address)
        family = "IPv4" if length == 4 else "IPv6"
        mend = f"put it back with `cni-faasm repair {target.plan.container_id}`"
        if not any(len(item.address) == length for item in target.plan.addresses):
            return Finding(
                f"{text}: it has no {family} address",
                f"give the server's other address, or the network an {family} range in ipam",
            )
        if not look.route_to(target.fd, self.address):
            return Finding(
                f"{text}: it has no route there",
                f"ipam.routes of the network needs 0.0.0.0/0; if it has it, {mend}",
            )
        if not forwarding.is_on(length):
            key = "net.ipv4.ip_forward" if length == 4 else "net.ipv6.conf.all.forwarding"
            return Finding(
                f"{text}: the host does not forward {family}",
                f"switch it on with `sysctl -w {key}=1`, and in /etc/sysctl.d for good",
            )
        if not target.plan.ip_masq:
            return Finding(
                f"{text}: its network does not masquerade (ipMasq is false)",
                f"{self.server} needs a route back to {look.addresses_text(target)} by this host",
            )
        with contextlib.suppress(CniError, OSError):
            for what, expected, found in nat.drifts(target.plan):
                return Finding(f"{text}: {what}: expected {expected}, found {found}", mend)
        return Finding(
            text,
            "look for a firewall that drops forwarded packets: `nft list ruleset`, "
            "`iptables -S FORWARD`; `cni-faasm check` finds other faults",
        )

    # -- measuring -----------------------------------------------------------------------

    def measurements(self) -> int:
        """Return how many phases of equal length there will be."""
        return len(DIRECTIONS) * (1 + len(self.batches()))

    def phase_seconds(self) -> float:
        """Return how long each phase takes."""
        return self.seconds + OMIT_S

    def measure(self) -> None:
        """Measure the host, then the namespaces, and judge."""
        host: dict[str, Flow] = {}
        for direction in DIRECTIONS:
            job = Job(HOST, None, self.ports[0], direction)
            (host[direction],) = self._phase(f"{HOST}, {direction}", [job])
            self.rows.append(judge(host[direction], None, None))
        found: list[Flow] = []
        for direction in DIRECTIONS:
            for batch in self.batches():
                who = "all namespaces at once" if batch == self.targets else _names(batch)
                jobs = [
                    Job(
                        target.name,
                        target.fd,
                        port,
                        direction,
                        self._limit(target, direction).allowed_bps(),
                        target.limiter(direction),
                    )
                    for target, port in zip(batch, self.ports, strict=False)
                ]
                found += self._phase(f"{who}, {direction}", jobs)
        targets = {target.name: target for target in self.targets}
        self.rows += [
            judge(flow, self._limit(targets[flow.where], flow.direction), host[flow.direction])
            for flow in found
        ]
        for direction in DIRECTIONS:
            text = shared_line(self.rows, direction, len(self.ports))
            if text:
                self.findings.append(Finding(text, "measure fewer namespaces at a time"))

    def _limit(self, target: look.Target, direction: str) -> Limit:
        return target.limit(direction, len(self.address))

    def _phase(self, title: str, jobs: list[Job]) -> list[Flow]:
        self.tick()
        self.phase(title, self.phase_seconds())
        flows = self.iperf3.measure(jobs, self.seconds)
        self.flows += flows
        return flows

    # -- the outcome ---------------------------------------------------------------------

    def problems(self) -> list[str]:
        """Return why the check failed; nothing when it did not."""
        rules = [
            f"{target.name}: {difference}"
            for target in self.targets
            for end in target.ends
            for difference in end.differences
        ]
        rows = [f"{row.where} {row.direction}: {row.note}" for row in self.rows if row.broken]
        return rules + rows

    def document(self) -> dict[str, object]:
        """Return everything as JSON types."""
        return {
            "server": self.server,
            "seconds": self.seconds,
            "ports": self.ports,
            "atOnce": len(self.ports) >= len(self.targets),
            "mode": self.mode(),
            "ok": not self.problems(),
            "problems": self.problems(),
            "findings": [output.error(one.text, one.remedy) for one in self.findings],
            "rules": {
                "statement": look.rules_statement(self.targets),
                "ends": [
                    {
                        "namespace": target.name,
                        "interface": end.device,
                        "direction": end.direction,
                        "qdisc": end.qdisc,
                        "class": end.shape,
                        "leaf": end.leaf,
                        "differences": end.differences,
                    }
                    for target in self.targets
                    for end in target.ends
                ],
            },
            "rows": [row.document() for row in self.rows],
            "flows": [
                {
                    "namespace": flow.where,
                    "direction": flow.direction,
                    "loadedRttMaxMs": flow.rtt_max_ms,
                    "pingsLost": flow.pings_lost,
                    "wireBitsPerSecond": flow.wire_bps,
                    "mssBytes": flow.mss,
                    "samples": [{"second": at, "bitsPerSecond": bps} for at, bps in flow.samples],
                }
                for flow in self.flows
            ],
        }


def _names(batch: list[look.Target]) -> str:
    return ", ".join(target.name for target in batch)
