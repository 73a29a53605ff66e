"""What networks need of the kernel: the table in the code and the one in docs/kernels.md."""

import os
from typing import Any

import pytest

from cni_faasm.config import loading as configuration
from cni_faasm.link import features
from cni_faasm.spec.errors import KERNEL_LACKS_FEATURE
from tests.host import REPO

IPAM = {"type": "host-local", "ranges": [[{"subnet": "10.200.0.0/16"}]]}
PUBLISHED = {"portMappings": [{"hostPort": 8080, "containerPort": 80}]}


def keys(**values: Any) -> set[str]:
    document = {"cniVersion": "1.0.0", "name": "n", "type": "faasm", "ipam": IPAM, **values}
    config, faults = configuration.check_faults(document)
    assert faults == []
    assert config is not None
    return features.keys_of(config)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"antiSpoof": False}, set()),
        ({}, {features.SPOOF}),
        ({"antiSpoof": False, "isolated": True}, {features.ISOLATED}),
        ({"antiSpoof": False, "ipMasq": True}, {features.MASQ}),
        ({"antiSpoof": False, "runtimeConfig": PUBLISHED}, {features.PORTS}),
        (
            {"antiSpoof": False, "bandwidth": {"ingressRate": 10**6}},
            {features.RATES},
        ),
        (
            {
                "antiSpoof": False,
                "bandwidth": {
                    "egressRate": 10**6,
                    "enforceEgress": "host",
                    "unshapedSubnets": ["10.0.0.0/8"],
                },
            },
            {features.RATES, features.ENFORCE, features.SUBNETS},
        ),
        (
            {
                "antiSpoof": False,
                "bandwidth": {"egressRate": 10**6, "shapedSubnets": ["10.0.0.0/8"]},
            },
            {features.RATES, features.SHAPED},
        ),
        (
            {
                "antiSpoof": False,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": "fd00::/64"}]]},
            },
            {features.RANGES6},
        ),
    ],
)
def test_what_a_configuration_needs(values: dict[str, Any], expected: set[str]) -> None:
    assert keys(**values) == expected


def test_the_document_has_the_same_table() -> None:
    text = (REPO / "docs" / "kernels.md").read_text(encoding="utf-8")
    table = text.partition("## What needs what")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        [one.name, one.module, ", ".join(one.keys) or "every attachment"]
        for one in features.FEATURES
    ]


def test_every_feature_stands_behind_its_base() -> None:
    names = [one.name for one in features.FEATURES]
    assert len(set(names)) == len(names)
    for at, one in enumerate(features.FEATURES):
        assert not one.after or one.after in names[:at]


def test_what_is_said_of_what_is_missing() -> None:
    named = {one.name: one for one in features.FEATURES}
    spoof = features.Lack(named["nf_tables"], (features.MASQ, features.SPOOF))
    pair = features.Lack(named["veth pairs"], ())
    error = features.lacking([pair, spoof])
    assert error.code == KERNEL_LACKS_FEATURE
    assert error.msg == (
        "this kernel lacks veth pairs (veth), which each attachment needs; "
        "nf_tables (nf_tables, nfnetlink), which ipMasq and antiSpoof need"
    )
    assert error.details.startswith("`modprobe veth` says why; ")
    assert 'set "antiSpoof": false' in error.details


@pytest.mark.parametrize(
    ("release", "expected"),
    [
        ("5.10.0-32-cloud-amd64", (5, 10)),
        ("6.18.44-fc-v657", (6, 18)),
        ("7.2.13+deb14-cloud-amd64", (7, 2)),
        ("4.19", (4, 19)),
        ("6.1-rc3", (6, 1)),
        ("odd", (0, 0)),
        ("6.x", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_versions(release: str, expected: tuple[int, int]) -> None:
    assert features.version(release) == expected


def test_an_old_kernel_is_told_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        release = "4.19.0-27-amd64"

    assert features.age() == ""
    monkeypatch.setattr(os, "uname", Old)
    assert features.age() == (
        "it is Linux 4.19.0-27-amd64, and the oldest that faasm is made for is 5.10"
    )
    lack = features.Lack(features.FEATURES[0], ())
    assert features.lacking([lack]).msg.endswith("for is 5.10")
