"""GC removes what belongs to nothing, and only that; STATUS says whether an ADD would work."""

import json
import re
import shutil
import subprocess
import sys
from typing import Any

import pytest

from tests.host import REPO, SYSTEM_PATH, Host

pytestmark = pytest.mark.also_reluctant

TABLES = [
    "arp guard_testnet",
    "arp limit_testnet",
    "inet faasm_testnet",
    "inet guard_testnet",
    "inet limit_testnet",
]


def attachments(*pairs: tuple[str, str]) -> dict[str, Any]:
    return {
        "cni.dev/valid-attachments": [
            {"containerID": container, "ifname": ifname} for container, ifname in pairs
        ]
    }


def test_gc_keeps_the_valid_and_removes_the_rest(host: Host) -> None:
    config = host.config(ipMasq=True, bandwidth={"ingressRate": 10**6, "egressRate": 10**6})
    kept, lost, gone = (host.add_container() for _ in range(3))
    for one in (kept, lost, gone):
        host.add(one, config)
    gone.delete()
    host.cni("GC", None, {**config, **attachments((kept.name, "eth0"))}).ok()
    assert kept.link("eth0") is not None
    assert lost.link("eth0") is None
    assert host.links() == ["faasm0"]
    assert host.leases() == {"testnet/10.200.0.2": f"{kept.name}\r\neth0"}
    assert list(host.records()) == [f"testnet/{kept.name}@eth0"]
    assert sorted(host.nft_tables()) == TABLES


def test_gc_with_no_valid_attachment_leaves_nothing_at_all(host: Host) -> None:
    config = host.config(ipMasq=True)
    for _ in range(3):
        host.add(host.add_container(), config)
    host.cni("GC", None, {**config, **attachments()}).ok()
    assert host.nft_tables() == []
    assert host.links() == []
    assert host.leases() == {}
    assert host.records() == {}
    host.cni("GC", None, {**config, **attachments()}).ok()


def test_gc_releases_leases_of_host_local_that_nobody_owns(host: Host) -> None:
    config = host.config()
    container = host.add_container()
    host.add(container, config)
    folder = host.data_dir / "testnet"
    (folder / "10.200.0.77").write_bytes(b"stray\r\neth0")
    (folder / "10.200.0.78").write_bytes(b"held\r\neth0")
    (folder / "10.200.0.79").write_bytes(b"old-format")
    valid = attachments((container.name, "eth0"), ("held", "eth0"), ("old-format", "eth0"))
    host.cni("GC", None, {**config, **valid}).ok()
    assert set(host.leases()) == {
        "testnet/10.200.0.2",
        "testnet/10.200.0.78",
        "testnet/10.200.0.79",
    }


def test_gc_leaves_other_networks_alone(host: Host) -> None:
    mine, other = host.add_container(), host.add_container()
    host.add(mine, host.config())
    foreign = host.config(name="other", ipam={"subnet": "10.201.0.0/16"})
    host.add(other, foreign)
    host.cni("GC", None, {**host.config(), **attachments()}).ok()
    assert other.link("eth0") is not None
    assert list(host.leases()) == ["other/10.201.0.2"]


@pytest.mark.parametrize("key", ["cni.dev/valid-attachments", "cni.dev/attachments"])
def test_gc_with_a_null_list_keeps_nothing(host: Host, key: str) -> None:
    """As libcni writes an empty one: CRI-O at the start of a node without pods."""
    host.add(host.add_container(), host.config())
    host.cni("GC", None, {**host.config(), key: None}).ok()
    assert host.links() == []
    assert host.leases() == {}
    assert host.records() == {}


@pytest.mark.parametrize(
    ("keys", "msg"),
    [
        ({}, "cni.dev/valid-attachments: missing"),
        ({"cni.dev/valid-attachments": {}}, "cni.dev/valid-attachments: value {}"),
        (
            {"cni.dev/valid-attachments": [{"ifname": "eth0"}]},
            "cni.dev/valid-attachments[0].containerID: missing",
        ),
        ({"cni.dev/attachments": [1]}, "cni.dev/attachments[0]: value 1"),
    ],
)
def test_gc_without_a_whole_list_removes_nothing(
    host: Host, keys: dict[str, Any], msg: str
) -> None:
    host.add(host.add_container(), host.config())
    before = host.links(), host.leases(), host.records(), host.nft_tables()
    error = host.cni("GC", None, {**host.config(), **keys}).error(7)
    assert error["msg"].startswith(msg)
    assert '"cni.dev/valid-attachments": [{"containerID": "c1"' in error["details"]
    assert (host.links(), host.leases(), host.records(), host.nft_tables()) == before


def test_gc_with_a_lost_record_and_alias(host: Host) -> None:
    """What a kill between the pair's creation and its alias leaves: only the MAC tells."""
    config = host.config()
    container = host.add_container()
    host.add(container, config)
    host.run(["ip", "link", "set", "faasm0", "alias", ""])
    host.cni("GC", None, {**config, **attachments()}).ok()
    assert host.links() == []


def test_status_is_well(host: Host) -> None:
    before = host.snapshot()
    call = host.cni("STATUS", None, host.config(ipMasq=True, bandwidth={"ingressRate": 10**6}))
    call.ok()
    assert call.stdout.strip() == b""
    host.assert_unchanged(before)


NLM_F_CREATE = 0x400  # <linux/netlink.h>


def status(host: Host, config: dict[str, Any]) -> list[str]:
    """Call STATUS, which must go well; return what it made: files, namespaces, kernel objects."""
    host.directory.mkdir(parents=True, exist_ok=True)
    log = host.directory / "calls"
    traced = "unshare,openat,mkdir,mkdirat,rename,renameat,sendto,sendmsg"
    argv = ["strace", "-f", "-xx", "-s", "8192", "-o", str(log), "-e", f"trace={traced}"]
    environment = {"PATH": SYSTEM_PATH, "CNI_COMMAND": "STATUS", "CNI_PATH": "/nowhere"}
    if host.plugin[0] == sys.executable:
        environment["PYTHONPATH"] = str(REPO)
    with host.entered():
        subprocess.run(
            [*argv, *host.plugin],
            input=json.dumps(config).encode(),
            env=environment,
            check=True,
            timeout=60,
        )
    made = []
    # The first is there; the other is where calls are counted.
    expected = [
        "".join(f"\\x{byte:02x}" for byte in path) for path in (b'lock"', b'/calls/recent"')
    ]
    for line in log.read_text(encoding="utf-8").splitlines():
        if re.search(r"unshare|mkdir|rename|O_CREAT", line) and not any(
            path in line.replace('"', "\\x22") for path in expected
        ):
            made.append(re.sub(r"^\d+ +", "", line).partition("(")[0])
        # In a namespace where strace cannot ask which protocol a socket has, it knows no names.
        for flags in re.findall(r"nlmsg_flags=([^,]+)", line):
            numbers = [int(one, 0) for one in flags.split("|") if one[0].isdigit()]
            if "NLM_F_CREATE" in flags or any(one & NLM_F_CREATE for one in numbers):
                made.append("kernel object")
    return made


ALL = {
    "ipMasq": True,
    "isolated": True,
    "bandwidth": {"ingressRate": 10**6, "egressRate": 10**6, "enforceEgress": "host"},
}


def test_status_looks_where_it_has_tried(host: Host) -> None:
    """A kubelet has it called every five seconds."""
    config = host.config(**ALL)
    tried = status(host, config)
    assert "unshare" in tried
    assert tried.count("kernel object") > 20  # the pair, its queues, tables and rules
    folders = [host.data_dir / "testnet", host.state_dir / "testnet"]
    before = [one.stat().st_mtime_ns for one in folders]
    assert status(host, config) == []
    assert [one.stat().st_mtime_ns for one in folders] == before
    assert "unshare" in status(host, {**config, "mtu": 1300})


def test_status_tries_again_when_the_kernel_has_refused_an_add(host: Host) -> None:
    config = host.config(**ALL)
    assert "unshare" in status(host, config)
    kept = host.state_dir / "testnet" / "rehearsed"
    container = host.add_container()
    host.run(["ip", "link", "add", "faasm7", "type", "ifb"])  # the name that it wants
    host.cni("ADD", container, config, ifname="faasmp7").error(102)
    assert not kept.exists()
    assert "unshare" in status(host, config)
    for words in ('{"bootID": "earlier"}', "", '{"modules": []}', "[1]"):
        kept.write_text(words, encoding="utf-8")
        assert "unshare" in status(host, config)
        assert status(host, config) == []


@pytest.mark.parametrize("which", ["dataDir", "stateDir"])
def test_status_still_knows_of_folders_that_cannot_be_written(host: Host, which: str) -> None:
    config = host.config()
    host.cni("STATUS", None, config).ok()
    folder = host.data_dir if which == "dataDir" else host.state_dir
    host.run(["mount", "--bind", str(folder), str(folder)])
    try:
        host.run(["mount", "-o", "remount,bind,ro", str(folder)])
        error = host.cni("STATUS", None, config).error(50)
        assert str(folder) in error["msg"]
        assert "read-only" in error["details"]
    finally:
        host.run(["umount", str(folder)])
    host.cni("STATUS", None, config).ok()


def test_status_still_knows_of_a_range_that_is_full(host: Host) -> None:
    config = host.config(ipam={"subnet": "10.200.0.0/30"})
    host.cni("STATUS", None, config).ok()
    container = host.add_container()
    host.add(container, config)
    host.cni("STATUS", None, config).error(50)
    host.delete_attachment(container, config)
    host.cni("STATUS", None, config).ok()


def test_status_with_an_exhausted_range(host: Host) -> None:
    config = host.config(ipam={"subnet": "10.200.0.0/30"})
    host.add(host.add_container(), config)
    error = host.cni("STATUS", None, config).error(50)
    assert "10.200.0.0/30" in error["msg"]


@pytest.mark.parametrize("which", ["dataDir", "stateDir"])
def test_status_with_a_store_that_cannot_be_written(host: Host, which: str) -> None:
    folder = host.directory / "readonly"
    folder.mkdir(parents=True)
    mounts = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(folder)]
    host.run(mounts)
    try:
        config = host.config()
        if which == "dataDir":
            config["ipam"]["dataDir"] = str(folder)
        else:
            config["stateDir"] = str(folder)
        error = host.cni("STATUS", None, config).error(50)
        assert str(folder) in error["msg"]
        assert "read-only" in error["details"].lower() or "Read-only" in error["msg"]
    finally:
        host.run(["umount", str(folder)])
        shutil.rmtree(folder)


def test_status_with_a_faulty_configuration(host: Host) -> None:
    host.cni("STATUS", None, host.config(mtu=-5)).error(7)
