"""What people do with podman: fixed addresses, ports, restarts, reloads, two networks."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import rates
from tests.host import Host
from tests.runtime.conftest import EGRESS, INGRESS
from tests.runtime.runtimes import CONFIG_FILE, Podman, remove_cgroups
from tests.tool import Tool


@pytest.fixture
def podman(
    runtime_host: Host, conflist: dict[str, Any], root_filesystem: Path, short_path: Path
) -> Iterator[Podman]:
    started = Podman(runtime_host, root_filesystem, short_path)
    try:
        yield started
    finally:
        started.close()
        remove_cgroups()


def test_fixed_address_and_mac(podman: Podman) -> None:
    inside = podman.run(
        "fixed", "--network", "faasm", "--ip", "10.200.7.7", "--mac-address", "02:00:00:00:07:07"
    )
    assert inside.addresses("eth0") == ["10.200.7.7/32"]
    link = inside.link("eth0")
    assert link is not None
    assert link["address"] == "02:00:00:00:07:07"
    podman.remove("fixed")
    assert podman.host.leases() == {}


def test_a_published_port_under_the_limit(podman: Podman, conflist: dict[str, Any]) -> None:
    conflist["plugins"].append({"type": "portmap", "capabilities": {"portMappings": True}})
    CONFIG_FILE.write_text(json.dumps(conflist), encoding="utf-8")
    inside = podman.run("web", "--network", "faasm", "--publish", "8080:5201")
    rates.serve(podman.host, inside)
    for download, limit in ((False, INGRESS), (True, EGRESS)):
        flow = rates.Flow(podman.host.remotes[0], "198.51.100.2", port=8080, download=download)
        rates.assert_flows([flow], limit, seconds=3, low=0.9)


def test_restart_and_reload(podman: Podman) -> None:
    inside = podman.run("again")
    podman.execute("again", ["/bin/busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    podman.command("restart", "--time", "0", "again")
    inside = podman.namespace("again")
    assert [one["rate"] for one in inside.classes("eth0")] == [EGRESS]
    assert len(podman.host.leases()) == 1
    podman.execute("again", ["/bin/busybox", "ping", "-c1", "-W2", "198.51.100.1"])

    before = inside.addresses("eth0")
    podman.host.run(["nft", "flush", "ruleset"])
    podman.command("network", "reload", "again")
    assert podman.namespace("again").addresses("eth0") == before
    podman.execute("again", ["/bin/busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    assert len(podman.host.leases()) == 1
    podman.remove("again")
    assert podman.host.leases() == {}
    assert podman.host.records() == {}


def test_two_networks_at_once(podman: Podman, conflist: dict[str, Any]) -> None:
    other = json.loads(json.dumps(conflist))
    other["name"] = "second"
    other["plugins"][0] |= {"bandwidth": {"ingressRate": "3M", "egressRate": "2M"}}
    routes = [{"dst": "0.0.0.0/0"}]
    ipam = {"type": "host-local", "subnet": "10.201.0.0/16", "routes": routes}
    other["plugins"][0]["ipam"] = ipam
    path = CONFIG_FILE.with_name("20-second.conflist")
    path.write_text(json.dumps(other), encoding="utf-8")
    try:
        inside = podman.run("both", "--network", "faasm,second")
        found = {
            inside.addresses(name)[0].split(".")[1]: [one["rate"] for one in inside.classes(name)]
            for name in ("eth0", "eth1")
        }
        assert found == {"200": [EGRESS], "201": [2_000_000]}
        assert len(podman.host.leases()) == 2
        podman.execute("both", ["/bin/busybox", "ping", "-c1", "-W2", "198.51.100.1"])
        podman.remove("both")
        assert podman.host.leases() == {}
        assert podman.host.records() == {}
    finally:
        path.unlink()


def test_a_reboot(podman: Podman) -> None:
    """The store of an earlier boot, as a power cut leaves it, is no obstacle and no loss."""
    host = podman.host
    podman.run("before")
    kept = {
        path: path.read_bytes()
        for folder in (host.data_dir / "faasm", host.state_dir / "faasm")
        for path in folder.iterdir()
    }
    podman.remove("before")
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()
    for path, content in kept.items():
        path.write_bytes(content.replace(boot_id, b"0" * len(boot_id)))
    # Its address is the next one in turn, and the only one.
    (host.data_dir / "faasm" / "last_reserved_ip.0").unlink()
    assert len(host.leases()) == 1
    inside = podman.run("after")
    assert len(host.leases()) == len(host.records()) == 1
    podman.execute("after", ["/bin/busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    assert [one["rate"] for one in inside.classes("eth0")] == [EGRESS]
    podman.remove("after")
    assert host.leases() == {}


def test_containers_by_the_names_that_podman_gives_them(podman: Podman) -> None:
    podman.run("web")
    tool = Tool(podman.host)
    tool.conf_dir = CONFIG_FILE.parent
    [row] = tool("status", "web", "--json").ok().document["attachments"]
    assert (row["name"], len(row["containerID"])) == ("web", 64)
    assert tool("status").ok().stdout.splitlines()[1].startswith("web ")
    assert (
        "faasm/web/eth0: egress 5 Mbit/s" in tool("set-rate", "web", "--egress", "5M").ok().stdout
    )
    podman.remove("web")
    assert "no attachment" in tool("status", "web").expect(3).stderr
