"""Limits in CNI_ARGS: heeded where the network says so, after the runtime's, below its caps."""

from typing import Any

import pytest

from cni_faasm.config import args_rates
from cni_faasm.config import loading as configuration
from cni_faasm.spec.errors import INVALID_ENVIRONMENT, CniError

ARGS = {"EGRESS_RATE": "10M", "EGRESS_BURST": "64k", "INGRESS_RATE": "20M"}


def merged(args: dict[str, str], **keys: Any) -> dict[str, Any]:
    warnings: list[str] = []
    found = args_rates.merge({"ratesByArgs": True, **keys}, args, warnings)
    assert warnings == []
    return found


def limits(document: dict[str, Any]) -> list[tuple[int | None, int | None]]:
    ipam = {"type": "host-local", "subnet": "10.200.0.0/16"}
    config = configuration.load({"name": "a", "cniVersion": "1.0.0", "ipam": ipam, **document})
    return [(one.rate_bps, one.burst_bits) for one in (config.ingress, config.egress)]


def test_they_hold() -> None:
    bandwidth = {"egressRate": "1M", "egressBurst": "1M", "ingressRate": "1M"}
    document = merged(ARGS, bandwidth=bandwidth, maxIngressRate="5M")
    assert limits(document) == [(5_000_000, None), (10_000_000, 64_000)]


def test_what_the_runtime_asks_for_comes_first() -> None:
    asked = {"bandwidth": {"EgressRate": 3_000_000, "IngressRate": 0, "IngressBurst": 4294967295}}
    asked["ips"] = ["10.200.0.7"]  # type: ignore[assignment]
    document = merged(ARGS, RuntimeConfig=asked)
    assert limits(document) == [(20_000_000, None), (3_000_000, None)]
    assert document["runtimeConfig"]["ips"] == ["10.200.0.7"]
    assert "RuntimeConfig" not in document


@pytest.mark.parametrize("keys", [{}, {"ratesByArgs": False}, {"ratesByArgs": None}])
def test_elsewhere_they_are_passed_over_and_said(keys: dict[str, Any]) -> None:
    warnings: list[str] = []
    assert args_rates.merge(keys, ARGS, warnings) == keys
    assert warnings == [
        "CNI_ARGS: EGRESS_RATE, EGRESS_BURST, INGRESS_RATE passed over: ratesByArgs is not true"
    ]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ({"EGRESS_RATE": "10Q"}, "CNI_ARGS: EGRESS_RATE='10Q': allowed is 1 kbit/s"),
        (
            {"EGRESS_RATE": "1M", "EGRESS_BURST": "x"},
            "CNI_ARGS: EGRESS_BURST='x': allowed is a num",
        ),
        (
            {"INGRESS_BURST": "1M"},
            "CNI_ARGS: INGRESS_BURST='1M': allowed is INGRESS_RATE beside it",
        ),
    ],
)
def test_what_is_refused(args: dict[str, str], told: str) -> None:
    with pytest.raises(CniError) as caught:
        merged(args)
    assert (caught.value.code, caught.value.msg[: len(told)]) == (INVALID_ENVIRONMENT, told)


def test_nothing_asked_changes_nothing() -> None:
    document = {"ratesByArgs": True}
    assert merged({"EGRESS_RATE": "", "IP": "10.200.0.7"}) == document
