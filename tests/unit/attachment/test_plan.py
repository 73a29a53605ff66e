"""Plans: names, routes and MTUs of attachments, and records of them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.attachment import plan, plan_fields, record
from cni_faasm.config import loading as configuration
from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.protocol import Request
from tests.property.test_jsonio import VALUES

V4 = {"subnet": "10.200.0.0/16"}
V6 = {"subnet": "fd00:200::/64"}


def make(ifname: str = "eth0", ranges: Any = None, **keys: Any) -> plan.Plan:
    ipam = {"ranges": ranges or [[V4]], **keys.pop("ipam", {})}
    document = {"cniVersion": "1.1.0", "name": "net", "type": "faasm", "ipam": ipam, **keys}
    config = configuration.load(document)
    addresses = [
        plan.PlannedAddress(
            inet.from_int(inet.to_int(one[0].first) + 1, len(one[0].first)), one[0].gateway
        )
        for one in config.range_sets
    ]
    request = Request(verb="ADD", container_id="c1", netns="/run/netns/c1", ifname=ifname)
    return plan.make(
        config,
        request,
        addresses,
        mtu=1500,
        queue="bfifo",
        boot_id="boot",
        created=7,
        random=bytes(range(12)),
    )


def routes(one: plan.Plan) -> list[tuple[str, str | None]]:
    return [
        (inet.cidr(r.dst, r.prefix_len), inet.unpack(r.gateway) if r.gateway else None)
        for r in one.inner_routes()
    ]


def test_without_a_default_route_the_subnets_are_reached() -> None:
    one = make(ranges=[[V4], [V6]])
    assert routes(one) == [
        ("10.200.0.0/16", "10.200.0.1"),
        ("fd00:200::/64", "fd00:200::1"),
    ]


def test_a_default_route_leads_to_the_subnets_too() -> None:
    one = make(ranges=[[V4], [V6]], ipam={"routes": [{"dst": "0.0.0.0/0"}]})
    assert routes(one) == [("fd00:200::/64", "fd00:200::1"), ("0.0.0.0/0", "10.200.0.1")]


def test_a_default_route_of_another_table_does_not() -> None:
    one = make(ipam={"routes": [{"dst": "0.0.0.0/0", "table": 200}]})
    assert ("10.200.0.0/16", "10.200.0.1") in routes(one)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ([{"dst": "0.0.0.0/0"}] * 2, [("0.0.0.0/0", "10.200.0.1")]),
        ([{"dst": "10.200.0.0/16"}], [("10.200.0.0/16", "10.200.0.1")]),
        ([{"dst": "10.200.0.1/32"}], [("10.200.0.0/16", "10.200.0.1")]),
        ([{"dst": "::/0"}, {"dst": "0.0.0.0/0"}], [("0.0.0.0/0", "10.200.0.1")]),
        (
            [{"dst": "0.0.0.0/0"}, {"dst": "0.0.0.0/0", "priority": 5}],
            [("0.0.0.0/0", "10.200.0.1")] * 2,
        ),
    ],
)
def test_what_is_there_anyway_comes_once(
    asked: list[dict[str, Any]], expected: list[tuple[str, str]]
) -> None:
    assert routes(make(ipam={"routes": asked})) == expected


def test_a_shared_gateway_comes_once() -> None:
    ranges = [[{"subnet": f"10.{n}.0.0/16", "gateway": "169.254.1.1"}] for n in range(8)]
    one = make(ranges=ranges)
    assert len(one.addresses) == 8
    assert one.gateways == [inet.pack("169.254.1.1")]


def test_on_link_routes_have_no_gateway() -> None:
    assert ("192.0.2.0/24", None) in routes(
        make(ipam={"routes": [{"dst": "192.0.2.0/24", "scope": 253}]})
    )


@pytest.mark.parametrize(
    ("prefix", "ifname", "expected"),
    [
        ("faasm", "eth0", "faasm%d"),
        ("faasm", "faasmp7", "faasm7"),
        ("faasm", "faasmp", "faasm%d"),
        ("faasm", "faasmp7x", "faasm%d"),
        ("faasm", "faasmp\u0663", "faasm%d"),
        ("faasm", "", "faasm%d"),
        ("fn", "fnp123456789012", "fn123456789012"),
        ("fn", "fnp12345678901234", "fn%d"),
    ],
)
def test_names_of_outer_ends(prefix: str, ifname: str, expected: str) -> None:
    assert plan.host_interface_pattern(prefix, ifname) == expected


def test_an_alias_fits_the_kernel_and_tells_two_apart() -> None:
    assert plan.alias("net", "c1", "eth0") == "cni-faasm net c1 eth0"
    long = [plan.alias("n" * 249, "c" * 238, ifname) for ifname in ("eth0", "eth1")]
    assert long[0] != long[1]
    assert all(len(text.encode()) < 256 for text in long)
    assert plan.alias("net", "é" * 200, "eth0").encode().decode() != ""


def test_macs_are_unicast_and_local() -> None:
    one = make()
    assert one.mac != one.host_mac
    for mac in (one.mac, one.host_mac):
        assert mac[0] & 3 == 2


@pytest.mark.parametrize(
    ("configured", "uplink", "ranges", "expected"),
    [
        (1400, 9000, [[V4]], 1400),
        (0, 9000, [[V4]], 9000),
        (0, 0, [[V4]], 1500),
        (0, 1200, [[V4]], 1200),
        (0, 1200, [[V4], [V6]], 1280),
        (0, 70_000, [[V4]], 65_535),
    ],
)
def test_the_mtu(configured: int, uplink: int, ranges: Any, expected: int) -> None:
    document = {"name": "net", "cniVersion": "1.1.0", "mtu": configured, "ipam": {"ranges": ranges}}
    assert plan.link_mtu(configuration.load(document), uplink) == expected


def full() -> plan.Plan:
    return make(
        ranges=[[V4], [V6]],
        ipam={
            "routes": [
                {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 7},
                {"dst": "::/0", "gw": "fd00:200::9", "table": 200},
            ]
        },
        ipMasq=True,
        bandwidth={"ingressRate": "10M", "egressRate": "1G"},
        dns={"nameservers": ["192.0.2.1"]},
    )


def test_a_record_gives_the_plan_back() -> None:
    one = full()
    fields = jsonio.loads(jsonio.dumps(plan_fields.to_fields(one)))
    assert isinstance(fields, dict)
    again = plan_fields.from_fields(fields)
    assert again is not None
    assert plan_fields.to_fields(again) == plan_fields.to_fields(one)
    assert routes(again) == routes(one)


def test_a_plan_that_is_known_is_not_taken_for_another_adds(tmp_path: Path) -> None:
    state, one = str(tmp_path), full()
    identity = (one.network, one.container_id, one.ifname)
    assert plan_fields.load(state, *identity, one) is None
    record.write(state, *identity, plan_fields.to_fields(one))
    assert plan_fields.load(state, *identity, one) is one
    for key, value in (("hostMAC", "02:00:00:00:00:01"), ("hostIfindex", one.host_ifindex + 1)):
        record.write(state, *identity, {**plan_fields.to_fields(one), key: value})
        again = plan_fields.load(state, *identity, one)
        assert again is not None
        assert again is not one
        assert plan_fields.to_fields(again)[key] == value


KEYS = sorted(plan_fields.to_fields(full()))


@pytest.mark.parametrize("key", KEYS)
def test_a_record_that_lacks_something_is_none(key: str) -> None:
    fields = plan_fields.to_fields(full())
    del fields[key]
    found = plan_fields.from_fields(fields)
    assert found is None or key in ("version", "guard")


@given(st.sampled_from(KEYS), VALUES)
def test_a_record_with_anything_in_it_is_a_plan_or_none(key: str, value: object) -> None:
    plan_fields.from_fields({**plan_fields.to_fields(full()), key: value})


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("hostIfindex",), 2**31),
        (("ifindex",), -1),
        (("mtu",), 10**39),
        (("hostInterface",), "faasm\0"),
        (("network",), "a\0b"),
        (("addresses", 0, "gateway"), "fd00::1"),
        (("routes", 0, "gw"), "fd00::1"),
        (("ingress", "quantumBytes"), 2**32),
        (("ingress", "rateBps"), 10**39),
        (("guard", "allowHost"), [["sctp", 5]]),
        (("guard", "allowHost"), [["tcp", 65536]]),
        (("guard", "allowHost"), ["tcp"]),
    ],
)
def test_a_record_that_the_kernel_could_not_be_told_is_none(
    place: tuple[str | int, ...], value: object
) -> None:
    fields: Any = json.loads(SAMPLES[0].read_bytes())
    fields["guard"] = {"antiSpoof": True, "isolated": True, "allowHost": [["udp", 53]]}
    assert plan_fields.from_fields(fields) is not None
    holder = fields
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    assert plan_fields.from_fields(fields) is None


SAMPLES = sorted((Path(__file__).parent / "samples").glob("record-*.json"))


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_a_record_of_an_earlier_version_is_read(path: Path) -> None:
    """One sample for each version that was released, never to be changed."""
    fields = json.loads(path.read_bytes())
    found = plan_fields.from_fields(fields)
    assert found is not None
    again = plan_fields.to_fields(found)
    assert {key: again[key] for key in fields if key in again} == {
        key: fields[key] for key in fields if key in again
    }
    assert [inet.unpack(item.address) for item in found.addresses] == [
        item["address"] for item in fields["addresses"]
    ]


def test_a_record_from_before_guards_is_read() -> None:
    fields = json.loads(SAMPLES[0].read_bytes())
    for key in ("guard", "hostEgress", "ipamPlugin", "shapesOnly"):
        fields.pop(key, None)
    found = plan_fields.from_fields(fields)
    assert found is not None
    assert found.guard is None
