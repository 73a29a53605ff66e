"""Containers on a host with ufw: the real one, with Debian's defaults."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.attached import REMOTE, Attached, add_remote, answers, config
from tests.firewalls import Ufw
from tests.host import Host, Namespace


def reached(host: Host, remote: Namespace, one: Attached, other: Attached) -> list[str]:
    """Return what a container reaches by TCP, of the world, another container and the host."""
    asked = [
        (f"{what} {version}", server, address)
        for version in (4, 6)
        for what, server, address in (
            ("world", remote, REMOTE[version]),
            ("container", other.inside, other.address[version]),
            ("host", host, {4: "198.51.100.2", 6: "2001:db8:100::2"}[version]),
        )
    ]
    with ThreadPoolExecutor() as pool:  # each waits for what does not come
        found = pool.map(lambda way: answers(way[1], one.inside, way[2]), asked)
        return [what for (what, _, _), passes in zip(asked, found, strict=True) if passes]


OUTSIDE = ["world 4", "container 4", "world 6", "container 6"]


def settings(host: Host) -> dict[str, Any]:
    return config(host, ipMasq=True)


def forward_rules(host: Host) -> list[str]:
    listed = host.run(["iptables", "-S", "FORWARD"]).stdout.splitlines()
    return [line.removeprefix("-A FORWARD ") for line in listed]


@pytest.mark.parametrize("policy", ["DROP", "REJECT"])
def test_what_forwards_nothing_lets_containers_pass(bare_host: Host, policy: str) -> None:
    host = bare_host
    remote = add_remote(host)
    ufw = Ufw(host)
    ufw("default", policy.lower().replace("drop", "deny"), "routed")
    ufw("--force", "enable")
    one, other = Attached(host, settings(host)), Attached(host, settings(host))
    # The host's own services are ufw's business.
    assert reached(host, remote, one, other) == OUTSIDE
    before = forward_rules(host)
    assert [line for line in before if "ACCEPT" in line] == before[3:5]
    ufw("reload")
    assert forward_rules(host) == before
    ufw("--force", "disable")
    ufw("--force", "enable")
    assert forward_rules(host) == before
    assert reached(host, remote, one, other) == OUTSIDE
    host.check(one.inside, settings(host), one.result).ok()
    ufw("allow", "from", "10.200.0.0/16", "to", "any", "port", "7777", "proto", "tcp")
    assert reached(host, remote, one, other)[:3] == ["world 4", "container 4", "host 4"]


def test_what_ufw_denies_to_containers_is_denied(bare_host: Host) -> None:
    host = bare_host
    remote = add_remote(host)
    ufw = Ufw(host)
    ufw("--force", "enable")
    one, other = Attached(host, settings(host)), Attached(host, settings(host))
    ufw("route", "deny", "out", "on", "uplink")
    assert reached(host, remote, one, other) == ["container 4", "container 6"]


def test_ufw_that_is_enabled_later(bare_host: Host) -> None:
    host = bare_host
    remote = add_remote(host)
    one, other = Attached(host, settings(host)), Attached(host, settings(host))
    ufw = Ufw(host)
    ufw("route", "deny", "out", "on", "uplink", "to", "any", "port", "25", "proto", "tcp")
    ufw("--force", "enable")
    assert reached(host, remote, one, other) == []
    details = host.check(one.inside, settings(host), one.result).error(107)["details"]
    assert "forwarding: nft add rule ip filter FORWARD" in details
    host.cni("STATUS", None, settings(host) | {"cniVersion": "1.1.0"}).ok()
    # The next ADD puts it right for all, and so it is after a restart of ufw.
    Attached(host, settings(host))
    assert reached(host, remote, one, other) == OUTSIDE
    assert not answers(remote, one.inside, REMOTE[4], port=25)


def test_rules_that_came_before_ufw_are_put_behind_it(bare_host: Host) -> None:
    host = bare_host
    for tool in ("iptables", "ip6tables"):
        host.run([tool, "-P", "FORWARD", "DROP"])
    remote = add_remote(host)
    one, other = Attached(host, settings(host)), Attached(host, settings(host))
    assert "10.200.0.0/16" in forward_rules(host)[1]
    ufw = Ufw(host)
    ufw("route", "deny", "out", "on", "uplink")
    ufw("--force", "enable")
    assert reached(host, remote, one, other) == OUTSIDE
    details = host.check(one.inside, settings(host), one.result).error(107)["details"]
    assert "expected after the operator's own, found before" in details
    Attached(host, settings(host))
    assert reached(host, remote, one, other) == ["container 4", "container 6"]
    assert len([line for line in forward_rules(host) if "10.200.0.0/16" in line]) == 2
    host.check(one.inside, settings(host), one.result).ok()
