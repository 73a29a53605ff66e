"""set-rate: other limits in place, none of the packets lost, known to CHECK and repair."""

import json
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.host import Host, Namespace
from tests.kernel.test_cli_looking import plugin_config
from tests.rates import PAYLOAD_SHARE, Flow, assert_flows, serve
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    bare_host.add_remote()
    tool = Tool(bare_host)
    tool.network()
    return tool


@pytest.fixture
def container(tool: Tool) -> Namespace:
    namespace = tool.host.add_container()
    tool.host.add(namespace, plugin_config(tool))
    return namespace


def limits(tool: Tool, container: Namespace) -> tuple[int | None, int | None]:
    """Return what tc shows: to the container, from it."""
    found = []
    for namespace, device in ((tool.host, "faasm0"), (container, "eth0")):
        classes = namespace.classes(device)
        found.append(classes[0]["rate"] if classes else None)
    return found[0], found[1]


def record(tool: Tool) -> dict[str, Any]:
    [text] = tool.host.records().values()
    fields: dict[str, Any] = json.loads(text)
    return fields


def test_limits_change_in_place_and_back(tool: Tool, container: Namespace) -> None:
    host = tool.host
    before, promise = host.snapshot(), record(tool)
    tool("set-rate", "faasm0", "--ingress", "100M", "--egress", "1M").ok()
    assert limits(tool, container) == (100_000_000, 1_000_000)
    [leaf] = [one for one in container.qdiscs("eth0") if one["handle"] == "10:"]
    [old_leaf] = [
        one
        for one in before["containers"][container.name]["qdiscs"]
        if one["dev"] == "eth0" and one["handle"] == "10:"
    ]
    assert leaf["options"]["limit"] < old_leaf["options"]["limit"]
    link = container.link("eth0")
    assert link is not None
    assert link["gso_max_size"] == 1700
    assert link["gro_max_size"] == 3125
    tool("check").ok()
    assert record(tool)["configured"] == {key: promise[key] for key in ("ingress", "egress")}
    assert "changed by set-rate" in tool("status", "faasm0").ok().stdout

    host.run(["tc", "class", "change", "dev", "faasm0", "parent", "1:", "classid", "1:1",
              "htb", "rate", "7mbit"])  # fmt: skip
    tool("repair").ok()
    assert limits(tool, container) == (100_000_000, 1_000_000)

    tool("set-rate", container.name, "--egress", "3M").ok()
    assert limits(tool, container) == (100_000_000, 3_000_000)
    tool("set-rate", container.name, "--reset").ok()
    host.assert_unchanged(before)
    assert record(tool) == promise
    assert "nothing" not in tool("set-rate", container.name, "--reset").ok().stdout


def test_the_runtime_sees_no_drift_and_its_del_leaves_nothing(
    tool: Tool, container: Namespace
) -> None:
    host = tool.host
    tool("set-rate", container.name, "--ingress", "1G", "--burst", "1M").ok()
    [one] = host.classes("faasm0")
    assert one["burst"] == pytest.approx(125_000, rel=0.01)
    host.cni("CHECK", container, plugin_config(tool) | {"prevResult": _result(container)}).ok()
    host.delete_attachment(container, plugin_config(tool))
    assert host.records() == {}
    assert host.links() == ["uplink"]
    assert "no attachment" in tool("set-rate", container.name, "--reset").expect(1).stderr


def test_a_burst_that_cannot_be_says_what_it_became(tool: Tool, container: Namespace) -> None:
    said = tool("set-rate", container.name, "--burst", "8").ok().stdout
    assert said.count("burst 1600 bytes (8 bits raised to 12800: one packet must fit)") == 2
    said = tool("set-rate", container.name, "--egress", "1k", "--burst", "10M").ok().stdout
    assert "(10000000 bits lowered to 274872, the most that the kernel keeps)" in said
    assert "(" not in tool("set-rate", container.name, "--ingress", "5M").ok().stdout


def _result(container: Namespace) -> dict[str, Any]:
    ips = [{"address": "10.200.0.2/32"}]
    interfaces = [{"name": "faasm0"}, {"name": "eth0", "sandbox": container.path}]
    return {"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips}


def test_no_limit_and_a_limit_again(tool: Tool, container: Namespace) -> None:
    tool("set-rate", container.name, "--egress", "0").ok()
    assert limits(tool, container) == (20_000_000, None)
    link = container.link("eth0")
    assert link is not None
    assert link["gso_max_size"] == 65536
    tool("check").ok()
    done = tool("set-rate", container.name, "--egress", "5M", "--json").ok().document
    assert done["attachments"][0]["egress"]["limitBitsPerSecond"] == 5_000_000
    assert limits(tool, container) == (20_000_000, 5_000_000)
    tool("check").ok()
    tool("set-rate", container.name, "--reset").ok()
    assert limits(tool, container) == (20_000_000, 10_000_000)


def test_a_configured_latency_holds(tool: Tool, container: Namespace) -> None:
    namespace = tool.host.add_container()
    config = plugin_config(tool)
    config["bandwidth"] = {"ingressRate": "100M", "latency": 200}
    tool.host.add(namespace, config)
    for rate in ("1M", "50M"):
        tool("set-rate", namespace.name, "--ingress", rate).ok()
    leaf = next(one for one in tool.host.qdiscs("faasm1") if one["handle"] == "10:")
    if leaf["kind"] == "bfifo":
        assert leaf["options"]["limit"] == 50_000_000 // 8 // 5


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--reset", "--ingress", "1M"),
        ("--ingress", "10Q"),
        ("--egress", "1m"),
        ("--burst", "much"),
    ],
)
def test_usage(tool: Tool, container: Namespace, words: tuple[str, ...]) -> None:
    before = limits(tool, container)
    done = tool("set-rate", container.name, *words).expect(2)
    assert "--" in done.stderr
    assert limits(tool, container) == before


class Stream:
    """Numbered packets at a steady pace, and those that did not arrive."""

    def __init__(self) -> None:
        self.sent = 0
        self.arrived: set[int] = set()


@contextmanager
def stream(sender: Namespace, receiver: Namespace, address: str, gap_s: float) -> Iterator[Stream]:
    """Send 200-byte packets from one namespace to another until the block ends."""
    counted = Stream()
    with receiver.entered():
        sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        sink.bind((address, 7000))
        sink.settimeout(1)
    with sender.entered():
        source = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stop = threading.Event()

    def send() -> None:
        while not stop.is_set():
            source.sendto(struct.pack("=I", counted.sent) + bytes(196), (address, 7000))
            counted.sent += 1
            time.sleep(gap_s)

    def receive() -> None:
        while True:
            try:
                counted.arrived.add(struct.unpack_from("=I", sink.recv(2000))[0])
            except TimeoutError:
                if stop.is_set():
                    return

    threads = [threading.Thread(target=send), threading.Thread(target=receive)]
    for thread in threads:
        thread.start()
    try:
        yield counted
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        source.close()
        sink.close()


def test_no_packet_is_lost(tool: Tool, container: Namespace) -> None:
    """About 800 kbit/s below limits that go up and down a dozen times, each way."""
    remote = tool.host.remotes[0]
    remote.run(["ip", "route", "add", "10.200.0.0/16", "via", "198.51.100.2"])
    with (
        stream(container, remote, "198.51.100.1", 0.002) as out,
        stream(remote, container, "10.200.0.2", 0.002) as into,
    ):
        for rate in ("1G", "2M", "100M", "1M", "50M", "1M") * 2:
            tool("set-rate", container.name, "--ingress", rate, "--egress", rate).ok()
        tool("set-rate", container.name, "--reset").ok()
    for counted in (out, into):
        assert counted.sent > 300
        assert counted.sent - len(counted.arrived) == 0


def test_the_new_limit_is_what_tcp_gets(tool: Tool, container: Namespace) -> None:
    serve(tool.host, tool.host.remotes[0])
    tool("set-rate", container.name, "--egress", "40M").ok()
    flow = Flow(container, "198.51.100.1")
    assert_flows([flow], 40_000_000, seconds=3, low=0.92 / PAYLOAD_SHARE)


def test_no_name_is_not_every_container(tool: Tool, container: Namespace) -> None:
    for words in (("set-rate", "", "--ingress", "5M"), ("repair", ""), ("status", "")):
        status = 3 if words[0] == "status" else 1
        assert "CONTAINER is empty" in tool(*words).expect(status).stderr
    assert limits(tool, container) == (20_000_000, 10_000_000)


def test_what_has_drifted_is_to_be_repaired_first(tool: Tool, container: Namespace) -> None:
    promise = record(tool)
    tool.host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
    done = tool("set-rate", "faasm0", "--ingress", "5M").expect(1)
    assert f"cni-faasm repair {container.name} puts it right" in done.stderr
    assert record(tool) == promise
    tool("repair", container.name).ok()
    tool("set-rate", "faasm0", "--ingress", "5M").ok()
