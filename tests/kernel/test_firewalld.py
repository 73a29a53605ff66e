"""Containers on a host with firewalld: the real daemon, with Debian's defaults."""

from collections.abc import Iterator

import pytest

from tests.attached import Attached, add_remote, config
from tests.firewalls import Firewalld
from tests.host import Host, Namespace
from tests.kernel.test_firewall import status
from tests.kernel.test_ufw import reached

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
