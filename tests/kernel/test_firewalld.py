"""Containers on a host with firewalld: the real daemon, with Debian's defaults."""

from collections.abc import Iterator

import pytest

from tests.attached import Attached, add_remote, answers, config
from tests.firewalls import Firewalld
from tests.host import DUAL_STACK, Host, Namespace
from tests.kernel.test_firewall import status
from tests.kernel.test_ufw import reached
from tests.tool import Tool

EVERYTHING = ["world 4", "container 4", "host 4", "world 6", "container 6", "host 6"]
RANGES = ("10.200.0.0/16", "fd00:200::/64")


@pytest.fixture
def remote(bare_host: Host) -> Namespace:
    return add_remote(bare_host)


@pytest.fixture
def firewalld(bare_host: Host, remote: Namespace) -> Iterator[Firewalld]:
    daemon = Firewalld(bare_host)
    with daemon.bus():
        yield daemon


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    made = Tool(bare_host)
    made.network(ipam=DUAL_STACK)
    return made


@pytest.mark.parametrize("backend", ["nftables", "iptables"])
def test_status_tells_what_firewalld_refuses(
    bare_host: Host, remote: Namespace, firewalld: Firewalld, backend: str
) -> None:
    host, settings = bare_host, config(bare_host, ipMasq=True)
    one, other = Attached(host, settings), Attached(host, settings)
    firewalld.set_option("FirewallBackend", backend)
    firewalld.start()
    assert reached(host, remote, one, other) == []
    told = status(host, settings)
    assert "send to the outside" in told["msg"]
    assert "cni-faasm firewall-trust --network testnet" in told["details"]
    firewalld.command("--zone=public", "--add-interface=uplink")  # as NetworkManager does
    assert reached(host, remote, one, other) == ["world 4", "world 6"]
    assert "send to the outside" not in status(host, settings)["msg"]
    for range_ in RANGES:
        firewalld.command("--zone=trusted", f"--add-source={range_}")
    assert reached(host, remote, one, other) == EVERYTHING
    assert status(host, settings) == {}


def test_firewall_trust_holds_until_it_is_taken_back(
    bare_host: Host, remote: Namespace, firewalld: Firewalld, tool: Tool
) -> None:
    host, settings = bare_host, config(bare_host, ipMasq=True)
    one = Attached(host, settings)
    firewalld.start()
    inside = host.add_container()
    warned = host.cni("ADD", inside, settings)
    assert "network 'testnet' is cut off: firewalld" in warned.stderr.decode()
    host.delete_attachment(inside, settings)

    done = tool("firewall-trust").ok()
    assert done.stdout.splitlines() == [f"testnet: {each} added to zone trusted" for each in RANGES]
    assert '"isolated": true closes it' in done.stderr
    # With no warning, and for containers of before and after.
    inside = host.add_container()
    assert host.cni("ADD", inside, settings).stderr == b""
    host.delete_attachment(inside, settings)
    other = Attached(host, settings)
    assert reached(host, remote, one, other) == EVERYTHING
    again = tool("firewall-trust").ok()
    assert f"testnet: {RANGES[0]} is already in zone trusted" in again.stdout
    assert again.stderr == ""

    def restart() -> None:
        firewalld.stop()
        assert reached(host, remote, one, other) == EVERYTHING
        firewalld.start()

    for change in (
        lambda: firewalld.command("--reload"),
        lambda: firewalld.command("--complete-reload"),
        restart,
    ):
        change()
        assert reached(host, remote, one, other) == EVERYTHING
        assert status(host, settings) == {}
        host.check(one.inside, settings, one.result).ok()

    listed = tool("firewall-trust", "--remove", "--json").ok().document
    assert listed["steps"] == [
        {"source": each, "network": "testnet", "action": "removed", "zone": "trusted"}
        for each in RANGES
    ]
    for change in (lambda: None, lambda: firewalld.command("--reload")):
        change()
        assert reached(host, remote, one, other) == []
    assert "is not in zone trusted" in tool("firewall-trust", "--remove").ok().stdout


def test_panic_cuts_all_off_and_ends(
    bare_host: Host, remote: Namespace, firewalld: Firewalld, tool: Tool
) -> None:
    host, settings = bare_host, config(bare_host, ipMasq=True)
    one, other = Attached(host, settings), Attached(host, settings)
    firewalld.start()
    tool("firewall-trust").ok()
    firewalld.command("--panic-on")
    assert reached(host, remote, one, other) == []
    assert not answers(remote, host, "198.51.100.1")  # nor does the host reach anything
    Attached(host, settings)
    firewalld.command("--panic-off")
    assert reached(host, remote, one, other) == EVERYTHING


def test_isolated_stays_isolated(
    bare_host: Host, remote: Namespace, firewalld: Firewalld, tool: Tool
) -> None:
    host = bare_host
    tool.network(ipam=DUAL_STACK, isolated=True)
    settings = config(host, ipMasq=True, isolated=True)
    one, other = Attached(host, settings), Attached(host, settings)
    firewalld.start()
    done = tool("firewall-trust").ok()
    assert done.stderr == ""
    assert reached(host, remote, one, other) == ["world 4", "world 6"]


def test_a_zone_that_forwards_and_keeps_the_host_closed(
    bare_host: Host, remote: Namespace, firewalld: Firewalld, tool: Tool
) -> None:
    host, settings = bare_host, config(bare_host, ipMasq=True)
    one, other = Attached(host, settings), Attached(host, settings)
    firewalld.start()
    # As docs/firewalls.md has it.
    firewalld.command("--permanent", "--new-zone=containers")
    zone = ("--permanent", "--zone=containers")
    firewalld.command(*zone, "--set-target=ACCEPT")
    firewalld.command(*zone, "--add-rich-rule=rule priority=32767 reject")
    firewalld.command("--reload")
    tool("firewall-trust", "--zone", "containers").ok()
    forwarded = [what for what in EVERYTHING if "host" not in what]
    assert reached(host, remote, one, other) == forwarded
    firewalld.command("--zone=containers", "--add-port=7777/tcp")
    assert reached(host, remote, one, other) == EVERYTHING


def test_published_ports_need_no_trust(
    bare_host: Host, remote: Namespace, firewalld: Firewalld
) -> None:
    host, settings = bare_host, config(bare_host, ipMasq=True)
    one = Attached(host, settings)
    firewalld.start()
    address = one.address[4]
    dnat = f"-t nat -A PREROUTING -p tcp --dport 8080 -j DNAT --to-destination {address}:7000"
    host.run(["iptables", *dnat.split()])
    assert answers(one.inside, remote, address, port=7000, to=("198.51.100.2", 8080))


def test_what_cannot_be_done_is_said(firewalld: Firewalld, tool: Tool) -> None:
    assert "firewalld does not run" in tool("firewall-trust").expect(1).stderr
    assert "RANGE '10.1.2.3/8'" in tool("firewall-trust", "10.1.2.3/8").expect(1).stderr
    firewalld.start()
    assert "INVALID_ZONE: nope" in tool("firewall-trust", "--zone", "nope").expect(1).stderr
    done = tool("firewall-trust", "--zone", "public").expect(1)
    assert "added to zone public" in done.stdout
    assert "refuses what 10.200.0.0/16, fd00:200::/64 send to the outside" in done.stderr
    done = tool("firewall-trust").expect(1)
    assert "10.200.0.0/16 is in firewalld's zone public, and can be in one alone" in done.stderr
    tool("firewall-trust", "--zone", "public", "--remove").ok()
    tool("firewall-trust", "10.0.0.0/8", "--zone", "block").ok()
    done = tool("firewall-trust", "--json")
    assert "10.0.0.0/8 of zone block overlaps 10.200.0.0/16" in done.stderr
    tool("firewall-trust", "--network", "other").expect(1)
    for path in tool.conf_dir.iterdir():
        path.unlink()
    assert "is of a faasm network" in tool("firewall-trust").expect(1).stderr


def test_validate_says_what_is_missing(bare_host: Host, firewalld: Firewalld, tool: Tool) -> None:
    path = str(tool.conf_dir / "10-testnet.conflist")

    def warnings() -> str:
        done = tool("validate", path, "--json", "--conf-dir", str(tool.conf_dir)).ok()
        return "\n".join(one["message"] for one in done.document["files"][0]["remarks"])

    assert "firewall" not in warnings()
    firewalld.start()
    assert "cni-faasm firewall-trust --network testnet" in warnings()
    for each in RANGES:
        firewalld.command("--zone=trusted", f"--add-source={each}")
    assert "fd00:200::/64 is in a zone of firewalld's now, but not after a reload" in warnings()
    tool("firewall-trust").ok()
    assert "firewall" not in warnings()
