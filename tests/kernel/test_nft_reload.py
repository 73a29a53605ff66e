"""An operator saves the rules by nft and loads them again: they are the same, to us as well."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.attached import Attached, add_remote, config, passes
from tests.host import Host, wait_until

LIMITED = {"ingressRate": "20M", "egressRate": "10M", "enforceEgress": "host"}


NETWORKS: list[dict[str, Any]] = [
    {"ipMasq": True, "isolated": True, "allowHost": ["udp/53", "tcp/53"], "bandwidth": LIMITED},
    {"ipMasq": True, "bandwidth": {"egressRate": "10M"}},
    {"isolated": True, "antiSpoof": False},
]


@pytest.mark.parametrize("keys", NETWORKS, ids=",".join)
def test_saved_and_loaded_again(host: Host, keys: dict[str, Any]) -> None:
    add_remote(host)
    save_and_load(host, keys, ["nft"])


def save_and_load(host: Host, keys: dict[str, Any], nft: Sequence[str]) -> None:
    network = config(host, **keys)
    one = Attached(host, network)
    guarded = network.get("antiSpoof", True)
    assert passes(host, one, 4, one.address[4])  # what is learned of it is saved, too
    saved = host.run([*nft, "list", "ruleset"]).stdout
    assert 'comment "cni-faasm' in saved
    host.run([*nft, "flush", "ruleset"])
    host.run([*nft, "-f", "-"], stdin=saved)

    host.check(one.inside, network, one.result).ok()
    other = Attached(host, network)
    for each in (one, other):
        host.check(each.inside, network, each.result).ok()
        for version in (4, 6):
            assert passes(host, each, version, each.address[version])
        stranger = b"\x02\0\0\0\0\x77"
        assert passes(host, each, 4, each.address[4], mac=stranger) != guarded
    for each in (one, other):
        host.delete_attachment(each.inside, network)
    host.cni("GC", None, {**network, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}).ok()
    assert host.nft() == []


def test_saved_while_they_ran_and_loaded_when_they_have_gone(host: Host) -> None:
    """As at the next start of the host, where no interface of ours is there yet."""
    add_remote(host)
    network = config(host, ipMasq=True, isolated=True, bandwidth={"egressRate": "10M"})
    one, two = Attached(host, network), Attached(host, network)
    for each in (one, two):
        assert passes(host, each, 4, each.address[4])
        each.inside.run(["busybox", "arping", "-c1", "-I", "eth0", "10.200.0.1"])
    saved = host.run(["nft", "list", "ruleset"]).stdout
    assert f'"{one.outer}"' in saved
    for each in (one, two):
        host.delete_attachment(each.inside, network)
    left = [
        line
        for line in host.run(["nft", "list", "ruleset"]).stdout.splitlines()
        if f'"{one.outer}"' in line
    ]
    assert left
    assert all("limit rate over" in line for line in left)  # the bucket, for the next of that name
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{saved}")
    # Of the same name, and with another MAC: what the one before had said binds it not.
    other = Attached(host, network)
    assert other.outer == one.outer
    assert other.mac != one.mac
    assert passes(host, other, 4, other.address[4])
    host.check(other.inside, network, other.result).ok()


def test_a_container_that_has_gone_before_the_rules_are_listed(host: Host) -> None:
    add_remote(host)
    network = config(host)
    one = Attached(host, network)
    assert passes(host, one, 4, one.address[4])
    one.inside.delete()
    wait_until(lambda: host.link(one.outer) is None, "the pair to go")
    saved = host.run(["nft", "list", "ruleset"]).stdout
    assert f'"{one.outer}"' in saved
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{saved}")
    other = Attached(host, network)
    assert passes(host, other, 4, other.address[4])
    host.check(other.inside, network, other.result).ok()
