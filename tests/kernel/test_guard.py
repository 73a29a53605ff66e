"""What containers must not do: spoof, reach one another when isolated, mislead the host."""

import json
import struct
import time
from typing import Any

import pytest

from cni_faasm.config import policy
from cni_faasm.netlink import nft
from cni_faasm.netlink.transport import NETLINK_NETFILTER, Netlink
from cni_faasm.rules import guard_rules, nat, seal
from tests import frames
from tests.attached import (
    GATEWAY,
    REMOTE,
    Attached,
    add_remote,
    answers,
    config,
    neighbours,
    passes,
)
from tests.host import Host, Namespace, wait_until
from tests.tool import Tool


@pytest.fixture
def pair(host: Host) -> tuple[Attached, Attached]:
    add_remote(host)
    return Attached(host, config(host)), Attached(host, config(host))


@pytest.mark.parametrize("version", [4, 6])
def test_a_mac_that_a_later_plugin_has_changed(host: Host, version: int) -> None:
    """Tuning does it after us; it is the container's then, and no other is."""
    add_remote(host)
    one = Attached(host, config(host))
    one.inside.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:12:34"])
    new = frames.mac("02:00:00:00:12:34")
    one.inside.run(["busybox", "ping", f"-{version}", "-c1", "-W2", GATEWAY[version]])
    assert passes(host, one, version, one.address[version], mac=new)
    assert not passes(host, one, version, one.address[version], mac=b"\x02\0\0\0\0\x77")
    assert not passes(host, one, version, "10.200.77.7" if version == 4 else "fd00::7", mac=new)
    host.delete_attachment(one.inside, config(host))
    again = Attached(host, config(host))
    assert again.outer == one.outer
    assert passes(host, again, version, again.address[version])


@pytest.mark.also_reluctant
def test_a_container_of_two_networks(host: Host) -> None:
    """It answers by its first interface; both addresses are its own on both."""
    add_remote(host)
    one, stranger = Attached(host, config(host)), Attached(host, config(host))
    second = {**config(host), "name": "second"}
    second["ipam"] = {**second["ipam"], "ranges": [[{"subnet": "10.201.0.0/16"}]]}
    result = host.add(one.inside, second, ifname="eth1")
    (address,) = (ip["address"].partition("/")[0] for ip in result["ips"])
    assert passes(host, one, 4, address)
    assert not passes(host, stranger, 4, address)
    assert not passes(host, one, 4, stranger.address[4])
    host.delete_attachment(one.inside, second, ifname="eth1")
    wait_until(lambda: not passes(host, one, 4, address), "the guard to forget the address")
    for name in ("guard_testnet", "guard_second"):
        assert address not in host.run(["nft", "list", "table", "inet", name]).stdout


def second_network(host: Host, **keys: Any) -> dict[str, Any]:
    second = {**config(host, **keys), "name": "second", "cniVersion": "1.1.0"}
    second["ipam"] = {**second["ipam"], "ranges": [[{"subnet": "10.201.0.0/16"}]]}
    return second


@pytest.mark.also_reluctant
@pytest.mark.parametrize("verb", ["DEL", "GC"])
@pytest.mark.parametrize("guarded", [True, False])
def test_an_address_of_an_attachment_that_went(host: Host, verb: str, guarded: bool) -> None:
    """However it went, and whether its own network is guarded or not: it is another's now."""
    add_remote(host)
    inside = host.add_container()
    second = second_network(host, antiSpoof=guarded)
    result = host.add(inside, second, ifname="eth1")
    (address,) = (ip["address"].partition("/")[0] for ip in result["ips"])
    one = Attached(host, config(host), inside)
    assert passes(host, one, 4, address)
    if verb == "DEL":
        host.delete_attachment(inside, second, ifname="eth1")
    else:
        host.cni("GC", None, {**second, "cni.dev/valid-attachments": []}).ok()
    wait_until(lambda: not passes(host, one, 4, address), "the guard to forget the address")
    assert passes(host, one, 4, one.address[4])


def test_a_second_network_without_a_guard(host: Host) -> None:
    """The first one's guard holds what the container sends from the second's address."""
    add_remote(host)
    one = Attached(host, config(host))
    result = host.add(one.inside, second_network(host, antiSpoof=False), ifname="eth1")
    (address,) = (ip["address"].partition("/")[0] for ip in result["ips"])
    assert passes(host, one, 4, address)
    assert not passes(host, one, 4, "10.201.0.77")


@pytest.mark.also_reluctant
@pytest.mark.parametrize("place", ["also", "also6"])
def test_what_a_container_of_several_attachments_may_send_from_is_checked(
    host: Host, place: str
) -> None:
    add_remote(host)
    version = 6 if place == "also6" else 4
    one = Attached(host, config(host))
    second = second_network(host)
    second["ipam"]["ranges"].append([{"subnet": "fd00:201::/64"}])
    result = host.add(one.inside, second, ifname="eth1")
    address = result["ips"][version == 6]["address"].partition("/")[0]
    assert passes(host, one, version, address)  # and its MAC is learnt
    host.check(one.inside, config(host), one.result).ok()
    host.check(one.inside, second, result, ifname="eth1").ok()
    host.run(["nft", "flush", "set", "inet", "guard_testnet", place])
    assert not passes(host, one, version, address)
    error = host.check(one.inside, config(host), one.result).error(107)
    assert f"guard_testnet: sets: expected {one.outer}, found not in {place}" in error["details"]
    host.check(one.inside, second, result, ifname="eth1").ok()
    learned = ["nft", "-j", "list", "set", "inet", "guard_testnet", "learned"]
    before = elements(host, learned)
    assert before
    Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(one.inside, config(host), one.result).ok()
    assert passes(host, one, version, address)
    assert elements(host, learned) == before


def elements(host: Host, command: list[str]) -> list[Any]:
    """Return what is in a set, without when it goes."""
    [found] = [one["set"] for one in host.json(*command)["nftables"] if "set" in one]
    return [one["elem"]["val"] for one in found.get("elem", [])]


@pytest.mark.parametrize("how", ["repair", "another policy"])
def test_tables_made_anew_know_containers_of_several_networks(host: Host, how: str) -> None:
    add_remote(host)
    one = Attached(host, config(host))
    addresses = []
    for network, ifname in ((second_network(host), "eth1"), (config(host), "eth2")):
        result = host.add(one.inside, network, ifname=ifname)
        addresses.append(result["ips"][0]["address"].partition("/")[0])
    if how == "repair":
        host.run(["nft", "flush", "chain", "inet", "guard_testnet", "from"])
        Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    else:
        Attached(host, config(host, isolated=True))
    assert [passes(host, one, 4, address) for address in addresses] == [True, True]
    assert not passes(host, one, 4, "10.201.0.77")


@pytest.mark.parametrize("version", [4, 6])
def test_addresses(host: Host, pair: tuple[Attached, Attached], version: int) -> None:
    one, other = pair
    assert passes(host, one, version, one.address[version])
    foreign = {4: ["10.200.77.7", "9.9.9.9"], 6: ["fd00:200::77", "2001:db8:9::9"]}
    for source in (other.address[version], GATEWAY[version], REMOTE[version], *foreign[version]):
        assert not passes(host, one, version, source), source
    assert not passes(host, one, version, one.address[version], mac=other.mac)
    assert not passes(host, one, version, one.address[version], mac=b"\x02\0\0\0\0\x77")
    assert passes(host, one, version, one.address[version])


def test_off(host: Host) -> None:
    """The same frames do pass when nothing is promised: so they are right, and it is the guard."""
    add_remote(host)
    one = Attached(host, config(host, antiSpoof=False))
    assert [name for name in host.nft_tables() if "guard" in name] == []
    for version, source in ((4, "10.200.77.7"), (6, "fd00:200::77")):
        assert passes(host, one, version, source, mac=b"\x02\0\0\0\0\x77")


@pytest.mark.parametrize("operation", [1, 2], ids=["request", "reply"])
def test_arp(host: Host, pair: tuple[Attached, Attached], operation: int) -> None:
    one, other = pair
    one.send(frames.ETH_P_ARP, frames.arp(1, (one.mac, one.address[4]), (bytes(6), GATEWAY[4])))
    time.sleep(0.1)  # by which it is bound to its MAC
    before = neighbours(host, one.outer)
    bad = b"\x02\0\0\0\0\x66"
    gateway = (one.outer_mac, GATEWAY[4])
    for sender, frame_source in (
        ((one.mac, other.address[4]), one.mac),
        ((bad, one.address[4]), one.mac),
        ((bad, one.address[4]), bad),
        ((one.mac, "10.200.99.9"), one.mac),
    ):
        message = frames.arp(operation, sender, gateway)
        one.send(frames.ETH_P_ARP, message, frame_source)
    time.sleep(0.2)
    after = neighbours(host, one.outer)
    assert after == before
    assert neighbours(host, other.outer)[other.address[4]] == other.result["interfaces"][1]["mac"]
    # It may speak for itself.
    message = frames.arp(1, (one.mac, one.address[4]), gateway)
    with frames.listening(one.inside, "eth0") as arrived:
        one.send(frames.ETH_P_ARP, message)
        assert arrived(frames.arp(2, gateway, (one.mac, one.address[4]))[:28], patience=5)


def test_a_flood_of_arp_fills_no_table(host: Host) -> None:
    """Without the guard each request would make an entry, and at 1024 the host is deaf."""
    one = Attached(host, config(host))
    for number in range(300):
        sender = (one.mac, f"10.200.{100 + number // 250}.{number % 250 + 1}")
        one.send(frames.ETH_P_ARP, frames.arp(1, sender, (bytes(6), GATEWAY[4])))
    time.sleep(0.2)
    assert set(neighbours(host, one.outer)) <= {
        one.address[4],
        one.address[6],
        *(address.partition("/")[0] for address in one.inside.addresses("eth0", scope="link")),
    }


def test_a_flood_of_neighbour_discovery_fills_no_table(host: Host) -> None:
    """A container may make up link-local addresses; each would be an entry of the host's."""
    one = Attached(host, config(host))
    option = b"\x01\x01" + one.mac
    for number in range(1, 101):
        source = f"fe80::{number:x}:7"
        for kind, rest, target in (
            (135, frames.packed(GATEWAY[6]), GATEWAY[6]),
            (133, b"", "ff02::2"),
        ):
            data = struct.pack("!BBHI", kind, 0, 0, 0) + rest + option
            one.send(frames.ETH_P_IPV6, frames.icmpv6(source, target, data))
        echo = struct.pack("!BBHHH", 128, 0, 0, 1, 1)
        one.send(frames.ETH_P_IPV6, frames.icmpv6(source, "fe80::1", echo))
    time.sleep(0.2)
    assert set(neighbours(host, one.outer)) <= {one.address[4], one.address[6]}


@pytest.mark.parametrize("version", [4, 6])
def test_a_full_neighbour_table_does_not_take_a_container_away(host: Host, version: int) -> None:
    """Every namespace can fill it; the kernel then throws away what it may."""
    one = Attached(host, config(host))
    listed = host.json("ip", "-j", "neigh", "show", "dev", one.outer)
    (entry,) = (each for each in listed if each["dst"] == one.address[version])
    assert "extern_learn" in entry
    # It is no less a neighbour that is verified while it is used, and may change.
    host.run(["busybox", "ping", f"-{version}", "-c1", "-W2", one.address[version]])

    def state() -> str:
        listed = host.json("ip", "-j", "neigh", "show", "dev", one.outer)
        (entry,) = (each for each in listed if each["dst"] == one.address[version])
        assert "extern_learn" in entry
        return str(entry["state"])

    wait_until(lambda: "REACHABLE" in state(), "the kernel to verify it", timeout=20)


def test_neighbour_advertisements(host: Host, pair: tuple[Attached, Attached]) -> None:
    one, other = pair
    before = neighbours(host, other.outer)
    target = frames.packed(other.address[6])
    option = b"\x02\x01" + one.mac
    data = struct.pack("!BBHI", 136, 0, 0, 0xA0000000) + target + option
    for source in (other.address[6], one.address[6]):
        for destination in (GATEWAY[6], "ff02::1"):
            one.send(frames.ETH_P_IPV6, frames.icmpv6(source, destination, data))
    time.sleep(0.2)
    assert other.address[6] not in neighbours(host, one.outer)
    assert neighbours(host, other.outer) == before


def test_what_is_made_and_goes(host: Host) -> None:
    one = Attached(host, config(host))
    assert "inet guard_testnet" in host.nft_tables()
    assert "arp guard_testnet" in host.nft_tables()
    text = host.run(["nft", "list", "table", "inet", "guard_testnet"]).stdout
    assert "fib saddr . iif oif missing" in text
    assert "ether saddr @learned" in text
    assert "antiSpoof" in text
    arp = host.run(["nft", "list", "table", "arp", "guard_testnet"]).stdout
    assert one.address[4] in arp
    assert "arp saddr ip != @own" in arp
    host.delete_attachment(one.inside, config(host))
    host.cni("GC", None, {**config(host), "cniVersion": "1.1.0",
                          "cni.dev/valid-attachments": []}).ok()  # fmt: skip
    assert host.nft_tables() == []


def test_another_policy_takes_over(host: Host) -> None:
    """The network follows its latest ADD, and knows those who were there before."""
    add_remote(host)
    one = Attached(host, config(host))
    two = Attached(host, config(host, isolated=True))
    text = host.run(["nft", "list", "table", "arp", "guard_testnet"]).stdout
    for each in (one, two):
        assert each.address[4] in text
        assert passes(host, each, 4, each.address[4])
        assert not passes(host, each, 4, "10.200.77.7")
    Attached(host, config(host, antiSpoof=False))
    assert host.nft_tables() == []


def test_a_seal_holds_whatever_else_changes(host: Host) -> None:
    """What CHECK spares by it, it spares as long as the rules are the same."""
    network = config(host, isolated=True, ipMasq=True)
    one = Attached(host, network)
    guarded = guard_rules.places(policy.Guard(anti_spoof=True, isolated=True, allow_host=[]))
    sealed = {"guard_testnet": guarded, "faasm_testnet": [(nft.NFPROTO_INET, nat.CHAIN)]}

    def held() -> list[bool]:
        with host.entered(), Netlink(NETLINK_NETFILTER) as netfilter:
            return [seal.holds(netfilter, *each) for each in sealed.items()]

    assert held() == [True, True]
    add_remote(host)
    assert not passes(host, one, 4, "10.200.77.7")  # a counter is no longer zero
    host.run(["nft", "add", "table", "inet", "of_somebody"])
    Attached(host, network)
    assert held() == [True, True]
    host.run(["nft", "flush", "chain", "inet", "guard_testnet", "through"])
    host.run(["nft", "add", "rule", "inet", "faasm_testnet", "postrouting", "counter"])
    assert held() == [False, False]


def test_a_table_without_its_seal_is_compared_rule_by_rule(host: Host) -> None:
    """As one of another version of ours is; counters do not matter."""
    add_remote(host)
    network = config(host, isolated=True)
    one = Attached(host, network)
    assert not passes(host, one, 4, "10.200.77.7")  # a counter is no longer zero
    host.check(one.inside, network, one.result).ok()
    text = host.run(["nft", "list", "table", "inet", "guard_testnet"]).stdout
    (seal,) = [word for word in text.split() if word.startswith("seal_")]
    host.run(["nft", "delete", "chain", "inet", "guard_testnet", seal])
    host.check(one.inside, network, one.result).ok()
    host.run(["nft", "flush", "chain", "inet", "guard_testnet", "through"])
    error = host.check(one.inside, network, one.result).error(107)
    assert "rules of through" in error["msg"]


DRIFTS = {
    "arp element": "nft flush set arp guard_testnet own",
    "rules": "nft flush chain inet guard_testnet from",
    "another rule": "nft add rule inet guard_testnet from meta iifgroup 5 accept",
    "table": "nft delete table inet guard_testnet",
    "arp table": "nft delete table arp guard_testnet",
    "group": "ip link set faasm0 group 7",
    "accept_ra": "sysctl -w net.ipv6.conf.faasm0.accept_ra=1",
    "isolation": "nft flush chain inet guard_testnet to_host",
    "dormant table": "nft add table inet guard_testnet { flags dormant ; }",
    "dormant arp table": "nft add table arp guard_testnet { flags dormant ; }",
    "policy": "nft chain inet guard_testnet through { policy drop ; }",
    "priority": "priority raw -> priority filter + 5",
    "hook": "hook forward -> hook output",
}


def load_anew(host: Host, old: str, new: str) -> None:
    """Have nft load the table that it lists, with other words in it."""
    text = host.run(["nft", "list", "table", "inet", "guard_testnet"]).stdout
    assert old in text
    script = f"delete table inet guard_testnet\n{text.replace(old, new)}"
    host.run(["nft", "-f", "-"], stdin=script)


@pytest.mark.parametrize("case", DRIFTS)
def test_drifts_are_found_and_repaired(host: Host, case: str) -> None:
    network = config(host, isolated=True)
    one = Attached(host, network)
    host.check(one.inside, network, one.result).ok()
    command = DRIFTS[case]
    if command.startswith("sysctl"):
        host.sysctl("net.ipv6.conf.faasm0.accept_ra", "1")
    elif " -> " in command:
        load_anew(host, *command.split(" -> "))
    else:
        host.run(command.split())
    error = host.check(one.inside, network, one.result).error(107)
    assert error["details"].count("expected") == 1, error
    Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
    host.check(one.inside, network, one.result).ok()
    # An ADD, too, makes whole what is not, with those who are there.
    if case.endswith(("table", "element")):
        host.run(command.split())
        two = Attached(host, network)
        host.check(two.inside, network, two.result).ok()


@pytest.mark.also_reluctant
def test_what_a_killed_del_leaves_is_swept(host: Host) -> None:
    one, two = Attached(host, config(host)), Attached(host, config(host))
    for each in (one, two):
        each.inside.run(["ip", "neigh", "flush", "dev", "eth0"])
        message = frames.arp(1, (each.mac, each.address[4]), (bytes(6), GATEWAY[4]))
        each.send(frames.ETH_P_ARP, message)
        each.inside.run(["busybox", "ping", "-c1", "-W2", GATEWAY[4]])
    host.run(["ip", "link", "del", one.outer])
    name = next(name for name in host.records() if one.inside.name in name)
    (host.state_dir / name).unlink()
    valid = [{"containerID": two.inside.name, "ifname": "eth0"}]
    collected = {**config(host), "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    host.cni("GC", None, collected).ok()
    text = host.run(["nft", "list", "table", "arp", "guard_testnet"]).stdout
    assert one.address[4] not in text
    assert two.address[4] in text
    # What rules have put in goes as well, lest a host of many containers fill the sets.
    for family in ("inet", "arp"):
        for name in ("learned", "bound"):
            told = host.run(["nft", "list", "set", family, "guard_testnet", name]).stdout
            assert one.outer not in told
            assert told.count("timeout 1h") == 1, told


# -- isolation


@pytest.mark.parametrize("version", [4, 6])
def test_isolated(host: Host, version: int) -> None:
    remote = add_remote(host)
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    remote.run(["ip", "-6", "route", "add", "fd00:200::/64", "via", "2001:db8:100::2"])
    network = config(host, isolated=True, allowHost=["tcp/7700", "icmp"])
    one, two = Attached(host, network), Attached(host, network)
    open_network = {**config(host), "name": "other"}
    open_network["ipam"] = {
        **open_network["ipam"],
        "ranges": [[{"subnet": "10.201.0.0/16"}], [{"subnet": "fd00:201::/64"}]],
    }
    open_one = Attached(host, open_network)
    address = {name: each.address[version] for name, each in (("one", one), ("two", two))}
    assert answers(remote, one.inside, REMOTE[version]), "the outside"
    assert not answers(two.inside, one.inside, address["two"]), "each other"
    assert not answers(host, one.inside, GATEWAY[version]), "the host"
    assert not answers(open_one.inside, one.inside, open_one.address[version]), "other networks"
    assert not answers(one.inside, open_one.inside, address["one"]), "from other networks"
    assert answers(host, one.inside, GATEWAY[version], port=7700), "what is allowed"
    assert answers(one.inside, host, address["one"]), "from the host"
    assert answers(one.inside, remote, address["one"]), "from outside"
    ping = ["busybox", "ping", "-c1", "-W1", GATEWAY[version]]
    if version == 4:
        one.inside.run(ping)
    else:
        done = one.inside.run(ping, check=False)
        assert done.returncode != 0, "icmpv6 is not in the list"


def test_not_isolated(host: Host) -> None:
    one, two = Attached(host, config(host)), Attached(host, config(host))
    for version in (4, 6):
        assert answers(two.inside, one.inside, two.address[version])
        assert answers(host, one.inside, GATEWAY[version])


@pytest.mark.parametrize("text", ["tcp", "tcp/0", "tcp/65536", "udp/x", "sctp/5", "icmp/3", ""])
def test_what_allow_host_does_not_take(host: Host, container: Namespace, text: str) -> None:
    network = config(host, isolated=True, allowHost=["tcp/22", text])
    error = host.cni("ADD", container, network).error(7)
    assert "allowHost[1]" in error["msg"]


# -- what a container says of routes


@pytest.mark.parametrize("anti_spoof", [True, False])
def test_router_advertisements(host: Host, anti_spoof: bool) -> None:
    ipam = {"subnet": "10.200.0.0/16"}
    network = host.config(cniVersion="1.0.0", ipam=ipam, antiSpoof=anti_spoof)
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "0"
    one = Attached(host, network)
    source = "fe80::66"
    prefix = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + frames.packed("2001:db8:66::")
    data = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + b"\x01\x01" + one.mac + prefix
    advertisement = frames.icmpv6(source, "ff02::1", data)

    def is_believed() -> bool:
        one.send(frames.ETH_P_IPV6, advertisement)
        time.sleep(0.3)
        routes = host.run(["ip", "-6", "route", "show"]).stdout
        return "default" in routes or "2001:db8:66::" in routes

    assert not is_believed()
    if not anti_spoof:  # is the frame right? Without our setting it is believed.
        host.sysctl(f"net.ipv6.conf.{one.outer}.accept_ra", "1")
        assert is_believed()


def test_redirects(host: Host) -> None:
    host.add_remote()
    one = Attached(host, config(host, antiSpoof=False))
    for name in ("all", "default"):
        host.sysctl(f"net.ipv4.conf.{name}.accept_redirects", "1")
    before = json.dumps(host.json("ip", "-j", "route", "get", "203.0.113.9"))
    inner = frames.udp("198.51.100.2", "203.0.113.9", b"x" * 8)
    for spoofed in (REMOTE[4], one.address[4]):
        body = struct.pack("!BBH", 5, 1, 0) + frames.packed(one.address[4]) + inner[:28]
        value = struct.pack("!H", frames.checksum(body))
        message = body[:2] + value + body[4:]
        one.send(frames.ETH_P_IP, frames.ip(spoofed, "198.51.100.2", 1, message))
    time.sleep(0.2)
    assert json.dumps(host.json("ip", "-j", "route", "get", "203.0.113.9")) == before
    assert host.sysctl(f"net.ipv4.conf.{one.outer}.accept_redirects") == "0"
    assert host.sysctl(f"net.ipv6.conf.{one.outer}.accept_redirects") == "0"


def indexed(host: Host, ends: list[str]) -> str:
    """Return tables as 0.1.0 made them before its sets were keyed by names."""
    link = {end: (host.link(end) or {})["ifindex"] for end in ends}
    own = ", ".join(f"{link[end]} . 10.200.0.{2 + place}" for place, end in enumerate(ends))
    macs = {"inet": "iface_index . ether_addr", "arp": "iface_index . ether_addr . ether_addr"}
    text = "delete table inet guard_testnet\ndelete table arp guard_testnet\n"
    for family, key in macs.items():
        text += f'table {family} guard_testnet {{\n comment "cni-faasm antiSpoof"\n'
        text += f" set learned {{ type {key}; flags dynamic,timeout; }}\n"
        text += " set bound { type iface_index; flags dynamic,timeout; }\n"
        if family == "inet":
            text += " set also { type iface_index . ipv4_addr; }\n"
            text += " set also6 { type iface_index . ipv6_addr; }\n"
        else:
            text += f" set own {{ type iface_index . ipv4_addr; elements = {{ {own} }}; }}\n"
        text += "}\n"
    return text


def test_tables_of_an_earlier_version(host: Host) -> None:
    """GC and DEL leave their elements, which are of containers that run; an ADD makes all anew."""
    network = config(host)
    one, two, three = (Attached(host, network) for _ in range(3))
    host.run(["nft", "-f", "-"], stdin=indexed(host, [one.outer, two.outer, three.outer]))
    before = host.run(["nft", "list", "set", "arp", "guard_testnet", "own"]).stdout
    valid = [{"containerID": each.inside.name, "ifname": "eth0"} for each in (one, two)]
    collected = {**network, "cniVersion": "1.1.0", "cni.dev/valid-attachments": valid}
    call = host.cni("GC", None, collected)
    call.ok()
    assert call.stderr == b""
    call = host.cni("DEL", two.inside, network)
    call.ok()
    assert call.stderr == b""
    after = host.run(["nft", "list", "set", "arp", "guard_testnet", "own"]).stdout
    assert one.outer in before
    assert after.count("10.200.0.") == before.count("10.200.0.") == 3
    other = Attached(host, network)
    text = host.run(["nft", "list", "set", "arp", "guard_testnet", "own"]).stdout
    assert "type ifname . ipv4_addr" in text
    assert one.outer in text
    for each in (one, other):
        host.check(each.inside, network, each.result).ok()
