"""A DEL with published ports leaves the wait for nf_tables to its child."""

import json
import re
import subprocess
import sys
from pathlib import Path

from tests.host import REPO, SYSTEM_PATH, Host, Namespace


def traced_delete(host: Host, container: Namespace, asked: dict[str, object], log: Path) -> str:
    """Call DEL; return its system calls, those of its child among them."""
    environment = {
        "PATH": SYSTEM_PATH,
        "CNI_COMMAND": "DEL",
        "CNI_CONTAINERID": container.name,
        "CNI_NETNS": str(container.path),
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/nowhere",
    }
    if host.plugin[0] == sys.executable:
        environment["PYTHONPATH"] = str(REPO)
    calls = "trace=socket,close,close_range,clone,clone3,fork,vfork"
    with host.entered():
        subprocess.run(
            ["strace", "-f", "-o", str(log), "-e", calls, *host.plugin],
            input=json.dumps(asked).encode(),
            env=environment,
            check=True,
            timeout=60,
        )
    return log.read_text(encoding="utf-8", errors="replace")


def test_the_socket_goes_to_the_child(host: Host, container: Namespace, tmp_path: Path) -> None:
    """Its last close waits 14 to 22 ms for RCU after elements went."""
    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    asked = host.config(runtimeConfig={"portMappings": ports})
    host.add(container, asked)
    lines = [
        line.split(None, 1)
        for line in traced_delete(host, container, asked, tmp_path / "calls").splitlines()
    ]
    parent = lines[0][0]
    own = [call for pid, call in lines if pid == parent]
    [(made, number)] = [
        (n, found[1])
        for n, call in enumerate(own)
        if (found := re.match(r"socket\(AF_NETLINK, .*, NETLINK_NETFILTER\) = (\d+)$", call))
    ]
    forked = next(n for n, call in enumerate(own) if re.match("v?fork|clone", call))
    closed = next(
        n for n, call in enumerate(own) if n > made and call.startswith(f"close({number})")
    )
    assert made < forked < closed
    of_child = [call for pid, call in lines if pid != parent]
    assert f"close({number})" not in "\n".join(of_child)
    ranges = re.findall(r"close_range\((\d+), (\d+)", "\n".join(of_child))
    assert ranges
    assert not any(int(first) <= int(number) <= int(last) for first, last in ranges)
