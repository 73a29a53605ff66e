"""The "ipam" object, read as host-local reads it."""

import pytest

from cni_faasm.config.loading import check_faults, load
from cni_faasm.spec import inet


def document(ipam: object, **keys: object) -> dict[str, object]:
    return {"cniVersion": "1.0.0", "name": "net", "type": "faasm", "ipam": ipam, **keys}


def sets(ipam: object, **keys: object) -> list[list[str]]:
    range_sets = load(document(ipam, **keys)).range_sets
    return [[one.subnet_text() for one in range_set] for range_set in range_sets]


def test_ranges() -> None:
    one = {"subnet": "10.1.0.0/16"}
    assert sets(one) == [["10.1.0.0/16"]]
    assert sets({"ranges": [[one]]}) == [["10.1.0.0/16"]]
    assert sets({"ranges": [[one, {"subnet": "10.2.0.0/16"}], [{"subnet": "fd00::/64"}]]}) == [
        ["10.1.0.0/16", "10.2.0.0/16"],
        ["fd00::/64"],
    ]


def test_the_order_of_sets() -> None:
    """It says which last_reserved_ip file is whose, so it must be host-local's."""
    ipam = {"subnet": "10.1.0.0/16", "ranges": [[{"subnet": "10.2.0.0/16"}]]}
    asked = {"ipRanges": [[{"Subnet": "10.3.0.0/16"}], [{"subnet": "fd00::/64"}]]}
    assert sets(ipam, runtimeConfig=asked) == [
        ["10.3.0.0/16"],
        ["fd00::/64"],
        ["10.1.0.0/16"],
        ["10.2.0.0/16"],
    ]
    assert sets({"type": "host-local"}, runtimeConfig=asked) == [["10.3.0.0/16"], ["fd00::/64"]]


def test_bounds_of_a_range() -> None:
    ipam = {
        "subnet": "10.1.0.0/16",
        "rangeStart": "10.1.0.5",
        "rangeEnd": "10.1.0.9",
        "gateway": "10.1.0.6",
    }
    one = load(document(ipam)).range_sets[0][0]
    assert (inet.unpack(one.first), inet.unpack(one.last)) == ("10.1.0.5", "10.1.0.9")
    assert inet.unpack(one.gateway) == "10.1.0.6"
    assert load(document({"subnet": "10.1.0.0/16", "gateway": ""})).range_sets[0][0].gateway[3] == 1


@pytest.mark.parametrize(
    ("ipam", "path", "allowed"),
    [
        (None, "ipam", "at least one subnet"),
        ({}, "ipam.subnet", "at least one subnet"),
        ({"type": "host-local", "ranges": []}, "ipam.subnet", "at least one subnet"),
        (7, "ipam", "a JSON object"),
        ({"type": "../sbin/dhcp"}, "ipam.type", "file in CNI_PATH"),
        ({"type": "faasm"}, "ipam.type", "file in CNI_PATH"),
        ({"subnet": "10.1.0.0/16", "delegate": "yes"}, "ipam.delegate", "true or false"),
        ({"subnet": 7}, "ipam.subnet", "a network like"),
        ({"subnet": "10.1.0.0"}, "ipam.subnet", "a network like"),
        ({"subnet": "10.1.0.1/16"}, "ipam.subnet", "10.1.0.0/16, without host bits"),
        ({"subnet": "10.1.0.0/31"}, "ipam.subnet", "up to 30"),
        ({"subnet": "10.1.0.0/16", "rangeStart": "10.2.0.1"}, "ipam.rangeStart", "10.1.0.0/16"),
        ({"subnet": "10.1.0.0/16", "rangeEnd": "x"}, "ipam.rangeEnd", "an address"),
        ({"subnet": "10.1.0.0/16", "gateway": "fd00::1"}, "ipam.gateway", "family"),
        (
            {"rangeStart": "10.1.0.5", "ranges": [[{"subnet": "10.1.0.0/16"}]]},
            "ipam.rangeStart",
            "nothing",
        ),
        ({"ranges": {}}, "ipam.ranges", "a list"),
        ({"ranges": [{}]}, "ipam.ranges[0]", "a list of ranges"),
        ({"ranges": [[]]}, "ipam.ranges[0]", "a list of ranges"),
        ({"ranges": [[1]]}, "ipam.ranges[0][0]", "a JSON object"),
        ({"ranges": [[{}]]}, "ipam.ranges[0][0].subnet", "a network like"),
        (
            {"ranges": [[{"subnet": "10.1.0.0/16"}, {"subnet": "fd00::/64"}]]},
            "ipam.ranges[0][1]",
            "be of the family of",
        ),
        (
            {"ranges": [[{"subnet": "10.1.0.0/16"}, {"subnet": "10.1.2.0/24"}]]},
            "ipam.ranges[0][1]",
            "not overlap with plugins[0].ipam.ranges[0][0]",
        ),
        (
            {"subnet": "10.1.0.0/16", "ranges": [[{"subnet": "10.1.2.0/24"}]]},
            "ipam.ranges[0][0]",
            "not overlap with plugins[0].ipam.subnet",
        ),
    ],
)
def test_faults(ipam: object, path: str, allowed: str) -> None:
    _, faults = check_faults(document(ipam))
    assert [fault.path for fault in faults] == ["plugins[0]." + path]
    assert allowed in str(faults[0])


def test_an_overlap_with_what_the_runtime_gives() -> None:
    asked = {"ipRanges": [[{"subnet": "10.1.2.0/24"}]]}
    _, faults = check_faults(document({"subnet": "10.1.0.0/16"}, runtimeConfig=asked))
    assert [fault.path for fault in faults] == ["plugins[0].ipam.subnet"]
    assert "must not overlap with runtimeConfig.ipRanges[0][0]" in str(faults[0])


def test_old_versions_can_say_one_address_of_a_family() -> None:
    two = {"ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "10.2.0.0/16"}]]}
    dual = {"ranges": [[{"subnet": "10.1.0.0/16"}], [{"subnet": "fd00::/64"}]]}
    for version in ("0.1.0", "0.2.0"):
        assert check_faults(document(two, cniVersion=version))[1][0].path == "cniVersion"
        assert check_faults(document(dual, cniVersion=version))[1] == []
    assert check_faults(document(two, cniVersion="0.3.0"))[1] == []


def test_ipv6_needs_its_smallest_mtu() -> None:
    _, faults = check_faults(document({"subnet": "fd00::/64"}, mtu=1279))
    assert [fault.path for fault in faults] == ["plugins[0].mtu"]
    assert check_faults(document({"subnet": "fd00::/64"}, mtu=1280))[1] == []


def test_routes() -> None:
    routes = [
        {"dst": "0.0.0.0/0"},
        {
            "dst": "10.9.0.0/16",
            "gw": "10.1.0.9",
            "mtu": 1300,
            "advmss": 1200,
            "priority": 7,
            "table": 99,
            "scope": 0,
        },
        {"dst": "::/0", "gw": "", "mtu": 0, "table": 0},
    ]
    found = load(document({"subnet": "10.1.0.0/16", "routes": routes})).routes
    assert (found[0].dst, found[0].prefix_len, found[0].gateway) == (bytes(4), 0, None)
    assert found[1].gateway == inet.pack("10.1.0.9")
    assert (found[1].mtu, found[1].advmss, found[1].priority) == (1300, 1200, 7)
    assert (found[1].table, found[1].scope) == (99, 0)
    assert (found[2].mtu, found[2].table, found[2].scope) == (None, None, None)


@pytest.mark.parametrize(
    ("route", "key"),
    [
        ({}, "dst"),
        ({"dst": "default"}, "dst"),
        ({"dst": "10.9.0.1/16"}, "dst"),
        ({"dst": "0.0.0.0/0", "gw": "fd00::1"}, "gw"),
        ({"dst": "0.0.0.0/0", "gw": 1}, "gw"),
        ({"dst": "0.0.0.0/0", "mtu": -1}, "mtu"),
        ({"dst": "0.0.0.0/0", "advmss": 65536}, "advmss"),
        ({"dst": "0.0.0.0/0", "priority": 1 << 32}, "priority"),
        ({"dst": "0.0.0.0/0", "table": "main"}, "table"),
        ({"dst": "0.0.0.0/0", "scope": 256}, "scope"),
    ],
)
def test_faulty_routes(route: dict[str, object], key: str) -> None:
    _, faults = check_faults(document({"subnet": "10.1.0.0/16", "routes": [route]}))
    assert [fault.path for fault in faults] == [f"plugins[0].ipam.routes[0].{key}"]
