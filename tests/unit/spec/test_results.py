"""Results in the shape of each version of the specification, both ways."""

import pytest

from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import DECODING_FAILURE, CniError
from cni_faasm.spec.results import (
    SUPPORTED_VERSIONS,
    Interface,
    IPConfig,
    Result,
    Route,
    parse_result,
    result_document,
)

OLD = ("0.1.0", "0.2.0")
MIDDLE = ("0.3.0", "0.3.1", "0.4.0")


def example() -> Result:
    return Result(
        interfaces=[
            Interface(name="faasm0", mac="02:00:00:00:00:01", mtu=1400),
            Interface(name="eth0", mac="02:00:00:00:00:02", sandbox="/run/netns/a", mtu=1400),
        ],
        ips=[
            IPConfig(
                address=inet.pack("10.1.0.2"),
                prefix_len=32,
                gateway=inet.pack("10.1.0.1"),
                interface=1,
            ),
            IPConfig(
                address=inet.pack("fd00::2"),
                prefix_len=128,
                gateway=inet.pack("fd00::1"),
                interface=1,
            ),
        ],
        routes=[
            Route(
                dst=bytes(4),
                prefix_len=0,
                gateway=inet.pack("10.1.0.1"),
                mtu=1300,
                advmss=1200,
                priority=5,
                table=99,
                scope=0,
            ),
            Route(dst=bytes(16), prefix_len=0),
        ],
        dns={"nameservers": ["10.1.0.1"], "search": ["a.b"]},
    )


def test_shape_of_1_1_0() -> None:
    assert result_document(example(), "1.1.0") == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "faasm0", "mac": "02:00:00:00:00:01", "mtu": 1400},
            {"name": "eth0", "mac": "02:00:00:00:00:02", "mtu": 1400, "sandbox": "/run/netns/a"},
        ],
        "ips": [
            {"interface": 1, "address": "10.1.0.2/32", "gateway": "10.1.0.1"},
            {"interface": 1, "address": "fd00::2/128", "gateway": "fd00::1"},
        ],
        "routes": [
            {
                "dst": "0.0.0.0/0",
                "gw": "10.1.0.1",
                "mtu": 1300,
                "advmss": 1200,
                "priority": 5,
                "table": 99,
                "scope": 0,
            },
            {"dst": "::/0"},
        ],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a.b"]},
    }


def test_shape_of_1_0_0() -> None:
    document = result_document(example(), "1.0.0")
    assert document["interfaces"] == [
        {"name": "faasm0", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/run/netns/a"},
    ]
    assert document["routes"] == [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}, {"dst": "::/0"}]


@pytest.mark.parametrize("version", MIDDLE)
def test_shape_of_0_3_and_0_4(version: str) -> None:
    document = result_document(example(), version)
    assert document["cniVersion"] == version
    assert document["ips"] == [
        {"version": "4", "interface": 1, "address": "10.1.0.2/32", "gateway": "10.1.0.1"},
        {"version": "6", "interface": 1, "address": "fd00::2/128", "gateway": "fd00::1"},
    ]


@pytest.mark.parametrize("version", OLD)
def test_shape_of_0_1_and_0_2(version: str) -> None:
    assert result_document(example(), version) == {
        "cniVersion": version,
        "ip4": {
            "ip": "10.1.0.2/32",
            "gateway": "10.1.0.1",
            "routes": [{"dst": "0.0.0.0/0", "gw": "10.1.0.1"}],
        },
        "ip6": {"ip": "fd00::2/128", "gateway": "fd00::1", "routes": [{"dst": "::/0"}]},
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a.b"]},
    }


@pytest.mark.parametrize("version", SUPPORTED_VERSIONS)
def test_what_is_written_can_be_read(version: str) -> None:
    document = result_document(example(), version)
    assert result_document(parse_result(document), version) == document
    # As old plugins print it, the version stands in the configuration only.
    without = {key: value for key, value in document.items() if key != "cniVersion"}
    assert result_document(parse_result(without), version) == document


def test_empty_parts_are_left_out() -> None:
    result = Result(
        interfaces=[], ips=[IPConfig(address=inet.pack("10.1.0.2"), prefix_len=32)], routes=[]
    )
    assert result_document(result, "0.2.0") == {"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.2/32"}}
    assert "dns" not in result_document(result, "1.0.0")


def test_keys_match_without_regard_to_case_and_unknown_ones_pass() -> None:
    result = parse_result(
        {
            "CNIVersion": "1.1.0",
            "Interfaces": [{"Name": "eth0", "MAC": "m", "Sandbox": None, "socketPath": "x"}],
            "IPs": [{"Address": "10.1.0.2/16", "Gateway": "", "Interface": 0, "extra": []}],
            "Routes": [{"Dst": "10.9.0.0/16", "GW": None, "MTU": 0}],
            "DNS": {"Nameservers": ["1.1.1.1"], "Domain": "", "other": 1},
            "more": {},
        }
    )
    assert result.interfaces[0].name == "eth0"
    assert result.ips[0].gateway is None
    assert result.routes[0].mtu is None
    assert result.dns == {"nameservers": ["1.1.1.1"]}


def test_a_result_without_a_version_is_read_by_its_shape() -> None:
    assert len(parse_result({"ip4": {"ip": "10.1.0.2/16"}}).ips) == 1
    assert len(parse_result({"ips": [{"address": "10.1.0.2/16"}]}).ips) == 1
    assert parse_result({}).ips == []


def test_whole_numbers_in_any_spelling() -> None:
    found = parse_result(
        {
            "cniVersion": "1.1.0",
            "interfaces": [{"name": "eth0", "mtu": 1450.0}],
            "ips": [{"address": "10.1.0.2/16", "interface": 0.0}],
            "routes": [{"dst": "0.0.0.0/0", "mtu": 1.3e3, "table": 100.0}],
        }
    )
    assert found.interfaces[0].mtu == 1450
    assert found.ips[0].interface == 0
    assert (found.routes[0].mtu, found.routes[0].table) == (1300, 100)
    assert '"mtu":1300,' in jsonio.dumps(result_document(found, "1.1.0")).decode()


@pytest.mark.parametrize(
    ("document", "named"),
    [
        ({"cniVersion": 1}, "cniVersion"),
        ({"cniVersion": "9.9.9"}, "cniVersion"),
        ({"ips": {}}, "ips"),
        ({"ips": [1]}, "ips[0]"),
        ({"ips": [{}]}, "ips[0].address"),
        ({"ips": [{"address": "10.1.0.2"}]}, "ips[0].address"),
        ({"ips": [{"address": "10.1.0.2/16", "gateway": 1}]}, "ips[0].gateway"),
        ({"ips": [{"address": "10.1.0.2/16", "interface": 0}]}, "ips[0].interface"),
        ({"ips": [{"address": "10.1.0.2/16", "interface": True}]}, "ips[0].interface"),
        ({"interfaces": [{"name": 1}]}, "interfaces[0].name"),
        ({"interfaces": [{"name": "a", "mtu": -1}]}, "interfaces[0].mtu"),
        ({"routes": [{"dst": None}]}, "routes[0].dst"),
        ({"routes": [{"dst": "::/0", "table": 1 << 32}]}, "routes[0].table"),
        ({"dns": []}, "dns"),
        ({"dns": {"domain": 1}}, "dns.domain"),
        ({"dns": {"search": "a"}}, "dns.search"),
        ({"dns": {"options": [1]}}, "dns.options"),
        ({"cniVersion": "0.2.0", "ip4": 1}, "ip4"),
        ({"cniVersion": "0.2.0", "ip4": {"ip": "fd00::1/64"}}, "ip4.ip"),
        ({"cniVersion": "0.2.0", "ip6": {"ip": "fd00::1/64", "routes": [{}]}}, "ip6.routes[0].dst"),
    ],
)
def test_what_cannot_be_read_is_named(document: dict[str, object], named: str) -> None:
    with pytest.raises(CniError) as caught:
        parse_result(document)
    assert caught.value.code == DECODING_FAILURE
    assert f"at {named}: " in caught.value.msg
