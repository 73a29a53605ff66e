"""A container of podman 5 with published ports, and the host boots anew.

    python3 -m tests.vm.jobs.podman_reboot      in the guest before
    pytest tests/vm/jobs/podman_reboot.py       in the one after, with the same disk

Run by tests/vm/test_podman.py.
"""

import json
import os
import tempfile
from pathlib import Path

from tests.attached import add_remote, answers
from tests.runtime.runtimes import make_root_filesystem
from tests.vm.jobs.firewalld import Machine
from tests.vm.jobs.podman import Podman, attachments, ends, install

ROOT_FILESYSTEM = Path("/var/lib/container-root")
HOST = "198.51.100.2"


def machine() -> Machine:
    made = Machine(Path(tempfile.mkdtemp()))
    add_remote(made)
    return made


def is_published(podman: Podman, name: str) -> bool:
    inside = podman.namespace(name)
    return answers(inside, podman.machine.remotes[0], "", port=80, to=(HOST, 8080)) and answers(
        inside, podman.machine, "", port=80, to=("127.0.0.1", 8080)
    )


def before() -> None:
    host = machine()
    install(host)
    ROOT_FILESYSTEM.mkdir()
    make_root_filesystem(ROOT_FILESYSTEM)
    podman = Podman(host, ROOT_FILESYSTEM)
    podman("network", "create", "-d", "faasm", "-o", "egressRate=1M", "fn")
    published = ("--publish", "8080:80", "--network", "fn", "--restart", "always")
    podman.run("web", "--ip", "10.201.0.8", *published)
    assert is_published(podman, "web")
    os.sync()


def test_ports_after_a_reboot() -> None:
    """What podman's own service starts again has its address, its limit and its ports."""
    host = machine()
    assert (ends(host), host.nft_tables()) == ([], [])
    assert attachments()[0] == "10.201.0.8"  # of the boot before
    podman = Podman(host, ROOT_FILESYSTEM)
    podman("start", "--all", "--filter", "restart-policy=always")
    inside = podman.namespace("web")
    assert inside.addresses("eth0") == ["10.201.0.8/32"]
    assert [one["rate"] for one in inside.classes("eth0")] == [1_000_000]
    assert is_published(podman, "web")
    assert len(attachments()) == 2  # a record, a lease
    [row] = json.loads(host.run_ok("cni-faasm", "status", "--json").stdout)["attachments"]
    assert row["name"] == "web"
    host.run_ok("cni-faasm", "check")
    podman.remove("web")
    assert attachments() == []


if __name__ == "__main__":
    before()
