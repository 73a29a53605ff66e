"""Pods by the interface that kubelet speaks, with its annotations and its node's addresses."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.limits import shaping
from tests.attached import answers
from tests.host import AFTER_LAST_DEL, REPO, Host
from tests.rates import Flow, assert_flows
from tests.runtime.conftest import EGRESS, INGRESS, Attached
from tests.runtime.cri import Cri
from tests.runtime.runtimes import CONFIG_DIR, install_plugins, remove_cgroups, remove_plugins
from tests.tool import Tool

REMOTE = "198.51.100.1"
TEMPLATE = REPO / "conf" / "10-faasm.conflist.template"
RENDERED = CONFIG_DIR / "10-containerd-net.conflist"


@pytest.fixture
def cri(runtime_host: Host, conflist: dict[str, Any], short_path: Path) -> Iterator[Cri]:
    started = Cri(runtime_host, short_path)
    try:
        yield started
    finally:
        started.close()
        remove_cgroups()


@pytest.mark.parametrize(
    ("annotations", "ingress", "egress"),
    [
        (
            {
                "kubernetes.io/ingress-bandwidth": "8M",
                "kubernetes.io/egress-bandwidth": "4M",
            },
            8_000_000,
            4_000_000,
        ),
        ({"kubernetes.io/ingress-bandwidth": "8M"}, 8_000_000, EGRESS),
        ({}, INGRESS, EGRESS),
    ],
    ids=["both", "ingress", "none"],
)
def test_a_pod(cri: Cri, annotations: dict[str, str], ingress: int, egress: int) -> None:
    host = cri.host
    before = host.snapshot()
    pod = cri.run("one", annotations)
    inside = cri.namespace(pod)
    attached = Attached(host, inside)
    assert cri.addresses(pod) == [attached.address]
    tool = Tool(host)
    tool.conf_dir = CONFIG_DIR
    [row] = tool("status", "test/one", "--json").ok().document["attachments"]
    assert (row["containerID"], row["name"]) == (pod, "test/one")

    (outer,) = host.classes(attached.outer)
    (inner,) = inside.classes("eth0")
    assert (outer["rate"], outer["ceil"]) == (ingress, ingress)
    assert (inner["rate"], inner["ceil"]) == (egress, egress)
    # containerd says 2³²-1 bits for "not set": half a gigabyte at full speed, if believed.
    for one, rate in ((outer, ingress), (inner, egress)):
        assert one["burst"] < rate / 8 * shaping.BURST_MS / 1000 + 2000
    if len(annotations) == 2:
        for download, rate in ((False, egress), (True, ingress)):
            flow = Flow(inside, REMOTE, port=5201 + download, download=download)
            assert_flows([flow], rate)

    cri.stop(pod)
    cri.remove(pod)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_the_nodes_own_addresses(runtime_host: Host, short_path: Path) -> None:
    """The cluster gives each node a range; containerd writes it into the configuration."""
    host = runtime_host
    install_plugins()
    cri = Cri(host, short_path, template=TEMPLATE)
    try:
        assert not cri.network_is_ready()
        cri.give_cidr("10.210.3.0/24,fd00:210:3::/64")
        (plugin,) = json.loads(RENDERED.read_bytes())["plugins"]
        assert plugin["ipam"]["ranges"] == [
            [{"subnet": "10.210.3.0/24"}],
            [{"subnet": "fd00:210:3::/64"}],
        ]
        assert plugin["ipam"]["routes"] == [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        assert cri.network_is_ready()
        pod = cri.run("one", {"kubernetes.io/egress-bandwidth": "4M"}, ports=[(8080, 80)])
        assert cri.addresses(pod) == ["10.210.3.2", "fd00:210:3::2"]
        inside = cri.namespace(pod)
        (inner,) = inside.classes("eth0")
        assert inner["rate"] == 4_000_000
        [remote] = host.remotes
        assert answers(inside, remote, "", port=80, to=("198.51.100.2", 8080))
        assert answers(inside, remote, "::", port=80, to=("2001:db8:100::2", 8080))
        inside.run(["busybox", "ping", "-c1", "-W2", REMOTE])
        inside.run(["busybox", "ping", "-6", "-c1", "-W2", "2001:db8:100::1"])
        cri.stop(pod)
        cri.remove(pod)
        assert host.leases() == {}
        assert host.records() == {}
    finally:
        cri.close()
        remove_cgroups()
        RENDERED.unlink(missing_ok=True)
        remove_plugins()
