"""Three nodes: each a host with its own bundle, store and range, routed to one another."""

import concurrent.futures
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, BUNDLE, Host, Namespace, wait_until
from tests.rates import Flow, assert_flows, assert_near, measure, serve

NODES = 3
PER_NODE = 100
INGRESS = 30_000_000
EGRESS = 20_000_000


class Node:
    """One machine of the cluster."""

    def __init__(self, number: int, host: Host, directory: Path) -> None:
        self.number = number
        self.host = host
        bundle = directory / f"bundle{number}"
        shutil.copytree(BUNDLE, bundle, symlinks=True)
        host.plugin = [str(bundle / "faasm")]
        host.run(["ip", "link", "set", "lo", "up"])

    @property
    def config(self) -> dict[str, Any]:
        own = [
            [{"subnet": f"10.200.{self.number}.0/24"}],
            [{"subnet": f"fd00:200:{self.number}::/64"}],
        ]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        return self.host.config(
            cniVersion="1.0.0",
            ipam={"subnet": None, "ranges": own, "routes": routes},
            bandwidth={"ingressRate": INGRESS, "egressRate": EGRESS},
        )

    def add(self, container: Namespace) -> list[str]:
        """Attach a container; return its addresses."""
        result = self.host.add(container, self.config)
        return [one["address"].partition("/")[0] for one in result["ips"]]

    def delete(self, container: Namespace) -> None:
        self.host.delete_attachment(container, self.config)

    def has_only_its_uplink(self) -> bool:
        return self.host.links() == ["uplink"]

    def returns(self, directory: Path) -> None:
        """Come back from a power cut: with the same disk, another boot, and no container."""
        for container in self.host.containers:
            container.delete()
        self.host.containers.clear()
        wait_until(self.has_only_its_uplink, "the links to go")
        self.host.run(["nft", "flush", "ruleset"])
        boot_id = directory / f"boot_id{self.number}"
        boot_id.write_text("11111111-2222-3333-4444-555555555555\n", encoding="ascii")
        place = "/proc/sys/kernel/random/boot_id"
        script = f'mount --bind {boot_id} {place} && exec "$0"'
        self.host.plugin = ["unshare", "--mount", "sh", "-c", script, *self.host.plugin]


@pytest.fixture
def nodes(make_host: Callable[[list[str]], Host], tmp_path: Path) -> list[Node]:
    """Return three nodes on one segment, with a route to each other's ranges."""
    found = [Node(number + 1, make_host([]), tmp_path) for number in range(NODES)]
    segment = Namespace("segment")
    found[0].host.remotes.append(segment)
    segment.run(["ip", "link", "add", "br0", "type", "bridge"])
    segment.run(["ip", "link", "set", "br0", "up"])
    for node in found:
        host, number = node.host, node.number
        peer = ["peer", "name", f"port{number}", "netns", segment.name]
        host.run(["ip", "link", "add", "uplink", "type", "veth", *peer])
        segment.run(["ip", "link", "set", f"port{number}", "master", "br0", "up"])
        host.run(["ip", "link", "set", "uplink", "addrgenmode", "none"])
        host.run(["ip", "addr", "add", f"192.0.2.{number}/24", "dev", "uplink"])
        host.run(["ip", "addr", "add", f"2001:db8::{number}/64", "dev", "uplink", "nodad"])
        # Without it the kernel asks for no neighbour of what it forwards.
        host.run(["ip", "addr", "add", f"fe80::{number}/64", "dev", "uplink", "nodad"])
        host.run(["ip", "link", "set", "uplink", "up"])
        # Kubelet's and kube-proxy's part on a real node.
        host.sysctl("net.ipv6.conf.all.forwarding", "1")
    for node, other in itertools.permutations(found, 2):
        number = other.number
        run = node.host.run
        run(["ip", "route", "add", f"10.200.{number}.0/24", "via", f"192.0.2.{number}"])
        via = ["via", f"2001:db8::{number}"]
        run(["ip", "-6", "route", "add", f"fd00:200:{number}::/64", *via])
    return found


def ping(container: Namespace, address: str) -> None:
    """Have an address answer, with a second and a third packet where one is lost.

    All namespaces of a machine share the kernel's backlog and its neighbour tables with whatever
    runs beside; that the very first packet arrives is tested in tests/kernel/test_first_packet.py.
    """

    def answers() -> bool:
        argv = ["busybox", "ping", "-c", "1", "-W", "5", address]
        return container.run(argv, check=False).returncode == 0

    wait_until(answers, f"an answer of {address}", timeout=12)


def test_across_nodes_under_their_limits(nodes: list[Node]) -> None:
    before = [node.host.snapshot() for node in nodes]
    containers = [node.host.add_container() for node in nodes]
    addresses = [node.add(container) for node, container in zip(nodes, containers, strict=True)]
    for node, container in zip(nodes, containers, strict=True):
        serve(node.host, container)
    for container, others in itertools.product(containers, addresses):
        for address in others:
            ping(container, address)
    for family in range(2):
        # A ring: everybody sends to the next one and receives from the one before.
        flows = [
            Flow(container, addresses[(index + 1) % NODES][family])
            for index, container in enumerate(containers)
        ]
        assert_flows(flows, EGRESS)
    # Two send to one: what it receives is limited by its own node.
    flows = [
        Flow(containers[1], addresses[0][0]),
        Flow(containers[2], addresses[0][0], port=5202),
    ]
    nodes[0].host.serve(containers[0], ["iperf3", "-s", "-p", "5202"], port=5202)

    def together() -> list[float]:
        measure(flows)
        return [sum(flow.bits_per_second for flow in flows)]

    assert_near(INGRESS, together, low=0.92)
    for node, container, earlier in zip(nodes, containers, before, strict=True):
        node.delete(container)
        node.host.assert_unchanged(earlier, ignore={*AFTER_LAST_DEL, "containers", "routes"})


def test_a_hundred_on_each_and_one_that_dies(nodes: list[Node], tmp_path: Path) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        containers = [[node.host.add_container() for _ in range(PER_NODE)] for node in nodes]
        addresses = [
            list(pool.map(node.add, of_node))
            for node, of_node in zip(nodes, containers, strict=True)
        ]
    every = [address for of_node in addresses for pair in of_node for address in pair]
    assert len(set(every)) == NODES * PER_NODE * 2
    for here, there in itertools.permutations(range(NODES), 2):
        for index in range(0, PER_NODE, 33):
            for address in addresses[there][PER_NODE - 1 - index]:
                ping(containers[here][index], address)

    dead = nodes[1]
    dead.returns(tmp_path)
    assert len(dead.host.leases()) == 2 * PER_NODE
    ping(containers[0][0], addresses[2][0][0])  # the others have not noticed
    fresh = dead.host.add_container("fresh")
    first, _ = dead.add(fresh)
    assert len(dead.host.leases()) == 2
    (record,) = dead.host.records().values()
    assert json.loads(record)["containerID"] == "fresh"
    ping(containers[0][0], first)
    ping(fresh, addresses[2][0][1])
    # Its whole range is to be had again.
    again = [dead.host.add_container() for _ in range(PER_NODE)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        fresh_addresses = list(pool.map(dead.add, again))
    assert len({address for pair in fresh_addresses for address in pair}) == 2 * PER_NODE
    assert len(dead.host.leases()) == 2 * PER_NODE + 2
    for node in (nodes[0], nodes[2]):
        assert len(node.host.leases()) == 2 * PER_NODE

    containers[1] = [fresh, *again]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for node, of_node in zip(nodes, containers, strict=True):
            list(pool.map(node.delete, of_node))
    for node in nodes:
        assert node.host.leases() == {}
        assert node.host.records() == {}
        wait_until(node.has_only_its_uplink, "the links to go")
