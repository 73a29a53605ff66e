"""Attach three containers with the built plugin, measure, break, check, detach.

Run by bin/demo.sh in a private host. Every promise is checked as it is shown; the exit
status is 1 when one was not kept.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.host import REPO, Host, Namespace, built_plugin, require_private_host
from tests.rates import FIRST_PORT, PAYLOAD_SHARE, Flow, measure, serve

REMOTE = "198.51.100.1"
# What iperf3 may differ from the limit: the bucket, and a busy machine.
TOLERANCE = 0.05
# Container 1 has the limits of the configuration file. For 2 and 3 the runtime asks for
# others, as Kubernetes does for a pod with bandwidth annotations: to it, from it, in bit/s.
ASKED: dict[int, tuple[int, int] | None] = {
    1: None,
    2: (10_000_000, 5_000_000),
    3: (100_000_000, 50_000_000),
}

BOLD, RED, GREEN, PLAIN = ("\033[1m", "\033[31m", "\033[32m", "\033[0m")
if not sys.stdout.isatty() or "NO_COLOR" in os.environ:
    BOLD = RED = GREEN = PLAIN = ""


class Demo:
    """Hold what is shown, and whether all of it was as promised."""

    def __init__(self, host: Host, seconds: int) -> None:
        self.host = host
        self.seconds = seconds
        self.broken: list[str] = []
        self.step = 0
        self.remote: Namespace
        self.containers: dict[int, Namespace] = {}
        self.results: dict[int, dict[str, Any]] = {}
        self.unshaped: dict[tuple[int, bool], float] = {}
        shipped = json.loads((REPO / "conf" / "10-faasm.conflist").read_text(encoding="utf-8"))
        self.config: dict[str, Any] = {
            **shipped["plugins"][0],
            "name": shipped["name"],
            "cniVersion": "1.1.0",
        }

    # -- showing -------------------------------------------------------------------------

    def title(self, text: str) -> None:
        self.step += 1
        print(f"\n{BOLD}{self.step}. {text}{PLAIN}", flush=True)

    def promise(self, text: str, *, kept: bool) -> None:
        mark = f"{GREEN}ok{PLAIN}" if kept else f"{RED}NOT SO{PLAIN}"
        print(f"   [{mark}] {text}", flush=True)
        if not kept:
            self.broken.append(text)

    def show(self, namespace: Namespace, *argv: str) -> None:
        """Run a command as a person would, and show what it prints."""
        place = "" if namespace is self.host else f"ip netns exec {namespace.name} "
        print(f"   # {place}{' '.join(argv)}")
        for line in namespace.run(argv).stdout.splitlines():
            print(f"     {line}")

    # -- the steps -----------------------------------------------------------------------

    def prepare(self) -> None:
        self.title("A private host, three containers' namespaces and a remote machine")
        self.remote = self.host.add_remote("remote")
        serve(self.host, self.remote, len(ASKED))
        for number in ASKED:
            self.containers[number] = self.host.add_container(f"faasmns{number}")
        last = FIRST_PORT + len(ASKED) - 1
        print(f"   remote machine: {REMOTE}, iperf3 servers on ports {FIRST_PORT} to {last};")
        print("   it knows no way to the containers: what it answers was masqueraded")
        self.show(self.host, "ip", "-br", "address")

    def config_for(self, number: int, *, shaped: bool = True) -> dict[str, Any]:
        """Return the shipped configuration with what a runtime adds for this container."""
        config = copy.deepcopy(self.config)
        asked = ASKED[number]
        if not shaped:
            del config["bandwidth"]
        elif asked:
            limits = {"ingressRate": asked[0], "egressRate": asked[1]}
            config["runtimeConfig"] = {"bandwidth": limits}
        return config

    def limit(self, number: int, *, download: bool) -> int:
        """Return the bit/s that a container may receive (download) or send."""
        asked = ASKED[number]
        if asked:
            return asked[0] if download else asked[1]
        rate: int = self.config["bandwidth"]["ingressRate" if download else "egressRate"]
        return rate

    def payload(self, number: int, *, download: bool) -> float:
        """Return the bit/s that a container's limit leaves for payload."""
        return self.limit(number, download=download) * PAYLOAD_SHARE

    def call(self, verb: str, number: int, config: dict[str, Any]) -> tuple[Any, float]:
        """Call the plugin as a runtime does. Returns: the call, and its milliseconds."""
        start = time.monotonic()
        call = self.host.cni(verb, self.containers[number], config, ifname=f"faasmp{number}")
        return call, (time.monotonic() - start) * 1000

    def measure_unshaped(self) -> None:
        self.title("For comparison, the same network without limits")
        for number in ASKED:
            call, _ = self.call("ADD", number, self.config_for(number, shaped=False))
            call.ok()
        self.unshaped = self.measure(min(self.seconds, 3))
        for number in ASKED:
            up, down = (self.unshaped[number, download] / 1e6 for download in (False, True))
            print(f"   faasmns{number}: sends {up:,.0f} Mbit/s, receives {down:,.0f} Mbit/s")
        for number in ASKED:
            call, _ = self.call("DEL", number, self.config_for(number, shaped=False))
            call.ok()

    def measure(self, seconds: float) -> dict[tuple[int, bool], float]:
        """Measure all three at once, first what they send, then what they receive."""
        measured: dict[tuple[int, bool], float] = {}
        for download in (False, True):
            verb = "receive" if download else "send"
            print(f"   all three {verb} for {seconds + 1:g} s ...", flush=True)
            flows = {
                number: Flow(container, REMOTE, port=FIRST_PORT + number - 1, download=download)
                for number, container in self.containers.items()
            }
            measure(list(flows.values()), seconds=seconds)
            measured |= {(n, download): flow.bits_per_second for n, flow in flows.items()}
        return measured

    def attach(self) -> None:
        self.title("ADD: the runtime calls the plugin for each container")
        print(f"   {self.host.plugin[0]} with conf/10-faasm.conflist's network on stdin")
        for number, asked in ASKED.items():
            call, took = self.call("ADD", number, self.config_for(number))
            self.results[number] = call.ok()
            whose = "asked for by the runtime" if asked else "from the configuration"
            to, from_ = (self.limit(number, download=way) / 1e6 for way in (True, False))
            print(
                f"   faasmns{number}: {self.results[number]['ips'][0]['address']} in {took:.0f} ms,"
                f" limits {to:.2f} Mbit/s in and {from_:.2f} Mbit/s out, {whose}"
            )
            if number == 1:
                text = json.dumps(self.results[1], indent=2)
                print("\n".join(f"     {line}" for line in text.splitlines()))
        self.show(self.containers[1], "ip", "-br", "address")
        self.show(self.containers[1], "ip", "route")
        names = [f"faasm{number}" for number in ASKED]
        self.promise(
            f"host ends are {', '.join(names)}",
            kept=[link for link in self.host.links() if link != "uplink"] == names,
        )

    def show_shaping(self) -> None:
        self.title("Both ends of the first container's pair, as tc has them")
        for namespace, device in ((self.host, "faasm1"), (self.containers[1], "faasmp1")):
            self.show(namespace, "tc", "qdisc", "show", "dev", device)
            self.show(namespace, "tc", "class", "show", "dev", device)
        for number, inside in self.containers.items():
            ends = ((self.host, f"faasm{number}", True), (inside, f"faasmp{number}", False))
            for namespace, device, download in ends:
                rates = [(c["handle"], c["rate"]) for c in namespace.classes(device)]
                wanted = self.limit(number, download=download)
                # tc rounds what it prints to four digits or so
                kept = len(rates) == 1 and abs(rates[0][1] / wanted - 1) < 0.001
                way = "in " if download else "out"
                self.promise(
                    f"faasmns{number} {way}: class 1:1 on {device:7} has {wanted / 1e6:.2f} Mbit/s",
                    kept=kept and rates[0][0] == "1:1",
                )

    def measure_shaped(self) -> None:
        self.title("Measure all three at once against their limits")
        measured = self.measure(self.seconds)
        shares = [rate / self.payload(n, download=way) for (n, way), rate in measured.items()]
        if min(shares) < 1 - TOLERANCE:
            print("   less than the limits leave, as on a machine that is busy; once more:")
            measured = self.measure(self.seconds)
        head = ("container", "direction", "limit", "payload", "measured", "of that", "unlimited")
        row = "   {:10} {:9} {:>10} {:>10} {:>10} {:>8} {:>11}"
        print("\n" + BOLD + row.format(*head) + PLAIN)
        print(row.format("", "", "Mbit/s", "Mbit/s", "Mbit/s", "", "Mbit/s"))
        kept = True
        for (number, download), rate in sorted(measured.items()):
            limit = self.limit(number, download=download)
            payload = self.payload(number, download=download)
            share = rate / payload
            kept = kept and abs(share - 1) <= TOLERANCE
            print(
                row.format(
                    f"faasmns{number}",
                    "in" if download else "out",
                    f"{limit / 1e6:.2f}",
                    f"{payload / 1e6:.2f}",
                    f"{rate / 1e6:.2f}",
                    f"{share:.1%}",
                    f"{self.unshaped[number, download] / 1e6:,.0f}",
                )
            )
        print("   payload: what TCP can carry under the limit, 1448 of a frame's 1514 bytes\n")
        self.promise(f"every rate is within {TOLERANCE:.0%} of what its limit allows", kept=kept)
        faster = all(
            self.unshaped[key] > 2 * self.limit(key[0], download=key[1]) for key in measured
        )
        self.promise("it was the limit: without one each was more than twice as fast", kept=faster)

    def check(self) -> None:
        self.title("CHECK: does the kernel still have what ADD promised?")
        config = {**self.config_for(1), "prevResult": self.results[1]}
        call, took = self.call("CHECK", 1, config)
        self.promise(f"CHECK finds everything in place ({took:.0f} ms)", kept=call.status == 0)
        if call.status != 0:
            print(f"     {call!r}")
        print("   somebody takes the limit away:")
        self.show(self.host, "tc", "qdisc", "del", "dev", "faasm1", "root")
        call, _ = self.call("CHECK", 1, config)
        noticed = call.status == 1 and "faasm1" in json.dumps(call.document)
        self.promise("CHECK notices", kept=noticed)
        for line in json.dumps(call.document if call.stdout else {}, indent=2).splitlines():
            print(f"     {line}")

    def detach(self, before: dict[str, Any]) -> None:
        self.title("DEL, then GC without any valid attachment: nothing is left")
        for number in ASKED:
            config = {**self.config_for(number), "prevResult": self.results[number]}
            call, took = self.call("DEL", number, config)
            self.promise(f"faasmns{number} detached in {took:.0f} ms", kept=call.status == 0)
            again, _ = self.call("DEL", number, config)
            if again.status != 0:
                self.promise(f"a second DEL succeeds as well: {again!r}", kept=False)
        self.promise("no lease is left", kept=self.host.leases() == {})
        self.promise("no record is left", kept=self.host.records() == {})
        table = f"inet faasm_{self.config['name']}"
        print(f"   nftables after the last DEL: {', '.join(self.host.nft_tables())} (by design)")
        call = self.host.cni("GC", None, {**self.config, "cni.dev/valid-attachments": []})
        self.promise("GC succeeds", kept=call.status == 0)
        self.promise(f"GC took the table {table}", kept=self.host.nft_tables() == [])
        try:
            self.host.assert_unchanged(before)
            difference = ""
        except AssertionError as error:
            difference = f": {error}"
        self.promise(
            "links, addresses, routes, rules, qdiscs, nftables, leases, records: all as before"
            + difference,
            kept=not difference,
        )
        self.show(self.host, "ip", "-br", "address")


def main() -> int:
    """Run all steps. Returns: the exit status."""
    parser = argparse.ArgumentParser(prog="bin/demo.sh", description=__doc__)
    parser.add_argument(
        "--seconds", type=int, default=5, help="how long each direction is measured (default: 5)"
    )
    seconds = parser.parse_args().seconds
    require_private_host()
    start = time.monotonic()
    print(f"{BOLD}cni-faasm: three containers, each with its own rate limits{PLAIN}")
    with tempfile.TemporaryDirectory() as directory:
        host = Host(Path(directory), plugin=built_plugin())
        host.data_dir = Path("/var/lib/cni/networks")
        host.state_dir = Path("/var/lib/cni/faasm")
        try:
            demo = Demo(host, seconds)
            demo.prepare()
            before = host.snapshot()
            demo.measure_unshaped()
            demo.attach()
            demo.show_shaping()
            demo.measure_shaped()
            demo.check()
            demo.detach(before)
        finally:
            host.close()
    took = time.monotonic() - start
    if demo.broken:
        print(f"\n{RED}{len(demo.broken)} of the promises were not kept{PLAIN} ({took:.0f} s):")
        for text in demo.broken:
            print(f"   {text}")
        return 1
    print(f"\n{BOLD}Everything was as promised{PLAIN} ({took:.0f} s).")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted: the private host goes with this process, nothing is left")
        sys.exit(130)
