"""The first packet: whatever is sent the moment ADD is done arrives, and is answered."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.attached import add_remote, config
from tests.first_packet import VARIANTS, by_process, count, repaired
from tests.host import DUAL_STACK, Host, Namespace

# Of the packets to a container that sends at once, an eighth were lost before ADD waited for them.
SHORT, LONG = 36, 1000


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


def test_what_never_comes_is_not_waited_for_long(host: Host, container: Namespace) -> None:
    """A host whose rules lead packets for its own addresses elsewhere."""
    for rule in ("add pref 9 lookup local", "del pref 0", "add pref 1 to fd00:200::/64 lookup 9"):
        host.run(["ip", "-6", "rule", *rule.split()])
    host.run(["ip", "-6", "route", "add", "unreachable", "default", "table", "9"])
    begun = time.monotonic()
    result = host.add(container, host.config(ipam=DUAL_STACK))
    assert 1.5 < time.monotonic() - begun < 10
    assert len(result["ips"]) == 2
