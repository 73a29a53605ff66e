"""CHECK finds every drift, names it with what was expected and what is there, and no more."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cni_faasm.netlink.link import IFLA_GRO_IPV4_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE
from tests.attached import set_size
from tests.host import DUAL_STACK, Host, Namespace, wait_until

MIB = 8 * 1024 * 1024


def network(host: Host) -> dict[str, Any]:
    return host.config(
        ipMasq=True,
        mtu=1400,
        bandwidth={"ingressRate": 4 * MIB, "egressRate": 2 * MIB},
        ipam=DUAL_STACK,
    )


@pytest.fixture
def config(host: Host) -> dict[str, Any]:
    return network(host)


@pytest.fixture
def result(host: Host, container: Namespace, config: dict[str, Any]) -> dict[str, Any]:
    host.add_remote()
    return host.add(container, config)


def test_no_drift(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    call = host.check(container, config, result)
    call.ok()
    assert call.stdout.strip() == b""


Change = Callable[[Host, Namespace], object]
SAME = "htb rate 2097152bps ceil 2097152bps burst 20971 cburst 20971"
BARE = "expected linklayer ethernet overhead 0 mpu 0"


def inside(command: str) -> Change:
    return lambda _, container: container.run(command.split())


def outside(command: str) -> Change:
    return lambda host, _: host.run(command.split())


def then(first: Change, second: Change) -> Change:
    def change(host: Host, container: Namespace) -> None:
        first(host, container)
        second(host, container)

    return change


def _rewrite_lease(host: Host, _: Namespace) -> None:
    (host.data_dir / "testnet" / "10.200.0.2").write_bytes(b"other\r\neth0")


def _remove_lease(host: Host, _: Namespace) -> None:
    (host.data_dir / "testnet" / "fd00:200::2").unlink()


def _outer_mac(host: Host) -> str:
    found = host.link("faasm0")
    assert found is not None
    return str(found["address"])


def make_own_address(host: Host, _: Namespace) -> None:
    for word in ("addrgenmode eui64", "down", "up"):
        host.run(f"ip link set faasm0 {word}".split())
    shown = ["ip", "-6", "addr", "show", "dev", "faasm0"]
    wait_until(lambda: "fe80" in host.run(shown).stdout, "an address that the kernel makes")


# What somebody does, and the words by which CHECK must name it.
DRIFTS: dict[str, tuple[Change, str]] = {
    "inner gone": (inside("ip link del eth0"), "container eth0: interface"),
    "inner down": (inside("ip link set eth0 down"), "container eth0: state: expected up"),
    "inner renamed": (
        lambda _, c: [c.run(f"ip link set eth0 {word}".split()) for word in ("down", "name eth9")],
        "container eth0: interface",
    ),
    "inner replaced": (
        lambda _, c: [
            c.run(["ip", "link", "del", "eth0"]),
            c.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "x"]),
        ],
        "container eth0: interface",
    ),
    "inner MAC is the outer's": (
        lambda h, c: c.run(["ip", "link", "set", "eth0", "address", _outer_mac(h)]),
        "container eth0: MAC",
    ),
    "inner MTU": (inside("ip link set eth0 mtu 1401"), "container eth0: MTU: expected 1400"),
    "inner gso": (
        inside("ip link set eth0 gso_max_size 9000"),
        "container eth0: gso_max_size",
    ),
    "inner gro": (inside("ip link set eth0 gro_max_size 9000"), "container eth0: gro_max_size"),
    "inner gso of IPv4": (
        lambda _, c: set_size(c, IFLA_GSO_IPV4_MAX_SIZE),
        "container eth0: gso_ipv4_max_size: expected 1700",
    ),
    "inner gro of IPv4": (
        lambda _, c: set_size(c, IFLA_GRO_IPV4_MAX_SIZE),
        "container eth0: gro_ipv4_max_size: expected 1700",
    ),
    "lo down": (inside("ip link set lo down"), "container lo: state: expected up, found down"),
    "inner IPv6 off": (
        lambda _, c: c.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1"),
        "container eth0: /proc/sys/net/ipv6/conf/eth0/disable_ipv6: expected 0, found 1",
    ),
    "inner neighbour gone": (
        inside("ip neigh del 10.200.0.1 dev eth0"),
        "container eth0: neighbour 10.200.0.1: expected {mac} permanent, found none",
    ),
    "inner neighbour 6 gone": (
        inside("ip neigh del fd00:200::1 dev eth0"),
        "container eth0: neighbour fd00:200::1: expected {mac} permanent, found none",
    ),
    "inner neighbour's MAC": (
        inside("ip neigh replace 10.200.0.1 lladdr 02:00:00:00:00:77 dev eth0 nud permanent"),
        "neighbour 10.200.0.1: expected {mac} permanent, found 02:00:00:00:00:77 permanent",
    ),
    "inner neighbour learned": (
        # A new one: the kernel takes away a stale one that was last used a minute ago.
        lambda h, c: [
            c.run(f"ip neigh {change} dev eth0".split())
            for change in (
                "del fd00:200::1",
                f"add fd00:200::1 lladdr {_outer_mac(h)} nud stale",
            )
        ],
        "neighbour fd00:200::1: expected {mac} permanent, found {mac} not permanent",
    ),
    "inner address for a time": (
        inside("ip addr change 10.200.0.2/32 dev eth0 valid_lft 900 preferred_lft 900"),
        "container eth0: address: expected 10.200.0.2/32, found 10.200.0.2/32 for a time only",
    ),
    "inner address 6 deprecated": (
        inside("ip -6 addr change fd00:200::2/128 dev eth0 preferred_lft 0"),
        "container eth0: address: expected fd00:200::2/128, found fd00:200::2/128 for a time only",
    ),
    "inner address": (inside("ip addr del 10.200.0.2/32 dev eth0"), "eth0: address"),
    "inner address 6": (
        inside("ip -6 addr del fd00:200::2/128 dev eth0"),
        "container eth0: address: expected fd00:200::2/128",
    ),
    "inner prefix": (
        lambda _, c: [
            c.run(["ip", "addr", "del", "10.200.0.2/32", "dev", "eth0"]),
            c.run(["ip", "addr", "add", "10.200.0.2/24", "dev", "eth0"]),
        ],
        "container eth0: address: expected 10.200.0.2/32",
    ),
    "inner default route": (inside("ip route del default"), "route: expected 0.0.0.0/0 via"),
    "inner default route 6": (inside("ip -6 route del default"), "route: expected ::/0 via"),
    "inner gateway route": (
        lambda _, c: [
            c.run(["ip", "route", "del", "default"]),
            c.run(["ip", "route", "del", "10.200.0.1"]),
        ],
        "container eth0: route: expected 10.200.0.1/32",
    ),
    "inner other gateway": (
        lambda _, c: [
            c.run(
                ["ip", "route", "replace", "default", "via", "10.200.0.99", "dev", "eth0", "onlink"]
            ),
        ],
        "container eth0: route: expected 0.0.0.0/0 via 10.200.0.1",
    ),
    "inner qdisc": (inside("tc qdisc del dev eth0 root"), "container eth0: root qdisc"),
    "inner qdisc, interface down": (
        # The kernel tells nothing of the noop that is left.
        then(inside("ip link set eth0 down"), inside("tc qdisc del dev eth0 root")),
        "container eth0: root qdisc: expected htb 1:, found none",
    ),
    "inner other qdisc": (
        inside("tc qdisc replace dev eth0 root handle 9: pfifo"),
        "container eth0: root qdisc",
    ),
    "inner rate": (
        inside("tc class change dev eth0 parent 1: classid 1:1 htb rate 1gbit ceil 2097152bps"),
        "container eth0: class 1:1 rate",
    ),
    "inner ceil": (
        inside("tc class change dev eth0 parent 1: classid 1:1 htb rate 2097152bps ceil 1gbit"),
        "container eth0: class 1:1 ceil",
    ),
    "inner burst": (
        inside(
            "tc class change dev eth0 parent 1: classid 1:1 htb rate 2097152bps ceil 2097152bps "
            "burst 1m cburst 2097"
        ),
        "container eth0: class 1:1 burst",
    ),
    "inner overhead": (
        inside(f"tc class change dev eth0 parent 1: classid 1:1 {SAME} overhead 100"),
        f"container eth0: class 1:1 framing of rate: {BARE}, found linklayer ethernet overhead 100",
    ),
    "inner mpu": (
        inside(f"tc class change dev eth0 parent 1: classid 1:1 {SAME} mpu 2000"),
        f"container eth0: class 1:1 framing of ceil: {BARE}, found linklayer ethernet overhead 0 mpu 2",
    ),
    "inner link layer": (
        inside(f"tc class change dev eth0 parent 1: classid 1:1 {SAME} linklayer atm"),
        "container eth0: class 1:1 framing of rate",
    ),
    "inner quantum": (
        inside(f"tc class change dev eth0 parent 1: classid 1:1 {SAME} quantum 2000"),
        "container eth0: class 1:1 quantum: expected 60000 bytes, found 2000 bytes",
    ),
    "inner prio": (
        inside(f"tc class change dev eth0 parent 1: classid 1:1 {SAME} prio 3"),
        "container eth0: class 1:1 prio: expected 0, found 3",
    ),
    "inner cutter": (
        inside("tc qdisc replace dev eth0 parent 1:1 handle 20: pfifo limit 1000"),
        "container eth0: cutter qdisc: expected tbf 11:, found pfifo 20:",
    ),
    "inner cutter's rate": (
        inside(
            "tc qdisc change dev eth0 parent 1:1 handle 11: tbf rate 1mbit burst 9k limit 31457"
        ),
        "container eth0: tbf rate: expected 1152921504606846976 bytes, found 125000 bytes",
    ),
    "inner leaf": (
        inside("tc qdisc replace dev eth0 parent 11:1 handle 20: pfifo limit 1000"),
        "container eth0: leaf qdisc: expected bfifo 10:, found pfifo 20:",
    ),
    "inner leaf's handle": (
        inside("tc qdisc replace dev eth0 parent 11:1 handle 20: bfifo limit 31457"),
        "container eth0: leaf qdisc: expected bfifo 10:, found bfifo 20:",
    ),
    "inner leaf limit": (
        inside("tc qdisc change dev eth0 parent 11:1 handle 10: bfifo limit 9000000"),
        "container eth0: bfifo limit",
    ),
    "outer down": (outside("ip link set faasm0 down"), "host faasm0: state: expected up"),
    "outer renamed": (
        lambda h, _: [
            h.run(f"ip link set {word}".split())
            for word in ("faasm0 down", "faasm0 name x0", "x0 up")
        ],
        "host faasm0: name: expected faasm0, found x0",
    ),
    "outer alias": (outside("ip link set faasm0 alias mine"), "host faasm0: alias"),
    "outer MAC": (outside("ip link set faasm0 address 02:00:00:00:00:98"), "host faasm0: MAC"),
    "outer MTU": (outside("ip link set faasm0 mtu 1280"), "host faasm0: MTU"),
    "outer gro": (outside("ip link set faasm0 gro_max_size 9000"), "host faasm0: gro_max_size"),
    "outer group": (outside("ip link set faasm0 group 7"), "host faasm0: group: expected 20"),
    "outer accept_ra": (
        lambda h, _: h.sysctl("net.ipv6.conf.faasm0.accept_ra", "1"),
        "host faasm0: /proc/sys/net/ipv6/conf/faasm0/accept_ra: expected 0, found 1",
    ),
    "outer accept_redirects": (
        lambda h, _: h.sysctl("net.ipv6.conf.faasm0.accept_redirects", "1"),
        "host faasm0: /proc/sys/net/ipv6/conf/faasm0/accept_redirects: expected 0, found 1",
    ),
    "outer accept_redirects 4": (
        lambda h, _: h.sysctl("net.ipv4.conf.faasm0.accept_redirects", "1"),
        "host faasm0: /proc/sys/net/ipv4/conf/faasm0/accept_redirects: expected 0, found 1",
    ),
    "outer forwarding": (
        lambda h, _: h.sysctl("net.ipv4.conf.faasm0.forwarding", "0"),
        "host faasm0: /proc/sys/net/ipv4/conf/faasm0/forwarding: expected 1, found 0",
    ),
    "outer IPv6 off": (
        lambda h, _: h.sysctl("net.ipv6.conf.faasm0.disable_ipv6", "1"),
        "host faasm0: /proc/sys/net/ipv6/conf/faasm0/disable_ipv6: expected 0, found 1",
    ),
    "outer addrgenmode": (
        make_own_address,
        "host faasm0: /proc/sys/net/ipv6/conf/faasm0/addr_gen_mode: expected 1, found 0",
    ),
    "outer address": (outside("ip addr del 10.200.0.1/32 dev faasm0"), "host faasm0: address"),
    "outer link-local address": (
        outside("ip -6 addr del fe80::1/128 dev faasm0"),
        "host faasm0: address: expected fe80::1/128",
    ),
    "outer route": (outside("ip route del 10.200.0.2"), "host faasm0: route"),
    "outer route 6": (outside("ip -6 route del fd00:200::2"), "host faasm0: route"),
    "outer qdisc": (outside("tc qdisc del dev faasm0 root"), "host faasm0: root qdisc"),
    "outer class": (
        lambda h, _: [
            h.run(["tc", "qdisc", "del", "dev", "faasm0", "root"]),
            h.run(
                [
                    "tc",
                    "qdisc",
                    "add",
                    "dev",
                    "faasm0",
                    "root",
                    "handle",
                    "1:",
                    "htb",
                    "default",
                    "2",
                ]
            ),
        ],
        "host faasm0: htb default class",
    ),
    "lease": (_remove_lease, "lease fd00:200::2"),
    "lease owner": (_rewrite_lease, "lease 10.200.0.2: owner"),
    "forwarding": (
        lambda h, _: h.sysctl("net.ipv4.ip_forward", "0"),
        "IPv4 forwarding on the host: expected on, found off",
    ),
    "forwarding 6": (
        lambda h, _: h.sysctl("net.ipv6.conf.all.forwarding", "0"),
        "IPv6 forwarding on the host",
    ),
    "ruleset flushed": (outside("nft flush ruleset"), "masquerade"),
    "masquerade dormant": (
        outside("nft add table inet faasm_testnet { flags dormant ; }"),
        "masquerade: nft table inet faasm_testnet: expected present, found dormant",
    ),
    "masquerade policy": (
        outside("nft chain inet faasm_testnet postrouting { policy drop ; }"),
        "chain postrouting: expected type nat hook 4 priority 100 policy accept, found type nat",
    ),
    "rules flushed": (outside("nft flush table inet faasm_testnet"), "masquerade"),
}


@pytest.mark.parametrize("case", DRIFTS)
def test_each_drift_is_named(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any], case: str
) -> None:
    change, words = DRIFTS[case]
    words = words.format(mac=_outer_mac(host))
    change(host, container)
    error = host.check(container, config, result).error(107)
    assert words in error["details"], error["details"]
    assert "expected" in error["details"]
    assert "found" in error["details"]
    host.delete_attachment(container, {**config, "prevResult": result})
    assert host.leases().keys() <= {"testnet/10.200.0.2"}  # one whose owner is another stays
    assert host.records() == {}


def test_all_drifts_at_once(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    cases = ("inner qdisc", "outer qdisc", "inner MTU", "lease", "forwarding", "ruleset flushed")
    for case in cases:
        DRIFTS[case][0](host, container)
    details = host.check(container, config, result).error(107)["details"]
    for case in cases:
        assert DRIFTS[case][1] in details


def test_an_unlimited_direction_that_got_a_limit(host: Host, container: Namespace) -> None:
    config = host.config()
    result = host.add(container, config)
    container.run(
        ["tc", "qdisc", "add", "dev", "eth0", "root", "handle", "1:", "htb", "default", "1"]
    )
    error = host.check(container, config, result).error(107)
    assert "container eth0: root qdisc: expected no limit" in error["details"]


def test_what_a_later_plugin_adds_is_no_drift(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    container.run(["ip", "link", "add", "extra0", "type", "ifb"])
    container.run(["ip", "addr", "add", "192.0.2.7/32", "dev", "eth0"])
    container.run(["ip", "route", "add", "192.0.2.0/24", "via", "10.200.0.1"])
    container.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"])
    host.run(["tc", "qdisc", "add", "dev", "faasm0", "clsact"])
    host.run(["ip", "route", "add", "192.0.2.7/32", "dev", "faasm0"])
    changed = json.loads(json.dumps(result))
    changed["interfaces"][1]["mac"] = "02:00:00:00:00:77"
    changed["interfaces"].append({"name": "extra0", "mac": "", "sandbox": container.path})
    changed["ips"].append({"address": "192.0.2.7/32", "interface": 1})
    changed["routes"].append({"dst": "192.0.2.0/24"})
    host.check(container, config, changed).ok()
    # With its MAC changed, the kernel has forgotten the gateway's, and learns it when it is used.
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    host.check(container, config, changed).ok()
    container.run(
        ["ip", "neigh", "replace", "10.200.0.1", "lladdr", "02:00:00:00:00:78", "dev", "eth0"]
    )
    error = host.check(container, config, changed).error(107)
    assert "neighbour 10.200.0.1" in error["msg"]


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_what_tuning_changes_without_a_word_is_no_drift(
    host: Host, container: Namespace, version: str
) -> None:
    """A MAC and a lower MTU; what is sent passes with either. The limits hold as before."""
    config = {**host.config(bandwidth={"egressRate": 10**7}), "cniVersion": version}
    result = host.add(container, config)
    change = ["address", "02:00:00:00:00:77", "mtu", "1300"]
    container.run(["ip", "link", "set", "eth0", *change])
    host.check(container, config, result).ok()
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    details = host.check(container, config, result).error(107)["details"]
    assert details.startswith("container eth0: root qdisc")
    details = host.cni("CHECK", container, config).error(107)["details"]
    assert "container eth0: MAC" in details
    assert "container eth0: MTU" in details


def test_what_networkmanager_leaves_is_no_drift(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    """It sets this for every interface when it ends; no address comes of it while an end is up."""
    before = host.addresses("faasm0")
    host.run(["ip", "link", "set", "faasm0", "addrgenmode", "eui64"])
    assert host.addresses("faasm0") == before
    host.check(container, config, result).ok()


def test_the_way_into_a_virtual_machine_is_no_drift(host: Host, container: Namespace) -> None:
    """Kata and tc-redirect-tap lead what comes in to a tap, by an ingress qdisc."""
    config = host.config(bandwidth={"ingressRate": 10**7, "egressRate": 10**7})
    result = host.add(container, config)
    container.run(["ip", "link", "add", "tap0_kata", "type", "ifb"])
    for one, other in (("eth0", "tap0_kata"), ("tap0_kata", "eth0")):
        container.run(["tc", "qdisc", "add", "dev", one, "ingress"])
        rule = f"tc filter add dev {one} parent ffff: protocol all u32 match u8 0 0 "
        container.run(f"{rule} action mirred egress redirect dev {other}".split())
    host.check(container, config, result).ok()
    container.run(
        [
            "tc",
            "class",
            "change",
            "dev",
            "eth0",
            "classid",
            "1:1",
            "htb",
            "rate",
            "1gbit",
            "quantum",
            "60000",
        ]
    )
    details = host.check(container, config, result).error(107)["details"]
    assert "container eth0: class 1:1 rate" in details


def test_addresses_that_gvisor_takes(host: Host, container: Namespace) -> None:
    """Only where the network says so, all at once, and the rest is looked at."""
    limits = {"egressRate": 10**7}
    config = host.config(ipam=DUAL_STACK, bandwidth=limits, sandbox="gvisor")
    result = host.add(container, config)
    host.check(container, config, result).ok()
    container.run(["ip", "addr", "del", "10.200.0.2/32", "dev", "eth0"])
    details = host.check(container, config, result).error(107)["details"]
    assert "container eth0: address: expected 10.200.0.2/32" in details
    container.run(["ip", "addr", "flush", "dev", "eth0"])
    for family in ("-4", "-6"):
        container.run(["ip", family, "route", "flush", "dev", "eth0"])
    host.check(container, config, result).ok()
    host.check(container, {**config, "mtu": 0}, result).ok()  # the record says it
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    details = host.check(container, config, result).error(107)["details"]
    assert details.startswith("container eth0: root qdisc")
    other, plain = host.add_container(), host.config(name="plain", ipam={"subnet": "10.201.0.0/16"})
    result = host.add(other, plain)
    other.run(["ip", "addr", "flush", "dev", "eth0"])
    assert "address" in host.check(other, plain, result).error(107)["msg"]


def test_a_prev_result_that_lost_what_add_gave(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    changed = json.loads(json.dumps(result))
    changed["ips"] = changed["ips"][:1]
    changed["interfaces"] = changed["interfaces"][1:]
    changed["ips"][0]["interface"] = 0
    details = host.check(container, config, changed).error(107)["details"]
    assert "prevResult: address: expected fd00:200::2" in details
    assert "prevResult: interface: expected faasm0" in details


def test_unknown_attachment(host: Host, container: Namespace, config: dict[str, Any]) -> None:
    error = host.cni("CHECK", container, {**config, "prevResult": {"ips": []}}).error(3)
    assert container.name in error["msg"]


def test_a_configuration_that_add_never_saw_is_validated(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    """One that ADD accepted is recognised by its text; another may be as wrong as any."""
    assert "mtu" in str(host.check(container, {**config, "mtu": "big"}, result).error(7))
    assert "ingressRate" in str(host.check(container, {**config, "ingresRate": 5}, result).error(7))
    assert "mac" in str(
        host.check(container, {**config, "runtimeConfig": {"mac": "x"}}, result).error(7)
    )
    assert "prevResult" in str(host.check(container, config, 5).error(7))
    host.check(container, {**config, "mtu": 1300}, result).ok()  # the promise is ADD's
    spelt = {key.upper() if key == "ipMasq" else key: value for key, value in config.items()}
    host.check(container, spelt, result).ok()


def test_a_record_without_the_configuration_is_checked(
    host: Host, container: Namespace, config: dict[str, Any], result: dict[str, Any]
) -> None:
    """As versions before 0.1 wrote them, and as too long a configuration leaves it."""
    (path,) = (host.state_dir / "testnet").glob("*@eth0")
    fields = json.loads(path.read_bytes())
    assert json.loads(fields.pop("config")) == config
    path.write_text(json.dumps(fields))
    host.check(container, config, result).ok()
    container.run(["tc", "qdisc", "del", "dev", "eth0", "root"])
    assert "container eth0" in str(host.check(container, config, result).error(107))
