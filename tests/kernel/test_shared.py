"""Limits that several containers have together: bandwidth.shared."""

import itertools
from typing import Any

import pytest

from tests import frames, rates
from tests.attached import REMOTE, Attached, add_remote, assert_seen_and_mended, config
from tests.host import Host
from tests.kernel.test_backstop import MBIT, arrived, cheat, lose
from tests.kernel.test_backstop_places import sets
from tests.kernel.test_counted import status
from tests.tool import Tool

RATE = 4 * MBIT


def sharing(host: Host, by: str = "", rate: int = RATE, **keys: Any) -> dict[str, Any]:
    shared = {"egressRate": rate, "ingressRate": rate, "by": by}
    return config(host, ipMasq=True, bandwidth={"shared": shared, **keys})


def attach(host: Host, network: dict[str, Any], **args: str) -> Attached:
    labels = [{"key": key, "value": value} for key, value in args.items()]
    return Attached(host, {**network, "args": {"cni": {"labels": labels}}} if args else network)


def members(host: Host) -> dict[str, dict[str, str]]:
    """Return by map which end leads to which limit."""
    listed = host.json("nft", "-j", "list", "table", "inet", "limit_testnet")["nftables"]
    return {one["map"]["name"]: dict(one["map"].get("elem", [])) for one in listed if "map" in one}


def limits(host: Host) -> set[str]:
    """Return the names of the limits that are there."""
    listed = host.json("nft", "-j", "list", "table", "inet", "limit_testnet")["nftables"]
    return {one["limit"]["name"] for one in listed if "limit" in one}


def test_two_that_send_have_one_limit(host: Host) -> None:
    remote = add_remote(host)
    network = sharing(host)
    pair = attach(host, network), attach(host, network)
    before, elapsed = arrived(remote), 0.0
    for one in pair:
        packet = frames.udp(one.address[4], REMOTE[4], bytes(1400))
        frame = frames.ethernet(one.outer_mac, one.mac, frames.ETH_P_IP, packet)
        elapsed += cheat(one.inside, frame, 0.7)[0]
    passed = arrived(remote) - before
    # The kernel's bucket holds a second of the rate.
    allowed = RATE / 8 * (1 + elapsed) + 100_000
    assert 0.5 * allowed <= passed <= allowed


@pytest.mark.parametrize("download", [False, True])
def test_flows_of_several_fill_it_together(host: Host, download: bool) -> None:
    remote = add_remote(host)
    rates.serve(host, remote, 2)
    network = sharing(host, rate=20 * MBIT)
    flows = [
        rates.Flow(attach(host, network).inside, REMOTE[4], port=port, download=download)
        for port in (5201, 5202)
    ]
    rates.measure(flows, seconds=3)
    total = sum(flow.bits_per_second for flow in flows)
    assert 0.6 * 20 * MBIT <= total <= 1.1 * 20 * MBIT


def test_who_has_another_label_shares_nothing(host: Host) -> None:
    network = sharing(host, by="tenant")
    one, two, three = (attach(host, network, tenant=tenant) for tenant in ("a", "a", "b"))
    four = attach(host, network)
    found = members(host)
    for each in ("shared_from", "shared_to"):
        limits = found[each]
        assert limits[one.outer] == limits[two.outer]
        assert len({limits[other.outer] for other in (one, three, four)}) == 3
    assert not set(found["shared_from"].values()) & set(found["shared_to"].values())
    for each_of in (one, two, three, four):
        host.check(each_of.inside, network, each_of.result).ok()


def test_cni_args_are_labels_too(host: Host) -> None:
    network = sharing(host, by="K8S_POD_NAMESPACE")
    ends = []
    for namespace in ("a", "a", "b"):
        inside = host.add_container()
        result = host.cni(
            "ADD", inside, network, args=f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace}"
        ).ok()
        ends.append(result["interfaces"][0]["name"])
    limits = members(host)["shared_from"]
    assert limits[ends[0]] == limits[ends[1]] != limits[ends[2]]


def test_they_come_and_go(host: Host) -> None:
    network = {**sharing(host, egressRate="10M"), "cniVersion": "1.1.0"}
    plain = Attached(host, config(host, bandwidth={"egressRate": "10M"}))
    assert "shared_from" not in members(host)
    one, two = attach(host, network), attach(host, network)
    assert set(members(host)["shared_from"]) == {one.outer, two.outer}
    assert set(sets(host)["egress"]) == {plain.outer, one.outer, two.outer}
    lose(host, two)
    heir = attach(host, config(host))
    assert heir.outer == two.outer
    assert set(members(host)["shared_from"]) == {one.outer}
    host.delete_attachment(None, network, container_id=two.inside.name)
    host.delete_attachment(one.inside, network)
    other = attach(host, sharing(host, rate=2 * RATE))
    assert other.outer == one.outer
    host.check(other.inside, network, other.result).ok()
    host.delete_attachment(plain.inside, network)
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": []}).ok()
    assert host.nft() == []


def test_gc_takes_away_the_limits_that_nobody_has(host: Host) -> None:
    """They are named by label and rate: with names of pods, each would leave one for ever."""
    network = {**sharing(host, by="tenant"), "cniVersion": "1.1.0"}
    one, other = (attach(host, network, tenant=tenant) for tenant in ("a", "b"))
    assert len(limits(host)) == 4
    host.delete_attachment(other.inside, network)
    told = [{"containerID": one.inside.name, "ifname": "eth0"}]
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": told}).ok()
    assert limits(host) == {each[one.outer] for each in members(host).values() if each}
    assert len(limits(host)) == 2
    host.check(one.inside, network, one.result).ok()


def test_check_sees_and_repair_mends(host: Host) -> None:
    tool = Tool(host)
    tool.network()
    network = {**sharing(host), "antiSpoof": False, "ipMasq": False}
    one, two = attach(host, network), attach(host, network)
    before = members(host)
    assert list(itertools.chain(*before.values())) == 2 * [one.outer, two.outer]
    for harm in (
        f'delete element inet limit_testnet shared_from {{ "{one.outer}" }}',
        "flush chain inet limit_testnet shared_from",
        "flush chain inet limit_testnet shared_to",
        "flush ruleset",
    ):
        assert_seen_and_mended(host, tool, (one, two), network, harm)
        assert members(host) == before
    saved = host.run(["nft", "list", "ruleset"]).stdout
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{saved}")
    host.check(one.inside, network, one.result).ok()


def test_the_tool_knows_them(host: Host) -> None:
    tool = Tool(host)
    network = sharing(host, by="tenant")
    tool.network(bandwidth=network["bandwidth"])
    one = attach(host, network, tenant="a")
    told = status(tool, one)
    assert told["shared"] == {
        "ingressBitsPerSecond": RATE,
        "egressBitsPerSecond": RATE,
        "by": "tenant",
        "of": "a",
    }
    assert told["differsFromFile"] == []
    text = tool("status", one.outer).ok().stdout
    assert "at most 4 Mbit/s in, 4 Mbit/s out, together with all of tenant=a" in text
    metrics = tool("metrics").ok().stdout
    whose = 'by="tenant",direction="egress",network="testnet",of="a"'
    assert f"cni_faasm_shared_limit_bytes_per_second{{{whose}}} 500000.0" in metrics
    before = members(host)
    tool.network(bandwidth=sharing(host, by="tenant", rate=2 * RATE)["bandwidth"])
    tool("apply").ok()
    assert status(tool, one)["shared"]["egressBitsPerSecond"] == 2 * RATE
    assert members(host)["shared_from"].keys() == before["shared_from"].keys()
    assert members(host) != before
    host.check(one.inside, network, one.result).ok()
    tool.network(bandwidth={"egressRate": "10M"})
    tool("apply").ok()
    assert status(tool, one)["shared"] is None
    assert not any(members(host).values())
    host.check(one.inside, network, one.result).ok()


def rates_of(tool: Tool, *ends: Attached) -> list[int | None]:
    """Return what each may send together with others."""
    found = [status(tool, one)["shared"] for one in ends]
    return [one and one["egressBitsPerSecond"] for one in found]


def test_set_rate_changes_it_for_all_who_share_it(host: Host) -> None:
    tool = Tool(host)
    network = sharing(host, by="tenant")
    tool.network(bandwidth=network["bandwidth"])
    one, two, other = (attach(host, network, tenant=tenant) for tenant in ("a", "a", "b"))
    before = members(host)
    done = tool("set-rate", one.outer, "--shared-egress", "8M", "--json").ok()
    found = done.document["attachments"]
    assert [(each["changed"], each["shared"]["egressBitsPerSecond"]) for each in found] == [
        (True, 8 * MBIT),
        (True, 8 * MBIT),
    ]
    after = members(host)
    assert after["shared_to"] == before["shared_to"]
    assert after["shared_from"][one.outer] == after["shared_from"][two.outer]
    assert after["shared_from"][one.outer] != before["shared_from"][one.outer]
    assert after["shared_from"][other.outer] == before["shared_from"][other.outer]
    for each in (one, two, other):
        host.check(each.inside, network, each.result).ok()
    told = status(tool, two)
    assert told["setByHand"]
    assert told["differsFromFile"][0]["key"] == "shared.egressRate"
    assert "left as set-rate has set it" in tool("apply").ok().stdout
    tool("set-rate", two.outer, "--reset").ok()
    assert members(host) == before
    assert not status(tool, one)["setByHand"]
    text = tool("set-rate", "--network", "testnet", "--shared-egress", "0").ok().stdout
    assert f"{one.inside.name}/eth0: at most 4 Mbit/s in, together with all of tenant=a\n" in text
    assert rates_of(tool, one, two, other) == [None] * 3
    assert members(host)["shared_from"] == {}
    tool("set-rate", "--network", "testnet", "--reset").ok()
    assert members(host) == before


def test_set_rate_where_nothing_was_shared(host: Host) -> None:
    tool = Tool(host)
    tool.network()
    network = config(host)
    one, two = attach(host, network), attach(host, network)
    refused = tool("set-rate", one.outer, "--shared-egress", "8M").expect(1)
    assert "it shares no limit" in refused.stderr
    tool("set-rate", "--network", "testnet", "--shared-egress", "8M", "--egress", "5M").ok()
    assert rates_of(tool, one, two) == [8 * MBIT, 8 * MBIT]
    assert set(members(host)["shared_from"]) == {one.outer, two.outer}
    for each in (one, two):
        host.check(each.inside, network, each.result).ok()
    tool("set-rate", one.outer, "--reset").ok()
    assert rates_of(tool, one, two) == [None, None]
    assert status(tool, two)["egress"]["limitBitsPerSecond"] == 5 * MBIT


def test_set_rate_holds_what_flows_already(host: Host) -> None:
    remote = add_remote(host)
    rates.serve(host, remote, 2)
    tool = Tool(host)
    network = sharing(host, rate=40 * MBIT)
    tool.network(bandwidth=network["bandwidth"])
    pair = attach(host, network), attach(host, network)
    tool("set-rate", pair[0].outer, "--shared-egress", "10M").ok()
    flows = [
        rates.Flow(one.inside, REMOTE[4], port=port)
        for one, port in zip(pair, (5201, 5202), strict=True)
    ]
    rates.measure(flows, seconds=3)
    assert 0.6 * 10 * MBIT <= sum(flow.bits_per_second for flow in flows) <= 1.1 * 10 * MBIT
