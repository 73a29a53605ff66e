"""An operator saves the rules by nft and loads them again: they are the same, to us as well."""

from typing import Any

import pytest

from tests.attached import Attached, add_remote, config, passes
from tests.host import Host

LIMITED = {"ingressRate": "20M", "egressRate": "10M", "enforceEgress": "host"}


@pytest.mark.parametrize(
    "keys",
    [
        {"ipMasq": True, "isolated": True, "allowHost": ["udp/53", "tcp/53"], "bandwidth": LIMITED},
        {"ipMasq": True},
        {"isolated": True, "antiSpoof": False},
    ],
    ids=",".join,
)
def test_saved_and_loaded_again(host: Host, keys: dict[str, Any]) -> None:
    add_remote(host)
    network = config(host, **keys)
    one = Attached(host, network)
    guarded = network.get("antiSpoof", True)
    assert passes(host, one, 4, one.address[4])  # what is learned of it is saved, too
    saved = host.run(["nft", "list", "ruleset"]).stdout
    assert 'comment "cni-faasm' in saved
    host.run(["nft", "flush", "ruleset"])
    host.run(["nft", "-f", "-"], stdin=saved)

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
