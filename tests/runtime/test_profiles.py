"""Every verb under the real seccomp profiles of systemd's services and of containerd's containers."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, DUAL_STACK, Host
from tests.runtime.runtimes import Containerd

PLUGIN = BUNDLE / "faasm"

# <seccomp.h>
KILL, ALLOW = 0x80000000, 0x7FFF0000
ERROR = 0x00050000  # with the number in it

# Compiles a profile with the machine's libseccomp and executes the plugin under it.
UNDER = """
import ctypes, json, os, sys
library = ctypes.CDLL("libseccomp.so.2")
library.seccomp_init.restype = ctypes.c_void_p
profile = json.load(open(sys.argv[1]))
context = ctypes.c_void_p(library.seccomp_init(ctypes.c_uint32(profile["default"])))
known = 0
for name in profile["allowed"]:
    number = library.seccomp_syscall_resolve_name(name.encode())
    if number >= 0:  # others are of other processors
        assert library.seccomp_rule_add(context, ctypes.c_uint32(0x7FFF0000), number, 0) == 0, name
        known += 1
assert known > 100
assert library.seccomp_load(context) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""


def of_systemd(name: str) -> set[str]:
    """Return what is in a group of system calls as systemd has it."""
    text = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    found: set[str] = set()
    for line in text.splitlines()[1:]:
        word = line.strip()
        if word.startswith("@"):
            found |= of_systemd(word)
        elif word and not word.startswith("#"):
            found.add(word)
    return found


def of_containerd(host: Host, root_filesystem: Path, directory: Path, capability: str) -> set[str]:
    """Return what containerd allows a container without conditions. Its own is in its spec."""
    runtime = Containerd(host, root_filesystem, directory)
    ctr = ["ctr", "--address", str(directory / "containerd.sock"), "--namespace", "profiles"]
    try:
        made = [*ctr, "container", "create", "--seccomp", "--cap-add", capability]
        host.run([*made, "--rootfs", str(root_filesystem), "one", "/bin/true"])
        spec = json.loads(host.run([*ctr, "container", "info", "one"]).stdout)["Spec"]
        host.run([*ctr, "container", "delete", "one"])
    finally:
        runtime.close()
    profile = spec["linux"]["seccomp"]
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    rules: list[dict[str, Any]] = profile["syscalls"]
    free = [one for one in rules if one["action"] == "SCMP_ACT_ALLOW" and not one.get("args")]
    return {name for rule in free for name in rule["names"]}


@pytest.fixture
def under(runtime_host: Host, tmp_path: Path) -> Iterator[Any]:
    """Return what makes the command that calls the plugin under a profile."""

    def made(allowed: set[str], default: int) -> list[str]:
        path = tmp_path / "profile"
        path.write_text(json.dumps({"default": default, "allowed": sorted(allowed)}))
        return [sys.executable, "-I", "-c", UNDER, str(path), str(PLUGIN)]

    yield made
    assert runtime_host.leases() == {}
    assert runtime_host.records() == {}
    assert [name for name in runtime_host.links() if name.startswith("faasm")] == []


def serve_all(host: Host, plugin: list[str]) -> None:
    """Call each verb, twice: the first of a network makes what the others find."""
    config = host.config(
        cniVersion="1.1.0",
        ipMasq=True,
        bandwidth={"ingressRate": "10M", "egressRate": "20M", "enforceEgress": "host"},
        ipam=DUAL_STACK,
    )
    for _ in range(2):
        inside = host.add_container()
        result = host.add(inside, config, plugin=plugin)
        host.check(inside, config, result, plugin=plugin).ok()
        host.cni("STATUS", None, config, plugin=plugin).ok()
        host.delete_attachment(inside, config, plugin=plugin)
    host.cni("GC", None, {**config, "cni.dev/valid-attachments": []}, plugin=plugin).ok()


@pytest.mark.parametrize("default", [KILL, ERROR | errno.EPERM], ids=["kill", "EPERM"])
def test_a_service_of_systemd(runtime_host: Host, under: Any, default: int) -> None:
    """SystemCallFilter=@system-service, which ends who calls anything else, or refuses it."""
    allowed = of_systemd("@system-service")
    assert {"setns", "sendto"} <= allowed
    assert "mount" not in allowed
    serve_all(runtime_host, under(allowed, default))


def test_a_container_of_containerd(
    runtime_host: Host, under: Any, root_filesystem: Path, short_path: Path
) -> None:
    """As a runtime in a container has it, with the one capability that setns needs."""
    allowed = of_containerd(runtime_host, root_filesystem, short_path, "CAP_SYS_ADMIN")
    assert "setns" in allowed
    serve_all(runtime_host, under(allowed, ERROR | errno.EPERM))


def test_a_container_that_may_not_enter_others(
    runtime_host: Host, under: Any, root_filesystem: Path, short_path: Path
) -> None:
    """Without it the profile refuses setns: that is said, and nothing is left."""
    allowed = of_containerd(runtime_host, root_filesystem, short_path, "CAP_NET_ADMIN")
    assert "setns" not in allowed
    inside = runtime_host.add_container()
    call = runtime_host.cni(
        "ADD", inside, runtime_host.config(), plugin=under(allowed, ERROR | errno.EPERM)
    )
    error = call.error()
    assert os.strerror(errno.EPERM) in json.dumps(error), error
