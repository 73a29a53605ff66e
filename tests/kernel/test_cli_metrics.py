"""metrics: what Prometheus reads is what the kernel counted."""

from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.host import Host
from tests.kernel.test_cli_looking import plugin_config, send
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    bare_host.add_remote()
    tool = Tool(bare_host)
    tool.network(ipam={"subnet": "10.200.0.0/28"}, bandwidth={"ingressRate": "8M"})
    return tool


def samples(text: str) -> dict[str, dict[tuple[str, ...], float]]:
    """Return metric → values of some labels → value."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            keys = ("container", "direction", "range")
            labels = tuple(sample.labels[key] for key in keys if key in sample.labels)
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def test_metrics_of_attachments_and_ranges(tool: Tool, tmp_path: Path) -> None:
    host = tool.host
    one, two = host.add_container(), host.add_container()
    for namespace in (one, two):
        host.add(namespace, plugin_config(tool))
    send(one, 100_000)
    host.run(["tc", "qdisc", "del", "dev", "faasm1", "root"])
    found = samples(tool("metrics").ok().stdout)
    key = (one.name, "egress")
    link: Any = one.link("eth0")
    assert found["cni_faasm_bytes_total"][key] == link["stats64"]["tx"]["bytes"]
    assert found["cni_faasm_packets_total"][key] >= 100
    assert found["cni_faasm_limit_bytes_per_second"] == {
        (one.name, "ingress"): 1e6,
        (two.name, "ingress"): 1e6,
    }
    assert found["cni_faasm_drifts"] == {(one.name,): 0, (two.name,): 1}
    text = "10.200.0.1-10.200.0.14"
    assert found["cni_faasm_leases_used"] == {(text,): 2}
    assert found["cni_faasm_leases_free"] == {(text,): 11}
    for name in ("drops_total", "overlimits_total", "backlog_bytes", "burst_bytes", "info"):
        assert f"cni_faasm_{name}" in found

    path = tmp_path / "faasm.prom"
    path.write_text("old", encoding="utf-8")
    tool("metrics", "--output", str(path)).ok()
    assert samples(path.read_text(encoding="utf-8")).keys() == found.keys()
    assert [each.name for each in tmp_path.glob("*prom*")] == ["faasm.prom"]
    assert path.stat().st_mode & 0o777 == 0o644
    assert "nowhere" in tool("metrics", "--output", "/nowhere/x.prom").expect(3).stderr

    document = tool("metrics", "--json").ok().document
    assert {one["name"] for one in document["metrics"]} >= {"cni_faasm_bytes", "cni_faasm_drifts"}


def test_no_attachment(tool: Tool) -> None:
    found = samples(tool("metrics").ok().stdout)
    assert found["cni_faasm_leases_free"] == {("10.200.0.1-10.200.0.14",): 13}
