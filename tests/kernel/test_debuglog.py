"""The log of steps: off by default, one line each, bounded, without what nobody should read."""

import os
import re
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, Namespace


@pytest.fixture
def config(host: Host) -> dict[str, Any]:
    secret = {"com.example.token": "hunter2"}
    return host.config(
        bandwidth={"egressRate": 8_000_000}, runtimeConfig={"x": "hunter2"}, **secret
    )


def attach_and_detach(
    host: Host, container: Namespace, config: dict[str, Any], path: Path, by: str, **options: Any
) -> None:
    """Call ADD and DEL with a log wanted, in one of the ways to say so."""
    if by == "environment":
        options["env"] = {"CNI_FAASM_LOG": str(path)}
    else:
        config["logFile"] = str(path)
    host.add(container, config, **options)
    host.delete_attachment(container, config, **options)


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_a_line_for_each_step(
    host: Host, container: Namespace, config: dict[str, Any], tmp_path: Path, by: str
) -> None:
    path = tmp_path / "faasm.log"
    attach_and_detach(host, container, config, path, by)
    text = path.read_text(encoding="utf-8")
    lines = text.splitlines()
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT[\d:]{8}Z \d+ (ADD|DEL) \+\d+\.\d\d ms \S", line), line
    for words in (f"ADD {container.name} eth0", "ip link add", "tc class add", "lock ", " done"):
        assert words in text
    assert "hunter2" not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_trace_that_a_call_is_part_of(
    host: Host, container: Namespace, config: dict[str, Any], tmp_path: Path
) -> None:
    """Newer libcni passes it on from the runtime; its baggage is nobody's business."""
    path = tmp_path / "faasm.log"
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    env = {"TRACEPARENT": trace, "BAGGAGE": "hunter2", "CNI_NETNS_OVERRIDE": "1"}
    host.add(container, {**config, "logFile": str(path)}, env=env)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[1].endswith(f" TRACEPARENT={trace}")
    assert lines[2].endswith(" CNI_NETNS_OVERRIDE=1")
    assert "hunter2" not in path.read_text(encoding="utf-8")


def test_an_error_is_told(host: Host, container: Namespace, tmp_path: Path) -> None:
    path = tmp_path / "faasm.log"
    config = host.config(mtu=1, logFile=str(path))
    host.cni("ADD", container, config).error(7)
    assert "error 7: invalid configuration" in path.read_text(encoding="utf-8")


def test_off_writes_nothing(host: Host, container: Namespace, config: dict[str, Any]) -> None:
    before = sorted(os.listdir(host.directory)) if host.directory.exists() else []
    host.add(container, config)
    assert set(os.listdir(host.directory)) - set(before) <= {"leases", "state"}


def test_it_is_bounded_and_harms_nobody(
    host: Host, container: Namespace, config: dict[str, Any], tmp_path: Path
) -> None:
    path = tmp_path / "faasm.log"
    path.write_bytes(b"x" * (4 << 20))
    variables = {"CNI_FAASM_LOG": str(path)}
    host.add(container, config, env=variables)
    assert (tmp_path / "faasm.log.1").stat().st_size > 4 << 20
    assert not path.exists()
    target = tmp_path / "target"
    path.symlink_to(target)
    for place in (str(path), "relative.log", "/dev/full", str(tmp_path / "no" / "such"), "/"):
        host.delete_attachment(container, config, env={"CNI_FAASM_LOG": place})
        host.add(container, config, env={"CNI_FAASM_LOG": place})
    assert not target.exists()


@pytest.mark.parametrize("by", ["environment", "configuration"])
@pytest.mark.parametrize(
    "kind", ["fifo", "hard link", "somebody's", "writable", "folder", "socket"]
)
def test_what_is_planted_is_neither_waited_for_nor_written(  # noqa: PLR0917 -- fixtures
    host: Host, container: Namespace, config: dict[str, Any], tmp_path: Path, kind: str, by: str
) -> None:
    path = tmp_path / "faasm.log"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(path))
    else:
        path.touch(0o600)
        if kind == "hard link":
            os.link(path, tmp_path / "passwd")
        elif kind == "somebody's":
            os.chown(path, 65534, 0)
        else:
            path.chmod(0o622)
    attach_and_detach(host, container, config, path, by, timeout=10)
    assert not path.is_file() or path.stat().st_size == 0


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 5000, "../x", "\n"])
@pytest.mark.parametrize("verb", ["ADD", "CHECK", "DEL", "GC", "STATUS"])
def test_a_name_that_no_file_can_have(  # noqa: PLR0917 -- fixtures
    host: Host, container: Namespace, config: dict[str, Any], verb: str, name: str, tmp_path: Path
) -> None:
    """DEL and GC take a configuration that ADD would refuse; the log must not fail them."""
    folder = tmp_path / "logs"
    folder.mkdir()
    result = host.add(container, config)
    config["logFile"] = f"{folder}/{name}"
    config["cni.dev/valid-attachments"] = []
    if verb == "CHECK":
        config["prevResult"] = result
    where = None if verb in ("GC", "STATUS") else container
    done = host.cni(verb, where, config)
    if verb in ("DEL", "GC"):
        done.ok()
    elif name != "\ud800":  # which becomes a question mark
        assert "logFile" in done.error(7)["msg"]
    assert not (tmp_path / "x").exists()
