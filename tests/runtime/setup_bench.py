"""Stop netavark's calls as crash_bench stops those of CNI, on a network of podman's."""

from pathlib import Path
from typing import Any

from cni_faasm.netavark import container as translation
from tests.host import CniCall, Host, Namespace
from tests.netavark import Netavark
from tests.runtime.crash_bench import PORTS, Bench

WORDS = {"ADD": "setup", "DEL": "teardown"}
SUBNETS = [{"subnet": "10.200.0.0/16"}, {"subnet": "fd00:200::/64"}]
OPTIONS = {"ingressRate": "8M", "egressRate": "4M", "enforceEgress": "host", "isolate": "true"}


class SetupBench(Bench):
    """Two containers of podman's; their addresses are podman's to give, and the same each time."""

    def __init__(self, host: Host, directory: Path) -> None:
        self.network = Netavark(host, subnets=SUBNETS, ipv6_enabled=True, options=OPTIONS)
        self.given: dict[str, list[str]] = {}
        super().__init__(host, directory, "netavark")

    def configuration(self) -> dict[str, Any]:
        """Return the network's configuration, as GC gets it from the tool."""
        document = self._document(self.container)
        return translation.call("teardown", self.container.path, document).document | {
            "runtimeConfig": None
        }

    def _document(self, container: Namespace, addresses: list[str] | None = None) -> dict[str, Any]:
        """Return what podman says of a container; addresses: None for its own."""
        number = 5 + (container is not self.container)
        ports = [
            {
                "host_port": one["hostPort"] + number,
                "container_port": one["containerPort"],
                "protocol": one.get("protocol", "tcp"),
                "host_ip": one.get("hostIP", ""),
                "range": 1,
            }
            for one in PORTS
        ]
        own = addresses or [f"10.200.0.{number}", f"fd00:200::{number}"]
        return self.network.document(container, own, port_mappings=ports)

    def call(self, verb: str, container: Namespace | None, *tracer: str, **keys: Any) -> CniCall:
        """Call what podman calls; GC as the tool does."""
        if container is None:
            return super().call(verb, container, *tracer, **keys)
        document = self._document(container)
        return self.network.call(WORDS[verb], container.path, document=document, tracer=tracer)

    def recover(self, number: int) -> None:
        """Do what may come next: podman tears it down, forgets it, or an operator collects garbage."""
        if number % 3 != 1:
            super().recover(number)
            return
        # Its namespace is gone, and podman gives its addresses to another. A record without a
        # lease is in nobody's way, and waits for the next collection.
        self.container.run(["ip", "link", "del", "eth0"], check=False)
        addresses = self._document(self.container)["network_options"]["static_ips"]
        document = self._document(self.other, addresses)
        self.network.call("setup", self.other.path, document=document).ok()
        self.gc(self.other)
        assert self.other.links() == ["eth0"], "a GC took what it was to keep"
        self.network.call("teardown", self.other.path, document=document).ok()
