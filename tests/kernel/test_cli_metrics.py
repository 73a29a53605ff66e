"""metrics: what Prometheus reads is what the kernel counted."""

import http.client
import re
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from cni_faasm import calls
from tests import frames
from tests.attached import GATEWAY, REMOTE, Attached, add_remote, config, passes
from tests.host import Host
from tests.kernel.test_backstop import cheat
from tests.kernel.test_cli_looking import plugin_config, send
from tests.netavark import Netavark, error
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
            keys = (
                "container",
                "direction",
                "range",
                "rule",
                "namespace",
                "pod",
                "name",
                "verb",
                "code",
            )
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
    told = {
        (one["name"], *one["labels"].values()): one["value"]
        for metric in document["metrics"]
        for one in metric["samples"]
    }
    duration = "cni_faasm_call_duration_seconds"
    assert told[f"{duration}_count", "ADD"] == told[f"{duration}_bucket", "ADD", "+Inf"] >= 1
    assert told[f"{duration}_sum", "ADD"] > 0


def test_no_attachment(tool: Tool) -> None:
    found = samples(tool("metrics").ok().stdout)
    assert found["cni_faasm_leases_free"] == {("10.200.0.1-10.200.0.14",): 13}


def test_calls(tool: Tool) -> None:
    """Those of runtimes and of netavark, with their errors; a full or missing folder is nothing."""
    host = tool.host
    count, seconds = "cni_faasm_call_duration_seconds_count", "cni_faasm_call_duration_seconds_sum"

    def counted() -> dict[str, dict[tuple[str, ...], float]]:
        return samples(tool("metrics").ok().stdout)

    network = Netavark(host)
    folder = Path(calls.FOLDER)
    shutil.rmtree(folder, ignore_errors=True)  # of what was before
    network.call("info").ok()
    assert count not in counted()
    assert not folder.exists()
    inside, config = host.add_container(), plugin_config(tool)
    result = host.add(inside, config)
    tool("status").ok()
    found = counted()
    assert found[count] == {("ADD",): 1}
    assert 0.0005 < found[seconds]["ADD",] < 10
    assert found["cni_faasm_call_duration_seconds_bucket"]["ADD",] == 1  # the last: +Inf
    assert "cni_faasm_call_errors_total" not in found

    host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    host.cni("CHECK", inside, {**config, "prevResult": result}).error(107)
    host.cni("ADD", inside, {**config, "bandwidth": {"ingressRate": "1Q"}}).error(7)
    assert "egresRate" in error(network.call("create", document={"options": {"egresRate": "1M"}}))
    network.call("info").ok()
    network.setup(inside, "10.200.0.9", ifname="eth1")
    network.teardown(inside, "10.200.0.9", ifname="eth1")
    host.delete_attachment(inside, config)
    netavark = {"create": 1, "setup": 1, "teardown": 1, "info": 1}
    found = counted()
    assert found[count] == {
        (verb,): number for verb, number in {"ADD": 2, "CHECK": 1, "DEL": 1, **netavark}.items()
    }
    assert found["cni_faasm_call_errors_total"] == {
        ("ADD", "7"): 1,
        ("CHECK", "107"): 1,
        ("create", "7"): 1,
    }

    shutil.rmtree(folder)
    folder.write_text("in the way")
    try:
        host.add(inside, config)
        host.delete_attachment(inside, config)
    finally:
        folder.unlink()
    folder.mkdir(0o700)
    host.run(["mount", "-t", "tmpfs", "-o", "size=4k,nr_inodes=1", "tmpfs", str(folder)])
    try:
        host.add(inside, config)
        host.delete_attachment(inside, config)
    finally:
        host.run(["umount", str(folder)])


def test_what_rules_dropped(host: Host) -> None:
    add_remote(host)
    tool = Tool(host)
    one = Attached(host, config(host, isolated=True, bandwidth={"egressRate": "1M"}))
    two = Attached(host, config(host, isolated=True))
    drops = samples(tool("metrics").ok().stdout)["cni_faasm_rule_drops_total"]
    assert drops.keys() == {("antiSpoof",), ("isolated",), ("limit",)}
    assert drops["antiSpoof",] == drops["limit",] == 0
    assert not passes(host, two, 4, "10.200.77.7")
    two.inside.run(["busybox", "ping", "-c1", "-W1", GATEWAY[4]], check=False)
    frame = frames.ethernet(
        one.outer_mac, one.mac, 0x0800, frames.udp(one.address[4], REMOTE[4], bytes(1400))
    )
    cheat(one.inside, frame, 1)
    found = samples(tool("metrics").ok().stdout)["cni_faasm_rule_drops_total"]
    assert found["antiSpoof",] > 0
    assert found["isolated",] > drops["isolated",]
    assert found["limit",] > 100
    listed = host.run(["nft", "list", "table", "inet", "limit_testnet"]).stdout
    [packets] = re.findall(r"counter packets (\d+)", listed)
    assert found["limit",] == int(packets)


def test_when_garbage_was_collected(tool: Tool) -> None:
    host = tool.host
    inside = host.add_container()
    host.add(inside, plugin_config(tool))
    name = "cni_faasm_last_gc_timestamp_seconds"
    assert name not in samples(tool("metrics").ok().stdout)
    tool("gc", "--dry-run").ok()
    assert name not in samples(tool("metrics").ok().stdout)
    began = time.time()
    tool("gc").ok()
    assert began - 1 <= samples(tool("metrics").ok().stdout)[name][()] <= time.time()
    later = plugin_config(tool) | {
        "cniVersion": "1.1.0",
        "cni.dev/valid-attachments": [{"containerID": inside.name, "ifname": "eth0"}],
    }
    time.sleep(0.1)
    between = time.time()
    host.cni("GC", None, later).ok()
    assert samples(tool("metrics").ok().stdout)[name][()] >= between - 0.05


def test_whose_an_attachment_is(tool: Tool) -> None:
    host = tool.host
    names = [host.add_container().name for _ in range(3)]
    pod = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1"
    for inside, args in zip(
        host.containers, (pod, "IgnoreUnknown=1;K8S_POD_NAME=web", None), strict=True
    ):
        host.add(inside, plugin_config(tool), args=args)
    found = samples(tool("metrics").ok().stdout)["cni_faasm_attachment_info"]
    whose = [("shop", "web-1", ""), ("", "", "web"), ("", "", "")]
    assert found == {(name, *one): 1 for name, one in zip(names, whose, strict=True)}


def test_it_serves_them_until_it_is_ended(tool: Tool) -> None:
    host = tool.host
    host.add(host.add_container(), plugin_config(tool))
    with tool.start("metrics", "--listen", "0") as serving:
        assert serving.stderr is not None
        line = serving.stderr.readline()
        [port] = re.findall(r"^cni-faasm: listening on http://127.0.0.1:(\d+)/metrics$", line)

        def scrape(_: object) -> dict[str, dict[tuple[str, ...], float]]:
            with host.entered():
                connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=30)
                connection.connect()
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
            connection.close()
            return samples(text)

        with ThreadPoolExecutor(4) as pool:
            for found in pool.map(scrape, range(8)):
                assert len(found["cni_faasm_drifts"]) == 1
        listening = host.run(["ss", "-Hltn"]).stdout
        assert f"127.0.0.1:{port} " in listening
        assert f"0.0.0.0:{port} " not in listening
        # What is attached meanwhile is seen, and nothing of it is held on to.
        inside = host.add_container()
        host.add(inside, plugin_config(tool))
        time.sleep(1.1)
        assert len(scrape(None)["cni_faasm_drifts"]) == 2
        held = Path(f"/proc/{serving.pid}/fd")
        assert len(list(held.iterdir())) < 8
        serving.terminate()
        assert serving.wait(20) in (0, -15)
    assert "exclude" in tool("metrics", "--listen", "0", "--output", "x").expect(3).stderr
    assert "no address" in tool("metrics", "--listen", "here").expect(3).stderr
