"""Attach containers by real runtimes with the built plugin, and measure from inside them."""

import json
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL
from tests.rates import assert_near, client_command, goodput
from tests.runtime.conftest import EGRESS, INGRESS, Attached
from tests.runtime.runtimes import CONFIG_FILE, Libcni, Runtime

REMOTE = "198.51.100.1"


def inside_command(argv: list[str]) -> list[str]:
    """Return a command with the path it has in the containers' file system."""
    return [f"/bin/{argv[0]}", *argv[1:]]


def one_class(classes: list[dict[str, Any]]) -> dict[str, Any]:
    (only,) = classes
    return only


def test_a_container_gets_its_shaped_network(runtime: Runtime) -> None:
    host = runtime.host
    before = host.snapshot()

    inside = runtime.run("box1")
    attached = Attached(host, inside)
    assert attached.cidr.startswith("10.200.")
    assert attached.cidr.endswith("/32")
    (default,) = inside.routes(dst="default")
    assert (default["gateway"], default["dev"]) == ("10.200.0.1", "eth0")
    assert attached.outer.startswith("faasm")
    assert sorted(host.nft_tables()) == [
        "arp guard_faasm",
        "arp limit_faasm",
        "inet faasm_faasm",
        "inet guard_faasm",
        "inet limit_faasm",
    ]
    assert list(host.leases()) == [f"faasm/{attached.address}"]
    assert len(host.records()) == 1

    outer = one_class(host.classes(attached.outer))
    inner = one_class(inside.classes("eth0"))
    assert (outer["handle"], outer["rate"], outer["ceil"]) == ("1:1", INGRESS, INGRESS)
    assert (inner["handle"], inner["rate"], inner["ceil"]) == ("1:1", EGRESS, EGRESS)

    # The remote machine knows no way to 10.200.0.0/16: an answer was masqueraded.
    runtime.execute("box1", ["/bin/busybox", "ping", "-c", "1", "-W", "5", REMOTE])

    def measured(command: list[str]) -> list[float]:
        return [goodput(runtime.execute("box1", inside_command(command)))]

    upload = client_command(REMOTE)
    assert_near(EGRESS, lambda: measured(upload))
    download = client_command(REMOTE, port=5202, download=True)
    assert_near(INGRESS, lambda: measured(download))

    runtime.remove("box1")
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_containers_reach_each_other_and_leave_one_by_one(runtime: Runtime) -> None:
    host = runtime.host
    before = host.snapshot()
    first = Attached(host, runtime.run("box1"))
    second = Attached(host, runtime.run("box2"))
    assert first.address != second.address
    assert first.outer != second.outer
    runtime.execute("box1", ["/bin/busybox", "ping", "-c", "1", "-W", "5", second.address])
    runtime.execute("box2", ["/bin/busybox", "ping", "-c", "1", "-W", "5", first.address])

    runtime.remove("box1")
    assert [lease.partition("/")[2] for lease in host.leases()] == [second.address]
    runtime.execute("box2", ["/bin/busybox", "ping", "-c", "1", "-W", "5", REMOTE])
    again = Attached(host, runtime.run("box3"))
    assert again.address not in (first.address, second.address)  # round robin

    runtime.remove("box2")
    runtime.remove("box3")
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_libcni_checks_and_notices(libcni: Libcni) -> None:
    host = libcni.host
    inside = libcni.run("box1")
    attached = Attached(host, inside)
    done = libcni.call("check", inside)
    assert (done.returncode, done.stderr) == (0, "")

    host.run(["tc", "qdisc", "del", "dev", attached.outer, "root"])
    done = libcni.call("check", inside)
    assert done.returncode == 1
    assert attached.outer in done.stderr
    libcni.remove("box1")


def test_libcni_passes_capabilities(libcni: Libcni) -> None:
    inside = libcni.host.add_container("box1")
    limits = {"ingressRate": 3_000_000, "egressRate": 2_000_000}
    done = libcni.call("add", inside, {"bandwidth": limits, "ips": ["10.200.7.7/16"]})
    assert done.returncode == 0, done.stderr
    attached = Attached(libcni.host, inside)
    assert attached.address == "10.200.7.7"
    assert one_class(libcni.host.classes(attached.outer))["rate"] == 3_000_000
    assert one_class(inside.classes("eth0"))["rate"] == 2_000_000
    assert libcni.call("del", inside).returncode == 0


def test_libcni_deletes_any_number_of_times(libcni: Libcni) -> None:
    before = libcni.host.snapshot()
    inside = libcni.run("box1")
    for _ in range(3):
        assert libcni.call("del", inside).returncode == 0
    libcni.remove("box1")
    libcni.host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_libcni_asks_for_versions(libcni: Libcni) -> None:
    done = libcni.call("version", libcni.host.add_container("box1"))
    for version in ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"):
        assert f'"{version}"' in done.stdout


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_libcni_understands_results_of_every_version(
    libcni: Libcni, conflist: dict[str, Any], version: str
) -> None:
    conflist["cniVersion"] = version
    conflist.pop("cniVersions", None)
    CONFIG_FILE.write_text(json.dumps(conflist), encoding="utf-8")
    inside = libcni.host.add_container("box1")
    done = libcni.call("add", inside)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["cniVersion"] == version
    assert [ip["address"] for ip in result["ips"]] == inside.addresses("eth0")
    if version >= "0.4.0":
        assert libcni.call("check", inside).returncode == 0
    assert libcni.call("del", inside).returncode == 0
    assert inside.links() == []
