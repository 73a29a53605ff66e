"""ADD and DEL on the real kernel: what is there afterwards, and that nothing stays."""

import json
import os
import socket
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, DUAL_STACK, Host, Namespace, wait_until

MIB = 8 * 1024 * 1024


def limited(host: Host, **keys: Any) -> dict[str, Any]:
    bandwidth = {"ingressRate": 4 * MIB, "egressRate": 2 * MIB}
    return host.config(ipMasq=True, bandwidth=bandwidth, **keys)


def test_add_makes_the_promised_picture(host: Host) -> None:
    host.add_remote(mtu=1400)
    container = host.add_container()
    result = host.add(container, limited(host))

    outer, inner = result["interfaces"]
    assert outer["name"] == "faasm0"
    assert "sandbox" not in outer
    assert inner == {
        "name": "eth0",
        "mac": inner["mac"],
        "mtu": 1400,
        "sandbox": container.path,
    }
    assert result["ips"] == [{"address": "10.200.0.2/32", "gateway": "10.200.0.1", "interface": 1}]
    assert result["routes"] == [{"dst": "0.0.0.0/0"}]

    link = container.link("eth0")
    assert link is not None
    assert link["address"] == inner["mac"]
    assert link["mtu"] == 1400
    assert "UP" in link["flags"]
    assert container.addresses("eth0", scope=None) == ["10.200.0.2/32"]
    [default] = container.routes(dst="default")
    assert default["gateway"] == "10.200.0.1"
    [gateway] = container.routes(dst="10.200.0.1")
    assert gateway["scope"] == "link"

    end = host.link("faasm0")
    assert end is not None
    assert end["address"] == outer["mac"]
    assert end["mtu"] == 1400
    assert end["ifalias"] == f"cni-faasm testnet {container.name} eth0"
    assert host.addresses("faasm0", scope=None) == ["10.200.0.1/32"]
    [route] = host.routes(dst="10.200.0.2")
    assert route["dev"] == "faasm0"

    for namespace, device, rate in ((host, "faasm0", 4 * MIB), (container, "eth0", 2 * MIB)):
        found = {one["handle"]: one for one in namespace.qdiscs(device)}
        assert found.keys() == {"1:", "11:", "10:"}
        root, cutter, leaf = found["1:"], found["11:"], found["10:"]
        assert (root["kind"], root["root"]) == ("htb", True)
        assert (cutter["kind"], cutter["parent"]) == ("tbf", "1:1")
        assert leaf["kind"] in ("fq_codel", "bfifo")
        assert leaf["parent"] == "11:1"
        [one] = namespace.classes(device)
        assert one["handle"] == "1:1"
        assert one["kind"] == "htb"
        assert one["rate"] == pytest.approx(rate, rel=1e-3)
        assert one["ceil"] == pytest.approx(rate, rel=1e-3)
    assert host.sysctl("net.ipv4.ip_forward") == "1"
    assert host.leases() == {"testnet/10.200.0.2": f"{container.name}\r\neth0"}
    [record] = host.records()
    assert record == f"testnet/{container.name}@eth0"


def test_del_leaves_nothing_and_can_be_repeated(host: Host) -> None:
    host.add_remote()
    container = host.add_container()
    before = host.snapshot()
    result = host.add(container, limited(host))
    config = limited(host, prevResult=result)
    host.delete_attachment(container, config)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    host.delete_attachment(container, config)
    host.delete_attachment(None, limited(host))
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_the_container_reaches_a_remote_machine_masqueraded(host: Host) -> None:
    host.add_remote()
    container = host.add_container()
    host.add(container, limited(host, ipam=DUAL_STACK))
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])
    container.run(["busybox", "ping", "-6", "-c1", "-W2", "2001:db8:100::1"])


def test_dual_stack_addresses_are_usable_at_once(host: Host) -> None:
    host.add_remote()
    container = host.add_container()
    result = host.add(container, limited(host, ipam=DUAL_STACK))
    assert [ip["address"] for ip in result["ips"]] == ["10.200.0.2/32", "fd00:200::2/128"]
    [info] = container.json("ip", "-j", "-6", "addr", "show", "dev", "eth0", "scope", "global")
    [address] = filter(None, info["addr_info"])
    assert address["local"] == "fd00:200::2"
    assert not address.get("tentative")
    container.run(["busybox", "ping", "-6", "-c1", "-W1", "fd00:200::1"])
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "1"
    host.delete_attachment(container, limited(host, ipam=DUAL_STACK))
    assert host.leases() == {}


def test_ipv6_neighbours_are_found_again(host: Host) -> None:
    """The host can ask for the container's MAC also for packets that it only forwards."""
    remote = host.add_remote()
    remote.run(["ip", "-6", "route", "add", "fd00:200::/64", "via", "2001:db8:100::2"])
    container = host.add_container()
    host.add(container, limited(host, ipam=DUAL_STACK))
    for namespace, device in ((host, "faasm0"), (container, "eth0")):
        namespace.run(["ip", "-6", "neigh", "flush", "dev", device, "nud", "all"])
        remote.run(["busybox", "ping", "-6", "-c1", "-W2", "fd00:200::2"])


def test_a_namespace_without_ipv6_gets_it(host: Host) -> None:
    host.add_remote()
    container = host.add_container()
    container.sysctl("net.ipv6.conf.default.disable_ipv6", "1")
    container.sysctl("net.ipv6.conf.all.disable_ipv6", "1")
    host.add(container, limited(host, ipam=DUAL_STACK))
    assert container.addresses("eth0")[1:] == ["fd00:200::2/128"]


def test_a_host_whose_new_interfaces_do_not_forward(host: Host, container: Namespace) -> None:
    host.add_remote()
    host.sysctl("net.ipv4.ip_forward", "1")
    host.sysctl("net.ipv4.conf.default.forwarding", "0")
    host.add(container, limited(host))
    assert host.sysctl("net.ipv4.conf.faasm0.forwarding") == "1"
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])


def test_two_containers_reach_each_other_unmasqueraded(host: Host) -> None:
    one, two = host.add_container(), host.add_container()
    host.add(one, limited(host))
    result = host.add(two, limited(host))
    address = result["ips"][0]["address"].partition("/")[0]
    assert address == "10.200.0.3"
    with two.entered():
        server = socket.create_server((address, 7000))
    with one.entered():
        client = socket.create_connection((address, 7000), timeout=5)
    accepted, (peer, _) = server.accept()
    for each in (accepted, client, server):
        each.close()
    assert peer == "10.200.0.2"


def test_no_routes_still_reaches_the_network(host: Host) -> None:
    container = host.add_container()
    host.add(container, host.config(ipam={"routes": []}))
    assert container.routes(dst="default") == []
    [route] = container.routes(dst="10.200.0.0/16")
    assert route["gateway"] == "10.200.0.1"


def test_route_attributes(host: Host) -> None:
    routes = [
        {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 77},
        {"dst": "192.0.2.0/24", "table": 200},
        {"dst": "203.0.113.0/24", "scope": 253},
    ]
    container = host.add_container()
    result = host.add(container, host.config(ipam={"routes": routes}))
    assert result["routes"] == routes
    [default] = container.routes(dst="default")
    assert default["metric"] == 77
    assert default["metrics"] == [{"mtu": 1300, "advmss": 1200}]
    [other] = container.json("ip", "-j", "route", "show", "table", "200")
    assert other["dst"] == "192.0.2.0/24"
    [on_link] = container.routes(dst="203.0.113.0/24")
    assert "gateway" not in on_link


def test_pool_names(host: Host) -> None:
    container = host.add_container()
    result = host.add(container, host.config(), ifname="faasmp7")
    assert result["interfaces"][0]["name"] == "faasm7"
    other = host.add_container()
    call = host.cni("ADD", other, host.config(), ifname="faasmp7")
    call.error(102)
    assert other.links() == []
    assert len(host.leases()) == 1


def test_prefix(host: Host) -> None:
    container = host.add_container()
    result = host.add(container, host.config(hostInterfacePrefix="fn"))
    assert result["interfaces"][0]["name"] == "fn0"


def test_requested_address_and_mac(host: Host) -> None:
    container = host.add_container()
    config = host.config(
        runtimeConfig={"ips": ["10.200.9.9"], "mac": "02:11:22:33:44:55"},
        capabilities={"ips": True, "mac": True},
    )
    result = host.add(container, config)
    assert result["ips"][0]["address"] == "10.200.9.9/32"
    assert result["interfaces"][1]["mac"] == "02:11:22:33:44:55"
    other = host.add_container()
    host.cni("ADD", other, config).error(104)
    assert list(host.leases()) == ["testnet/10.200.9.9"]


def test_numbers_as_json_writers_make_them(host: Host) -> None:
    container = host.add_container()
    route = {"dst": "0.0.0.0/0", "mtu": 1300.0}
    config = host.config(mtu=1450.0, bandwidth={"ingressRate": 1e7}, ipam={"routes": [route]})
    assert b"1450.0" in json.dumps(config).encode()
    result = host.add(container, config)
    assert result["interfaces"][1]["mtu"] == 1450
    assert host.classes("faasm0")[0]["rate"] == 10_000_000
    assert container.routes(dst="default")[0]["metrics"] == [{"mtu": 1300}]
    told = json.loads(json.dumps(result).replace('"mtu": 1450', '"mtu": 1450.0'))
    host.check(container, config, told).ok()


def test_addresses_from_everywhere_join(host: Host) -> None:
    """Nerdctl's --ip comes by CNI_ARGS, its --ip6 by runtimeConfig."""
    config = host.config(ipam=DUAL_STACK, runtimeConfig={"ips": ["fd00:200::77"]})
    container = host.add_container()
    args = "IgnoreUnknown=1;IP=10.200.5.5"
    result = host.add(container, config, args=args)
    addresses = ["10.200.5.5/32", "fd00:200::77/128"]
    assert [one["address"] for one in result["ips"]] == addresses
    assert container.addresses("eth0") == addresses
    config["runtimeConfig"]["ips"] = ["10.200.5.6"]
    call = host.cni("ADD", host.add_container(), config, args=args)
    assert call.ok()["ips"][0]["address"] == "10.200.5.6/32"
    assert b"CNI_ARGS.IP: 10.200.5.5 passed over for 10.200.5.6" in call.stderr


REFUSED = {
    "no namespace": ("/run/netns/nowhere", 3),
    "a folder": ("/run", 4),
    "the host itself": ("/proc/self/ns/net", 4),
    "another kind of namespace": ("/proc/self/ns/mnt", 4),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_namespace_is_refused_before_anything_is_made(host: Host, case: str) -> None:
    path, code = REFUSED[case]
    before = host.snapshot()
    host.cni("ADD", path, limited(host)).error(code)
    host.assert_unchanged(before)


def test_a_fifo_as_namespace_does_not_hang(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    host.cni("ADD", str(tmp_path / "fifo"), limited(host), timeout=5).error(4)


def test_an_existing_interface_is_refused_before_anything_is_made(
    host: Host, container: Namespace
) -> None:
    container.run(["ip", "link", "add", "eth0", "type", "ifb"])
    before = host.snapshot()
    host.cni("ADD", container, limited(host)).error(102)
    host.assert_unchanged(before)


def test_a_second_add_is_refused(host: Host, container: Namespace) -> None:
    host.add(container, limited(host))
    before = host.snapshot()
    host.cni("ADD", container, limited(host)).error(102)
    container.run(["ip", "link", "set", "eth0", "down"])
    container.run(["ip", "link", "set", "eth0", "name", "moved"])
    error = host.cni("ADD", container, limited(host)).error(101)
    assert container.name in error["msg"]
    container.run(["ip", "link", "set", "moved", "name", "eth0"])
    container.run(["ip", "link", "set", "eth0", "up"])
    assert host.leases() == before["leases"]


def test_an_exhausted_range_is_refused(host: Host) -> None:
    ipam = {"subnet": "10.200.0.0/30"}
    host.add(host.add_container(), limited(host, ipam=ipam))
    last = host.add_container()
    before = host.snapshot()
    error = host.cni("ADD", last, limited(host, ipam=ipam)).error(103)
    assert "10.200.0.0/30" in error["msg"]
    host.assert_unchanged(before)


def test_a_late_failure_undoes_everything(host: Host, container: Namespace) -> None:
    before = host.snapshot()
    ipam = {"routes": [{"dst": "192.0.2.0/24", "gw": "203.0.113.1"}]}
    error = host.cni("ADD", container, limited(host, ipam=ipam)).error()
    assert "192.0.2.0/24" in error["msg"]
    host.assert_unchanged(before)


def test_a_runtime_that_does_not_listen_gets_no_attachment(
    host: Host, container: Namespace
) -> None:
    """The result cannot be told, so the attachment must not stay."""
    before = host.snapshot()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "CNI_COMMAND": "ADD",
        "CNI_PATH": "/nowhere",
        "CNI_CONTAINERID": "deaf",
        "CNI_NETNS": container.path,
        "CNI_IFNAME": "eth0",
    }
    read_end, write_end = os.pipe()
    os.close(read_end)
    with host.entered():
        done = subprocess.run(
            host.plugin,
            input=json.dumps(limited(host)).encode(),
            stdout=write_end,
            stderr=subprocess.PIPE,
            env=environment,
            check=False,
            timeout=10,
        )
    os.close(write_end)
    assert done.returncode == 1
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_parallel_adds_get_different_addresses_and_names(host: Host) -> None:
    containers = [host.add_container() for _ in range(12)]
    results: list[dict[str, Any]] = []

    def attach(container: Namespace) -> None:
        results.append(host.add(container, limited(host)))

    threads = [threading.Thread(target=attach, args=(one,)) for one in containers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({result["ips"][0]["address"] for result in results}) == 12
    names = {result["interfaces"][0]["name"] for result in results}
    assert names == {f"faasm{number}" for number in range(12)}


def test_del_when_the_namespace_is_gone(host: Host) -> None:
    container = host.add_container()
    host.add(container, limited(host))
    container.delete()
    host.delete_attachment(container.path, limited(host), container_id=container.name)
    assert host.leases() == {}
    assert host.records() == {}
    assert host.links() == []


@pytest.mark.parametrize("given", ["namespace", "prevResult", "neither"])
def test_del_without_a_record(host: Host, given: str) -> None:
    container = host.add_container()
    config = limited(host)
    result = host.add(container, config)
    (host.state_dir / "testnet" / f"{container.name}@eth0").unlink()
    if given == "prevResult":
        config["prevResult"] = result
    host.delete_attachment(
        container if given == "namespace" else None, config, container_id=container.name
    )
    assert host.leases() == {}
    if given != "neither":
        assert host.links() == []


def test_del_with_a_broken_configuration(host: Host) -> None:
    container = host.add_container()
    host.add(container, limited(host))
    broken = host.config(bandwidth={"ingressRate": "many"}, mtu=-1, ipam={"subnet": "x"})
    host.delete_attachment(container, broken)
    assert host.leases() == {}
    assert host.links() == []


def test_del_without_a_lease(host: Host) -> None:
    container = host.add_container()
    host.add(container, limited(host))
    for lease in (host.data_dir / "testnet").glob("10.*"):
        lease.unlink()
    host.delete_attachment(container, limited(host))
    assert host.links() == []
    assert host.records() == {}


def test_del_leaves_another_containers_reused_name_alone(host: Host) -> None:
    """Between ADD and DEL the link may vanish and its name be given to somebody else."""
    first, second = host.add_container(), host.add_container()
    config = limited(host)
    result = host.add(first, config)
    first.run(["ip", "link", "del", "eth0"])
    other = host.add(second, config)
    assert other["interfaces"][0]["name"] == result["interfaces"][0]["name"]
    host.delete_attachment(first, {**config, "prevResult": result})
    assert second.link("eth0") is not None
    assert list(host.leases()) == ["testnet/10.200.0.3"]


def test_an_address_is_free_again_after_del_and_goes_round_robin(host: Host) -> None:
    seen = []
    for _ in range(3):
        container = host.add_container()
        seen.append(host.add(container, limited(host))["ips"][0]["address"])
        host.delete_attachment(container, limited(host))
    assert seen == ["10.200.0.2/32", "10.200.0.3/32", "10.200.0.4/32"]


def test_unlimited_has_no_qdisc(host: Host, container: Namespace) -> None:
    host.add(container, host.config())
    assert [one["kind"] for one in host.qdiscs("faasm0")] == ["noqueue"]
    assert [one["kind"] for one in container.qdiscs("eth0")] == ["noqueue"]


@pytest.mark.parametrize(
    ("subnets", "expected", "has_default"),
    [
        (["10.201.0.2/31"], ["10.201.0.2", "10.201.0.3"], True),
        (["10.201.0.2/32", "10.202.0.9/32"], ["10.201.0.2", "10.202.0.9"], False),
        (["fd00:201::2/127"], ["fd00:201::2", "fd00:201::3"], False),
        (["fd00:201::2/128", "fd00:202::9/128"], ["fd00:201::2", "fd00:202::9"], True),
    ],
)
def test_pools_of_one_or_two_addresses(
    host: Host, subnets: list[str], expected: list[str], has_default: bool
) -> None:
    """All are leased, reach one another by the gateway outside, and the world by masquerading."""
    host.add_remote()
    is_v6 = ":" in subnets[0]
    gateway, bits, world = "10.200.0.1", 32, "198.51.100.1"
    if is_v6:
        gateway, bits, world = "fd00:200::1", 128, "2001:db8:100::1"
    routes = [{"dst": "::/0" if is_v6 else "0.0.0.0/0"}] if has_default else []
    ranges = [[{"subnet": subnet, "gateway": gateway} for subnet in subnets]]
    config = host.config(ipMasq=True, ipam={"subnet": None, "ranges": ranges, "routes": routes})
    containers = [host.add_container() for _ in expected]
    results = [host.add(container, config) for container in containers]
    assert [one["ips"][0]["address"] for one in results] == [f"{a}/{bits}" for a in expected]
    assert host.addresses("faasm0") == [f"{gateway}/{bits}"]
    for container, result in zip(containers, results, strict=True):
        host.check(container, config, result).ok()
    targets = [gateway, expected[1], *([world] if has_default else [])]
    for target in targets:
        containers[0].run(["busybox", "ping", "-c1", "-W2", target])
    error = host.cni("ADD", host.add_container(), config).error(103)
    assert "2 of 2 are leased" in error["msg"]
    listed = host.run(["nft", "list", "ruleset"]).stdout
    host.run(["nft", "-f", "-"], stdin=f"flush ruleset\n{listed}")
    for container, result in zip(containers, results, strict=True):
        host.check(container, config, result).ok()
        host.delete_attachment(container, config)
    assert host.leases() == {}


WAYS_OUT = {
    "the smallest of several hops": (
        ["default nexthop via 198.51.100.1 nexthop via 203.0.113.1"],
        (1300, 1300),
    ),
    "the route's own": (["default via 198.51.100.1 mtu 1350"], (1350, 1350)),
    "the route's own is larger": (["default via 203.0.113.1 mtu 1450"], (1300, 1300)),
    "one that is not taken": (
        ["default via 198.51.100.1", "default via 203.0.113.1 metric 100"],
        (1400, 1400),
    ),
    "each family by its own": (
        ["default via 198.51.100.1", "default via 2001:db8:200::1"],
        (1400, 1300),
    ),
    "several hops of IPv6": (
        ["default nexthop via 2001:db8:100::1 nexthop via 2001:db8:200::1"],
        (1300, 1300),
    ),
    "the other family where there is no way out by the own": (
        ["default via 2001:db8:200::1 mtu 1290"],
        (1290, 1290),
    ),
}


@pytest.mark.parametrize("case", WAYS_OUT)
def test_mtu_is_the_smallest_on_the_way_out(host: Host, case: str) -> None:
    """Of a network with IPv4 alone, and of one with both."""
    routes, expected = WAYS_OUT[case]
    host.add_remote(mtu=1400, default_route=False)
    host.add_remote(subnet="203.0.113", subnet6="2001:db8:200:", mtu=1300, default_route=False)
    for words in routes:
        family = "-6" if "2001:" in words else "-4"
        host.run(["ip", family, "route", "add", *words.split()])
    ranges = [[{"subnet": "10.201.0.0/16"}], [{"subnet": "fd00:201::/64"}]]
    dual = host.config(name="dual", ipam={"subnet": None, "ranges": ranges})
    found = [
        host.add(host.add_container(), config)["interfaces"][1]["mtu"]
        for config in (host.config(), dual)
    ]
    assert tuple(found) == expected


def test_mtu_where_hops_are_told_apart_from_routes(host: Host, container: Namespace) -> None:
    host.add_remote(mtu=1400, default_route=False)
    host.sysctl("net.ipv4.nexthop_compat_mode", "0")
    host.run(["ip", "nexthop", "add", "id", "7", "via", "198.51.100.1", "dev", "uplink"])
    host.run(["ip", "route", "add", "default", "nhid", "7"])
    assert host.add(container, host.config())["interfaces"][1]["mtu"] == 1400


def test_mtu_without_a_default_route(host: Host, container: Namespace) -> None:
    result = host.add(container, host.config())
    assert result["interfaces"][1]["mtu"] == 1500


def test_an_earlier_boots_leases_and_records_are_reclaimed(host: Host) -> None:
    ipam = {"subnet": "10.200.0.0/30"}
    gone = host.add_container()
    host.add(gone, limited(host, ipam=ipam))
    gone.delete()
    wait_until(lambda: host.links() == [], "the pair to go with its namespace")
    _reboot(host)
    result = host.add(host.add_container(), limited(host, ipam=ipam))
    assert result["ips"][0]["address"] == "10.200.0.2/32"
    assert len(host.records()) == 1


def _reboot(host: Host) -> None:
    """Make store and records look as a power cut leaves them: of another boot, older."""
    for path in (host.state_dir / "testnet").iterdir():
        document = json.loads(path.read_text())
        document["bootID"] = "00000000-0000-0000-0000-000000000000"
        path.write_text(json.dumps(document))
    for path in (host.data_dir / "testnet").glob("10.*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))


def test_limits_by_args(host: Host, container: Namespace) -> None:
    """As Nomad's users can give them; the record keeps them for whoever looks later."""
    config = host.config(ratesByArgs=True, maxEgressRate="5M")
    args = "IgnoreUnknown=true;NOMAD_JOB_NAME=web;EGRESS_RATE=10M;INGRESS_RATE=20M"
    call = host.cni("ADD", container, config, args=args)
    result = call.ok()
    assert b"lowered to 5 Mbit/s" in call.stderr
    rates = [host.classes("faasm0")[0]["rate"], container.classes("eth0")[0]["rate"]]
    assert rates == [20_000_000, 5_000_000]
    host.check(container, config, result, args=args).ok()
    host.delete_attachment(container, config, args=args)

    del config["ratesByArgs"]
    call = host.cni("ADD", container, config, args=args)
    call.ok()
    assert b"INGRESS_RATE passed over: ratesByArgs is not true" in call.stderr
    assert container.classes("eth0") == []
    host.delete_attachment(container, config)
