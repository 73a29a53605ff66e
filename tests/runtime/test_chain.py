"""faasm first, then the reference's portmap, firewall, tuning and sbr, as one list."""

from typing import Any

import pytest

from tests import rates
from tests.host import DUAL_STACK, Host, Namespace

RATE = 10_000_000
VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0")


@pytest.fixture
def host(runtime_host: Host) -> Host:
    return runtime_host


def conflist(host: Host, version: str, *names: str) -> dict[str, Any]:
    later: dict[str, dict[str, Any]] = {
        "portmap": {
            "type": "portmap",
            "capabilities": {"portMappings": True},
            "runtimeConfig": {
                "portMappings": [{"hostPort": 8080, "containerPort": 5201, "protocol": "tcp"}]
            },
        },
        "firewall": {"type": "firewall", "backend": "iptables"},
        "tuning": {
            "type": "tuning",
            "mac": "02:00:00:00:12:34",
            "mtu": 1300,
            "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"},
        },
        "sbr": {"type": "sbr"},
    }
    limits = {"ingressRate": RATE, "egressRate": RATE}
    own = host.config(ipMasq=True, ipam=DUAL_STACK, bandwidth=limits)
    own.pop("cniVersion")
    name = own.pop("name")
    return {
        "name": name,
        "cniVersion": version,
        "plugins": [own, *(later[one] for one in names)],
    }


@pytest.fixture
def container(host: Host) -> Namespace:
    return host.add_container()


# portmap is not asked to CHECK: Debian's looks for its IPv4 rules in ip6tables, too.
CHAINS = [
    ("portmap",),
    ("firewall",),
    ("tuning",),
    ("sbr",),
    ("portmap", "firewall", "tuning", "sbr"),
]
# What a plugin of Debian's speaks at the earliest, where that is not the beginning.
SINCE = {"firewall": "0.4.0"}


@pytest.mark.parametrize(
    ("version", "names"),
    [
        pytest.param(version, names, id=f"{version}-{'+'.join(names)}")
        for version in VERSIONS
        for names in CHAINS
        if all(version >= SINCE.get(name, "") for name in names)
    ],
)
def test_add_check_del(
    host: Host, container: Namespace, version: str, names: tuple[str, ...]
) -> None:
    chain = conflist(host, version, *names)
    result = host.chain("ADD", container, chain)
    assert result["cniVersion"] == version
    if version >= "0.4.0":
        checked = [one for one in chain["plugins"] if one["type"] != "portmap"]
        host.chain("CHECK", container, {**chain, "plugins": checked, "prevResult": result})
        container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
        own = {**chain["plugins"][0], "name": chain["name"], "cniVersion": version}
        error = host.check(container, own, result).error(107)
        assert error["details"].count("expected") == 1, "what later plugins changed is no drift"
    host.chain("DEL", container, {**chain, "prevResult": result})
    assert container.links() == []
    assert host.leases() == {}
    assert host.records() == {}
    if "sbr" not in names:  # whose second DEL fails for want of the interface
        host.chain("DEL", container, {**chain, "prevResult": result})


def test_a_published_port_answers_under_the_limit(host: Host, container: Namespace) -> None:
    remote = host.remotes[0]
    chain = conflist(host, "1.0.0", "portmap", "firewall", "tuning")
    host.chain("ADD", container, chain)
    rates.serve(host, container)
    for download in (False, True):
        flow = rates.Flow(remote, "198.51.100.2", port=8080, download=download)
        rates.assert_flows([flow], RATE, seconds=3, low=0.9)
