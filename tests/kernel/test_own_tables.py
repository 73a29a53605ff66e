"""A table of nftables that has one of our names is replaced or deleted only when it is ours."""

import re
from typing import Any

import pytest

from cni_faasm.netlink import nft
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink, NetlinkError
from cni_faasm.rules import own_tables
from cni_faasm.spec.errors import PLUGIN_NOT_AVAILABLE, TABLE_TAKEN
from tests.attached import Attached, add_remote, config, passes
from tests.host import Host
from tests.tool import Tool

ENOENT = 2
LIMITED: dict[str, Any] = {"egressRate": "10M"}
# What an ADD makes all three of.
EVERYTHING: dict[str, Any] = {"ipMasq": True, "isolated": True, "bandwidth": LIMITED}
NEEDED: dict[str, dict[str, Any]] = {
    "inet faasm_testnet": {"ipMasq": True},
    "inet guard_testnet": {"isolated": True},
    "arp guard_testnet": {},
    "inet limit_testnet": {"bandwidth": LIMITED},
    "arp limit_testnet": {"bandwidth": LIMITED},
}
# Rules of somebody's, as he would write them; the last two look like ours at a glance.
STRANGERS = {
    "empty": "",
    "comment": 'comment "of the operator";',
    "comment like ours": 'comment "cni-faasmish";',
    "rules": "chain postrouting { counter; }; chain from { counter; };",
    "sets": "set egress { type ifname; elements = { faasm0 }; }; set hosts { type mark; };",
    "seal": "chain seal_0123abcd { }; chain mine { };",
}
NOTHING_NEEDED: dict[str, Any] = {"ipMasq": False, "antiSpoof": False}


def make(host: Host, table: str, what: str) -> str:
    host.run(["nft", "-f", "-"], stdin=f"table {table} {{ {STRANGERS[what]} }}")
    return listed(host, table)


def listed(host: Host, table: str) -> str:
    return host.run(["nft", "-a", "list", "table", *table.split()]).stdout


def collect(host: Host, network: dict[str, Any]) -> None:
    host.cni("GC", None, {**network, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}).ok()


@pytest.mark.also_reluctant
@pytest.mark.parametrize("what", STRANGERS)
@pytest.mark.parametrize("table", NEEDED)
def test_it_is_in_the_way_and_stays(host: Host, table: str, what: str) -> None:
    container = host.add_container()
    before = make(host, table, what)
    network = config(host, **{"antiSpoof": table.startswith("arp guard"), **NEEDED[table]})
    unattached = host.snapshot()
    error = host.cni("ADD", container, network).error(TABLE_TAKEN)
    assert f"nft table {table} is somebody else's" in error["msg"]
    assert f"nft delete table {table}" in error["details"]
    assert "could not undo" not in error["details"]
    host.assert_unchanged(unattached)
    status = host.cni("STATUS", None, {**network, "cniVersion": "1.1.0"})
    assert f"nft table {table} is" in status.error(PLUGIN_NOT_AVAILABLE)["msg"]
    host.delete_attachment(container, network)
    collect(host, network)
    assert listed(host, table) == before
    host.run(["nft", "delete", "table", *table.split()])
    Attached(host, network, container)


@pytest.mark.also_reluctant
@pytest.mark.parametrize("what", STRANGERS)
@pytest.mark.parametrize("table", NEEDED)
def test_it_is_no_matter_where_no_table_is_needed(host: Host, table: str, what: str) -> None:
    before = make(host, table, what)
    network = config(host, **NOTHING_NEEDED)
    one = Attached(host, network)
    host.check(one.inside, network, one.result).ok()
    host.cni("STATUS", None, {**network, "cniVersion": "1.1.0"}).ok()
    host.delete_attachment(one.inside, network)
    collect(host, network)
    assert listed(host, table) == before


def test_an_arp_table_is_no_matter_to_a_guard_without_one(host: Host) -> None:
    before = make(host, "arp guard_testnet", "rules")
    network = config(host, antiSpoof=False, isolated=True)
    one = Attached(host, network)
    made = listed(host, "inet guard_testnet")
    other = Attached(host, network)
    assert listed(host, "inet guard_testnet") == made  # and not made anew each time
    for each in (one, other):
        host.check(each.inside, network, each.result).ok()
    assert listed(host, "arp guard_testnet") == before


@pytest.mark.parametrize("table", NEEDED)
def test_what_comes_in_the_place_of_ours_stays(host: Host, table: str) -> None:
    """While a container runs: CHECK tells, repair and ADD say what is in the way, DEL ends well."""
    network = config(host, **EVERYTHING)
    tool = Tool(host)
    tool.network(**EVERYTHING)
    one = Attached(host, network)
    host.run(["nft", "delete", "table", *table.split()])
    before = make(host, table, "sets")
    details = host.check(one.inside, network, one.result).error(107)["details"]
    assert table.partition(" ")[2] in details
    assert f"nft table {table} is somebody else's" in tool("repair").expect(1).stdout
    host.cni("ADD", host.add_container(), network).error(TABLE_TAKEN)
    host.delete_attachment(one.inside, network)
    collect(host, network)
    assert listed(host, table) == before
    assert host.nft_tables() == [table]


def without_comments(host: Host) -> None:
    saved = host.run(["nft", "list", "ruleset"]).stdout
    stripped, number = re.subn(r'\n\s*comment "cni-faasm[^"]*"', "", saved)
    assert number == 5
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{stripped}")


def test_ours_without_its_comment_is_made_anew(host: Host) -> None:
    add_remote(host)
    network = config(host, **EVERYTHING)
    one = Attached(host, network)
    assert passes(host, one, 4, one.address[4])
    without_comments(host)
    other = Attached(host, network)
    text = host.run(["nft", "list", "ruleset"]).stdout
    assert text.count('comment "cni-faasm') == 5
    for each in (one, other):
        host.check(each.inside, network, each.result).ok()
        assert passes(host, each, 4, each.address[4])
    without_comments(host)
    for each in (one, other):
        host.delete_attachment(each.inside, network)
    collect(host, network)
    assert host.nft() == []


def test_only_the_very_table_that_was_looked_at_is_deleted(bare_host: Host) -> None:
    """Between the look and the deletion somebody may have put his own in its place."""
    ours, theirs = 'table inet guard_x { comment "cni-faasm names"; }', "table inet guard_x { }"
    bare_host.run(["nft", "-f", "-"], stdin=ours)
    with bare_host.entered(), Netlink(NETLINK_NETFILTER) as netfilter:
        [found] = own_tables.look(netfilter, "guard_x", (nft.NFPROTO_INET,))
        assert found is not None
        assert own_tables.is_ours(netfilter, found)
        bare_host.run(["nft", "-f", "-"], stdin=f"delete table inet guard_x\n{theirs}")
        with pytest.raises(NetlinkError) as caught:
            netfilter.nft_batch([own_tables.removal(found)])
        assert caught.value.errno == ENOENT
        [now] = own_tables.look(netfilter, "guard_x", (nft.NFPROTO_INET,))
        assert now is not None
        assert not own_tables.is_ours(netfilter, now)
        netfilter.nft_batch([own_tables.removal(now)])
        assert own_tables.look(netfilter, "guard_x", (nft.NFPROTO_INET,)) == [None]
