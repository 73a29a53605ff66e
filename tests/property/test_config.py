"""Any JSON object is a configuration or a list of faults; DEL takes what is usable of it."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.config import nearmiss, units
from cni_faasm.config import schema as config_schema
from cni_faasm.config.loading import check_faults, load, load_tolerant
from cni_faasm.config.rates import Limit
from cni_faasm.spec.errors import INVALID_CONFIG, CniError
from tests.property.test_jsonio import VALUES

TABLES = [
    table
    for name, table in vars(config_schema).items()
    if isinstance(table, dict) and name.isupper() and name != "FOREIGN"
]
NAMES = sorted({name for table in TABLES for name in table.values()})
SENSIBLE = st.sampled_from(
    [
        "faasm",
        "host-local",
        "10.1.0.0/16",
        "10.1.0.5",
        "fd00::/64",
        "fd00::7",
        "10M",
        "1.5G",
        "/srv/a",
        "0.0.0.0/0",
        "02:00:00:00:00:01",
        "1.0.0",
        "0.2.0",
        "5ms",
        "",
        0,
        1,
        1500,
        10**6,
        4294967295,
        True,
        False,
        None,
        -1,
        1.5,
    ]
)
KEYS = st.sampled_from(NAMES) | st.sampled_from(NAMES).map(str.upper) | st.text(max_size=8)
JSON = st.recursive(
    SENSIBLE | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


def near_valid(table: dict[str, str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(sorted(table.values())), SENSIBLE | JSON, max_size=4)


RANGES = near_valid(config_schema.RANGE)
CONFIGS = st.fixed_dictionaries(
    {"name": st.just("net") | JSON},
    optional={
        "cniVersion": SENSIBLE,
        "mtu": SENSIBLE,
        "stateDir": SENSIBLE,
        "bandwidth": near_valid(config_schema.BANDWIDTH),
        "ingressRate": SENSIBLE,
        "maxIngressRate": SENSIBLE,
        "dns": near_valid(config_schema.DNS),
        "ipam": near_valid(config_schema.IPAM)
        | st.fixed_dictionaries({"ranges": st.lists(st.lists(RANGES))}),
        "runtimeConfig": near_valid(config_schema.RUNTIME)
        | st.fixed_dictionaries(
            {"ipRanges": st.lists(st.lists(RANGES)), "ips": st.lists(SENSIBLE)}
        ),
        "args": st.fixed_dictionaries({"cni": near_valid(config_schema.ARGS_CNI)}),
        "prevResult": JSON,
        "cni.dev/valid-attachments": JSON,
    },
)
ARGS = st.dictionaries(st.sampled_from(["IP", "MAC", "K"]), st.text(max_size=20))


@given(st.dictionaries(KEYS, JSON) | CONFIGS, ARGS, st.sampled_from(["ADD", "CHECK", "GC"]))
def test_any_object_is_a_configuration_or_faults(
    document: dict[str, Any], args: dict[str, str], verb: str
) -> None:
    config, faults = check_faults(document, args, verb=verb)
    assert (config is None) == bool(faults)
    for fault in faults:
        assert fault.path
        assert fault.allowed or fault.must
        assert len(fault.found) < 100
    try:
        load(document, args, verb)
    except CniError as error:
        assert faults
        assert error.code == INVALID_CONFIG  # noqa: PT017
        assert str(faults[0]) in error.msg  # noqa: PT017
    else:
        assert not faults
    if config is not None:
        assert config.name
        assert config.range_sets or config.shapes_only
        for packed in config.requested_addresses:
            assert any(one.contains(packed) for group in config.range_sets for one in group)
        for limit in (config.ingress, config.egress):
            check_limit(limit)


def check_limit(limit: Limit) -> None:
    if limit.rate_bps is None:
        assert limit.burst_bits is None
        return
    assert units.MIN_RATE_BPS <= limit.rate_bps <= units.MAX_RATE_BPS
    if limit.burst_bits is not None:
        assert 0 < limit.burst_bits <= units.max_burst_bits(limit.rate_bps)


@given(st.dictionaries(KEYS, JSON) | CONFIGS)
def test_del_takes_any_object(document: dict[str, Any]) -> None:
    config = load_tolerant(document)
    for path in (config.state_dir, config.data_dir):
        assert path.startswith("/")
        assert ".." not in path.split("/")
        path.encode()
    assert "/" not in config.name
    assert config.name not in {".", ".."}


SLIPS = [(table, key) for table in TABLES for key in table if len(key) > 4 and "/" not in key]


@given(st.sampled_from(SLIPS), st.data())
def test_one_slip_is_noticed(place: tuple[dict[str, str], str], data: Any) -> None:
    table, key = place
    at = data.draw(st.integers(0, len(key) - 2))
    letter = data.draw(st.sampled_from("aeqxz"))
    for slip in (
        key[:at] + key[at + 1 :],
        key[:at] + letter + key[at:],
        key[:at] + letter + key[at + 1 :],
        key[:at] + key[at + 1] + key[at] + key[at + 2 :],
    ):
        if slip not in table:
            assert nearmiss.nearest(slip, table) is not None


@given(st.text(alphabet="abc", max_size=5), st.text(alphabet="abc", max_size=5))
def test_distance_is_one(one: str, other: str) -> None:
    found = nearmiss.distance(one, other)
    assert found == nearmiss.distance(other, one)
    assert (found == 0) == (one == other)
    assert abs(len(one) - len(other)) <= found <= max(len(one), len(other))


@given(st.integers(0, 10**16) | st.text(max_size=10) | VALUES)
def test_any_value_is_a_rate_or_an_error(value: object) -> None:
    try:
        rate_bps = units.parse_rate(value)
    except (ValueError, OverflowError):
        return
    assert rate_bps == 0 or units.MIN_RATE_BPS <= rate_bps <= units.MAX_RATE_BPS


@given(st.integers(1000, 10**15))
def test_a_rate_as_text_is_the_same_rate(rate_bps: int) -> None:
    assert units.parse_rate(units.rate_text(rate_bps)) == rate_bps
    assert units.parse_rate(str(rate_bps)) == rate_bps
