"""What the built executable makes, runs and follows: nothing that somebody else has planted."""

import os
import re
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import DUAL_STACK, Host, Namespace, built_plugin


@pytest.fixture
def built_host(make_host: Callable[[list[str]], Host]) -> Host:
    """Return a host with folders of its own, that calls the built executable."""
    return make_host(built_plugin())


VERBS = ("STATUS", "ADD", "CHECK", "DEL", "GC")


def config(host: Host, **keys: Any) -> dict[str, Any]:
    return host.config(ipMasq=True, isolated=True, ipam=DUAL_STACK, **keys)


def whole_life(
    host: Host, inside: Namespace, network: dict[str, Any], **options: Any
) -> dict[str, Any]:
    """Call every verb, as a runtime does; return the files' state between CHECK and DEL."""
    host.cni("STATUS", None, network, **options).ok()
    result = host.cni("ADD", inside, network, **options).ok()
    before = {**network, "prevResult": result}
    host.cni("CHECK", inside, before, **options).ok()
    found = {str(path): path.lstat() for top in folders(host) for path in [top, *top.rglob("*")]}
    host.cni("DEL", inside, before, **options).ok()
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": []}, **options).ok()
    return found


def folders(host: Host) -> list[Path]:
    return [host.data_dir, host.state_dir]


@pytest.mark.parametrize("umask", ["000", "022", "077", "777"])
def test_whose_files_are_and_who_may_read_them(built_host: Host, umask: str) -> None:
    host = built_host
    log = host.directory / "faasm.log"
    host.directory.mkdir(exist_ok=True)
    plugin = ["sh", "-c", f'umask {umask}; exec "$0"', *built_plugin()]
    options = {"plugin": plugin, "env": {"CNI_FAASM_LOG": str(log)}}
    found = whole_life(host, host.add_container(), config(host), **options)
    found[str(log)] = log.lstat()
    assert len(found) >= 10
    allowed = {"leases": (0o755, 0o644), "state": (0o700, 0o600), "faasm.log": (0, 0o600)}
    for name, status in found.items():
        part = Path(name).relative_to(host.directory).parts[0]
        folder, file = allowed[part]
        most = folder if stat.S_ISDIR(status.st_mode) else file
        assert (status.st_uid, status.st_gid) == (0, 0), name
        assert stat.S_IMODE(status.st_mode) & ~most == 0, f"{name} {status.st_mode:o}"


def test_nothing_is_executed_and_no_temporary_folder_used(built_host: Host, tmp_path: Path) -> None:
    """Not what PATH finds, nor what the kernel would be asked for by a shell."""
    host = built_host
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("ip", "tc", "nft", "iptables", "sysctl", "modprobe", "sh", "ldconfig", "gcc"):
        path = planted / name
        path.write_text(f'#!/bin/busybox sh\necho "{name}" >>{tmp_path}/executed\n')
        path.chmod(0o755)
    trace = tmp_path / "trace"
    calls = "execve,execveat,open,openat,mkdir,mkdirat,unlink,unlinkat,rename,renameat,renameat2"
    plugin = ["/usr/bin/strace", "-f", "-A", "-e", f"trace={calls}", "-o", str(trace)]
    temporary = tmp_path / "tmp"
    env = {"PATH": str(planted), "TMPDIR": str(temporary), "TMP": str(temporary)}
    network = config(host, bandwidth={"egressRate": 8_000_000, "enforceEgress": "host"})
    whole_life(host, host.add_container(), network, plugin=[*plugin, *built_plugin()], env=env)
    text = trace.read_text()
    executed = re.findall(r'execve(?:at)?\("([^"]+)"', text)
    assert executed == built_plugin() * len(VERBS)
    assert not (tmp_path / "executed").exists()
    own = str(host.directory)
    elsewhere = [
        path
        for path in re.findall(r'"(/(?:tmp|var/tmp|dev/shm|run/tmp)[^"]*)"', text)
        if not path.startswith(own)
    ]
    assert elsewhere == []


def link(path: Path, target: Path) -> None:
    path.symlink_to(target)


def hard(path: Path, target: Path) -> None:
    os.link(target, path)


# What a verb writes, below the two folders.
WRITTEN = (
    "leases/testnet/lock",
    "leases/testnet/10.200.0.2",
    "leases/testnet/fd00:200::2",
    "leases/testnet/last_reserved_ip.0",
    "leases/testnet/.last_reserved_ip",
    "state/testnet/boot",
    "state/testnet/.boot",
    "state/testnet/gone",
    "state/testnet/.gone",
    "state/testnet/{}@eth0",
    "state/testnet/.{}@eth0",
    "leases/testnet",
    "state/testnet",
)


@pytest.mark.parametrize("plant", [link, hard], ids=["symlink", "hard link"])
@pytest.mark.parametrize("place", WRITTEN)
def test_what_is_planted_in_the_store_is_not_followed(
    built_host: Host, tmp_path: Path, place: str, plant: Callable[[Path, Path], None]
) -> None:
    host = built_host
    inside = host.add_container()
    network = config(host)
    whole_life(host, host.add_container("earlier"), network)
    target = host.directory / "target"
    path = host.directory / place.format(inside.name)
    is_folder = place.count("/") == 1
    if is_folder:
        if plant is hard:
            target.write_bytes(b"precious")
        else:
            target.mkdir()
        subprocess.run(["rm", "-rf", path], check=True)
    else:
        target.write_bytes(b"precious")
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
    plant(path, target)
    done = host.cni("ADD", inside, network)
    if done.status:
        assert done.error()["code"] in {5, 102, 104}
    result = done.document if done.status == 0 else None
    for verb in ("CHECK", "DEL", "DEL"):
        document = {**network, **({"prevResult": result} if result else {})}
        again = host.cni(verb, inside, document)
        assert again.status == 0 or again.error()["code"] != 100
    again = host.cni("GC", None, {**network, "cni.dev/valid-attachments": []})
    assert again.status == 0 or again.error()["code"] != 100
    if is_folder and plant is link:
        assert os.listdir(target) == []
    else:
        assert target.read_bytes() == b"precious"
        assert target.stat().st_mode & 0o777 == 0o644
    del tmp_path


def test_a_folder_full_of_odd_names(built_host: Host) -> None:
    """Whatever their number, no verb stumbles over them, takes one for a lease, or removes it."""
    host = built_host
    network = config(host)
    whole_life(host, host.add_container(), network)
    odd: list[str | bytes] = [
        "a\nb",
        "10.200.0.2\n",
        "010.200.0.2",
        "10.200.0.300",
        "é",
        b"\xff\xfe",
        "@",
        "@eth0",
    ]
    odd += ["a@", "a@b@c", ".x", "..x", "-rf", "%s%n", "x" * 255, "10.200.0.2 "]
    odd += [f"odd{number}" for number in range(5000)]
    for top in folders(host):
        folder = os.fsencode(top / "testnet")
        for name in odd:
            path = folder + b"/" + (os.fsencode(name))
            with open(path, "wb"):
                pass
        for made in ("folder", "10.200.0.9", "c@eth0"):
            os.mkdir(folder + b"/" + made.encode())
    count = [len(os.listdir(top / "testnet")) for top in folders(host)]
    inside = host.add_container()
    result = host.add(inside, network)
    assert result["ips"][0]["address"].startswith("10.200.0.")
    host.check(inside, network, result).ok()
    host.delete_attachment(inside, network)
    valid = [{"containerID": "a", "ifname": "b@c"}]
    done = host.cni("GC", None, {**network, "cni.dev/valid-attachments": valid})
    assert done.status == 0 or done.error()["code"] == 5  # a folder is no record to remove
    left = [set(os.listdir(os.fsencode(top / "testnet"))) for top in folders(host)]
    assert len(left[0]) >= count[0] - 1
    assert {b"a\nb", b"\xff\xfe", b"odd4999", b"folder"} <= left[0]


def namespaces(host: Host, folder: Path) -> dict[str, str]:
    """Return paths at which there is no namespace of a container."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
    os.mkfifo(folder / "fifo")
    (folder / "file").write_bytes(b"precious")
    (folder / "loop").symlink_to(folder / "loop")
    (folder / "link").symlink_to(host.path)
    (folder / "bound").touch()
    subprocess.run(["mount", "--bind", host.path, folder / "bound"], check=True)
    kinds = {
        name: f"/proc/self/ns/{name}" for name in ("mnt", "uts", "ipc", "pid", "user", "cgroup")
    }
    planted = {
        name: str(folder / name) for name in ("socket", "fifo", "file", "loop", "link", "bound")
    }
    return kinds | planted | {
        "folder": str(folder), "nothing": str(folder / "nothing"), "null": "/dev/null",
        "the host's": host.path, "by a process": "/proc/thread-self/ns/net", "long": "/" + "a/" * 3000,
        "below a file": str(folder / "file" / "x"), "relative": "ns/net", "memory": "/proc/self/mem",
    }  # fmt: skip


def test_what_is_no_containers_namespace(built_host: Host, tmp_path: Path) -> None:
    """ADD and CHECK refuse it and change nothing; DEL takes it for one that is gone."""
    host = built_host
    network = config(host)
    before = host.snapshot()
    try:
        for name, path in namespaces(host, tmp_path).items():
            where = Namespace(name, path=path)
            for verb in ("ADD", "CHECK"):
                error = host.cni(verb, where, network, container_id="odd", timeout=10).error()
                assert error["code"] in {3, 4}, (name, error)
            host.cni("DEL", where, network, container_id="odd", timeout=10).ok()
    finally:
        subprocess.run(["umount", tmp_path / "bound"], check=True)
    host.assert_unchanged(before)
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("key", "value"),
    [
        *((key, value) for key in ("CNI_CONTAINERID", "CNI_IFNAME") for value in ("..", ".", "/", "../../x", "a/b", "a\nb", "x" * 300, "\udcff", "\u202e")),
        *((key, value) for key in ("name", "dataDir", "stateDir", "logFile", "resolvConf") for value in ("..", ".", "not/absolute", "/../x", "{}/../x", "a\0b", "{}/a\nb", "/" + "n" * 5000)),
    ],
)  # fmt: skip
def test_names_that_lead_elsewhere(built_host: Host, verb: str, key: str, value: str) -> None:
    """Refused, or for DEL and GC left out; and nothing is made outside of the two folders."""
    host = built_host
    host.directory.mkdir(exist_ok=True)
    network = config(host)
    network["cni.dev/valid-attachments"] = []
    value = value.format(host.directory / "in")
    env = {}
    if key.startswith("CNI_"):
        env = {key: value}
    elif key in {"dataDir", "resolvConf"}:
        network["ipam"] = {**network["ipam"], key: value}
    else:
        network[key] = value
    where = host.add_container() if verb in ("ADD", "CHECK", "DEL") else None
    done = host.cni(verb, where, network, env=env)
    if done.status:
        assert done.error()["code"] in {3, 4, 7}, done
    else:
        assert verb in ("DEL", "GC", "STATUS")
    assert set(os.listdir(host.directory)) <= {"leases", "state"}
    assert not Path("/x").exists()
    assert host.links() == []
