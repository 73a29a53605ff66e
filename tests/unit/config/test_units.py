"""Rates, bursts and times as people and runtimes write them."""

import pytest

from cni_faasm.config import units


@pytest.mark.parametrize(
    ("value", "rate_bps"),
    [
        (1000, 1000),
        (10**15, 10**15),
        (1e6, 10**6),
        (0, 0),
        ("0", 0),
        ("0M", 0),
        ("10M", 10_000_000),
        ("10mbit", 10_000_000),
        ("10Mbit", 10_000_000),
        ("10 Mbit/s", 10_000_000),
        (" 10MBIT ", 10_000_000),
        ("1.5G", 1_500_000_000),
        ("256k", 256_000),
        ("256K", 256_000),
        ("256kbit", 256_000),
        ("5000", 5000),
        ("5000bit", 5000),
        ("10Mi", 10 * 1024**2),
        ("10Mibit", 10 * 1024**2),
        ("2gi", 2 * 1024**3),
        ("1P", 10**15),
        ("1t", 10**12),
        ("1.0005k", 1000),
        ("0.5M", 500_000),
    ],
)
def test_rate(value: object, rate_bps: int) -> None:
    assert units.parse_rate(value) == rate_bps


@pytest.mark.parametrize(
    "value",
    [
        "10Q",
        "10m",
        "10 m",
        "10bps",
        "10Mbps",
        "10MB",
        "M",
        "",
        " ",
        "bit",
        "-1",
        "-10M",
        "+10M",
        "1e6",
        "1.",
        ".5M",
        "1..5M",
        "1.5.5M",
        "1,5M",
        "10Mi b",
        "10i",
        "10ibit",
        "10M/s",
        "0x10",
        "10kM",
        "10MM",
        "\uff110M",
        "9" * 31 + "M",
        "999",
        "1.1P",
        "2P",
        "0.9k",
        "NaN",
        "10\0M",
        999,
        1,
        -1,
        10**15 + 1,
        1.5,
        1000.5,
        True,
        False,
        None,
        [],
        {},
        -0.5,
    ],
)
def test_rate_refused(value: object) -> None:
    with pytest.raises(ValueError):
        units.parse_rate(value)


def test_burst() -> None:
    assert units.parse_burst("64k") == 64_000
    assert units.parse_burst("1Mibit") == 1024**2
    assert units.parse_burst(1) == 1
    for unset in (0, "0", 2147483647, 4294967295, 4294967295.0):
        assert units.parse_burst(unset) is None
    assert units.parse_burst(4294967296) == 4294967296
    for wrong in (-1, True, "many", 1 << 63, "9999999999P", None):
        with pytest.raises(ValueError):
            units.parse_burst(wrong)


@pytest.mark.parametrize("rate_bps", [1000, 1001, 10**6, 10**9, 10**15])
def test_largest_burst_fits_the_kernels_ticks(rate_bps: int) -> None:
    burst_bytes = units.max_burst_bits(rate_bps) // 8
    ticks = burst_bytes * 10**9 // (rate_bps // 8) // 64
    assert 0.99 * 0xFFFFFFFF < ticks <= 0xFFFFFFFF


def test_latency() -> None:
    for value, latency_ms in (
        (5, 5),
        ("5ms", 5),
        ("5 ms", 5),
        ("1s", 1000),
        ("0.5S", 500),
        ("7", 7),
    ):
        assert units.parse_latency(value) == latency_ms
    for wrong in (0, 10_001, -1, 1.5, True, "5us", "fast", "", "ms", "0.1ms", None, "11s"):
        with pytest.raises(ValueError):
            units.parse_latency(wrong)


def test_rate_text() -> None:
    assert units.rate_text(10_000_000) == "10 Mbit/s"
    assert units.rate_text(1_500_000) == "1.5 Mbit/s"
    assert units.rate_text(1_000_001) == "1.000001 Mbit/s"
    assert units.rate_text(999) == "999 bit/s"
    assert units.rate_text(10**15) == "1 Pbit/s"
