"""Limits that several containers have together, as a configuration gives them."""

from typing import Any

import pytest

from cni_faasm.config import loading
from cni_faasm.config.shared import Shared

DOCUMENT = {
    "cniVersion": "1.0.0",
    "name": "n",
    "type": "faasm",
    "ipam": {"type": "host-local", "subnet": "10.200.0.0/16"},
}


def fields_of(shared: dict[str, Any], given: dict[str, str] | None = None, **more: Any) -> object:
    document = {**DOCUMENT, "bandwidth": {"shared": shared}, **more}
    config, faults = loading.check_faults(document, given)
    assert not faults
    assert config is not None
    return config.shared and config.shared.to_fields()


def test_who_shares_with_whom() -> None:
    assert fields_of({}) is fields_of({"egressRate": 0, "by": "x"}) is None
    assert fields_of({"egressRate": "1M"}) == {"egressRate": 1_000_000, "by": "", "of": ""}
    both: dict[str, Any] = {"egressRate": "1M", "ingressRate": "2M", "by": "NS"}
    rates = {"egressRate": 1_000_000, "ingressRate": 2_000_000, "by": "NS"}
    labels: dict[str, Any] = {
        "args": {"cni": {"labels": [{"key": "x", "value": "y"}, {"key": "NS", "value": "b"}]}}
    }
    assert fields_of(both) == {**rates, "of": ""}
    assert fields_of(both, {"NS": "a"}) == {**rates, "of": "a"}
    assert fields_of(both, **labels) == {**rates, "of": "b"}
    assert fields_of(both, {"NS": "a"}, **labels) == {**rates, "of": "a"}
    for odd in ("b", [{"key": "NS"}], [{"key": "NS", "value": 3}], [None]):
        assert fields_of(both, None, args={"cni": {"labels": odd}}) == {**rates, "of": ""}


@pytest.mark.parametrize(
    ("shared", "key"),
    [
        ({"egressRate": "fast"}, "egressRate"),
        ({"ingressRate": -1}, "ingressRate"),
        ({"egressRate": "1M", "by": 5}, "by"),
        ({"egressRate": "1M", "by": "x" * 254}, "by"),
    ],
)
def test_what_is_refused(shared: dict[str, Any], key: str) -> None:
    document: dict[str, Any] = {**DOCUMENT, "bandwidth": {"shared": shared}}
    _, faults = loading.check_faults(document)
    assert [one.path.rpartition(".")[2] for one in faults] == [key]


def test_records_keep_them() -> None:
    for one in (Shared(1000), Shared(None, 10**12, by="a", of="b"), Shared(8, 8)):
        assert Shared.from_fields(one.to_fields()).to_fields() == one.to_fields()
    wrong: list[dict[str, object]] = [
        {"egressRate": "1", "by": "", "of": ""},
        {"egressRate": 0, "by": "", "of": ""},
        {"egressRate": 1000, "by": ""},
    ]
    for fields in wrong:
        with pytest.raises((KeyError, TypeError, ValueError)):
            Shared.from_fields(fields)
