"""The first packet: whatever is sent the moment ADD is done arrives, and is answered."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from cni_faasm.attachment.plan import Plan
from cni_faasm.cli import networks
from cni_faasm.cli.pool import netfolder
from cni_faasm.link import veth
from cni_faasm.netlink.transport import Netlink
from cni_faasm.verbs.delete import delete
from tests.attached import add_remote, config, neighbours
from tests.first_packet import VARIANTS, by_process, count, in_process, repaired
from tests.first_packet import container as made
from tests.host import DUAL_STACK, Host, Namespace, wait_until

# Of the packets to a container that sends at once, an eighth were lost before ADD waited for them.
SHORT, LONG = 36, 1000
# IF_OPER_DOWN and IF_OPER_LOWERLAYERDOWN of <linux/if.h>; before linkwatch has come it is unknown.
WITHOUT_CARRIER = (2, 3)


def say(record_property: Callable[[str, Any], None], what: str, text: str) -> None:
    record_property(f"first packets, {what}", text)
    print(text)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_arrives(
    bare_host: Host,
    variant: str,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, Any], None],
) -> None:
    add_remote(bare_host)
    number = LONG if pytestconfig.getoption("soak") else SHORT
    network = config(bare_host, ipMasq=True, **VARIANTS[variant])
    counted = count(bare_host, network, number)
    say(record_property, variant, str(counted))
    assert counted.tried.total() == number
    assert counted.lost == {}


def test_it_arrives_behind_the_process(
    host: Host, pytestconfig: pytest.Config, record_property: Callable[[str, Any], None]
) -> None:
    add_remote(host)
    number = LONG if pytestconfig.getoption("soak") else SHORT
    counted = count(host, config(host, ipMasq=True), number, attach=by_process)
    say(record_property, "after the plugin's process", str(counted))
    assert counted.tried.total() == number
    assert counted.lost == {}


@pytest.mark.parametrize("end", ["host", "container"])
def test_it_arrives_behind_a_repair(bare_host: Host, end: str) -> None:
    add_remote(bare_host)
    network = config(bare_host, ipMasq=True)
    counted = count(bare_host, network, SHORT, attach=repaired(end))
    assert counted.tried.total() == SHORT
    assert counted.lost == {}


def test_the_host_knows_a_mac_that_it_is_not_made_to_forget(
    bare_host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An end without a carrier is looked at by linkwatch, which throws away what is known there.

    Once a second at most it does so by itself: of several attachments it is late for some. Here
    each waits for it, between its two ends.
    """
    configure_outer = veth.configure_outer

    def looked_at(host: Netlink, plan: Plan) -> None:
        configure_outer(host, plan)

        def is_seen() -> bool:
            found = veth.find(host, ifindex=plan.host_ifindex)
            return found is not None and found.operstate in WITHOUT_CARRIER

        wait_until(is_seen, "linkwatch to see the host's end")

    monkeypatch.setattr(veth, "configure_outer", looked_at)
    network = config(bare_host)
    netfolder.prepare()
    with bare_host.entered():
        for number in range(6):
            with made(f"known{bare_host.number}x{number}") as inside:
                result = in_process(bare_host, network, inside)
                (outer,) = (name for name in bare_host.links() if name.startswith("faasm"))
                end = inside.link("eth0")
                assert end is not None
                addresses = [one["address"].partition("/")[0] for one in result["ips"]]
                known = neighbours(bare_host, outer)
                mac = end["address"]
                assert {one: known.get(one) for one in addresses} == dict.fromkeys(addresses, mac)
                delete(networks.request("DEL", network, inside.name, "eth0"), [], detach=False)


def test_what_never_comes_is_not_waited_for_long(host: Host, container: Namespace) -> None:
    """A host whose rules lead packets for its own addresses elsewhere."""
    for rule in ("add pref 9 lookup local", "del pref 0", "add pref 1 to fd00:200::/64 lookup 9"):
        host.run(["ip", "-6", "rule", *rule.split()])
    host.run(["ip", "-6", "route", "add", "unreachable", "default", "table", "9"])
    begun = time.monotonic()
    result = host.add(container, host.config(ipam=DUAL_STACK))
    assert 1.5 < time.monotonic() - begun < 10
    assert len(result["ips"]) == 2
