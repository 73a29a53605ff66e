"""The configuration: every key, its default, its faults, and who wins over whom."""

import json
import time
from pathlib import Path

import pytest

from cni_faasm.config import loading as configuration
from cni_faasm.config.loading import NetworkConfig, check_faults, load, load_tolerant
from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import INVALID_CONFIG, CniError

IPAM: dict[str, object] = {"type": "host-local", "subnet": "10.200.0.0/16"}


def document(**keys: object) -> dict[str, object]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "faasm", "ipam": IPAM, **keys}


def ipam(**keys: object) -> dict[str, object]:
    return document(ipam={**IPAM, **keys})


def runtime(**keys: object) -> dict[str, object]:
    return document(runtimeConfig=keys)


def read(keys: dict[str, object], args: dict[str, str] | None = None) -> NetworkConfig:
    return load(document(**keys), args)


def paths(faulty: dict[str, object], args: dict[str, str] | None = None) -> list[str]:
    found, faults = check_faults(faulty, args)
    assert found is None
    assert faults
    return [fault.path for fault in faults]


def test_defaults() -> None:
    config = load(document())
    assert config.cni_version == "1.0.0"
    assert config.name == "net"
    assert config.plugin_type == "faasm"
    assert config.mtu is None
    assert config.ip_masq is False
    assert config.host_interface_prefix == "faasm"
    assert config.state_dir == "/var/lib/cni/faasm"
    assert config.data_dir == "/var/lib/cni/networks"
    assert config.ingress.rate_bps is None
    assert config.egress.rate_bps is None
    assert config.latency_ms is None
    assert config.routes == []
    assert config.requested_addresses == []
    assert config.mac is None
    assert config.dns == {}
    assert config.lock_timeout_ms == 10_000
    assert config.prev_result is None
    assert config.valid_attachments is None
    assert config.warnings == []
    assert len(config.range_sets) == 1
    assert config.range_sets[0][0].subnet_text() == "10.200.0.0/16"


def test_plain_keys() -> None:
    config = read(
        {
            "mtu": 1400,
            "ipMasq": True,
            "hostInterfacePrefix": "fn-",
            "stateDir": "/srv//state/./x/",
            "dataDir": "/srv/leases",
            "lockTimeout": 500,
            "capabilities": {"bandwidth": True, "anything": True},
        }
    )
    assert config.mtu == 1400
    assert config.ip_masq is True
    assert config.host_interface_prefix == "fn-"
    assert config.state_dir == "/srv/state/x"
    assert config.data_dir == "/srv/leases"
    assert config.lock_timeout_ms == 500
    assert read({"mtu": 0}).mtu is None
    assert load(ipam(dataDir="/srv/leases")).data_dir == "/srv/leases"


def test_whole_numbers_in_any_spelling() -> None:
    """JSON writers make 1450.0 and 1e7 of whole numbers."""
    text = b"""{"cniVersion": "1.0.0", "name": "net", "mtu": 1450.0, "lockTimeout": 5e2,
        "ipamTimeout": 1E+3, "maxIngressRate": 1e8, "bandwidth": {"ingressRate": 1e7,
        "ingressBurst": 64e3, "latency": 5.0}, "ipam": {"subnet": "10.200.0.0/16", "routes": [{"dst":
        "0.0.0.0/0", "mtu": 1.3e3, "advmss": 1200.0, "priority": 7.0, "table": 99.0, "scope": 0.0}]}}"""
    config = load(jsonio.load_object(text, "it"))
    assert (config.mtu, config.lock_timeout_ms, config.ipam_timeout_ms) == (1450, 500, 1000)
    assert (config.ingress.rate_bps, config.ingress.burst_bits) == (10_000_000, 64_000)
    assert config.latency_ms == 5
    [route] = config.routes
    assert (route.mtu, route.advmss, route.priority, route.table) == (1300, 1200, 7, 99)
    numbers = (config.mtu, config.ingress.rate_bps, route.mtu, route.scope)
    assert all(type(number) is int for number in numbers)


def test_keys_match_without_regard_to_case_and_null_is_absent() -> None:
    config = load(
        {
            "CNIVERSION": "1.0.0",
            "Name": "net",
            "TYPE": "faasm",
            "IPMasq": True,
            "MTU": None,
            "ipam": {"Subnet": "10.1.0.0/16", "ROUTES": [{"DST": "0.0.0.0/0", "Gw": None}]},
            "runtimeconfig": {"BANDWIDTH": {"IngressRate": 1000000, "EgressRate": 0}},
            "dns": None,
        }
    )
    assert config.ip_masq
    assert config.ingress.rate_bps == 1_000_000
    assert config.egress.rate_bps is None
    assert len(config.routes) == 1


SLOT = {"tap": "tap0", "address": "169.254.1.2/30"}


def test_a_slot_without_a_tap_is_refused_in_words() -> None:
    for slot, said in (
        ({"address": "169.254.1.2/30"}, "without a TAP each slot has its own address inside"),
        ({"tap": "tap0", "address": "fd00::2/64"}, "machines have no IPv6"),
    ):
        _, faults = check_faults(document(slot=slot), None)
        assert said in str(faults[0])


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"name": None}, "name"),
        ({"name": ""}, "name"),
        ({"name": "../x"}, "name"),
        ({"name": "a" * 250}, "name"),
        ({"name": 1}, "name"),
        ({"type": 1}, "plugins[0].type"),
        ({"mtu": "1500"}, "plugins[0].mtu"),
        ({"mtu": True}, "plugins[0].mtu"),
        ({"mtu": 67}, "plugins[0].mtu"),
        ({"mtu": -1}, "plugins[0].mtu"),
        ({"mtu": 65536}, "plugins[0].mtu"),
        ({"mtu": 1400.5}, "plugins[0].mtu"),
        ({"sandbox": "kata"}, "plugins[0].sandbox"),
        ({"ipMasq": "true"}, "plugins[0].ipMasq"),
        ({"slot": True}, "plugins[0].slot"),
        ({"slot": {"address": "169.254.1.2/30"}}, "plugins[0].slot.tap"),
        ({"slot": {"tap": "tap 0", "address": "169.254.1.2/30"}}, "plugins[0].slot.tap"),
        ({"slot": {"tap": "t" * 16, "address": "169.254.1.2/30"}}, "plugins[0].slot.tap"),
        ({"slot": {"tap": "tap0"}}, "plugins[0].slot.address"),
        ({"slot": {"tap": "tap0", "address": "169.254.1.2"}}, "plugins[0].slot.address"),
        ({"slot": {"tap": "tap0", "address": "169.254.1.4/30"}}, "plugins[0].slot.address"),
        ({"slot": {"tap": "tap0", "address": "169.254.1.7/30"}}, "plugins[0].slot.address"),
        ({"slot": {"tap": "tap0", "address": "169.254.1.2/31"}}, "plugins[0].slot.address"),
        ({"slot": {"tap": "tap0", "address": "fe80::2/64"}}, "plugins[0].slot.address"),
        ({"slot": {**SLOT, "mac": "01:00:5e:00:00:01"}}, "plugins[0].slot.mac"),
        ({"slot": {**SLOT, "user": -1}}, "plugins[0].slot.user"),
        ({"slot": {**SLOT, "user": "root"}}, "plugins[0].slot.user"),
        ({"ipMasq": 1}, "plugins[0].ipMasq"),
        ({"hostInterfacePrefix": ""}, "plugins[0].hostInterfacePrefix"),
        ({"hostInterfacePrefix": "x" * 12}, "plugins[0].hostInterfacePrefix"),
        ({"hostInterfacePrefix": "a/b"}, "plugins[0].hostInterfacePrefix"),
        ({"hostInterfacePrefix": "a%d"}, "plugins[0].hostInterfacePrefix"),
        ({"hostInterfacePrefix": ".."}, "plugins[0].hostInterfacePrefix"),
        ({"stateDir": "relative"}, "plugins[0].stateDir"),
        ({"stateDir": "/a/../b"}, "plugins[0].stateDir"),
        ({"stateDir": "/"}, "plugins[0].stateDir"),
        ({"stateDir": "/a\n"}, "plugins[0].stateDir"),
        ({"stateDir": "/a\0"}, "plugins[0].stateDir"),
        ({"stateDir": "/" + "a" * 3000}, "plugins[0].stateDir"),
        ({"stateDir": "/var/lib/cni/networks/"}, "plugins[0].stateDir"),
        ({"dataDir": ["/a"]}, "plugins[0].dataDir"),
        ({"lockTimeout": 0}, "plugins[0].lockTimeout"),
        ({"lockTimeout": "10s"}, "plugins[0].lockTimeout"),
        ({"capabilities": []}, "plugins[0].capabilities"),
        ({"runtimeConfig": []}, "runtimeConfig"),
        ({"args": "x"}, "plugins[0].args"),
        ({"args": {"cni": 1}}, "plugins[0].args.cni"),
        ({"prevResult": []}, "prevResult"),
        ({"prevResult": {"cniVersion": "1.0.0", "ips": [{}]}}, "prevResult"),
        ({"cni.dev/valid-attachments": {}}, "cni.dev/valid-attachments"),
        ({"cni.dev/valid-attachments": [1]}, "cni.dev/valid-attachments[0]"),
        ({"cni.dev/valid-attachments": [{}, {}]}, "cni.dev/valid-attachments[0].containerID"),
        ({"dns": []}, "plugins[0].dns"),
        ({"dns": {"nameservers": "1.1.1.1"}}, "plugins[0].dns.nameservers"),
        ({"dns": {"nameservers": ["dns.example"]}}, "plugins[0].dns.nameservers"),
        ({"dns": {"search": [1]}}, "plugins[0].dns.search[0]"),
        ({"dns": {"domain": "a b"}}, "plugins[0].dns.domain"),
        ({"runtimeConfig": {"dns": {"servers": [""]}}}, "runtimeConfig.dns.servers"),
        ({"bandwidth": 1}, "plugins[0].bandwidth"),
        ({"bandwidth": {"egressRate": "10Q"}}, "plugins[0].bandwidth.egressRate"),
        ({"bandwidth": {"ingressBurst": "x"}}, "plugins[0].bandwidth.ingressBurst"),
        ({"bandwidth": {"latency": 0}}, "plugins[0].bandwidth.latency"),
        ({"ingressRate": 999}, "plugins[0].ingressRate"),
        ({"maxEgressRate": "fast"}, "plugins[0].maxEgressRate"),
        (
            {"runtimeConfig": {"bandwidth": {"IngressRate": 1}}},
            "runtimeConfig.bandwidth.ingressRate",
        ),
        ({"runtimeConfig": {"mac": "x"}}, "runtimeConfig.mac"),
        ({"runtimeConfig": {"ips": "10.200.0.7"}}, "runtimeConfig.ips"),
        ({"runtimeConfig": {"ips": ["10.201.0.7"]}}, "runtimeConfig.ips[0]"),
        ({"runtimeConfig": {"ips": [7]}}, "runtimeConfig.ips[0]"),
        ({"args": {"cni": {"ips": ["10.200.0.1"]}}}, "plugins[0].args.cni.ips[0]"),
    ],
)
def test_each_fault_is_named(keys: dict[str, object], path: str) -> None:
    faulty = document(**keys)
    if "/var/lib" not in str(keys):
        assert paths(faulty)[0] == path
    assert path in paths(faulty)
    with pytest.raises(CniError) as caught:
        load(faulty)
    assert caught.value.code == INVALID_CONFIG
    assert f"{path}: " in caught.value.msg
    assert ": allowed is " in caught.value.msg or " must " in caught.value.msg
    assert caught.value.details
    load_tolerant(faulty)


def test_all_faults_at_once() -> None:
    faulty = document(
        name="no/name",
        mtu="1500",
        ipMask=True,
        bandwidth={"ingresRate": 1, "egressRate": "10Q"},
        ipam={"type": "host-local", "subnet": "10.0.0.0/33", "routes": [{"gw": "x"}]},
        runtimeConfig={"mac": "zz"},
    )
    with pytest.raises(CniError) as caught:
        load(faulty)
    for words in (
        'name: value "no/name": allowed is a letter or digit',
        'plugins[0].mtu: value "1500": allowed is a number from 0 to 65535',
        "plugins[0].ipMask: no such key: allowed is ipMasq",
        "plugins[0].bandwidth.ingresRate: no such key: allowed is ingressRate",
        'plugins[0].bandwidth.egressRate: value "10Q": allowed is 1 kbit/s to 1 Pbit/s',
        'plugins[0].ipam.subnet: value "10.0.0.0/33": allowed is a network',
        "plugins[0].ipam.routes[0].dst: missing: allowed is a network",
        'runtimeConfig.mac: value "zz": allowed is a MAC address',
    ):
        assert words in caught.value.msg
    assert "these 8 places" in caught.value.details


def test_a_flood_of_faults_is_cut() -> None:
    with pytest.raises(CniError) as caught:
        load(ipam(routes=[1] * 5000))
    assert "and 4950 more" in caught.value.msg
    assert len(caught.value.msg) < 10_000


@pytest.mark.parametrize(
    ("keys", "name"),
    [
        ({"mut": 1500}, "mtu"),
        ({"ipMask": True}, "ipMasq"),
        ({"IPMASK": True}, "ipMasq"),
        ({"hostIntefacePrefix": "x"}, "hostInterfacePrefix"),
        ({"statedirs": "/x"}, "stateDir"),
        ({"ingresRate": 1}, "ingressRate"),
        ({"maxIngresRate": 1}, "maxIngressRate"),
        ({"bandwixth": {}}, "bandwidth"),
        ({"runtimeConfigs": {}}, "runtimeConfig"),
        ({"capabilitise": {}}, "capabilities"),
        ({"bandwidth": {"latncy": 1}}, "latency"),
        ({"ipam": {**IPAM, "subnets": ""}}, "subnet"),
        ({"ipam": {**IPAM, "rangStart": ""}}, "rangeStart"),
        ({"ipam": {**IPAM, "route": []}}, "routes"),
        ({"ipam": {"ranges": [[{"subnt": ""}]]}}, "subnet"),
        ({"ipam": {**IPAM, "routes": [{"dst": "::/0", "prioritry": 1}]}}, "priority"),
        ({"dns": {"nameserver": []}}, "nameservers"),
        ({"runtimeConfig": {"ipRange": []}}, "ipRanges"),
        ({"runtimeConfig": {"dns": {"search": []}}}, "searches"),
        ({"runtimeConfig": {"bandwidth": {"IngressRat": 1}}}, "ingressRate"),
    ],
)
def test_slips_of_the_pen_are_refused(keys: dict[str, object], name: str) -> None:
    _, faults = check_faults(document(**keys))
    assert f": no such key: allowed is {name}" in "; ".join(str(fault) for fault in faults)


@pytest.mark.parametrize(
    ("keys", "path", "home"),
    [
        ({"bandwidth": {"maxIngressRate": 1}}, "bandwidth.maxIngressRate", "maxIngressRate"),
        ({"bandwidth": {"isolated": True}}, "bandwidth.isolated", "isolated"),
        ({"enforceEgress": "host"}, "enforceEgress", "bandwidth.enforceEgress"),
        ({"latency": 5}, "latency", "bandwidth.latency"),
        ({"ipam": {**IPAM, "mtu": 1400}}, "ipam.mtu", "mtu or plugins[0].ipam.routes[].mtu"),
        ({"ipam": {**IPAM, "dns": {}}}, "ipam.dns", "dns"),
        ({"ipam": {**IPAM, "EgressRate": 1}}, "ipam.EgressRate", "egressRate"),
        ({"subnet": "10.0.0.0/8"}, "subnet", "ipam.subnet"),
        ({"routes": []}, "routes", "ipam.routes"),
        ({"nameservers": []}, "nameservers", "dns.nameservers"),
        ({"ipam": {"ranges": [[{"routes": []}]]}}, "ipam.ranges[0][0].routes", "ipam.routes"),
    ],
)
def test_a_key_in_the_wrong_object(keys: dict[str, object], path: str, home: str) -> None:
    """It would be passed over in silence, and a limit or a guard with it."""
    _, faults = check_faults(document(**keys))
    [text] = [str(fault) for fault in faults if fault.path == f"plugins[0].{path}"]
    assert text.startswith(f"plugins[0].{path}: it has no meaning here: allowed is plugins[0].")
    assert f"plugins[0].{home}" in text


def test_keys_that_nobody_reads_are_known() -> None:
    config = load(document(rateClass="gold", ipam={**IPAM, "poolsize": 7}))
    assert config.unknown == ["plugins[0].rateClass", "plugins[0].ipam.poolsize"]


def test_other_plugins_keys_pass() -> None:
    foreign = (
        "cniVersions disableCheck disableGC isGateway isDefaultGateway forceAddress hairpinMode"
        " promiscMode vlan bridge ipMasqBackend cni.dev/anything x-vendor kubernetes policy"
        " log_level master mode sysctl a"
    )
    assert load(document(**dict.fromkeys(foreign.split(), "whatever"))).name == "net"
    asked = {
        "portMappings": [],
        "aliases": {},
        "infinibandGUID": "",
        "deviceID": "",
        "cgroupPath": "",
    }
    assert load(runtime(**asked)).name == "net"
    assert load(document(args={"labels": [], "cri": 1, "cni": {"other": 1}})).name == "net"


# Rates


def test_rates_nested_flat_and_capitalised() -> None:
    ways: tuple[dict[str, object], ...] = (
        {"bandwidth": {"ingressRate": "10M", "egressRate": 5_000_000, "ingressBurst": "64k"}},
        {"ingressRate": "10M", "egressRate": 5_000_000, "ingressBurst": 64_000},
        {
            "runtimeConfig": {
                "bandwidth": {"IngressRate": 10**7, "EgressRate": "5M", "IngressBurst": 64_000}
            }
        },
        {
            "bandwidth": {"ingressRate": "10M"},
            "ingressRate": 10**7,
            "egressRate": "5M",
            "ingressBurst": "64k",
        },
    )
    for keys in ways:
        config = read(keys)
        assert (config.ingress.rate_bps, config.ingress.burst_bits) == (10**7, 64_000)
        assert (config.egress.rate_bps, config.egress.burst_bits) == (5_000_000, None)
        assert config.warnings == []


def test_nested_and_flat_must_agree() -> None:
    assert paths(document(bandwidth={"ingressRate": "10M"}, ingressRate="11M")) == [
        "plugins[0].bandwidth.ingressRate"
    ]
    assert paths(document(dataDir="/a", ipam={**IPAM, "dataDir": "/b"})) == [
        "plugins[0].ipam.dataDir"
    ]
    assert read({"dataDir": "/a/", "ipam": {**IPAM, "dataDir": "/a"}}).data_dir == "/a"


@pytest.mark.parametrize("unset", [0, 2147483647, 2147483648, 4294967295, 34359738359, 2**63 - 1])
def test_what_runtimes_send_for_unset(unset: int) -> None:
    """0 for no rate, and for no burst the largest number of some type: containerd's, CRI-O's."""
    config = load(
        document(
            bandwidth={"ingressRate": "10M", "egressRate": "20M", "egressBurst": "1M"},
            runtimeConfig={
                "bandwidth": {
                    "IngressRate": 1_000_000,
                    "IngressBurst": unset,
                    "EgressRate": 0,
                    "EgressBurst": unset,
                }
            },
        )
    )
    assert (config.ingress.rate_bps, config.ingress.burst_bits) == (1_000_000, None)
    assert (config.egress.rate_bps, config.egress.burst_bits) == (20_000_000, 1_000_000)


def test_a_large_burst_of_the_file_is_meant() -> None:
    for burst in (2147483648, 34359738358):
        assert read({"ingressRate": "10G", "ingressBurst": burst}).ingress.burst_bits == burst
    for unset in (2147483647, 4294967295, 34359738359):
        assert read({"ingressRate": "10G", "ingressBurst": unset}).ingress.burst_bits is None


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({"ingressBurst": "1M"}, "plugins[0].ingressBurst"),
        ({"bandwidth": {"egressBurst": "1M"}}, "plugins[0].bandwidth.egressBurst"),
        ({"ingressRate": 0, "ingressBurst": "1M"}, "plugins[0].ingressBurst"),
        (
            {"runtimeConfig": {"bandwidth": {"egressBurst": "1M"}}},
            "runtimeConfig.bandwidth.egressBurst",
        ),
    ],
)
def test_a_burst_without_a_rate_is_refused(keys: dict[str, object], path: str) -> None:
    """As by the reference plugin: who sets one meant a limit, and there would be none."""
    assert paths(document(**keys)) == [path]


def test_a_burst_of_the_file_needs_no_rate_where_the_runtime_sets_one() -> None:
    keys: dict[str, object] = {"bandwidth": {"egressBurst": "1M"}}
    asked = {"runtimeConfig": {"bandwidth": {"egressRate": "5M"}}}
    config = read({**keys, **asked})
    assert (config.egress.rate_bps, config.egress.burst_bits) == (5_000_000, None)


def test_a_burst_belongs_to_its_rate() -> None:
    config = load(
        document(
            bandwidth={"ingressRate": "1G", "ingressBurst": "100M", "egressRate": "1G"},
            runtimeConfig={"bandwidth": {"ingressRate": "1M", "egressBurst": "2M"}},
        )
    )
    assert (config.ingress.rate_bps, config.ingress.burst_bits) == (1_000_000, None)
    assert (config.egress.rate_bps, config.egress.burst_bits) == (10**9, 2_000_000)


def test_caps_lower_what_the_runtime_asks_for() -> None:
    keys: dict[str, object] = {"maxIngressRate": "50M", "maxEgressRate": "50M", "egressRate": "80M"}
    config = read(
        {**keys, "runtimeConfig": {"bandwidth": {"ingressRate": "100M", "egressRate": "40M"}}}
    )
    assert config.ingress.rate_bps == 50_000_000
    assert config.egress.rate_bps == 40_000_000
    assert config.warnings == [
        "runtimeConfig.bandwidth.ingressRate: 100 Mbit/s lowered to 50 Mbit/s, the network's maxIngressRate"
    ]
    config = read(keys)  # the file's own word is no asking
    assert config.ingress.rate_bps is None
    assert config.egress.rate_bps == 80_000_000


def test_bursts_beyond_the_kernels_field_are_lowered_and_said() -> None:
    config = read({"ingressRate": "1k", "ingressBurst": "10M"})
    assert config.ingress.burst_bits == 125 * 4294967295 * 64 // 10**9 * 8
    [warning] = config.warnings
    assert "ingressBurst: 10000000 bits lowered to" in warning


def test_latency() -> None:
    assert read({"bandwidth": {"latency": "5ms"}}).latency_ms == 5


# Addresses and names asked for


def test_precedence_of_addresses() -> None:
    places: dict[str, object] = {
        "runtimeConfig": {"ips": ["10.200.0.7/16"], "mac": "02:00:00:00:00:07"},
        "args": {"cni": {"ips": ["10.200.0.8"], "mac": "02:00:00:00:00:08"}},
    }
    args = {"IP": "10.200.0.9/16", "MAC": "02:00:00:00:00:09"}
    for number in (7, 8, 9):
        config = read(places, args)
        assert config.requested_addresses == [inet.pack(f"10.200.0.{number}")]
        assert config.mac == inet.parse_mac(f"02:00:00:00:00:0{number}")
        if places:
            places.pop(next(iter(places)))
    assert config.warnings == []
    assert read({"runtimeConfig": {"ips": [], "mac": ""}}, args).mac == inet.parse_mac(args["MAC"])


def test_what_is_passed_over_of_addresses_is_said() -> None:
    places = {
        "runtimeConfig": {"ips": ["10.200.0.7"], "mac": "02:00:00:00:00:07"},
        "args": {"cni": {"ips": ["10.200.0.8"], "mac": "02:00:00:00:00:07"}},
    }
    config = read(places, {"IP": "10.200.0.1", "MAC": "02:00:00:00:00:09"})
    rest = "passed over for 10.200.0.7 of runtimeConfig.ips[0], which is of the same range set"
    assert config.warnings == [
        "CNI_ARGS.MAC: 02:00:00:00:00:09 passed over for 02:00:00:00:00:07 of runtimeConfig.mac",
        f"plugins[0].args.cni.ips[0]: 10.200.0.8 {rest}",
        f"CNI_ARGS.IP: 10.200.0.1 {rest}",
    ]


@pytest.mark.parametrize(
    ("ips", "cni_ips", "ip", "expected"),
    [
        (["fd00:200::77"], [], "10.200.5.5", ["fd00:200::77", "10.200.5.5"]),  # nerdctl
        (["10.200.5.5"], ["fd00:200::77/64"], "", ["10.200.5.5", "fd00:200::77"]),
        ([], ["fd00:200::77"], "10.200.5.5/16", ["fd00:200::77", "10.200.5.5"]),
        (["10.200.5.5"], ["10.200.5.5/16"], "::ffff:10.200.5.5", ["10.200.5.5"]),
        (["10.200.5.5", "10.200.5.5/16"], [], "", ["10.200.5.5"]),
    ],
)
def test_addresses_of_three_places_join(
    ips: list[str], cni_ips: list[str], ip: str, expected: list[str]
) -> None:
    ranges = [[{"subnet": "10.200.0.0/16"}], [{"subnet": "fd00:200::/64"}]]
    config = load(
        document(
            ipam={"ranges": ranges},
            runtimeConfig={"ips": ips},
            args={"cni": {"ips": cni_ips}},
        ),
        {"IP": ip} if ip else {},
    )
    assert [inet.unpack(packed) for packed in config.requested_addresses] == expected
    assert config.warnings == []


def test_addresses_asked_for_must_be_leasable() -> None:
    dual = {
        "ranges": [
            [{"subnet": "10.1.0.0/16"}, {"subnet": "10.3.0.0/16"}],
            [{"subnet": "fd00::/64"}],
        ]
    }
    config = read({"ipam": dual, "runtimeConfig": {"ips": ["fd00::7", "10.3.0.7"]}})
    assert config.requested_addresses == [inet.pack("fd00::7"), inet.pack("10.3.0.7")]
    faulty = document(
        ipam=dual,
        runtimeConfig={"ips": ["10.1.0.7", "10.3.0.7", "10.2.0.7", "fd00::1", "10.1.0.0/99"]},
    )
    assert paths(faulty) == [f"runtimeConfig.ips[{index}]" for index in (1, 2, 3, 4)]
    assert load(faulty, verb="CHECK").requested_addresses == []
    assert paths(document(), {"IP": "10.201.0.7"}) == ["CNI_ARGS.IP"]
    assert paths(document(), {"MAC": "x"}) == ["CNI_ARGS.MAC"]


# DNS


def test_dns() -> None:
    dns = {
        "nameservers": ["10.1.0.1", "fd00::1"],
        "domain": "d",
        "search": ["s"],
        "options": ["o:1"],
    }
    assert read({"dns": dns}).dns == dns
    asked = {"servers": ["10.9.9.9"], "searches": [], "options": ["ndots:5"]}
    assert read({"dns": dns, "runtimeConfig": {"dns": asked}}).dns == {
        **dns,
        "nameservers": ["10.9.9.9"],
        "options": ["ndots:5"],
    }
    assert read({"runtimeConfig": {"dns": {"servers": ["10.9.9.9"]}}}).dns == {
        "nameservers": ["10.9.9.9"]
    }


def test_nameservers_with_a_zone_are_left_out_and_said(tmp_path: Path) -> None:
    """Runtimes fail on what is no address, and the zone is an interface of the host's."""
    said = "left out: its zone means nothing in a container"
    config = read({"dns": {"nameservers": ["fe80::1%eth0", "10.1.0.1"]}})
    assert config.dns == {"nameservers": ["10.1.0.1"]}
    assert config.warnings == [f"plugins[0].dns.nameservers: nameserver fe80::1%eth0 {said}"]
    asked: dict[str, object] = {"runtimeConfig": {"dns": {"servers": ["fe80::1%3"]}}}
    assert read({"dns": {"nameservers": ["10.1.0.1"]}, **asked}).dns == config.dns
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver fe80::1%3\nsearch a\n")
    config = load(ipam(resolvConf=str(path)))
    assert config.dns == {"search": ["a"]}
    assert config.warnings == [f"{path}: nameserver fe80::1%3 {said}"]


@pytest.mark.parametrize(
    ("dns", "expected"),
    [
        ({"nameservers": []}, {}),
        ({"search": [], "options": []}, {}),
        ({"search": [], "domain": "x"}, {"domain": "x"}),
        # nothing stated, hence nothing to hold
        ({}, {"nameservers": ["10.1.0.1"]}),
        ({"nameservers": None, "domain": ""}, {"nameservers": ["10.1.0.1"]}),
    ],
)
def test_an_empty_list_of_the_file_holds_against_resolv_conf(
    tmp_path: Path, dns: dict[str, object], expected: dict[str, object]
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(b"nameserver 10.1.0.1\n")
    assert load({**ipam(resolvConf=str(path)), "dns": dns}).dns == expected
    # a runtime's empty list says that it has none to give
    asked: dict[str, object] = {"dns": {"servers": [], "searches": []}}
    config = load({**ipam(resolvConf=str(path)), "runtimeConfig": asked})
    assert config.dns == {"nameservers": ["10.1.0.1"]}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("search a\nsearch b c\n", {"search": ["b", "c"]}),
        ("domain d\nsearch b c\n", {"search": ["b", "c"]}),
        ("search b c\ndomain d\n", {"domain": "d"}),
        ("search a\nsearch\n", {"search": ["a"]}),
        (" search a\n\tdomain d\n;search b\n#domain e\n", {}),
        ("options a\noptions b\n", {"options": ["a", "b"]}),
    ],
)
def test_lines_of_resolv_conf(tmp_path: Path, text: str, expected: dict[str, object]) -> None:
    """As resolv.conf(5) has it: `domain` is a `search` of one entry, and the last one counts."""
    path = tmp_path / "resolv.conf"
    path.write_text(text, encoding="ascii")
    assert load(ipam(resolvConf=str(path))).dns == expected


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_bytes(
        b"# comment\n; comment\nnameserver 10.1.0.1\nnameserver fd00::1 \nnameserver bad\n"
        b"domain d.example\nsearch a\nsearch b c\noptions ndots:5 timeout:1\noptions rotate\nsearch\n\xff x\n"
    )
    read_from = ipam(resolvConf=str(path))
    assert load(read_from).dns == {
        "nameservers": ["10.1.0.1", "fd00::1"],
        "search": ["b", "c"],
        "options": ["ndots:5", "timeout:1", "rotate"],
    }
    assert load(read_from, verb="CHECK").dns == {}
    assert load({**read_from, "dns": {"domain": "x"}}).dns == {"domain": "x"}
    assert paths(ipam(resolvConf=str(tmp_path / "none"))) == ["plugins[0].ipam.resolvConf"]
    assert paths(ipam(resolvConf=str(tmp_path))) == ["plugins[0].ipam.resolvConf"]
    assert paths(ipam(resolvConf="etc/resolv.conf")) == ["plugins[0].ipam.resolvConf"]


# What the runtime adds


def test_prev_result_in_any_version() -> None:
    old = {"ip4": {"ip": "10.1.0.2/16"}}
    ways: tuple[dict[str, object], ...] = (
        {"prevResult": {"cniVersion": "0.2.0", **old}},
        {"cniVersion": "0.2.0", "prevResult": old},
        {
            "prevResult": {
                "cniVersion": "0.4.0",
                "ips": [{"version": "4", "address": "10.1.0.2/16"}],
            }
        },
        {"prevResult": {"ips": [{"address": "10.1.0.2/16"}]}},
    )
    for keys in ways:
        result = read(keys).prev_result
        assert result is not None
        assert result.ips[0].address == inet.pack("10.1.0.2")
    assert read({"prevResult": None}).prev_result is None


def test_valid_attachments() -> None:
    entries = [{"containerID": "a", "ifname": "eth0"}, {"ContainerID": "b", "IfName": "eth1"}]
    expected = [("a", "eth0"), ("b", "eth1")]
    assert read({"cni.dev/valid-attachments": entries}).valid_attachments == expected
    assert read({"cni.dev/attachments": entries}).valid_attachments == expected
    assert read({"cni.dev/valid-attachments": []}).valid_attachments == []
    # libcni writes a nil slice so; a list under the other name keeps what it names
    assert read({"cni.dev/valid-attachments": None}).valid_attachments == []
    assert read({"CNI.dev/Attachments": None}).valid_attachments == []
    both: dict[str, object] = {"cni.dev/valid-attachments": None, "cni.dev/attachments": entries}
    assert read(both).valid_attachments == expected
    assert read({}).valid_attachments is None


def test_a_faulty_list_of_attachments_never_counts_as_a_shorter_one() -> None:
    for entry in (1, {}, {"containerID": "b"}, {"containerID": "b", "ifname": 1}):
        keys = {"cni.dev/valid-attachments": [{"containerID": "a", "ifname": "eth0"}, entry]}
        assert load_tolerant(document(**keys)).valid_attachments is None
        assert check_faults(document(**keys))[0] is None


# Tolerance


def test_tolerant_takes_what_is_usable() -> None:
    config = load_tolerant(
        {
            "cniVersion": 9,
            "name": "net",
            "stateDir": "/srv/state",
            "mtu": "x",
            "ipam": {"type": 3, "subnet": 1, "dataDir": "/srv/leases", "ranges": 7},
            "runtimeConfig": {"ips": ["nonsense"], "bandwidth": 1},
            "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.2/16"}]},
            "bandwixth": {},
        }
    )
    assert config.name == "net"
    assert config.state_dir == "/srv/state"
    assert config.data_dir == "/srv/leases"
    assert config.prev_result is not None
    assert load_tolerant({}).name == ""
    assert load_tolerant({"name": "../../etc"}).name == ""
    assert load_tolerant({"stateDir": "/a/../../b"}).state_dir == configuration.DEFAULT_STATE_DIR
    assert load_tolerant({"prevResult": {"ips": 1}}).prev_result is None


def test_the_shipped_configuration_is_valid() -> None:
    conflist = json.loads(Path("conf/10-faasm.conflist").read_text(encoding="utf-8"))
    for plugin in conflist["plugins"]:
        if plugin["type"] == "faasm":
            config, faults = check_faults(
                {**plugin, "name": conflist["name"], "cniVersion": "1.0.0"}
            )
            assert [str(fault) for fault in faults] == []
            assert config is not None
            assert config.ip_masq


def test_loading_is_quick() -> None:
    """A call has some ten milliseconds in all; reading its configuration must not show."""
    full = document(
        bandwidth={"ingressRate": "32M", "egressRate": "32M"},
        runtimeConfig={
            "bandwidth": {"IngressRate": 10**6, "IngressBurst": 4294967295},
            "ips": ["10.200.0.7"],
        },
    )
    best = 1.0
    for _ in range(200):
        start = time.perf_counter()
        load(full)
        best = min(best, time.perf_counter() - start)
    assert best < 0.0003


@pytest.mark.parametrize(
    ("address", "gateway"),
    [
        ("169.254.1.2/30", "169.254.1.1"),
        ("169.254.1.1/30", "169.254.1.2"),
        ("10.1.2.3/8", "10.0.0.1"),
    ],
)
def test_the_gateway_of_a_machine_is_another_address(address: str, gateway: str) -> None:
    config = read({"slot": {"tap": "tap0", "address": address, "user": 7}})
    assert config.slot is not None
    assert (inet.cidr(config.slot.address, config.slot.prefix_len), config.slot.user) == (
        address,
        7,
    )
    assert inet.unpack(config.slot.gateway) == gateway
