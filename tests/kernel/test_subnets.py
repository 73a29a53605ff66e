"""unshapedSubnets and shapedSubnets: what is exempt, or alone limited, in both directions."""

from typing import Any

import pytest

from tests import rates
from tests.host import DUAL_STACK, Host, Namespace
from tests.tool import Tool

RATE = 20_000_000
NEAR = ["198.51.100.0/24", "2001:db8:100::/64"]
NEAR_ADDRESSES = ("198.51.100.1", "2001:db8:100::1")
FAR_ADDRESSES = ("203.0.113.1", "2001:db8:200::1")


def config(host: Host, **keys: Any) -> dict[str, Any]:
    limits = {"ingressRate": RATE, "egressRate": RATE, **keys}
    return host.config(cniVersion="1.0.0", ipMasq=True, ipam=DUAL_STACK, bandwidth=limits)


@pytest.fixture
def remotes(host: Host) -> tuple[Namespace, Namespace]:
    near = host.add_remote()
    far = host.add_remote(subnet="203.0.113", subnet6="2001:db8:200:", default_route=False)
    return near, far


@pytest.mark.parametrize("key", ["unshapedSubnets", "shapedSubnets"])
def test_measured(
    host: Host, container: Namespace, remotes: tuple[Namespace, Namespace], key: str
) -> None:
    host.add(container, config(host, **{key: NEAR}))
    for remote in remotes:
        rates.serve(host, remote)
    limited, free = NEAR_ADDRESSES, FAR_ADDRESSES
    if key == "unshapedSubnets":
        limited, free = free, limited
    for index, download in ((0, False), (1, True), (0, True), (1, False)):
        flow = rates.Flow(container, free[index], download=download)
        rates.measure([flow], seconds=2)
        assert flow.bits_per_second > 10 * RATE
        flow = rates.Flow(container, limited[index], download=download)
        rates.assert_flows([flow], RATE, seconds=2, low=0.85)


def test_what_is_made(host: Host, container: Namespace) -> None:
    host.add_remote()
    before = host.snapshot()
    network = config(host, unshapedSubnets=["10.0.0.0/8", "192.0.2.9/24", "fd00::/33"])
    result = host.add(container, network)
    inside = container.run(["tc", "filter", "show", "dev", "eth0"]).stdout
    outside = host.run(["tc", "filter", "show", "dev", result["interfaces"][0]["name"]]).stdout
    for text, words in ((inside, ("0a000000/ff000000 at 16", "c0000200/ffffff00 at 16")),
                        (outside, ("0a000000/ff000000 at 12", "c0000200/ffffff00 at 12"))):  # fmt: skip
        for word in words:
            assert word in text
        assert text.count("flowid 1:") == 3
    host.check(container, network, result).ok()
    host.delete_attachment(container, network)
    assert host.links() == ["uplink"]
    assert before["leases"] == host.leases()


def test_given_as_the_reference_has_it(host: Host, container: Namespace) -> None:
    """At the top of the plugin's object, and by the runtime, in capitals."""
    network = config(host)
    network["UnshapedSubnets"] = ["10.0.0.0/8"]
    result = host.add(container, network)
    assert "0a000000" in container.run(["tc", "filter", "show", "dev", "eth0"]).stdout
    host.check(container, network, result).ok()
    host.delete_attachment(container, network)
    network["runtimeConfig"] = {"bandwidth": {"ShapedSubnets": ["172.16.0.0/12"]}}
    host.add(container, network)
    text = container.run(["tc", "filter", "show", "dev", "eth0"]).stdout
    assert "ac100000/fff00000" in text
    assert "0a000000" not in text


CHANGES = {
    "gone": "tc filter del dev eth0 parent 1:",
    "other": "tc filter add dev eth0 parent 1: protocol ip prio 1 u32 match ip dst 9.0.0.0/8 flowid 1:",
}


@pytest.mark.parametrize("change", ["gone", "other"])
@pytest.mark.parametrize("key", ["unshapedSubnets", "shapedSubnets"])
def test_drifts_are_found_and_repaired(
    host: Host, container: Namespace, key: str, change: str
) -> None:
    network = config(host, **{key: NEAR})
    result = host.add(container, network)
    container.run(CHANGES[change].split())
    error = host.check(container, network, result).error(107)
    assert "container eth0: filters" in error["msg"]
    tool = Tool(host)
    tool("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(container, network, result).ok()


def test_a_filter_past_the_limit_is_a_drift(host: Host, container: Namespace) -> None:
    """Also where no subnets are configured: it would lead past the class."""
    network = config(host)
    result = host.add(container, network)
    host.check(container, network, result).ok()
    container.run(CHANGES["other"].split())
    assert "filters" in host.check(container, network, result).error(107)["msg"]
    Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(container, network, result).ok()


def test_set_rate_keeps_them(host: Host, container: Namespace) -> None:
    network = config(host, unshapedSubnets=NEAR, egressRate=0)
    result = host.add(container, network)
    tool = Tool(host)
    outer = result["interfaces"][0]["name"]
    tool("set-rate", outer, "--egress", "5M", "--ingress", "6M",
         "--state-dir", str(host.state_dir)).ok()  # fmt: skip
    host.check(container, network, result).ok()
    for namespace, device in ((host, outer), (container, "eth0")):
        text = namespace.run(["tc", "filter", "show", "dev", device]).stdout
        assert text.count("flowid 1:") == 2


def test_only_limits(host: Host, container: Namespace) -> None:
    host.add_remote()
    network = config(host)
    network.pop("bandwidth")
    ptp = {"type": "ptp", "ipam": {**network["ipam"], "type": "host-local"}}
    own = {
        "type": "faasm",
        "stateDir": str(host.state_dir),
        "ingressRate": RATE,
        "egressRate": RATE,
        "shapedSubnets": NEAR,
    }
    listed = {"name": "testnet", "cniVersion": "1.0.0", "plugins": [ptp, own]}
    result = host.chain("ADD", container, listed)
    text = container.run(["tc", "filter", "show", "dev", "eth0"]).stdout
    assert text.count("flowid 1:1") == 2
    host.chain("CHECK", container, {**listed, "plugins": [own], "prevResult": result})
    host.chain("DEL", container, {**listed, "prevResult": result})
    assert host.records() == {}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"unshapedSubnets": ["10.0.0.0"]}, 'unshapedSubnets[0]: value "10.0.0.0"'),
        ({"shapedSubnets": [7]}, "shapedSubnets[0]: value 7"),
        ({"shapedSubnets": "10.0.0.0/8"}, "a list"),
        ({"shapedSubnets": NEAR, "unshapedSubnets": NEAR}, "use only one"),
    ],
)
def test_faults(host: Host, container: Namespace, given: dict[str, Any], words: str) -> None:
    assert words in host.cni("ADD", container, config(host, **given)).error(7)["msg"]


def test_status_tries_it(host: Host) -> None:
    network = {**config(host, unshapedSubnets=NEAR), "cniVersion": "1.1.0"}
    host.cni("STATUS", None, network).ok()
