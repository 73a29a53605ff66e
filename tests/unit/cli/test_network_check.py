"""What the network check makes of figures: verdicts, allowed payload, chosen names, texts."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

from cni_faasm.cli.network_check import names
from cni_faasm.cli.network_check.measure import _samples
from cni_faasm.cli.network_check.model import (
    EGRESS,
    FAILED,
    HOST,
    INGRESS,
    NO_LIMIT,
    OK,
    TOO_FAST,
    TOO_SLOW,
    Flow,
    Limit,
    judge,
    mbit,
    rate_text,
    shared_line,
)
from cni_faasm.cli.network_check.targets import choose, rules_sentence

LIMIT = Limit(rate_bps=10_000_000, burst_bytes=1600, mtu=1500, address_bytes=4)
ALLOWED = 10_000_000 * 1448 / 1514


def flow(bps: float, direction: str = EGRESS, where: str = "faasmns1") -> Flow:
    return Flow(where, direction, bps=bps, mss=1448)


@pytest.mark.parametrize(
    ("mtu", "address_bytes", "mss", "share"),
    [
        (1500, 4, 0, 1448 / 1514),
        (1500, 4, 1448, 1448 / 1514),
        (1500, 16, 0, 1428 / 1514),
        (1400, 4, 0, 1348 / 1414),
        (1500, 4, 1348, 1348 / 1414),  # a narrower path: its frames are smaller
        (1500, 4, 32768, 1448 / 1514),  # what iperf3 says of a loopback connection
    ],
)
def test_allowed_is_the_payload_of_whole_frames(
    mtu: int, address_bytes: int, mss: int, share: float
) -> None:
    limit = Limit(rate_bps=1_000_000, burst_bytes=0, mtu=mtu, address_bytes=address_bytes)
    assert limit.allowed_bps(mss) == pytest.approx(1_000_000 * share)


@pytest.mark.parametrize(
    ("share", "verdict"),
    [(1.0, OK), (1.049, OK), (1.051, TOO_FAST), (0.901, OK), (0.899, TOO_SLOW), (0, TOO_SLOW)],
)
def test_a_row_fails_above_5_and_below_10_percent(share: float, verdict: str) -> None:
    row = judge(flow(ALLOWED * share), LIMIT, flow(1e9, where=HOST))
    assert row.verdict == verdict
    assert row.broken == (verdict != OK)
    assert row.share == pytest.approx(share)
    assert row.host_bps == 1e9


def test_payload_from_a_queue_that_was_full_before_is_no_excess() -> None:
    """At 256 kbit/s a queue is some percent of ten seconds; the frames tell what really left."""
    late = flow(ALLOWED * 1.08)
    late.wire_bps = 10_000_000.0
    assert judge(late, LIMIT, None).verdict == OK
    late.wire_bps = 10_600_000.0
    assert judge(late, LIMIT, None).verdict == TOO_FAST


def test_what_other_limits_explain_is_not_too_slow() -> None:
    slow = flow(ALLOWED * 0.5)
    assert judge(slow, LIMIT, None).verdict == TOO_SLOW
    for keys, verdict, word in (
        ({"packets_pps": 10}, OK, "packets/s"),
        ({"packets_pps": 10_000_000}, TOO_SLOW, "misses"),
        ({"shared_bps": 1_000_000}, OK, "share"),
    ):
        row = judge(slow, replace(LIMIT, **keys), None)
        assert row.verdict == verdict
        assert word in row.note


def test_a_slow_line_is_told_from_a_tight_limit() -> None:
    row = judge(flow(ALLOWED * 0.5), LIMIT, flow(5e6, where=HOST))
    assert (row.verdict, row.broken) == (TOO_SLOW, True)
    assert "the host itself reaches only 5 Mbit/s" in row.note
    rows = [judge(flow(ALLOWED * 0.5, where=n), LIMIT, flow(12e6, where=HOST)) for n in "ab"]
    assert "limits together allow 19.13 Mbit/s" in shared_line(rows, EGRESS, 2)
    assert shared_line(rows, EGRESS, 1) == ""  # one after the other they share nothing
    assert shared_line(rows, INGRESS, 2) == ""


def test_frames_that_were_sent_in_vain_are_named() -> None:
    wasted = flow(ALLOWED * 0.85)
    wasted.wire_bps, wasted.retransmits = 9_990_000.0, 123
    row = judge(wasted, LIMIT, flow(1e9, where=HOST))
    assert row.verdict == TOO_SLOW
    assert "TCP had to repeat 123" in row.note


def test_a_burst_of_many_seconds_is_named() -> None:
    limit = Limit(rate_bps=10_000_000, burst_bytes=2**32 // 8, mtu=1500, address_bytes=4)
    assert "429 s of the limit" in judge(flow(2e7), limit, None).note


def test_without_a_limit_nothing_can_be_broken() -> None:
    free = Limit(rate_bps=None, burst_bytes=0, mtu=1500, address_bytes=4)
    assert judge(flow(1e9), free, None).verdict == NO_LIMIT
    assert judge(flow(1e9, where=HOST), None, None).verdict == NO_LIMIT


def test_what_could_not_be_measured_fails() -> None:
    row = judge(Flow("a", EGRESS, error="the server went away"), LIMIT, None)
    assert (row.verdict, row.broken, row.measured_bps) == (FAILED, True, None)
    assert row.note == "the server went away"
    assert row.document()["measuredBitsPerSecond"] is None


def test_the_first_interval_counts_only_its_own_time() -> None:
    """What iperf3 3.12 prints: the first interval after the omitted ones has half its rate."""
    intervals = [
        {"sum": {"end": 0.25, "bytes": 999, "bits_per_second": 1, "omitted": True}},
        {"sum": {"end": 0.25, "bytes": 1000, "bits_per_second": 16000, "omitted": False}},
        {"sum": {"end": 0.5, "bytes": 1000, "bits_per_second": 32000, "omitted": False}},
    ]
    assert _samples(intervals) == [(0.25, 32000.0), (0.5, 32000.0)]


def test_namespaces_are_chosen_by_number_and_name() -> None:
    assert choose("1-3,7,web,2", "faasm") == [
        *("faasmns1", "faasmns2", "faasmns3", "faasmns7", "web")
    ]
    for text in ("3-1", "a/b", "1,,2", ".."):
        with pytest.raises(typer.BadParameter):
            choose(text, "faasm")


def test_rates_read_well() -> None:
    assert [rate_text(bps) for bps in (None, 800, 33_554_432, 12.7e9, 2e12)] == [
        *("-", "800 bit/s", "33.55 Mbit/s", "12.7 Gbit/s", "2000 Gbit/s")
    ]
    assert [mbit(bps) for bps in (None, 256_000, 9_557_000, 12.7e9)] == [
        *("-", "0.256", "9.56", "12,700")
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nameserver 9.9.9.9\n", ""),
        ("nameserver 127.0.0.53\nnameserver 2620:fe::fe\n", ""),
        ("nameserver 127.0.0.53\n", "has no nameserver that a namespace could reach"),
        ("nameserver fe80::1%eth0\n", "has no nameserver that a namespace could reach"),
        ("", "has no nameserver that a namespace could reach"),
        ("nameserver 10.0.0.2\nsearch x\n", "has no public nameserver"),
        ("nameserver nonsense\n", "has no nameserver that a namespace could reach"),
    ],
)
def test_a_missing_nameserver_is_told(
    text: str, found: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(names, "RESOLV_CONF", str(path))
    monkeypatch.setattr(names, "NETNS_RESOLV_CONF", str(tmp_path / "netns-{}"))
    findings = names.nameserver_findings(["faasmns1", "faasmns2"])
    assert len(findings) == (1 if found else 0)
    if found:
        assert f"{path} {found}: faasmns1, faasmns2" in findings[0].text
        assert "nameserver 9.9.9.9" in findings[0].remedy
    (tmp_path / "netns-faasmns1").write_text("nameserver 9.9.9.9\n", encoding="utf-8")
    assert all("faasmns1" not in one.text for one in names.nameserver_findings(["faasmns1"]))


def test_missing_nameservers_are_told_once_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each namespace of a pool has a file of its own."""
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.53\n", encoding="utf-8")
    monkeypatch.setattr(names, "RESOLV_CONF", str(tmp_path / "resolv.conf"))
    monkeypatch.setattr(names, "NETNS_RESOLV_CONF", str(tmp_path / "netns-{}"))
    pool = [f"faasmns{number}" for number in range(1, 8)]
    for name in pool:
        (tmp_path / f"netns-{name}").write_text("nameserver 10.1.1.1\n", encoding="utf-8")
    [finding] = names.nameserver_findings([*pool, "web"])
    assert (
        f"{tmp_path}/netns-NAME has no public nameserver: faasmns1, faasmns2, faasmns3, faasmns4, "
        "faasmns5 and 2 more may not"
    ) in finding.text
    assert f"{tmp_path}/resolv.conf has no nameserver that a namespace could" in finding.text
    assert "web may not" in finding.text


def test_a_namespace_is_named_as_it_is_spelt() -> None:
    def target(name: str) -> Any:
        ends = [
            SimpleNamespace(direction=direction, words=("htb",), differences=[])
            for direction in ("egress", "ingress")
        ]
        return SimpleNamespace(name=name, ends=ends)

    assert rules_sentence([target("fnNS1")]) == "fnNS1: both ends are as configured."
    assert rules_sentence([target("a"), target("b")]) == (
        "All 2 namespaces have the same rules; both ends of each are as configured."
    )
