"""status, check, repair: what they say and mend on attachments that a runtime made."""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.netlink.link import IFLA_GRO_IPV4_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE
from tests.attached import set_size
from tests.host import DUAL_STACK, Host, Namespace, wait_until
from tests.tool import Tool


@pytest.fixture
def tool(bare_host: Host) -> Tool:
    bare_host.add_remote()
    tool = Tool(bare_host)
    tool.network(ipam=DUAL_STACK, mtu=1400)
    return tool


def plugin_config(tool: Tool) -> dict[str, Any]:
    listed = json.loads((tool.conf_dir / "10-testnet.conflist").read_text(encoding="utf-8"))
    plugin: dict[str, Any] = listed["plugins"][0]
    return {**plugin, "name": listed["name"], "cniVersion": listed["cniVersion"]}


@pytest.fixture
def container(tool: Tool) -> Namespace:
    namespace = tool.host.add_container()
    # Otherwise a link-local address comes into the snapshots some time after ADD.
    namespace.sysctl("net.ipv6.conf.default.accept_dad", "0")
    tool.host.add(namespace, plugin_config(tool))
    return namespace


def send(container: Namespace, size: int) -> None:
    """Send UDP from the container to the remote machine, where it is thrown away."""
    with container.entered():
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    for _ in range(size // 1000):
        sender.sendto(bytes(1000), ("198.51.100.1", 9))
    sender.close()


def test_status_shows_who_where_and_what(tool: Tool, container: Namespace) -> None:
    before = tool("status", "--json").ok().document["attachments"][0]
    send(container, 10_000)
    [row] = tool("status", "--json").ok().document["attachments"]
    assert row["containerID"] == container.name
    assert row["ifname"] == "eth0"
    assert row["network"] == "testnet"
    assert row["netns"] == container.path
    assert row["addresses"] == ["10.200.0.2", "fd00:200::2"]
    assert row["hostInterface"] == "faasm0"
    assert row["ingress"]["limitBitsPerSecond"] == 20_000_000
    assert row["egress"]["limitBitsPerSecond"] == 10_000_000
    assert row["egress"]["bytes"] - before["egress"]["bytes"] >= 10_000
    assert row["egress"]["rateBitsPerSecond"] == pytest.approx(0, abs=10_000)
    assert row["drifts"] == []
    text = tool("status").ok().stdout
    assert re.search(
        rf"{container.name} +{container.name} +eth0 +testnet +10\.200\.0\.2,fd00:200::2 +faasm0",
        text,
    )
    assert "20M" in text
    detail = tool("status", "faasm0").ok().stdout
    assert f"namespace {container.path}, MTU 1400" in detail
    assert "limit 10 Mbit/s, burst" in detail


def test_what_add_made_of_the_limits_asked_for_is_told(tool: Tool) -> None:
    """Runtimes show nobody the stderr of an ADD that went well."""
    asked = {"ingressRate": "1G", "egressRate": "1M", "egressBurst": 8}
    config = tool.host.config(maxIngressRate="50M", runtimeConfig={"bandwidth": asked})
    namespaces = [tool.host.add_container() for _ in range(2)]
    for one in namespaces:
        tool.host.add(one, config)
    lowered = (
        "runtimeConfig.bandwidth.ingressRate: 1 Gbit/s lowered to 50 Mbit/s, the network's "
        "maxIngressRate"
    )
    raised = "egressBurst: 8 bits raised to 12800: one packet must fit"
    rows = tool("status", "--json").ok().document["attachments"]
    assert [row["remarks"] for row in rows] == [[lowered, raised]] * 2
    detail = tool("status", "faasm0").ok().stdout
    assert f"  at ADD: {lowered}\n  at ADD: {raised}\n" in detail
    said = tool("check").ok().stdout
    assert f"testnet/{namespaces[0].name}/eth0 and 1 more: at ADD: {lowered}\n" in said
    told = tool("check", "faasm1", "--json").ok().document["remarks"]
    assert [(one["containerID"], one["message"]) for one in told] == [
        (namespaces[1].name, text) for text in (lowered, raised)
    ]


def test_a_record_of_an_earlier_boot_tells_of_nobody_else(tool: Tool, container: Namespace) -> None:
    """Its pair's name and index are another's by now."""
    folder = tool.host.state_dir / "testnet"
    fields = json.loads((folder / f"{container.name}@eth0").read_text())
    stale = {**fields, "bootID": "earlier", "containerID": "gone"}
    (folder / "gone@eth0").write_text(json.dumps(stale), encoding="utf-8")
    rows = {
        row["containerID"]: row for row in tool("status", "--json").ok().document["attachments"]
    }
    assert rows[container.name]["ingress"]["bytes"] > 0
    assert rows["gone"]["ingress"]["bytes"] is None
    assert [one["found"] for one in rows["gone"]["drifts"]] == ["it is of an earlier boot"]
    [row] = tool("status", "faasm0", "--json").ok().document["attachments"]
    assert row["containerID"] == container.name
    tool("set-rate", "faasm0", "--egress", "5M").ok()
    [row] = tool("status", "gone", "--json").ok().document["attachments"]
    assert row["containerID"] == "gone"


@contextmanager
def flood(container: Namespace) -> Iterator[None]:
    """Send from the container as fast as it can."""
    stop = threading.Event()

    def run() -> None:
        with container.entered():
            sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        while not stop.is_set():
            with suppress(ConnectionRefusedError):
                sender.sendto(bytes(1000), ("198.51.100.1", 9))
        sender.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_status_measures_the_rate_now(tool: Tool, container: Namespace) -> None:
    with flood(container):
        for _ in range(3):  # a busy machine withholds its processors for a moment
            [row] = tool("status", "--json").ok().document["attachments"]
            if row["egress"]["rateBitsPerSecond"] == pytest.approx(10_000_000, rel=0.1):
                break
    assert row["egress"]["rateBitsPerSecond"] == pytest.approx(10_000_000, rel=0.1)
    assert row["egress"]["drops"] > 0
    assert row["egress"]["overlimits"] > 0
    assert row["egress"]["backlogBytes"] > 1000


def test_a_container_is_named_by_id_beginning_or_interface(tool: Tool) -> None:
    config = plugin_config(tool)
    for name in ("aaa1", "aaa2", "bbb1"):
        namespace = tool.host.add_container()
        tool.host.add(namespace, config, container_id=name)

    def ids(wanted: str) -> list[str]:
        rows = tool("status", wanted, "--json").ok().document["attachments"]
        return [row["containerID"] for row in rows]

    assert ids("aaa2") == ["aaa2"]
    assert ids("b") == ["bbb1"]
    assert ids("faasm1") == ["aaa2"]
    assert "aaa1, aaa2" in tool("status", "aaa").expect(3).stderr
    assert "no attachment" in tool("check", "ccc").expect(3).stderr


def cache(host: Host, container_id: str, *args: tuple[str, str], network: str = "testnet") -> Path:
    """Keep an ADD's arguments as libcni does."""
    path = Path(f"/var/lib/cni/results/{network}-{container_id}-eth0")
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"kind": "cniCacheV1", "containerId": container_id, "ifName": "eth0"}
    path.write_text(json.dumps(document | {"networkName": network, "cniArgs": args}))
    return path


def test_a_container_is_shown_and_named_as_its_runtime_does(tool: Tool) -> None:
    config = plugin_config(tool)
    paths = []
    for container_id, name, namespace in (
        ("c1f0", "web", ""),  # podman's
        ("aaa1", "web-0", "default"),
        ("aaa2", "web-0", "stage"),
        ("aaa3", "db-0", "stage"),
        ("web2", "\x1b[2J", ""),
    ):
        tool.host.add(tool.host.add_container(), config, container_id=container_id)
        args = [("IgnoreUnknown", "1"), ("K8S_POD_NAME", name), ("K8S_POD_NAMESPACE", namespace)]
        paths.append(cache(tool.host, container_id, *args[: 3 if namespace else 2]))
    try:
        rows = tool("status", "--json").ok().document["attachments"]
        assert {row["containerID"]: row["name"] for row in rows} == {
            "c1f0": "web",
            "aaa1": "default/web-0",
            "aaa2": "stage/web-0",
            "aaa3": "stage/db-0",
            "web2": None,
        }
        lines = tool("status").ok().stdout.splitlines()[1:]
        shown = [line.split()[0] for line in lines]
        assert shown == ["default/web-0", "stage/web-0", "stage/db-0", "web", "web2"]

        def ids(wanted: str) -> list[str]:
            found = tool("status", wanted, "--json").ok().document["attachments"]
            return [row["containerID"] for row in found]

        assert ids("web") == ["c1f0"]  # and not the beginning of an id
        assert ids("stage/web-0") == ["aaa2"]
        assert ids("db-0") == ["aaa3"]
        told = tool("check", "web-0").expect(3).stderr
        assert "aaa1 (default/web-0), aaa2 (stage/web-0)" in told
        assert "NAMESPACE/POD" in told

        set_ = tool("set-rate", "stage/web-0", "--egress", "5M").ok().stdout
        assert "testnet/stage/web-0/eth0: egress 5 Mbit/s" in set_
        tool.host.run(["tc", "qdisc", "del", "dev", "faasm0", "root"])
        assert "testnet/web/eth0  host faasm0: root qdisc" in tool("check", "web").expect(1).stdout
        assert "testnet/web/eth0: put back host faasm0" in tool("repair", "web").ok().stdout
        assert "container c1f0, namespace" in tool("status", "web").ok().stdout
        # What is no document of libcni's, or another attachment's, tells no name.
        paths[0].write_text("[" * 100_000, encoding="ascii")
        document = json.loads(paths[1].read_text()) | {"containerId": "aaa"}
        paths[1].write_text(json.dumps(document))
        rows = tool("status", "--json").ok().document["attachments"]
        assert [row["name"] for row in rows] == [None, "stage/web-0", "stage/db-0", None, None]
    finally:
        for path in paths:
            path.unlink()


def test_status_sorts(tool: Tool) -> None:
    for name, rate in (("c2", "5M"), ("c10", "50M"), ("c1", "500M")):
        config = plugin_config(tool) | {"bandwidth": {"ingressRate": rate}}
        tool.host.add(tool.host.add_container(), config, container_id=name)

    def order(*words: str) -> list[str]:
        rows = tool("status", "--json", *words).ok().document["attachments"]
        return [row["containerID"] for row in rows]

    assert order() == ["c1", "c2", "c10"]
    assert order("--sort", "limit-in") == ["c1", "c10", "c2"]
    assert "there are container" in tool("status", "--sort", "colour").expect(3).stderr


def test_no_attachment_is_no_fault(tool: Tool) -> None:
    assert tool("status").ok().stdout == "no attachments\n"
    assert tool("check").ok().stdout == "0 attachments, no drift\n"
    assert tool("repair").ok().stdout == "0 attachments, nothing to repair\n"


def test_a_namespace_that_has_gone_is_told(tool: Tool, container: Namespace) -> None:
    container.delete()
    wait_until(lambda: tool.host.link("faasm0") is None, "the pair to go")
    done = tool("check", "--json").expect(1)
    [drift] = done.document["drifts"]
    assert drift["what"] == "attachment"
    assert "no network namespace" in drift["found"]
    assert tool("status", "--json").ok().document["attachments"][0]["drifts"]
    assert "cni-faasm gc" in tool("repair").expect(1).stdout


Change = Callable[[Host, Namespace], object]


def inside(*commands: str) -> Change:
    return lambda _, container: [container.run(command.split()) for command in commands]


def outside(*commands: str) -> Change:
    return lambda host, _: [host.run(command.split()) for command in commands]


def _lease(host: Host, _: Namespace) -> None:
    (host.data_dir / "testnet" / "10.200.0.2").unlink()


CHANGES: dict[str, Change] = {
    "inner down": inside("ip link set eth0 down"),
    "inner MAC": inside("ip link set eth0 address 02:00:00:00:00:99"),
    "inner MTU": inside("ip link set eth0 mtu 1300"),
    "inner gso": inside("ip link set eth0 gso_max_size 9000"),
    "inner sizes": inside("ip link set eth0 gso_max_size 9000 gro_max_size 9000"),
    "inner gso of IPv4": lambda _, container: set_size(container, IFLA_GSO_IPV4_MAX_SIZE),
    "inner gro of IPv4": lambda _, container: set_size(container, IFLA_GRO_IPV4_MAX_SIZE),
    "inner IPv6 off": inside("busybox sysctl -w net.ipv6.conf.eth0.disable_ipv6=1"),
    "inner neighbours": inside(
        "ip neigh del 10.200.0.1 dev eth0",
        "ip neigh replace fd00:200::1 lladdr 02:00:00:00:00:77 dev eth0 nud permanent",
    ),
    "lo down": inside("ip link set lo down"),
    "inner address for a time": inside(
        "ip addr change 10.200.0.2/32 dev eth0 valid_lft 900 preferred_lft 900",
        "ip -6 addr change fd00:200::2/128 dev eth0 valid_lft 900 preferred_lft 0",
    ),
    "inner address": inside("ip addr del 10.200.0.2/32 dev eth0"),
    "inner address 6": inside("ip -6 addr del fd00:200::2/128 dev eth0"),
    "inner prefix": inside(
        "ip addr del 10.200.0.2/32 dev eth0", "ip addr add 10.200.0.2/24 dev eth0"
    ),
    "inner prefix 6": inside(
        "ip addr del fd00:200::2/128 dev eth0", "ip addr add fd00:200::2/64 dev eth0 nodad"
    ),
    "inner default": inside("ip route del default"),
    "inner default 6": inside("ip -6 route del default"),
    "inner all routes": inside("ip route flush dev eth0"),
    "inner other gateway": inside("ip route replace default via 10.200.0.99 dev eth0 onlink"),
    "inner qdisc": inside("tc qdisc del dev eth0 root"),
    "inner other qdisc": inside("tc qdisc replace dev eth0 root handle 9: pfifo"),
    "inner rate": inside("tc class change dev eth0 parent 1: classid 1:1 htb rate 1gbit burst 9k"),
    "inner framing": inside(
        "tc class change dev eth0 parent 1: classid 1:1 htb rate 10mbit burst 1600 cburst 1600 "
        "overhead 90 mpu 900 linklayer atm prio 2 quantum 3000"
    ),
    "inner leaf's handle": inside(
        "tc qdisc replace dev eth0 parent 11:1 handle 20: bfifo limit 9k"
    ),
    "outer down": outside("ip link set faasm0 down"),
    "outer MTU": outside("ip link set faasm0 mtu 1300"),
    "outer MAC": outside("ip link set faasm0 address 02:00:00:00:00:98"),
    "outer alias": outside("ip link set faasm0 alias mine"),
    "outer settings": outside(
        "sysctl -q net.ipv6.conf.faasm0.accept_ra=1 net.ipv6.conf.faasm0.accept_redirects=1 "
        "net.ipv4.conf.faasm0.accept_redirects=1 net.ipv4.conf.faasm0.forwarding=0",
    ),
    "outer IPv6 off": outside("sysctl -q net.ipv6.conf.faasm0.disable_ipv6=1"),
    "outer group": outside("ip link set faasm0 group 7"),
    "outer gateway": outside("ip addr del 10.200.0.1/32 dev faasm0"),
    "outer route": outside("ip route del 10.200.0.2"),
    "outer route elsewhere": outside("ip route replace 10.200.0.2/32 dev uplink"),
    "outer qdisc": outside("tc qdisc del dev faasm0 root"),
    "outer cutter": outside("tc qdisc del dev faasm0 parent 1:1"),
    "outer cutter's rate": outside(
        "tc qdisc change dev faasm0 parent 1:1 handle 11: tbf rate 1mbit burst 9k limit 9k"
    ),
    "outer leaf": outside("tc qdisc del dev faasm0 parent 11:1"),
    "outer class": outside(
        "tc qdisc del dev faasm0 root", "tc qdisc add dev faasm0 root handle 1: htb default 1"
    ),
    "outer default class": outside(
        "tc qdisc del dev faasm0 root", "tc qdisc add dev faasm0 root handle 1: htb default 7"
    ),
    "forwarding": outside("sysctl -q net.ipv4.ip_forward=0"),
    "table gone": outside("nft delete table inet faasm_testnet"),
    "table dormant": outside("nft add table inet faasm_testnet { flags dormant ; }"),
    "chain's policy": outside("nft chain inet faasm_testnet postrouting { policy drop ; }"),
    "table flushed": outside("nft flush table inet faasm_testnet"),
    "rule changed": outside(
        "nft flush table inet faasm_testnet",
        *["nft add rule inet faasm_testnet postrouting counter"] * 6,
    ),
    "lease": _lease,
}


def test_repair_lets_the_kernel_make_no_more_addresses(tool: Tool, container: Namespace) -> None:
    del container
    host = tool.host
    host.run(["ip", "link", "set", "faasm0", "addrgenmode", "eui64"])
    host.run(["ip", "addr", "add", "fe80::7/64", "dev", "faasm0", "nodad"])
    assert "addr_gen_mode" in tool("repair").ok().stdout
    assert "addrgenmode none" in host.run(["ip", "-d", "link", "show", "faasm0"]).stdout
    assert "no drift" in tool("check").ok().stdout


def named(drifts: list[dict[str, str]]) -> set[tuple[str, str]]:
    return {(one["what"], one["expected"]) for one in drifts}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_repair_puts_back_what_drifted_and_only_that(
    tool: Tool, container: Namespace, change: Change
) -> None:
    host = tool.host
    before = host.snapshot()
    change(host, container)
    found = tool("check", "--json").expect(1).document["drifts"]
    assert found
    changed = host.snapshot()
    dry = tool("repair", "--dry-run", "--json").ok().document
    assert host.snapshot() == changed
    assert named(dry["repaired"]) == named(found)
    done = tool("repair", "--json").ok().document
    assert done["left"] == []
    assert named(done["repaired"]) >= named(found)
    tool("check").ok()
    host.assert_unchanged(before, ignore=("neighbours",))
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    container.run(["busybox", "ping", "-6", "-c1", "-W2", "2001:db8:100::1"])


def test_repair_says_what_needs_a_new_add(tool: Tool, container: Namespace) -> None:
    container.run(["ip", "link", "del", "eth0"])
    done = tool("repair", "--json").expect(1).document
    assert done["repaired"] == []
    assert {one["what"] for one in done["left"]} == {
        "container eth0: interface",
        "host faasm0: interface",
    }
    assert all("restart the container" in one["reason"] for one in done["left"])
    assert "cannot put back" in tool("repair", "--dry-run").expect(1).stdout


@pytest.fixture
def connection(tool: Tool, container: Namespace) -> Iterator[Callable[[], None]]:
    """Return a function that sends something through a connection, and awaits the answer."""
    with tool.host.remotes[0].entered():
        server = socket.create_server(("198.51.100.1", 7000))
    with container.entered():
        client = socket.create_connection(("198.51.100.1", 7000), timeout=10)
    accepted, _ = server.accept()
    accepted.settimeout(10)

    def talk() -> None:
        for one, other in ((client, accepted), (accepted, client)):
            one.sendall(b"still there?")
            assert other.recv(100) == b"still there?"

    talk()
    yield talk
    for each in (client, accepted, server):
        each.close()


@pytest.mark.parametrize(
    "name",
    ["inner rate", "inner qdisc", "inner default", "inner prefix", "inner down", "rule changed",
     "outer qdisc", "outer route", "inner address"],
)  # fmt: skip
def test_connections_survive_a_repair(
    tool: Tool, container: Namespace, connection: Callable[[], None], name: str
) -> None:
    CHANGES[name](tool.host, container)
    tool("repair").ok()
    connection()


def test_what_a_later_plugin_changed_is_no_drift(tool: Tool, container: Namespace) -> None:
    """Tuning sets another MAC; libcni remembers the chain's result."""
    container.run(["ip", "link", "set", "eth0", "address", "02:00:00:00:00:77"])
    tool("check").expect(1)
    cache = Path(f"/var/lib/cni/results/testnet-{container.name}-eth0")
    cache.parent.mkdir(parents=True, exist_ok=True)
    interfaces = [
        {"name": "faasm0", "mac": "02:00:00:00:00:01"},
        {"name": "eth0", "mac": "02:00:00:00:00:77", "sandbox": container.path},
    ]
    ips = [{"address": "10.200.0.2/32"}, {"address": "fd00:200::2/128"}]
    result = {"cniVersion": "1.0.0", "interfaces": interfaces, "ips": ips}
    cache.write_text(json.dumps({"kind": "cniCacheV1", "result": result}), encoding="utf-8")
    try:
        tool("check").ok()
        assert tool("repair").ok().stdout == "1 attachment, nothing to repair\n"
    finally:
        cache.unlink()
