"""The shapes of limits: bounded queues, bursts that hold a packet, numbers that fit."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.config.loading import Limit
from cni_faasm.limits import shaping, shaping_drifts
from cni_faasm.netlink import tc, tc_parse

U32 = 0xFFFFFFFF
RATES = st.integers(1000, 10**15)
QUEUES = st.sampled_from(["tbf fq_codel", "tbf bfifo", "fq_codel", "bfifo"])


def make(rate_bps: int, **given_values: object) -> shaping.Shape:
    values: dict[str, object] = {
        "latency_ms": None,
        "mtu": 1500,
        "queue": "tbf bfifo",
    } | given_values
    one = shaping.shape(Limit(rate_bps), **values)  # type: ignore[arg-type]
    assert one is not None
    return one


def test_no_limit_is_no_shape() -> None:
    assert shaping.shape(Limit(), None, 1500, "bfifo") is None
    assert shaping.messages(7, None) == []
    assert shaping.gso_max_bytes(None) is None


@pytest.mark.parametrize("rate_bps", [256_000, 10**6, 10**7, 10**8, 10**9, 5 * 10**9])
def test_nothing_waits_for_long(rate_bps: int) -> None:
    """A burst is 18 ms or a packet, the queue at most 15 ms or some packets."""
    one = make(rate_bps)
    assert one.burst_bytes == max(rate_bps // 8 * 18 // 1000, 1600)
    assert one.leaf_bytes <= max(rate_bps // 8 * 15 // 1000, 7 * 1514)
    gso = shaping.gso_max_bytes(one)
    assert gso is not None
    assert gso <= max(one.burst_bytes, 1700)
    assert min(one.cut_bytes, 65536) < one.leaf_bytes  # else a super-packet never gets in


def test_what_is_cut() -> None:
    """Nothing that the end itself sends whole; from 800 Mbit/s on nothing at all."""
    assert make(10**6).cut_bytes == 1912
    assert make(10**6, mtu=9000).cut_bytes == 9100
    assert make(10**8).cut_bytes == 3125 * 9 // 8
    assert make(10**9).cut_bytes > 10 * 65536
    assert make(10**6, queue="bfifo").cut_bytes == 0


def test_a_record_of_an_earlier_version() -> None:
    """It says nothing of sizes, and its queue takes super-packets as they are."""
    fields = make(10**9, queue="bfifo").to_fields()
    del fields["gsoBytes"]
    one = shaping.Shape.from_fields(fields)
    assert (one.queue, one.gso_bytes, one.leaf_parent) == ("bfifo", 10416, shaping.CLASS_ID)


def test_latency_bounds_the_queue() -> None:
    assert make(10**8, latency_ms=4).leaf_bytes == 50_000
    assert make(10**9, latency_ms=100).leaf_bytes == 12_500_000
    assert make(10**6, latency_ms=1).leaf_bytes > 6 * 1514  # some packets it must hold


def test_latency_bounds_fq_codel_at_any_rate() -> None:
    numbers = {}
    for latency_ms in (None, 60, 200):
        one = make(10**6, latency_ms=latency_ms, queue="tbf fq_codel")
        found = shaping.fq_codel(one)
        numbers[latency_ms] = (found["memory_limit"], found["target_us"], found["interval_us"])
    # Seven packets it must hold, and one and a half are on their way for 18 ms.
    shortest = (3 * 9784, 18_168, 363_360)
    assert numbers == {
        None: shortest,
        60: (shortest[0], 20_000, 400_000),
        200: (3 * 25_000, 66_666, 1_333_320),
    }


def test_a_burst_that_is_asked_for_holds_a_packet() -> None:
    tiny = shaping.shape(Limit(10**6, 8), None, 9000, "bfifo")
    assert tiny is not None
    assert tiny.burst_bytes > 9000
    large = shaping.shape(Limit(10**6, 8_000_000), None, 1500, "bfifo")
    assert large is not None
    assert large.burst_bytes == 1_000_000


@given(
    RATES,
    st.none() | st.integers(1, 10_000),
    st.integers(68, 65535),
    QUEUES,
    st.none() | st.integers(1, 2**63 - 1),
)
def test_everything_fits_the_kernels_fields(
    rate_bps: int, latency_ms: int | None, mtu: int, queue: str, burst_bits: int | None
) -> None:
    one = shaping.shape(Limit(rate_bps, burst_bits), latency_ms, mtu, queue)
    assert one is not None
    assert one.leaf_bytes <= U32
    assert one.leaf_bytes > 6 * mtu
    assert one.burst_bytes > mtu
    assert 0 < one.target_us <= 10_000_000
    gso = shaping.gso_max_bytes(one)
    assert gso is not None
    assert 1700 <= gso <= 65536
    # Nothing overflows in the codecs.
    assert len(shaping.messages(7, one)) == (4 if one.cut_bytes else 3)
    assert one.queue == queue
    again = shaping.Shape.from_fields(one.to_fields())
    assert again.to_fields() == one.to_fields()


@pytest.mark.parametrize("key", ["rateBps", "burstBytes", "leaf", "leafBytes", "targetUs"])
def test_what_is_no_shape(key: str) -> None:
    fields = make(10**6).to_fields()
    del fields[key]
    with pytest.raises(KeyError):
        shaping.Shape.from_fields(fields)
    if key != "leaf":
        with pytest.raises(ValueError, match=key):
            shaping.Shape.from_fields({**fields, key: -1})


def test_no_shape_where_none_is_promised() -> None:
    htb = tc_parse.parse_qdisc(tc.new_qdisc_htb(7, 0x10000, 1, 1000)[2])
    found = shaping_drifts.drifts("here", None, root=htb, queue=None, one_class=None)
    assert found == [("here: root qdisc", "no limit", "htb")]
    assert shaping_drifts.drifts("here", None, root=None, queue=None, one_class=None) == []


def test_a_missing_root_is_the_one_drift_told() -> None:
    found = shaping_drifts.drifts("here", make(10**6), root=None, queue=None, one_class=None)
    assert found == [("here: root qdisc", "htb 1:", "none")]
