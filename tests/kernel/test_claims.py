"""A pool in the host's own LAN takes nobody's address: not the router's, not a machine's."""

from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, Host, Namespace, wait_until

MACHINE = "198.51.100.130"


@pytest.fixture
def lan(host: Host) -> Namespace:
    """Return the router of the host's LAN, in which another machine answers, too."""
    remote = host.add_remote()
    remote.run(["ip", "addr", "add", f"{MACHINE}/24", "dev", "eth0"])
    remote.run(["ip", "-6", "addr", "add", "2001:db8:100::130/64", "dev", "eth0", "nodad"])
    # Every link of a real host's has one, and asks for neighbours from it.
    host.run(["ip", "-6", "addr", "add", "fe80::2/64", "dev", "uplink", "nodad"])
    local = ["ip", "-6", "route", "show", "table", "local"]
    wait_until(lambda: "local fe80::2 " in host.run(local).stdout, "the route of fe80::2")
    return remote


def pool(host: Host, **keys: str) -> dict[str, Any]:
    ipam = {"subnet": "198.51.100.0/24", "rangeStart": "198.51.100.200", **keys}
    return host.config(ipam=ipam)


def pool6(host: Host, **keys: str) -> dict[str, Any]:
    ipam = {"subnet": "2001:db8:100::/64", "rangeStart": "2001:db8:100::200", **keys}
    return host.config(ipam=ipam)


@pytest.mark.parametrize("gateway", ["198.51.100.1", MACHINE])
def test_a_gateway_that_is_somebody_elses(
    host: Host, container: Namespace, lan: Namespace, gateway: str
) -> None:
    before = host.snapshot()
    error = host.cni("ADD", container, pool(host, gateway=gateway)).error(104)
    assert gateway in error["msg"]
    host.assert_unchanged(before)
    host.run(["busybox", "ping", "-c1", "-W2", gateway])
    status = host.cni("STATUS", None, pool(host, gateway=gateway)).error(50)
    assert gateway in status["msg"]
    host.assert_unchanged(before)
    assert lan.addresses("eth0")


@pytest.mark.parametrize("gateway", ["2001:db8:100::1", "2001:db8:100::130"])
def test_an_ipv6_gateway_that_is_somebody_elses(
    host: Host, container: Namespace, lan: Namespace, gateway: str
) -> None:
    before = host.snapshot()
    error = host.cni("ADD", container, pool6(host, gateway=gateway)).error(104)
    assert gateway in error["msg"]
    host.assert_unchanged(before)
    assert lan.addresses("eth0")


def test_a_router_that_is_silent(host: Host, container: Namespace, lan: Namespace) -> None:
    """Routes go by it, also by one of several and where nothing else says that it is there."""
    lan.run(["ip", "link", "set", "eth0", "down"])
    host.run(["ip", "route", "add", "203.0.113.0/24", "nexthop", "via", "198.51.100.7", "nexthop",
              "via", "198.51.100.8"])  # fmt: skip
    host.run(["ip", "route", "add", "192.0.2.0/24", "via", "10.77.0.9", "dev", "uplink", "onlink"])
    for gateway in ("198.51.100.1", "198.51.100.7", "198.51.100.8"):
        error = host.cni("ADD", container, pool(host, gateway=gateway)).error(104)
        assert "routes go by it" in error["msg"]
    config = host.config(ipam={"subnet": "10.77.0.0/24", "gateway": "10.77.0.9"})
    assert "10.77.0.9" in host.cni("ADD", container, config).error(104)["msg"]
    assert host.links() == ["uplink"]


def test_a_gateway_that_is_the_hosts_own(host: Host, container: Namespace, lan: Namespace) -> None:
    host.add(container, pool(host, gateway="198.51.100.2"))
    host.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    host.cni("DEL", container, pool(host, gateway="198.51.100.2")).ok()
    assert lan.addresses("eth0")


def test_a_gateway_that_is_nobodys(host: Host, container: Namespace, lan: Namespace) -> None:
    """Nobody answers: the operator has kept it for this. A second container finds it there."""
    config = pool(host, gateway="198.51.100.77")
    host.add(container, config)
    second = host.add_container()
    host.add(second, config)
    for one in (container, second):
        one.run(["busybox", "ping", "-c1", "-W2", "198.51.100.77"])
    assert lan.addresses("eth0")


def test_a_leased_address_that_answers(host: Host, container: Namespace, lan: Namespace) -> None:
    """It is refused; the next ADD takes the next one, as after any refusal."""
    before = host.snapshot()
    ipam = {"rangeStart": MACHINE, "rangeEnd": "198.51.100.131", "gateway": "198.51.100.2"}
    error = host.cni("ADD", container, pool(host, **ipam)).error(104)
    assert f"the address {MACHINE}" in error["msg"]
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    host.run(["busybox", "ping", "-c1", "-W2", MACHINE])
    assert host.leases() == {}
    result = host.add(container, pool(host, **ipam))
    assert result["ips"][0]["address"].startswith("198.51.100.131/")
    assert lan.addresses("eth0")
