"""The translation of netavark's documents into CNI's, and back."""

import json
from typing import Any

import pytest

from cni_faasm.config import loading as configuration
from cni_faasm.netavark import container, creation, edge, network, options, taken
from cni_faasm.netavark.given import Given
from cni_faasm.spec.errors import CniError

ID = "2f259bab93aaaaa2542ba43ef33eb990d0999ee1b9924b557b7be53c0b7a1bb9"
# As netavark's description of its plugins has them.
CREATED: dict[str, Any] = {
    "name": "example1",
    "id": ID,
    "driver": "faasm",
    "subnets": [{"subnet": "10.0.0.0/16", "gateway": "10.0.0.1"}],
    "ipv6_enabled": False,
    "internal": False,
    "dns_enabled": False,
    "ipam_options": {"driver": "host-local"},
    "options": {"egressRate": "10M"},
}
EXECUTED: dict[str, Any] = {
    "container_id": "752947ff91f961eb3cb47ffe9315016979f3ffbec09e4d96a4fae3fb03391697",
    "container_name": "testctr",
    "port_mappings": None,
    "network": {
        "dns_enabled": False,
        "driver": "faasm",
        "id": ID,
        "internal": False,
        "ipv6_enabled": False,
        "name": "podman",
        "network_interface": None,
        "options": None,
        "ipam_options": {"driver": "host-local"},
        "subnets": [{"gateway": "10.88.0.1", "lease_range": None, "subnet": "10.88.0.0/16"}],
        "network_dns_servers": None,
    },
    "network_options": {
        "aliases": ["752947ff91f9"],
        "interface_name": "eth0",
        "static_ips": ["10.88.0.50"],
        "static_mac": "02:bb:cc:dd:aa:00",
    },
}
ROUTE4 = {"dst": "0.0.0.0/0"}
ROUTE6 = {"dst": "::/0"}


def executed(
    of_network: dict[str, Any] | None = None, own: dict[str, Any] | None = None, **keys: Any
) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps({**EXECUTED, **keys}))
    made["network"].update(of_network or {})
    made["network_options"].update(own or {})
    return made


def setup(**keys: Any) -> container.Call:
    return container.call("setup", "/run/netns/a", executed(**keys))


def refused(**keys: Any) -> str:
    with pytest.raises(CniError) as caught:
        setup(**keys)
    return caught.value.msg


def created(
    *,
    networks: dict[str, Any] | None = None,
    host: Any = (),
    names: dict[str, str] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    given = json.loads(json.dumps({**CREATED, **keys}))
    return creation.complete(given, networks or {}, list(host), names or {})


def test_a_setup_is_an_add() -> None:
    call = setup()
    assert call.variables == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": EXECUTED["container_id"],
        "CNI_NETNS": "/run/netns/a",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAME=testctr",
    }
    assert call.document == {
        "cniVersion": "1.1.0",
        "name": "podman",
        "type": "faasm",
        "ipMasq": True,
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": "10.88.0.0/16", "gateway": "10.88.0.1"}]],
            "routes": [ROUTE4],
        },
        "runtimeConfig": {"ips": ["10.88.0.50"], "mac": "02:bb:cc:dd:aa:00"},
    }
    config = configuration.load(call.document)
    assert config.requested_addresses == [bytes((10, 88, 0, 50))]


def test_a_result_is_a_status_block() -> None:
    result = {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "faasm0", "mac": "02:00:00:00:00:01"},
            {"name": "eth0", "mac": "02:bb:cc:dd:aa:00", "sandbox": "/run/netns/a"},
        ],
        "ips": [
            {"interface": 1, "address": "10.88.0.50/32", "gateway": "10.88.0.1"},
            {"interface": 1, "address": "fd00::50/128", "gateway": "fd00::1"},
        ],
        "routes": [ROUTE4],
        "dns": {"nameservers": ["9.9.9.9"], "search": ["example.org"]},
    }
    assert container.status(json.loads(json.dumps(result)), "eth0") == {
        "dns_search_domains": ["example.org"],
        "dns_server_ips": ["9.9.9.9"],
        "interfaces": {
            "eth0": {
                "mac_address": "02:bb:cc:dd:aa:00",
                "subnets": [
                    {"ipnet": "10.88.0.50/32", "gateway": "10.88.0.1"},
                    {"ipnet": "fd00::50/128", "gateway": "fd00::1"},
                ],
            }
        },
    }


def test_every_option_has_its_place() -> None:
    """Each is accepted with a value of its kind, and the configuration knows the place."""
    values = {
        "egressRate": "10M",
        "ingressRate": "100M",
        "egressBurst": "64k",
        "ingressBurst": "128k",
        "latency": "5ms",
        "enforceEgress": "host",
        "unshapedSubnets": "10.0.0.0/8, 192.168.0.0/16",
        "packetRate": "100",
        "packetBurst": "20",
        "ingressPacketRate": "200",
        "ingressPacketBurst": "30",
        "egressPacketRate": "300",
        "egressPacketBurst": "40",
        "maxConnections": "50",
        "maxEgressRate": "1G",
        "maxIngressRate": "1G",
        "mtu": "1400",
        "ipMasq": "false",
        "antiSpoof": "0",
        "isolated": "true",
        "allowHost": "udp/53,icmp",
        "hostInterfacePrefix": "fn",
        "sandbox": "gvisor",
        "logFile": "/var/log/faasm",
        "lockTimeout": "500",
        "stateDir": "/state",
        "dataDir": "/data",
        "nameservers": "9.9.9.9 2620:fe::fe",
        "search": "example.org",
        "metric": "7",
    }
    own = {
        "ingressRate": "1M",
        "burst": "2M",
        "unshapedSubnets": "10.0.0.0/8",
    }
    left = {"shapedSubnets", "subnet", "rangeStart", "rangeEnd", "gateway", "isolate"}
    assert values.keys() | left | {"no_default_route"} == options.NETWORK.keys()
    call = setup(of_network={"options": values}, own={"options": own})
    config = configuration.load(call.document)
    assert (config.egress.rate_bps, config.egress.burst_bits) == (10_000_000, 64_000)
    assert (config.ingress.rate_bps, config.ingress.burst_bits) == (1_000_000, 2_000_000)
    assert (config.latency_ms, config.enforce_egress, config.mtu) == (5, True, 1400)
    assert config.subnets == [(bytes((10, 0, 0, 0)), 8)]
    assert config.counted is not None
    assert list(config.counted.to_fields().values()) == [200, 30, 300, 40, 50]
    assert (config.ip_masq, config.host_interface_prefix, config.sandbox) == (False, "fn", "gvisor")
    assert config.guard is not None
    assert (config.guard.anti_spoof, config.guard.isolated) == (False, True)
    assert config.guard.allow_host == [("udp", 53), ("icmp", 0)]
    assert (config.state_dir, config.data_dir, config.lock_timeout_ms) == ("/state", "/data", 500)
    assert config.dns == {"nameservers": ["9.9.9.9", "2620:fe::fe"], "search": ["example.org"]}
    assert [route.priority for route in config.routes] == [7]
    assert config.unknown == []


def test_a_container_is_capped_by_its_network() -> None:
    caps = {"maxEgressRate": "5M", "egressRate": "1M", "egressBurst": "64k"}
    call = setup(of_network={"options": caps}, own={"options": {"EGRESSRATE": "50M"}})
    config = configuration.load(call.document)
    assert (config.egress.rate_bps, config.egress.burst_bits) == (5_000_000, None)
    assert "lowered to 5 Mbit/s" in config.warnings[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"egresRate": "1M"}, "option egresRate: no such option: allowed is egressRate"),
        ({"vlan": "7"}, "option vlan: no such option; there are egressRate, "),
        ({"mtu": "big"}, 'option mtu: value "big": allowed is a number'),
        ({"mtu": "1"}, "option mtu: value 1: allowed is 68 to 65535"),
        ({"isolated": "maybe"}, 'option isolated: value "maybe": allowed is true or false'),
        ({"egressRate": "10Q"}, 'option egressRate: value "10Q": allowed is 1 kbit/s'),
        ({"allowHost": "tcp/99999"}, 'option allowHost: value "tcp/99999": allowed is tcp/PORT'),
        ({"mtu": "1400", "MTU": "1500"}, "option MTU: given twice"),
        ({"isolate": "1", "isolated": "1"}, "option isolate: the same as isolated"),
        ({"subnet": "10.9.0.0/16"}, "option subnet: --subnet, --ip-range and --gateway say that"),
        ({"enforceEgress": "hots"}, 'option enforceEgress: value "hots": allowed is "host"'),
        ({"egressBurst": "1M"}, "option egressBurst: value"),
        ({"nameservers": "example.org"}, 'option nameservers: value ["...'[:27]),
    ],
)
def test_options_of_networks_that_are_refused(given: dict[str, str], told: str) -> None:
    assert refused(of_network={"options": given}).startswith("network podman: " + told)
    with pytest.raises(CniError) as caught:
        created(options=given)
    assert told in caught.value.msg
    assert caught.value.msg.startswith("network example1: ")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"egressRat": "1M"}, "the container's option egressRat: no such option: allowed is eg"),
        ({"mtu": "1400"}, "the container's option mtu: it is the network's: podman network create"),
        ({"egressRate": "1Q"}, 'the container\'s option egressRate: value "1Q": allowed is 1 kbit'),
        ({"burst": "1M"}, "the container's option burst: without egressRate or ingressRate"),
    ],
)
def test_options_of_containers_that_are_refused(given: dict[str, str], told: str) -> None:
    assert refused(own={"options": given}).startswith("network podman: " + told)


def test_what_else_is_refused() -> None:
    told = 'static_ips[0]: value "10.9.0.5": allowed is an address of the ranges'
    assert told in refused(own={"static_ips": ["10.9.0.5"]})
    assert "static_ips[0]: " in refused(own={"static_ips": ["10.88.0.1"]})  # the gateway
    assert "static_mac: " in refused(own={"static_mac": "01:00:00:00:00:01"})
    assert "0 addresses for 1 subnets" in refused(own={"static_ips": None})
    assert "network.options.mtu: 1400: expected text" in refused(
        of_network={"options": {"mtu": 1400}}
    )
    assert "network_options.static_ips[]: 7: expected text" in refused(own={"static_ips": [7]})


def test_ports() -> None:
    mappings = [
        {"container_port": 80, "host_ip": "127.0.0.1", "host_port": 8080, "protocol": "tcp,udp"}
        | {"range": 1},
        {"container_port": 90, "host_ip": "", "host_port": 9090, "protocol": "", "range": 10},
    ]
    found = configuration.load(setup(port_mappings=mappings).document).ports
    assert [one.to_fields() for one in found] == [
        [6, "127.0.0.1", 8080, 80, 1],
        [17, "127.0.0.1", 8080, 80, 1],
        [6, None, 9090, 90, 10],
    ]


def test_teardown_passes_over_all_that_is_wrong() -> None:
    bad = executed(
        {"options": {"mtu": "big", "nonsense": "1", "stateDir": "/state"}, "subnets": None},
        {"options": {"egressRate": "1Q"}, "static_ips": None},
        port_mappings=[{"host_port": 80}],
    )
    call = container.call("teardown", "/run/netns/a", bad)
    assert call.variables["CNI_COMMAND"] == "DEL"
    config = configuration.load_tolerant(call.document)
    assert (config.name, config.state_dir) == ("podman", "/state")


def test_a_name_that_is_none_is_left_out() -> None:
    assert "CNI_ARGS" not in setup(container_name="a;IP=10.88.0.9").variables


def test_an_internal_network_has_no_way_out() -> None:
    document = setup(of_network={"internal": True}).document
    assert (document["ipMasq"], document["ipam"]["routes"]) == (False, [])  # type: ignore[index]
    assert "option ipMasq: the network is internal" in refused(
        of_network={"internal": True, "options": {"ipMasq": "true"}}
    )


def test_routes() -> None:
    subnets = [*EXECUTED["network"]["subnets"], {"subnet": "fd00:88::/64"}]
    routes: list[dict[str, Any]] = [
        {"destination": "10.7.0.0/16", "gateway": "10.88.0.1", "metric": 50},
        {"destination": "fd00:7::/64", "gateway": "fd00:88::1", "metric": None},
    ]
    own = {"static_ips": ["10.88.0.50", "fd00:88::50"]}
    found = setup(of_network={"subnets": subnets, "routes": routes}, own=own).document["ipam"]
    assert found["routes"] == [  # type: ignore[index]
        ROUTE4,
        ROUTE6,
        {"dst": "10.7.0.0/16", "priority": 50},
        {"dst": "fd00:7::/64"},
    ]
    none = {"subnets": subnets, "options": {"no_default_route": "1"}}
    assert setup(of_network=none, own=own).document["ipam"]["routes"] == []  # type: ignore[index]
    routes[0]["gateway"] = "10.88.0.2"
    told = refused(of_network={"routes": routes[:1]})
    assert "--route 10.7.0.0/16: the next hop 10.88.0.2 is not on the container's link" in told
    assert "allowed is 10.88.0.1" in told


def test_without_podmans_ipam_faasm_leases() -> None:
    none = {"ipam_options": {"driver": "none"}, "subnets": None}
    given = {"subnet": "10.60.0.0/16", "rangeStart": "10.60.0.100", "gateway": "10.60.0.9"}
    call = setup(of_network={**none, "options": given}, own={"static_ips": None})
    assert call.document["ipam"]["ranges"] == [[given]]  # type: ignore[index]
    assert call.addresses == []
    both = {"subnet": "10.60.0.0/16 fd00:60::/64"}
    call = setup(of_network={**none, "options": both}, own={"static_ips": None})
    assert call.document["ipam"]["routes"] == [ROUTE4, ROUTE6]  # type: ignore[index]
    assert "no subnet: give --subnet" in refused(of_network=none)
    told = refused(of_network={**none, "options": {**both, "gateway": "10.60.0.1"}})
    assert "option gateway: with one subnet alone" in told
    assert "--ipam-driver dhcp: allowed are host-local" in refused(
        of_network={**none, "ipam_options": {"driver": "dhcp"}}
    )


def test_a_network_is_completed() -> None:
    made = created(dns_enabled=True, labels={"a": "b"}, subnets=[{"subnet": "10.9.0.0/16"}])
    assert made["dns_enabled"] is False
    assert made["subnets"] == [{"subnet": "10.9.0.0/16", "gateway": "10.9.0.1"}]
    for key in ("name", "id", "driver", "labels", "internal", "ipam_options", "options"):
        assert made[key] == {**CREATED, "labels": {"a": "b"}}[key]
    # podman gives an internal network none, and would lease the address.
    made = created(internal=True, subnets=[{"subnet": "fd00:9::/64"}])
    assert made["subnets"] == [{"subnet": "fd00:9::/64", "gateway": "fd00:9::1"}]
    assert made["ipv6_enabled"] is True


def test_a_network_without_subnets_gets_some() -> None:
    def free(networks: dict[str, Any], host: list[Any], **keys: Any) -> list[str]:
        made = created(subnets=None, ipam_options=None, networks=networks, host=host, **keys)
        assert made["ipv6_enabled"] == keys.get("ipv6_enabled", False)
        return [one["subnet"] for one in made["subnets"]]

    assert free({}, []) == ["10.201.0.0/16"]
    others = {"a": [(bytes((10, 201, 7, 0)), 24)]}
    assert free(others, [(bytes((10, 202, 0, 0)), 15)]) == ["10.204.0.0/16"]
    assert free(others, [], ipv6_enabled=True) == ["10.202.0.0/16", "fd2f:259b:ab93:aaaa::/64"]
    with pytest.raises(CniError) as caught:
        free({"a": [(bytes((10, 0, 0, 0)), 8)]}, [])
    assert "choose one by --subnet" in caught.value.details


def test_a_network_must_not_overlap_with_another() -> None:
    with pytest.raises(CniError) as caught:
        created(networks={"other": [(bytes((10, 0, 7, 0)), 24)]})
    assert "--subnet 10.0.0.0/16: it overlaps with that of podman's network other" in str(
        caught.value
    )
    # As podman reads its files, the network is not among them; a file of the same name is no other.
    created(networks={"example1": [(bytes((10, 0, 7, 0)), 24)]})


def test_a_network_has_a_name_of_its_own() -> None:
    with pytest.raises(CniError) as caught:
        created(names={"example1": "/etc/cni/net.d/10-a.conflist"})
    assert "/etc/cni/net.d/10-a.conflist is of a network of that name" in caught.value.msg


def test_name_servers_become_an_option() -> None:
    """Podman refuses them where its own name server is off."""
    made = created(network_dns_servers=["9.9.9.9"], options=None)
    assert made["network_dns_servers"] is None
    assert made["options"] == {"nameservers": "9.9.9.9"}
    faults: list[str] = []
    document = network.document(Given(made), faults)
    assert (document["dns"], faults) == ({"nameservers": ["9.9.9.9"]}, [])


def test_the_interface_name_is_a_prefix() -> None:
    made = created(network_interface="fn")
    assert made["network_interface"] == "fn"
    document = network.document(Given(made), [])
    assert document["hostInterfacePrefix"] == "fn"
    with pytest.raises(CniError) as caught:
        created(network_interface="much-too-long-a-name")
    assert "option hostInterfacePrefix: " in caught.value.msg
    with pytest.raises(CniError) as caught:
        created(network_interface="fn", options={"hostInterfacePrefix": "gn"})
    assert "--interface-name says another one" in caught.value.msg


def test_what_other_networks_have(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taken, "NETWORKS_DIR", str(tmp_path))
    (tmp_path / "a.json").write_text(json.dumps({**CREATED, "name": "a"}))
    (tmp_path / "torn.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "folder").mkdir()
    listed = {"name": "c", "plugins": [{"type": "faasm"}, {"type": "tuning"}]}
    (tmp_path / "10-c.conflist").write_text(json.dumps(listed))
    monkeypatch.setattr(taken, "CNI_DIR", str(tmp_path))
    assert taken.names() == {"c": str(tmp_path / "10-c.conflist")}
    (tmp_path / "10-c.conflist").unlink()
    assert taken.of_networks() == {
        "podman": [(bytes((10, 88, 0, 0)), 16)],
        "a": [(bytes((10, 0, 0, 0)), 16)],
    }


def answer(*words: str, stdin: bytes = b"{}", **keys: Any) -> tuple[int, dict[str, Any]]:
    told: list[tuple[int, bytes]] = []
    arguments: dict[str, Any] = {
        "is_root": True,
        "read": lambda: stdin,
        "tell": lambda status, text: told.append((status, text)),
        "serve": None,
        "warn": None,
        **keys,
    }
    environ = arguments.pop("environ", {})
    assert edge.answer(list(words), environ, **arguments) == 0
    [(status, text)] = told
    return status, json.loads(text)


def test_info() -> None:
    status, document = answer("info")
    assert (status, sorted(document)) == (0, ["api_version", "version"])
    assert document["api_version"] == "1.0.0"


@pytest.mark.parametrize("words", [["setup"], ["create", "a"], ["teardown", "a", "b"]])
def test_arguments_that_nobody_calls_with(words: list[str]) -> None:
    with pytest.raises(CniError) as caught:
        answer(*words)
    assert caught.value.details == "netavark calls: create, setup NETNS, teardown NETNS, info"


@pytest.mark.parametrize(
    "how", [{"is_root": False}, {"environ": {b"_CONTAINERS_ROOTLESS_UID": b"1000"}}]
)
def test_rootless_is_refused_in_words(how: dict[str, Any]) -> None:
    for words in (["create"], ["setup", "/run/netns/a"]):
        with pytest.raises(CniError) as caught:
            answer(*words, **how)
        assert json.loads(edge.refusal(caught.value))["error"].startswith("rootless podman: ")
