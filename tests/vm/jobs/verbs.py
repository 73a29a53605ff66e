"""Every verb, in each family of addresses, with packets."""

from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, DUAL_STACK, Host, Namespace

FAMILIES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "IPv4": ({}, ["10.200.0.2/32"]),
    "IPv6": (
        {"subnet": "fd00:200::/64", "routes": [{"dst": "::/0"}]},
        ["fd00:200::2/128"],
    ),
    "both": (DUAL_STACK, ["10.200.0.2/32", "fd00:200::2/128"]),
}
# The remote machine, and how long it may take a neighbour to be found.
REMOTE = {4: "198.51.100.1", 6: "2001:db8:100::1"}
PING = ["busybox", "ping", "-c1", "-W5"]


def test_version(host: Host) -> None:
    assert "1.1.0" in host.cni("VERSION", None, {"cniVersion": "1.1.0"}).ok()["supportedVersions"]


@pytest.mark.parametrize("family", FAMILIES)
def test_status(host: Host, family: str) -> None:
    """It makes an attachment of its own, rules and limits included."""
    before = host.snapshot()
    rates = {"ingressRate": 10**7, "egressRate": 10**7, "enforceEgress": "host"}
    keys = {"ipMasq": True, "isolated": True, "bandwidth": rates, "ipam": FAMILIES[family][0]}
    host.cni("STATUS", None, host.config(**keys)).ok()
    host.assert_unchanged(before)


@pytest.mark.parametrize("family", FAMILIES)
def test_add_check_del(host: Host, container: Namespace, family: str) -> None:
    host.add_remote()
    host.sysctl("net.ipv6.conf.all.forwarding", "1")  # it brings routes to any router
    before = host.snapshot()
    ipam, expected = FAMILIES[family]
    rates = {"ingressRate": 10**7, "egressRate": 10**7}
    config = host.config(ipMasq=True, bandwidth=rates, ipam=ipam)
    result = host.add(container, config)
    assert [one["address"] for one in result["ips"]] == expected
    assert container.addresses("eth0") == expected
    outer = result["interfaces"][0]["name"]
    assert host.links() == ["uplink", outer]
    for namespace, device in ((host, outer), (container, "eth0")):
        assert [one["rate"] for one in namespace.classes(device)] == [10**7]
    for address in expected:
        container.run([*PING, REMOTE[6 if ":" in address else 4]])
        host.run([*PING, address.partition("/")[0]])
    host.check(container, config, result).ok()
    host.delete_attachment(container, config)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    host.delete_attachment(container, config)


@pytest.mark.parametrize("key", ["ingressRate", "egressRate"])
def test_one_direction(host: Host, container: Namespace, key: str) -> None:
    """Before Linux 5.19 the size of the host's super-packets becomes the container's, too."""
    config = host.config(bandwidth={key: 10**7})
    result = host.add(container, config)
    host.check(container, config, result).ok()
