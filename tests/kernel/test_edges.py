"""Odd configurations, hosts and moments: what a runtime may meet, and nothing may stay.

Where a system call must fail or a signal come at a certain moment, strace does it to the
real process.
"""

import ctypes
import errno
import json
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.host import DUAL_STACK, REPO, SYSTEM_PATH, CniCall, Host, Namespace, wait_until
from tests.property.test_serve import DOCUMENTS, judge
from tests.tool import Tool

PING = ["busybox", "ping", "-c1", "-W2"]


def call(
    host: Host,
    verb: str,
    container: Namespace,
    config: dict[str, Any],
    *,
    before: list[str] | None = None,
    preexec: Callable[[], object] | None = None,
) -> CniCall:
    """Call the plugin by way of another program, or with something done in the child."""
    environment = {
        "PATH": SYSTEM_PATH,
        "CNI_COMMAND": verb,
        "CNI_PATH": "/nowhere",
        "CNI_CONTAINERID": container.name,
        "CNI_NETNS": container.path,
        "CNI_IFNAME": "eth0",
    }
    if host.plugin[0] == sys.executable:
        environment["PYTHONPATH"] = str(REPO)
    with host.entered():
        done = subprocess.run(
            [*(before or []), *host.plugin],
            input=json.dumps(config).encode(),
            capture_output=True,
            env=environment,
            preexec_fn=preexec,
            timeout=60,
            check=False,
        )
    return CniCall(verb, done.returncode, done.stdout, done.stderr)


def strace(*injections: str) -> list[str]:
    arguments = ["strace", "-f", "-o", "/dev/null"]
    for injection in injections:
        arguments += ["-e", f"inject={injection}"]
    return arguments


def assert_nothing(host: Host) -> None:
    assert host.links() == []
    assert host.leases() == {}
    assert host.records() == {}


# ---- configurations


@pytest.mark.parametrize("mtu", [68, 576, 1279, 1280, 9000, 65535])
@pytest.mark.parametrize("rate", [None, 1000, "1P"])
def test_any_mtu_and_rate(host: Host, container: Namespace, mtu: int, rate: object) -> None:
    bandwidth = {"ingressRate": rate, "egressRate": rate, "latency": 10_000} if rate else {}
    config = host.config(mtu=mtu, bandwidth=bandwidth)
    result = host.add(container, config)
    assert result["interfaces"][1]["mtu"] == mtu
    host.check(container, config, result).ok()
    host.delete_attachment(container, config)
    assert_nothing(host)


@pytest.mark.parametrize("burst", [1, 2**31 - 2, 2**40, 2**63 - 1])
def test_any_burst(host: Host, container: Namespace, burst: int) -> None:
    bandwidth = {
        key + end: value
        for key in ("ingress", "egress")
        for end, value in (("Rate", 10**6), ("Burst", burst))
    }
    config = host.config(bandwidth=bandwidth)
    result = host.add(container, config)
    [one] = container.classes("eth0")
    assert one["burst"] >= 1500
    host.check(container, config, result).ok()


def test_eight_addresses(host: Host, container: Namespace) -> None:
    ranges = [[{"subnet": f"10.{n}.0.0/16"}] for n in range(4)]
    ranges += [[{"subnet": f"fd00:{n}::/64"}] for n in range(4)]
    config = host.config(ipMasq=True, ipam={**DUAL_STACK, "ranges": ranges})
    result = host.add(container, config)
    assert len(result["ips"]) == 8
    for ip in result["ips"]:
        host.run([*PING, ip["address"].partition("/")[0]])
    host.check(container, config, result).ok()
    host.delete_attachment(container, config)
    assert_nothing(host)


def test_range_sets_that_share_a_gateway(host: Host, container: Namespace) -> None:
    ranges = [[{"subnet": f"10.{n}.0.0/16", "gateway": "169.254.1.1"}] for n in range(2)]
    config = host.config(ipam={"subnet": None, "ranges": ranges})
    result = host.add(container, config)
    host.check(container, config, result).ok()
    container.run([*PING, "169.254.1.1"])


@pytest.mark.parametrize("dst", ["10.200.0.0/16", "10.200.0.1/32"])
def test_a_route_that_is_there_anyway(host: Host, container: Namespace, dst: str) -> None:
    config = host.config(ipam={"routes": [{"dst": dst}, {"dst": dst}]})
    result = host.add(container, config)
    host.check(container, config, result).ok()
    container.run([*PING, "10.200.0.1"])


def defaults(container: Namespace, family: str) -> list[tuple[str, int]]:
    output = container.run(["ip", family, "-j", "route", "show", "default"]).stdout
    return [(one["dev"], one.get("metric", 0)) for one in json.loads(output)]


def assert_first_wins(container: Namespace, dev: str = "eth0") -> None:
    """Several of one metric: IPv6 takes turns by source and destination, IPv4 at each look."""
    for number in range(20):
        for family, far in (("-4", "192.0.2."), ("-6", "2001:db8:100::")):
            answer = container.run(["ip", family, "route", "get", f"{far}{number}"]).stdout
            assert f" dev {dev} " in answer, answer


def test_a_second_and_a_third_interface(host: Host, container: Namespace) -> None:
    """As `podman run --network one,two` and Multus attach them, each with a default route."""
    host.add_remote()
    one = host.config(ipMasq=True, ipam=DUAL_STACK)
    ranges = [[{"subnet": "10.201.0.0/16"}], [{"subnet": "fd00:201::/64"}]]
    two = host.config(name="two", ipMasq=True, ipam={**DUAL_STACK, "ranges": ranges})
    attachments = [("eth0", one), ("eth1", two), ("eth2", one)]
    results = {name: host.add(container, config, ifname=name) for name, config in attachments}
    for name, config in attachments:
        host.check(container, config, results[name], ifname=name).ok()
        for ip in results[name]["ips"]:
            host.run([*PING, ip["address"].partition("/")[0]])
    for family, first, anywhere in (("-4", 0, "0.0.0.0/0"), ("-6", 1024, "::/0")):
        in_order = [("eth0", first), ("eth1", first + 1), ("eth2", first + 2)]
        assert defaults(container, family) == in_order
        container.run(["ip", family, "route", "del", "default", "dev", "eth1"])
        drift = host.check(container, two, results["eth1"], ifname="eth1").error(107)
        assert f"route: expected {anywhere}" in drift["details"]
        Tool(host)("repair", "--state-dir", str(host.state_dir)).ok()
        assert defaults(container, family) == in_order
    assert_first_wins(container)
    host.delete_attachment(container, one, ifname="eth0")
    assert_first_wins(container, "eth1")
    host.check(container, two, results["eth1"], ifname="eth1").ok()
    container.run([*PING, "198.51.100.1"])
    container.run([*PING, "-6", "2001:db8:100::1"])


@pytest.mark.parametrize("plugin", ["ptp", "bridge", "macvlan"])
def test_behind_another_plugin(host: Host, container: Namespace, plugin: str) -> None:
    host.add_remote()
    ranges = [[{"subnet": "10.201.0.0/16"}], [{"subnet": "fd00:201::/64"}]]
    anywhere = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
    ipam = {"type": "host-local", "ranges": ranges, "routes": anywhere}
    other: dict[str, Any] = {"type": plugin, "ipam": ipam}
    if plugin == "bridge":
        other["isGateway"] = True
    if plugin == "macvlan":
        other["master"] = "uplink"
    config = host.config(ipMasq=True, ipam=DUAL_STACK)
    host.chain("ADD", container, {"cniVersion": "1.0.0", "name": "other", "plugins": [other]})
    known = ["lladdr", "02:00:00:00:00:01", "dev", "eth0"]  # as once it has been spoken with
    container.run(["ip", "neigh", "replace", "10.201.0.1", *known, "nud", "permanent"])
    result = host.add(container, config, ifname="eth1")
    host.check(container, config, result, ifname="eth1").ok()
    assert_first_wins(container)
    host.delete_attachment(container, config, ifname="eth1")
    assert [dev for dev, _ in defaults(container, "-4")] == ["eth0"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("metric 78 mtu 1300 advmss 1200", "priority: expected 77, found 78"),
        ("metric 77 mtu 1299 advmss 1200", "mtu: expected 1300, found 1299"),
        ("metric 77 mtu 1300", "advmss: expected 1200, found none"),
    ],
)
def test_a_route_that_lost_an_attribute(
    host: Host, container: Namespace, change: str, words: str
) -> None:
    default = {"dst": "0.0.0.0/0", "mtu": 1300, "advmss": 1200, "priority": 77}
    config = host.config(ipam={"routes": [default]})
    result = host.add(container, config)
    host.check(container, config, result).ok()
    container.run(["ip", "route", "del", "default"])
    container.run(["ip", "route", "add", "default", "via", "10.200.0.1", *change.split()])
    assert words in host.check(container, config, result).error(107)["details"]


# ---- hosts


def test_an_uplink_too_small_for_ipv6(host: Host, container: Namespace) -> None:
    host.add_remote(subnet6=None)
    host.run(["ip", "link", "set", "uplink", "mtu", "1200"])
    result = host.add(container, host.config(ipam=DUAL_STACK))
    assert result["interfaces"][1]["mtu"] == 1280


def test_a_host_without_ipv6(host: Host, container: Namespace) -> None:
    for which in ("all", "default"):
        host.sysctl(f"net.ipv6.conf.{which}.disable_ipv6", "1")
    config = host.config(ipam=DUAL_STACK)
    result = host.add(container, config)
    host.check(container, config, result).ok()
    container.run([*PING, "-6", "fd00:200::1"])


def test_networks_that_share_a_range(host: Host) -> None:
    """The second must not take the first one's traffic."""
    first, second = host.add_container(), host.add_container()
    config = host.config()
    result = host.add(first, config)
    before = host.snapshot()
    error = host.cni("ADD", second, host.config(name="two")).error(104)
    assert f"cni-faasm testnet {first.name} eth0" in error["msg"]
    host.assert_unchanged(before, ignore={"records"})
    host.check(first, config, result).ok()


def test_an_operators_route_is_spared(host: Host, container: Namespace) -> None:
    host.add_remote()
    host.run(["ip", "route", "add", "10.200.0.2/32", "via", "198.51.100.1"])
    before = host.snapshot()
    assert "uplink" in host.cni("ADD", container, host.config()).error(104)["msg"]
    host.assert_unchanged(before)
    result = host.add(container, host.config())  # round robin goes on to the next address
    assert result["ips"][0]["address"] == "10.200.0.3/32"


def test_an_address_of_the_host_itself(host: Host, container: Namespace) -> None:
    host.add_remote()
    host.run(["ip", "addr", "add", "10.200.0.2/24", "dev", "uplink"])
    host.cni("ADD", container, host.config()).error(104)
    config = host.config()
    host.check(container, config, host.add(container, config)).ok()


def test_what_a_dead_attachment_left_is_replaced(host: Host) -> None:
    first, second = host.add_container(), host.add_container()
    config = host.config()
    host.add(first, config)
    for path in (*(host.data_dir / "testnet").iterdir(), *(host.state_dir / "testnet").iterdir()):
        path.unlink()
    result = host.add(second, config)
    assert result["ips"][0]["address"] == "10.200.0.2/32"
    host.check(second, config, result).ok()
    host.run([*PING, "10.200.0.2"])


def test_rules_that_route_elsewhere_are_no_reason_to_refuse(
    host: Host, container: Namespace
) -> None:
    """A VPN's rule may stand before the main table."""
    host.add_remote()
    host.run(["ip", "rule", "add", "pref", "100", "lookup", "77"])
    host.run(["ip", "route", "add", "default", "via", "198.51.100.1", "table", "77"])
    host.add(container, host.config())


@pytest.mark.parametrize("changed", ["alias", "name"])
def test_del_knows_a_link_that_somebody_changed(
    host: Host, container: Namespace, changed: str
) -> None:
    host.add(container, host.config())
    host.run(["ip", "link", "set", "faasm0", "down"])
    host.run(["ip", "link", "set", "faasm0", changed, "mine"])
    host.delete_attachment(None, host.config(), container_id=container.name)
    assert_nothing(host)


def test_gc_of_a_network_with_a_very_long_name(host: Host, container: Namespace) -> None:
    config = host.config(name="n" * 249)
    host.add(container, config)
    host.cni("GC", None, {**config, "cni.dev/valid-attachments": []}).ok()
    assert_nothing(host)


def test_gcs_of_several_networks_at_once(host: Host) -> None:
    configs = [host.config(name=f"n{n}", ipam={"subnet": f"10.{n}.0.0/16"}) for n in range(4)]
    for config in configs:
        for _ in range(2):
            host.add(host.add_container(), config)
    calls: list[CniCall] = []

    def collect(config: dict[str, Any]) -> None:
        calls.append(host.cni("GC", None, {**config, "cni.dev/valid-attachments": []}))

    threads = [threading.Thread(target=collect, args=(one,)) for one in configs * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in calls:
        one.ok()
    assert_nothing(host)


@pytest.mark.parametrize("moment", [("delay_exit", 2), ("delay_enter", 3)])
def test_an_add_while_gc_is_at_work(
    host: Host, container: Namespace, moment: tuple[str, int]
) -> None:
    """After GC has looked at the links, or at the records too, it takes nothing of a new one."""
    config = host.config(ipMasq=True)
    first = host.add_container()
    host.add(first, config)
    host.delete_attachment(first, config)  # the network's tables stay
    for seconds in (0.5, 3, 9):  # a busy machine may not have come to the delay by then
        result, began = _add_beside_gc(host, container, config, moment, seconds)
        if began:
            host.check(container, config, result).ok()
            return
        host.delete_attachment(container, config)
    pytest.fail("GC was never at work when ADD came")


def _add_beside_gc(
    host: Host,
    container: Namespace,
    config: dict[str, Any],
    moment: tuple[str, int],
    seconds: float,
) -> tuple[dict[str, Any], bool]:
    """Call ADD while GC is held up. Returns: its result, and whether GC had come so far."""
    kind, number = moment
    delay = int((seconds + 1) * 1_000_000)
    log = host.directory / "gc"
    traced = ["strace", "-f", "-ttt", "-o", str(log), "-e", "trace=sendto"]
    traced += ["-e", f"inject=sendto:{kind}={delay}:when={number}"]
    network = {**config, "cni.dev/valid-attachments": []}
    calls: list[CniCall] = []
    thread = threading.Thread(
        target=lambda: calls.append(call(host, "GC", container, network, before=traced))
    )
    thread.start()
    time.sleep(seconds)  # into the delay
    before = time.time()
    result = host.add(container, config)
    thread.join()
    calls[0].ok()
    sent = [float(at) for at in re.findall(r"([\d.]+) sendto\(", log.read_text(encoding="utf-8"))]
    return result, sent[number - 1] < before


# ---- processes


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
@pytest.mark.parametrize("verb", ["ADD", "DEL"])
def test_closed_standard_descriptors(
    host: Host, container: Namespace, verb: str, closed: tuple[int, ...]
) -> None:
    config = host.config(ipMasq=True)
    if verb == "DEL":
        host.add(container, config)

    def close() -> None:
        for fd in closed:
            os.close(fd)

    done = call(host, verb, container, config, preexec=close)
    attached = done.status == (1 if verb == "DEL" else 0)
    # Without stdin there is no request, without stdout no way to tell ADD's result.
    assert done.status == int(0 in closed or (verb == "ADD" and 1 in closed))
    assert bool(host.links()) == bool(host.leases()) == attached
    if done.status and 1 not in closed:
        # The bundle fills closed descriptors before any of our code runs: stdin is empty then.
        assert done.error()["code"] in {5, 6}


def test_del_with_sigchld_ignored(host: Host, container: Namespace) -> None:
    """A runtime may ignore it, and programs that are executed inherit that."""
    host.add(container, host.config())
    ignore = lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # noqa: E731
    # The deletion fails in the child, so the parent sees it end before the link is gone.
    before = strace("close_range:delay_enter=50000:when=1")
    call(host, "DEL", container, host.config(), before=before, preexec=ignore).ok()
    assert_nothing(host)


def test_del_where_no_process_can_be_forked(host: Host, container: Namespace) -> None:
    host.add(container, host.config())
    before = strace("clone,clone3,fork,vfork:error=EAGAIN")
    call(host, "DEL", container, host.config(), before=before).ok()
    assert_nothing(host)


def test_few_descriptors(host: Host, container: Namespace) -> None:
    """With any limit the call succeeds, or fails and leaves all as it was."""
    config = host.config(ipMasq=True, ipam=DUAL_STACK)
    for limit in range(6, 16):

        def lower(limit: int = limit) -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

        done = call(host, "ADD", container, config, preexec=lower)
        if done.status:
            done.error(5)
            assert_nothing(host)
        else:
            done = call(host, "DEL", container, config, preexec=lower)
            if done.status:
                done.error(5)
                host.delete_attachment(container, config)
            assert_nothing(host)
    assert not done.status  # else nothing was tried


def test_status_where_nf_tables_is_missing(host: Host, container: Namespace) -> None:
    """Socket by socket refused, as by a kernel that lacks it; one of them is nf_tables'."""
    told = []
    for number in range(1, 10):  # from source the first are the interpreter's own
        before = strace(f"socket:error=EPROTONOSUPPORT:when={number}")
        done = call(host, "STATUS", container, host.config(ipMasq=True), before=before)
        if done.status:
            told.append(done.error(50)["msg"])
        # A trial that went well is kept, and then nothing is tried again.
        (host.state_dir / "testnet" / "rehearsed").unlink(missing_ok=True)
    assert any("nf_tables" in msg for msg in told), told
    assert any("links and routes" in msg for msg in told)


def test_without_nf_tables_where_nothing_needs_it(host: Host, container: Namespace) -> None:
    """As above: whatever fails, fails for another socket."""
    config = host.config(ipMasq=False, antiSpoof=False)
    told: dict[str, list[str]] = {"ADD": [], "CHECK": [], "DEL": []}
    passed = dict.fromkeys(told, 0)
    for number in range(1, 6):
        before = strace(f"socket:error=EPROTONOSUPPORT:when={number}")
        for verb, seen in told.items():
            if verb == "CHECK" and not host.records():
                host.add(container, config)
            done = call(host, verb, container, config, before=before)
            if done.status:
                seen.append(done.error()["msg"])
            else:
                passed[verb] += 1
        if host.records():
            host.delete_attachment(container, config)
        assert_nothing(host)
    assert all(passed.values())
    assert told["ADD"]  # else nothing was refused
    assert not [msg for seen in told.values() for msg in seen if "nf_tables" in msg]


def refuse_nf_tables() -> None:
    """Have the kernel answer as one that was built without nf_tables, by seccomp.

    Layout: <linux/filter.h>, <linux/seccomp.h>; offsets in struct seccomp_data.
    """
    load, equal, give = 0x20, 0x15, 0x06
    refused = 0x00050000 | errno.EPROTONOSUPPORT
    numbers = {"x86_64": 41, "aarch64": 198}
    steps = [(load, 0, 0, 0), (equal, 0, 5, numbers[os.uname().machine])]
    steps += [(load, 0, 0, 16), (equal, 0, 3, socket.AF_NETLINK)]
    steps += [(load, 0, 0, 32), (equal, 0, 1, 12)]  # NETLINK_NETFILTER
    steps += [(give, 0, 0, refused), (give, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *one) for one in steps))
    program = struct.pack("@HP", len(steps), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, 2, program, 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def test_limits_where_nf_tables_is_missing(host: Host, container: Namespace) -> None:
    """They hold at the container's own end, and ADD says that they do nowhere else."""
    config = host.config(ipMasq=False, antiSpoof=False, bandwidth={"egressRate": "10M"})
    for verb in ("STATUS", "ADD", "CHECK", "DEL"):
        one = {**config, "cniVersion": "1.1.0"} if verb == "STATUS" else config
        done = call(host, verb, container, one, preexec=refuse_nf_tables)
        assert done.status == 0, done
        assert (b"this kernel lacks limits" in done.stderr) == (verb == "ADD")
        assert verb != "ADD" or [one["rate"] for one in container.classes("eth0")] == [10_000_000]
        assert host.nft() == []
    assert_nothing(host)


@pytest.mark.parametrize("capability", ["net_admin", "sys_admin"])
def test_status_without_rights(host: Host, container: Namespace, capability: str) -> None:
    before = ["setpriv", f"--bounding-set=-{capability}", f"--inh-caps=-{capability}", "--"]
    done = call(host, "STATUS", container, host.config(), before=before)
    assert capability in done.error(50)["details"].lower()


def test_status_where_forwarding_cannot_be_switched_on(host: Host, container: Namespace) -> None:
    host.sysctl("net.ipv4.ip_forward", "0")
    script = 'mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys && exec "$@"'
    before = ["unshare", "--mount", "sh", "-c", script, "sh"]
    done = call(host, "STATUS", container, host.config(), before=before)
    assert "ip_forward" in done.error(50)["msg"]
    call(host, "ADD", container, host.config(), before=before).error(5)
    assert_nothing(host)
    host.sysctl("net.ipv4.ip_forward", "1")
    call(host, "STATUS", container, host.config(), before=before).ok()


# ---- moments


SIGNALLED = ("sendto", "recvmsg", "write", "renameat", "flock", "setns")


@pytest.mark.parametrize("again", ["", "+"])
@pytest.mark.parametrize("name", SIGNALLED)
def test_sigterm_at_any_call(host: Host, container: Namespace, name: str, again: str) -> None:
    """Once, or at that call and all that follow: told, and undone; or too late to matter.

    The bundle blocks the signal: a verb that has begun ends.
    """
    is_bundle = host.plugin[0] != sys.executable
    config = host.config(ipMasq=True, ipam=DUAL_STACK, bandwidth={"ingressRate": "1M"})
    host.add(container, config)
    host.delete_attachment(container, config)
    for number in range(1, 40):
        before = strace(f"{name}:signal=SIGTERM:when={number}{again}")
        done = call(host, "ADD", container, config, before=before)
        if done.status == 0:
            done.ok()
            assert host.links() == ["faasm0"]
            host.delete_attachment(container, config)
            assert_nothing(host)
            if is_bundle and number < 6:
                continue
            break
        assert not is_bundle
        assert "signal" in done.error(100)["msg"]
        assert_nothing(host)
    assert number > 2


@pytest.mark.parametrize("other", ["DEL", "GC"])
@pytest.mark.parametrize("call_number", range(1, 10))
def test_a_del_while_add_is_at_work(
    host: Host, container: Namespace, other: str, call_number: int
) -> None:
    """Whoever wins: link, lease and record are all there, or none of them is."""
    config = host.config()
    calls: list[CniCall] = []

    def add() -> None:
        before = strace(f"sendto:delay_enter=300000:when={call_number}")
        calls.append(call(host, "ADD", container, config, before=before))

    thread = threading.Thread(target=add)
    thread.start()
    wait_until(lambda: host.records() or not thread.is_alive(), "the record")
    time.sleep(0.03)  # into the delay, if it comes after the record
    host.cni(other, container, {**config, "cni.dev/valid-attachments": []}).ok()
    thread.join()
    left = {bool(host.links()), bool(host.leases()), bool(host.records())}
    assert len(left) == 1
    if calls[0].status:
        calls[0].error()
        assert left == {False}
    host.delete_attachment(container, config)
    assert_nothing(host)


def test_parallel_adds_of_one_container(host: Host, container: Namespace) -> None:
    config = host.config()
    calls: list[CniCall] = []
    threads = [
        threading.Thread(target=lambda: calls.append(host.cni("ADD", container, config)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.status for one in calls) == [0, 1, 1, 1, 1, 1]
    for one in calls:
        if one.status:
            assert one.error()["code"] in {101, 102}
        else:
            host.check(container, config, one.ok()).ok()
    assert len(host.leases()) == len(host.links()) == 1


# ---- anything


CONFIGURATIONS = st.fixed_dictionaries(
    {},
    optional={
        "mtu": st.integers(0, 65535),
        "ipMasq": st.booleans(),
        "bandwidth": st.fixed_dictionaries(
            {},
            optional={
                "ingressRate": st.integers(0, 10**15),
                "egressRate": st.integers(0, 10**15),
                "ingressBurst": st.integers(0, 2**63 - 1),
                "latency": st.integers(1, 10_000),
            },
        ),
        "hostInterfacePrefix": st.sampled_from(["faasm", "x", "eth", "lo", "a.b-c_d"]),
        "runtimeConfig": st.fixed_dictionaries(
            {}, optional={"mac": st.just("02:00:00:00:00:09"), "ips": st.just(["10.200.0.9"])}
        ),
    },
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(keys=CONFIGURATIONS, noise=DOCUMENTS, noisy=st.booleans())
def test_any_configuration_comes_and_goes(
    host: Host, container: Namespace, keys: dict[str, Any], noise: dict[str, Any], noisy: bool
) -> None:
    config = {**host.config(**keys), **(noise if noisy else {})}
    # Nothing may go where it is not the test's.
    config.update(stateDir=str(host.state_dir), dataDir=str(host.data_dir))
    environ = {
        "CNI_CONTAINERID": container.name,
        "CNI_NETNS": container.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }

    def serve(verb: str, document: dict[str, Any]) -> dict[str, Any] | None:
        with host.entered():
            return judge({**environ, "CNI_COMMAND": verb}, json.dumps(document).encode())

    result = serve("ADD", config)
    assert result is not None
    if "code" not in result:
        assert serve("CHECK", {**config, "prevResult": result}) in (None, {}) or (
            config.get("cniVersion") not in ("0.4.0", "1.0.0", "1.1.0")
        )
    serve("STATUS", config)
    serve("DEL", config)
    if "code" in result:
        serve("DEL", host.config())
    assert_nothing(host)


def test_descriptors_are_closed(host: Host, container: Namespace) -> None:
    """The tool calls the verbs in-process, by the hundred; judge counts what is open."""
    config = host.config(ipMasq=True, ipam=DUAL_STACK, bandwidth={"ingressRate": "1M"})
    environ = {
        "CNI_CONTAINERID": container.name,
        "CNI_NETNS": container.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }
    for verb in ("STATUS", "ADD", "ADD", "CHECK", "DEL", "DEL", "GC"):
        with host.entered():
            judge({**environ, "CNI_COMMAND": verb}, json.dumps(config).encode())


def test_ipv6_forwarding_keeps_the_host_listening_to_its_routers(
    host: Host, container: Namespace
) -> None:
    """By all its interfaces: before any default route, and by those that come later."""
    host.add_remote(default_route=False)
    host.add_remote(subnet="203.0.113", subnet6="2001:db8:113:", default_route=False)
    host.run(["ip", "link", "add", "deaf", "type", "veth", "peer", "name", "other"])
    host.sysctl("net.ipv6.conf.deaf.accept_ra", "0")
    assert host.sysctl("net.ipv6.conf.all.forwarding") == "0"
    assert host.sysctl("net.ipv6.conf.uplink2.accept_ra") == "1"
    host.add(container, host.config(ipam=DUAL_STACK))
    host.run(["ip", "link", "add", "later", "type", "veth", "peer", "name", "its"])
    told = {
        name: host.sysctl(f"net.ipv6.conf.{name}.accept_ra")
        for name in ("uplink", "uplink2", "deaf", "faasm0", "later")
    }
    assert told == {"uplink": "2", "uplink2": "2", "deaf": "0", "faasm0": "0", "later": "2"}
    second = host.add_container()
    host.add(second, host.config(ipam=DUAL_STACK))
    assert host.sysctl("net.ipv6.conf.faasm1.accept_ra") == "0"
