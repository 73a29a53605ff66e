"""netavark's plugin: the same attachments as CNI's, by podman's documents, addresses and names."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.attached import add_remote, answers
from tests.host import AFTER_LAST_DEL, Host, Namespace, wait_until
from tests.netavark import Netavark, error
from tests.rates import Flow, assert_flows, serve
from tests.tool import Tool

RATES = {"egressRate": "10M", "ingressRate": "20M"}
DUAL = [{"subnet": "10.200.0.0/16"}, {"subnet": "fd00:200::/64"}]
BOTH = ("10.200.0.9", "fd00:200::9")


@pytest.fixture
def network(host: Host) -> Netavark:
    return Netavark(host, options=RATES)


def rates(host: Host, container: Namespace, outer: str = "faasm0") -> list[int]:
    """Return the limits to and from a container."""
    return [host.classes(outer)[0]["rate"], container.classes("eth0")[0]["rate"]]


def ping(container: Namespace, address: str) -> bool:
    words = ["busybox", "ping", "-c1", "-W2", address]
    return container.run(words, check=False).returncode == 0


def test_setup_and_teardown(host: Host, network: Netavark, container: Namespace) -> None:
    add_remote(host)
    before = host.snapshot()
    made = network.setup(container, "10.200.7.7", static_mac="02:00:00:00:07:07")
    assert made == {
        "mac_address": "02:00:00:00:07:07",
        "subnets": [{"ipnet": "10.200.7.7/32", "gateway": "10.200.0.1"}],
    }
    assert container.addresses("eth0") == ["10.200.7.7/32"]
    link = container.link("eth0")
    assert link is not None
    assert link["address"] == "02:00:00:00:07:07"
    assert rates(host, container) == [20_000_000, 10_000_000]
    assert list(host.leases()) == ["testnet/10.200.7.7"]
    [record] = [json.loads(text) for text in host.records().values()]
    assert (record["name"], record["ipMasq"]) == (f"{container.name}-name", True)
    assert ping(container, "198.51.100.1")  # masqueraded: the remote knows no way back

    network.teardown(container, "10.200.7.7")
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    network.teardown(container, "10.200.7.7")  # twice is no fault
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_limits_hold(host: Host, network: Netavark, container: Namespace) -> None:
    remote = add_remote(host)
    network.setup(container, "10.200.0.5", options={"egressRate": "5M"})
    serve(host, remote)
    for download, limit in ((False, 5_000_000), (True, 20_000_000)):
        flow = Flow(container, "198.51.100.1", download=download)
        assert_flows([flow], limit, seconds=2, low=0.9)


def test_both_families_names_and_an_interface_of_another_name(
    host: Host, container: Namespace
) -> None:
    add_remote(host)
    host.sysctl("net.ipv6.conf.all.forwarding", "1")  # as ADD does, which adds routes
    before = host.snapshot()
    network = Netavark(
        host, subnets=DUAL, options={**RATES, "mtu": "1400"}, network_dns_servers=["9.9.9.9"]
    )
    assert network.network["dns_enabled"] is False
    assert network.network["ipv6_enabled"] is True
    document = network.document(container, BOTH, ifname="net7")
    told = network.call("setup", container.path, document=document).ok()
    assert told["dns_server_ips"] == ["9.9.9.9"]
    assert [one["gateway"] for one in told["interfaces"]["net7"]["subnets"]] == [
        "10.200.0.1",
        "fd00:200::1",
    ]
    assert container.addresses("net7") == ["10.200.0.9/32", "fd00:200::9/128"]
    link = container.link("net7")
    assert link is not None
    assert link["mtu"] == 1400
    assert ping(container, "198.51.100.1")
    assert ping(container, "2001:db8:100::1")
    network.teardown(container, *BOTH, ifname="net7")
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_internal_and_routes(host: Host) -> None:
    add_remote(host)
    inside, outside = host.add_container(), host.add_container()
    closed = Netavark(host, internal=True)
    closed.setup(inside, "10.200.0.5")
    closed.setup(outside, "10.200.0.6")
    assert inside.routes(dst="default") == []
    assert ping(inside, "10.200.0.6")
    assert not ping(inside, "198.51.100.1")
    assert not any("masquerade" in json.dumps(item) for item in host.nft())
    for one, address in ((inside, "10.200.0.5"), (outside, "10.200.0.6")):
        closed.teardown(one, address)

    routes = [{"destination": "198.51.100.0/24", "gateway": "10.200.0.1", "metric": 77}]
    routed = Netavark(host, routes=routes, options={"no_default_route": "1"})
    routed.setup(inside, "10.200.0.5")
    assert inside.routes(dst="default") == []
    [route] = inside.routes(dst="198.51.100.0/24")
    assert (route["gateway"], route["metric"]) == ("10.200.0.1", 77)
    assert ping(inside, "198.51.100.1")
    routed.teardown(inside, "10.200.0.5")


def test_two_networks_of_one_container(host: Host, container: Namespace) -> None:
    add_remote(host)
    before = host.snapshot()
    one = Netavark(host, options=RATES)
    other = Netavark(
        host, name="second", subnets=[{"subnet": "10.201.0.0/16"}], options={"egressRate": "3M"}
    )
    one.setup(container, "10.200.0.5")
    other.setup(container, "10.201.0.5", ifname="eth1")
    assert [container.classes(name)[0]["rate"] for name in ("eth0", "eth1")] == [
        10_000_000,
        3_000_000,
    ]
    # By the first, as long as it is there.
    ways = {route["dev"]: route.get("metric", 0) for route in container.routes(dst="default")}
    assert ways["eth0"] < ways["eth1"]
    assert ping(container, "198.51.100.1")
    one.teardown(container, "10.200.0.5")
    assert ping(container, "198.51.100.1")
    other.teardown(container, "10.201.0.5", ifname="eth1")
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_isolated(host: Host) -> None:
    add_remote(host)
    network = Netavark(host, options={"isolate": "true"})
    one, other = host.add_container(), host.add_container()
    network.setup(one, "10.200.0.5")
    network.setup(other, "10.200.0.6")
    assert ping(one, "198.51.100.1")
    assert not answers(other, one, "10.200.0.6")
    for each, address in ((one, "10.200.0.5"), (other, "10.200.0.6")):
        network.teardown(each, address)


def test_where_podman_leases_nothing(host: Host) -> None:
    network = Netavark(
        host,
        subnets=None,
        ipam_options={"driver": "none"},
        options={"subnet": "10.60.0.0/30 fd00:60::/64", **RATES},
    )
    assert network.network["subnets"] is None
    one, other = host.add_container(), host.add_container()
    made = network.setup(one)
    assert [each["ipnet"] for each in made["subnets"]] == ["10.60.0.2/32", "fd00:60::2/128"]
    assert "no address is free in 10.60.0.0/30" in network.refused(other)
    network.teardown(one)
    assert network.setup(other)["subnets"][0]["ipnet"] == "10.60.0.2/32"
    network.teardown(other)
    assert host.leases() == {}


def test_published_ports(host: Host, container: Namespace) -> None:
    remote = add_remote(host)
    network = Netavark(host, options=RATES)
    ports = [
        {"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp", "range": 2}
    ]
    network.setup(container, "10.200.0.5", port_mappings=ports)
    assert answers(container, remote, "10.200.0.5", port=81, to=("198.51.100.2", 8081))
    # Under the limit: what comes in, and what goes out.
    serve_ports = [{**ports[0], "container_port": 5201, "host_port": 5301, "range": 1}]
    other = host.add_container()
    network.setup(other, "10.200.0.6", port_mappings=serve_ports)
    serve(host, other)
    for download, limit in ((False, 20_000_000), (True, 10_000_000)):
        flow = Flow(remote, "198.51.100.2", port=5301, download=download)
        assert_flows([flow], limit, seconds=2, low=0.9)
    told = network.refused(host.add_container(), "10.200.0.7", port_mappings=ports)
    assert (
        f"port 8080/tcp is published for container {container.name}-name ({container.name})" in told
    )
    network.teardown(container, "10.200.0.5", port_mappings=ports)
    network.teardown(other, "10.200.0.6", port_mappings=serve_ports)
    assert not answers(host, remote, "198.51.100.2", port=9999, to=("198.51.100.2", 8081))


def test_reload(host: Host, network: Netavark, container: Namespace) -> None:
    """Teardown and setup, after somebody has flushed the rules."""
    add_remote(host)
    network.setup(container, "10.200.0.5")
    host.run(["nft", "flush", "ruleset"])
    assert not ping(container, "198.51.100.1")
    network.teardown(container, "10.200.0.5")
    network.setup(container, "10.200.0.5")
    assert ping(container, "198.51.100.1")
    network.teardown(container, "10.200.0.5")
    assert (host.leases(), host.records()) == ({}, {})


def test_a_namespace_that_is_gone(host: Host, network: Netavark) -> None:
    """Until version 2.1 netavark tells nothing then, and podman gives the address away again."""
    before = host.snapshot()
    gone, container = host.add_container(), host.add_container()
    network.setup(gone, "10.200.0.5")
    gone.delete()
    # Another container gets its address,
    network.setup(container, "10.200.0.5")
    assert list(host.records()) == [f"testnet/{container.name}@eth0"]
    network.teardown(container, "10.200.0.5")
    # or itself another, in a namespace of its own.
    network.setup(container, "10.200.0.6", container_id="again")
    container.delete()
    container = host.add_container(container.name)
    network.setup(container, "10.200.0.7", container_id="again")
    assert list(host.leases()) == ["testnet/10.200.0.7"]
    container.delete()
    # Later versions give the path of what is not there.
    network.teardown(container, "10.200.0.7", container_id="again")
    assert (host.leases(), host.records()) == ({}, {})
    host.containers.clear()
    host.assert_unchanged(before, ignore={*AFTER_LAST_DEL, "containers"})


def test_who_is_alive_keeps_address_and_attachment(
    host: Host, network: Netavark, container: Namespace
) -> None:
    network.setup(container, "10.200.0.5")
    other = host.add_container()
    before = host.snapshot()
    told = network.refused(other, "10.200.0.5")
    assert "10.200.0.5" in told
    assert "already has an interface 'eth0'" in network.refused(container, "10.200.0.5")
    host.assert_unchanged(before)
    network.teardown(container, "10.200.0.5")


def test_a_setup_that_fails_leaves_nothing(
    host: Host, network: Netavark, container: Namespace
) -> None:
    before = host.snapshot()
    told = network.refused(container, "10.200.0.5", options={"egresRate": "1M"})
    assert told == (
        "network testnet: the container's option egresRate: no such option: allowed is egressRate: "
        "docs/podman.md lists every option"
    )
    assert "10.200.0.1" in network.refused(container, "10.200.0.1")  # the gateway
    container.run(["ip", "link", "add", "eth0", "type", "bridge"])
    assert "eth0" in network.refused(container, "10.200.0.5")
    container.run(["ip", "link", "del", "eth0"])
    # Nobody reads the answer.
    document = json.dumps(network.document(container, ["10.200.0.5"])).encode()
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as nowhere, host.entered():
        variables = {"PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [*host.plugin, "setup", container.path],
            input=document,
            stdout=nowhere,
            stderr=subprocess.PIPE,
            env=variables,
            check=False,
        )
    assert done.returncode == 1, done
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'{"network": []}', b"{}"])
@pytest.mark.parametrize("words", [["create"], ["setup", "/run/netns/none"]])
def test_no_document(host: Host, network: Netavark, words: list[str], stdin: bytes) -> None:
    before = host.snapshot()
    assert error(network.call(*words, document=stdin))
    host.assert_unchanged(before)


def test_a_network_is_created_beside_what_the_host_knows(host: Host) -> None:
    host.run(["ip", "link", "add", "lan", "type", "bridge"])
    host.run(["ip", "addr", "add", "10.202.3.4/16", "dev", "lan"])
    host.run(["ip", "link", "set", "lan", "up"])
    host.run(["ip", "route", "add", "10.201.7.0/24", "dev", "lan"])
    network = Netavark(host, subnets=None).network
    assert network["subnets"] == [{"subnet": "10.203.0.0/16", "gateway": "10.203.0.1"}]
    told = error(Netavark.call(Netavark(host), "create", document={**network, "internal": 7}))
    assert told.startswith("internal: 7: expected true or false")


@pytest.fixture
def tool(host: Host) -> Tool:
    return Tool(host)


@pytest.fixture
def filed(host: Host, network: Netavark) -> Iterator[Path]:
    """Put the network where podman keeps it, and only there the tool learns of its folders."""
    del host
    path = Path("/etc/containers/networks/testnet.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(network.network))
    yield path
    path.unlink()


def test_the_tool_sees_and_mends(
    host: Host, network: Netavark, container: Namespace, tool: Tool, filed: Path
) -> None:
    network.setup(container, "10.200.0.5")
    name = f"{container.name}-name"
    [row] = tool("status", name, "--json").ok().document["attachments"]
    assert (row["name"], row["containerID"]) == (name, container.name)
    tool("check").ok()
    tool("set-rate", name, "--egress", "1M").ok()
    assert rates(host, container) == [20_000_000, 1_000_000]
    tool("check").ok()
    tool("set-rate", name, "--reset").ok()
    assert rates(host, container) == [20_000_000, 10_000_000]
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    assert f"testnet/{name}/eth0" in tool("check").expect(1).stdout
    tool("repair").ok()
    assert rates(host, container) == [20_000_000, 10_000_000]
    told = tool("metrics").ok().stdout
    [used] = [line for line in told.splitlines() if line.startswith("cni_faasm_leases_used{")]
    assert 'network="testnet"' in used
    assert used.endswith(" 1.0")
    # What podman's file says later holds for who runs, by apply.
    edited: dict[str, Any] = json.loads(filed.read_text())
    edited["options"]["egressRate"] = "2M"
    filed.write_text(json.dumps(edited))
    assert "changed egressRate: 2 Mbit/s (was 10 Mbit/s)" in tool("apply").ok().stdout
    assert rates(host, container) == [20_000_000, 2_000_000]
    assert "nothing to remove" in tool("gc").ok().stdout
    container.delete()
    host.containers.clear()
    assert "removed attachment" in tool("gc").ok().stdout
    assert (host.leases(), host.records()) == ({}, {})
    wait_until(lambda: host.links() == [], "the host's end to go")


def test_what_the_container_asked_for_outlives_apply(
    host: Host, network: Netavark, container: Namespace, tool: Tool, filed: Path
) -> None:
    network.setup(container, "10.200.0.5", options={"egressRate": "4M"})
    edited: dict[str, Any] = json.loads(filed.read_text())
    edited["options"] |= {"egressRate": "8M", "ingressRate": "30M"}
    filed.write_text(json.dumps(edited))
    tool("apply").ok()
    assert rates(host, container) == [30_000_000, 4_000_000]
    edited["options"]["egresRate"] = "8M"
    filed.write_text(json.dumps(edited))
    assert "option egresRate: no such option" in tool("apply").expect(1).stderr
    network.teardown(container, "10.200.0.5")


def test_a_pool_takes_no_network_of_podmans(tool: Tool, filed: Path) -> None:
    """Podman would give the same addresses away."""
    assert filed.exists()
    assert "testnet" in tool("pool", "up", "1", "--network", "testnet").expect(1).stderr
