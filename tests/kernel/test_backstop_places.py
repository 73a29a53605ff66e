"""An egress limit holds on the host where it is for some subnets, and at the port of a bridge."""

import itertools
from typing import Any

import pytest

from tests import frames
from tests.attached import REMOTE, Attached, add_remote, assert_seen_and_mended, config
from tests.host import Host, Namespace
from tests.kernel.test_backstop import MBIT, arrived, cheat, lose
from tests.kernel.test_chained import conflist
from tests.tool import Tool

RATE = 2 * MBIT
KINDS = {4: frames.ETH_P_IP, 6: frames.ETH_P_IPV6}
REMOTES = ["198.51.100.0/24", "198.51.100.0/28", "2001:db8:100::/64"]
ELSEWHERE = ["192.0.2.0/24", "2001:db8:99::/64"]


def scoped(host: Host, key: str, subnets: list[str], **keys: Any) -> dict[str, Any]:
    return config(host, bandwidth={"egressRate": RATE, key: subnets}, **keys)


def assert_held(passed: int, seconds: float, tried: int) -> None:
    """Demand no more than 1.03 of the limit and a second of it, and 1.15 over ten seconds."""
    allowed = RATE / 8 * 1.03 * (1 + seconds) + 10_000
    assert tried > 1.5 * allowed  # else nothing was tried
    assert 0.6 * allowed <= passed <= allowed
    assert seconds < 10 or passed * 8 / seconds <= 1.15 * RATE


def to_remote(one: Attached, version: int) -> bytes:
    packet = frames.udp(one.address[version], REMOTE[version], bytes(1400))
    return frames.ethernet(one.outer_mac, one.mac, KINDS[version], packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("key", "subnets", "limited"),
    [
        ("unshapedSubnets", ELSEWHERE, True),
        ("unshapedSubnets", REMOTES, False),
        ("shapedSubnets", REMOTES, True),
        ("shapedSubnets", ELSEWHERE, False),
    ],
)
def test_a_limit_for_some_subnets(  # noqa: PLR0917 -- one table
    host: Host,
    request: pytest.FixtureRequest,
    version: int,
    key: str,
    subnets: list[str],
    limited: bool,
) -> None:
    remote = add_remote(host)
    one = Attached(host, scoped(host, key, subnets))
    frame = to_remote(one, version)
    before = arrived(remote)
    long = limited and request.config.getoption("--soak")
    seconds, sent = cheat(one.inside, frame, 10 if long else 0.7)
    passed, tried = arrived(remote) - before, sent * (len(frame) - 14)
    if limited:
        assert_held(passed, seconds, tried)
    else:
        assert passed > 0.5 * tried
        assert passed > 3 * RATE / 8 * (1 + seconds)


def sets(host: Host, family: str = "inet") -> dict[str, list[str]]:
    """Return the ends in each set of the network's table."""
    found: dict[str, list[str]] = {}
    listed = host.json("nft", "-j", "list", "table", family, "limit_testnet")
    for one in (each["set"] for each in listed["nftables"] if "set" in each):
        elements = one.get("elem", [])
        found[one["name"]] = sorted(each["elem"]["val"] for each in elements)
    return found


@pytest.fixture
def tool(host: Host) -> Tool:
    found = Tool(host)
    found.network()
    return found


def test_several_lists_of_subnets_in_one_network(host: Host) -> None:
    """Each has its own set; a container of the network is in one of them."""
    networks = [
        {**config(host, bandwidth={"egressRate": RATE}), "cniVersion": "1.1.0"},
        scoped(host, "unshapedSubnets", ELSEWHERE),
        scoped(host, "shapedSubnets", ELSEWHERE),
        scoped(host, "unshapedSubnets", ELSEWHERE[:1]),
    ]
    all_of = [Attached(host, network) for network in networks]
    found = sets(host)
    assert sorted(itertools.chain(*found.values())) == sorted(one.outer for one in all_of)
    assert found["egress"] == [all_of[0].outer]
    assert len(found) == 4
    # ARP is limited where all is that is not exempt.
    assert sets(host, "arp") == {"egress": sorted(all_of[at].outer for at in (0, 1, 3))}
    for one, network in zip(all_of, networks, strict=True):
        host.check(one.inside, network, one.result).ok()
    for one, network in zip(all_of[1:], networks[1:], strict=True):
        host.delete_attachment(one.inside, network)
    valid = [{"containerID": all_of[0].inside.name, "ifname": "eth0"}]
    host.cni("GC", None, {**networks[0], "cni.dev/valid-attachments": valid}).ok()
    assert list(itertools.chain(*sets(host).values())) == [all_of[0].outer]
    host.delete_attachment(all_of[0].inside, networks[0])
    host.cni("GC", None, {**networks[0], "cni.dev/valid-attachments": []}).ok()
    assert host.nft() == []


def test_a_name_that_another_list_of_subnets_had(host: Host) -> None:
    """Whoever gets the name of one that is gone is in none of its sets."""
    network = scoped(host, "unshapedSubnets", ELSEWHERE)
    other = scoped(host, "shapedSubnets", ELSEWHERE)
    all_limited = config(host, bandwidth={"egressRate": RATE})
    Attached(host, network)
    Attached(host, other)
    for one, two in itertools.permutations((network, other, all_limited, config(host)), 2):
        gone = Attached(host, one)
        lose(host, gone)
        new = Attached(host, two)
        assert new.outer == gone.outer
        listed = [name for name, ends in sets(host).items() if new.outer in ends]
        assert len(listed) == ("bandwidth" in two)
        host.check(new.inside, two, new.result).ok()
        host.delete_attachment(new.inside, two)
        host.delete_attachment(None, one, container_id=gone.inside.name)


def test_check_sees_and_repair_mends_what_is_wrong_with_subnets(host: Host, tool: Tool) -> None:
    network = scoped(host, "unshapedSubnets", ELSEWHERE, antiSpoof=False)
    one, two = Attached(host, network), Attached(host, network)
    [name] = [each for each in sets(host) if each != "egress"]
    chain = name.replace("egress", "to")
    before = sets(host)
    for harm in (
        f"flush set inet limit_testnet {name}",
        f"flush chain inet limit_testnet {chain}",
        f"insert rule inet limit_testnet {chain} return",
        "flush chain inet limit_testnet from",
        "flush set arp limit_testnet egress",
        "delete table inet limit_testnet",
        "flush ruleset",
    ):
        assert_seen_and_mended(host, tool, (one, two), network, harm)
        assert sets(host) == before


def test_the_next_add_makes_what_is_gone_with_all_that_are_there(host: Host) -> None:
    network = scoped(host, "shapedSubnets", ELSEWHERE)
    one = Attached(host, network)
    host.run(["nft", "flush", "ruleset"])
    two = Attached(host, network)
    assert sorted(itertools.chain(*sets(host).values())) == sorted((one.outer, two.outer))


def test_set_rate_with_subnets(host: Host, tool: Tool) -> None:
    network = scoped(host, "unshapedSubnets", ELSEWHERE)
    one = Attached(host, network)
    tool("set-rate", one.outer, "--egress", "8M").ok()
    text = host.run(["nft", "list", "table", "inet", "limit_testnet"]).stdout
    assert f'"{one.outer}" limit rate over 1030000 bytes/second' in text
    host.check(one.inside, network, one.result).ok()
    tool("set-rate", one.outer, "--egress", "0").ok()
    assert not any(sets(host).values())


# ---- a bridge's ports


def bridged(host: Host, subnets: dict[str, Any] | None = None) -> dict[str, Any]:
    chain = conflist(host, "bridge")
    chain["plugins"][1] |= {"egressRate": RATE, "egressBurst": 0, **(subnets or {})}
    del chain["plugins"][1]["ingressRate"], chain["plugins"][1]["ingressBurst"]
    return chain


def ends(result: dict[str, Any]) -> tuple[str, bytes]:
    """Return the port's name and the container's MAC."""
    bridge, port, inner = result["interfaces"]
    assert bridge["name"] == "br0"
    return port["name"], frames.mac(inner["mac"])


@pytest.mark.parametrize("kind", [frames.ETH_P_IP, frames.ETH_P_IPV6, 0x88B5, frames.ETH_P_ARP])
def test_who_sends_past_his_queue_to_a_bridge(
    host: Host, container: Namespace, request: pytest.FixtureRequest, kind: int
) -> None:
    """Whatever it is, and without coming by the host's IP."""
    chain = bridged(host)
    _, mac = ends(host.chain("ADD", container, chain))
    other = host.add_container()
    plain = {**chain, "plugins": chain["plugins"][:1]}
    _, to = ends(host.chain("ADD", other, plain))
    version = 6 if kind == frames.ETH_P_IPV6 else 4
    addresses = {4: ("10.0.0.1", "10.0.0.2"), 6: ("fd00::1", "fd00::2")}
    packet = frames.udp(*addresses[version], bytes(1400))
    frame = frames.ethernet(to, mac, kind, packet)
    before = arrived(other)
    seconds, sent = cheat(container, frame, 10 if request.config.getoption("--soak") else 0.7)
    assert_held(arrived(other) - before, seconds, sent * (len(frame) - 14))


def test_subnets_at_a_bridge(host: Host, container: Namespace) -> None:
    chain = bridged(host, {"unshapedSubnets": ["10.0.0.0/8", "fd00::/8"]})
    _, mac = ends(host.chain("ADD", container, chain))
    other = host.add_container()
    plain = {**chain, "plugins": chain["plugins"][:1]}
    _, to = ends(host.chain("ADD", other, plain))
    for kind, address, limited in (
        (frames.ETH_P_IP, ("10.0.0.1", "10.0.0.2"), False),
        (frames.ETH_P_IP, ("10.0.0.1", "192.0.2.2"), True),
        (frames.ETH_P_IPV6, ("fd00::1", "fd00::2"), False),
        (frames.ETH_P_IPV6, ("fd00::1", "2001:db8::2"), True),
        (0x88B5, ("10.0.0.1", "10.0.0.2"), True),
    ):
        frame = frames.ethernet(to, mac, kind, frames.udp(*address, bytes(1400)))
        before = arrived(other)
        seconds, sent = cheat(container, frame, 0.4)
        passed, tried = arrived(other) - before, sent * (len(frame) - 14)
        allowed = RATE / 8 * 1.03 * (1 + seconds) + 10_000
        assert tried > 2 * allowed
        assert (passed <= allowed) == limited
    faasm = {**chain, "plugins": chain["plugins"][1:]}
    host.chain("DEL", container, faasm)
    assert not any(sets(host, "bridge").values())


def test_a_port_has_its_limit_where_its_frames_pass(
    host: Host, container: Namespace, tool: Tool
) -> None:
    """In the family bridge alone, until it is taken off the bridge."""
    chain = bridged(host)
    result = host.chain("ADD", container, chain)
    port, _ = ends(result)
    assert host.nft_tables() == ["bridge limit_testnet"]
    assert sets(host, "bridge") == {"egress": [port]}
    faasm = {**chain, "plugins": chain["plugins"][1:], "prevResult": result}
    host.chain("CHECK", container, faasm)
    for harm in (
        "flush set bridge limit_testnet egress",
        "flush chain bridge limit_testnet from",
        "delete table bridge limit_testnet",
    ):
        host.run(["nft", harm])
        with pytest.raises(AssertionError, match="limit: nft table limit_testnet"):
            host.chain("CHECK", container, faasm)
        tool("repair").ok()
        host.chain("CHECK", container, faasm)
    tool("set-rate", port, "--egress", "8M").ok()
    text = host.run(["nft", "list", "table", "bridge", "limit_testnet"]).stdout
    assert f'"{port}" limit rate over 1030000 bytes/second' in text
    host.run(["ip", "link", "set", port, "nomaster"])
    with pytest.raises(AssertionError, match="of families inet and arp"):
        host.chain("CHECK", container, faasm)
    tool("repair").ok()
    assert sets(host)["egress"] == sets(host, "arp")["egress"] == [port]
    host.chain("CHECK", container, faasm)
    host.chain("DEL", container, faasm)
    for family in ("inet", "arp", "bridge"):
        assert not any(sets(host, family).values())
