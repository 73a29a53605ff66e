"""Run every command of the README and of docs/, page by page, as a reader would.

A page gets a host of its own whose /usr and repository are writable copies in memory, with a
remote machine behind its uplink that also answers as 9.9.9.9. Building and installing is done once,
and what that has written lies below every page's own copies; a page that tells how to install finds
it built only. A few programs are stood in for by scripts that do the same where nothing outside of
this machine can be reached.
"""

import contextlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.firewalls import Firewalld, seeing_them
from tests.host import REPO, SYSTEM_PATH, Host, built_plugin
from tests.runtime.cri import make_image
from tests.runtime.installed import INSTALL, Installed
from tests.runtime.runtimes import CGROUP, Libcni, end, remove_cgroups

SERVER = "198.51.100.1"
PAGES = [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").glob("*.md"))]
BUSYBOX = "docker.io/library/busybox:latest"

# Run by somebody else, who fails when they do.
ELSEWHERE = {
    "bin/demo.sh": "tests/demo/test_demo.py",
    "tests/run.sh": "this very run",
    "tests/vm/": "tests/vm",
    ".venv/bin/python -m pytest": "this very run",
    "podman network create": "tests/vm/test_podman.py",
    "podman run --rm --network fn": "tests/vm/test_podman.py",
}
# What a reader fills in, and what makes a measurement short.
SUBSTITUTES = (
    ("SERVER", f"{SERVER} --seconds 2"),
    ("bench/backstop", "bench/backstop --rates 10M --scale 0.05 --repeat 1"),
    ("bench/latency", "bench/latency --times 1 --warm-up 0"),
    ("bench/leases", "bench/leases --times 1 --counts 0,10"),
    ("bench/shaping", "bench/shaping --rates 10M --paths host-send"),
    ("--scale 0.5", "--scale 0.2"),
    ("bench/pool --sizes 1 10 100", "bench/pool --sizes 1 --times 1"),
    ("bench/slots", "bench/slots --times 2 --sizes 8 --at-once 8"),
    ("bench/storm", "bench/storm --workers 2 --cycles 1 --turns 1"),
)
# What has happened on the reader's host before a command.
BEFORE = {
    "docs/operating.md": {
        "cni-faasm pool exec": "cni-faasm pool up 3",
        "tc qdisc show dev faasm2": "cni-faasm pool up 3",
        "cni-faasm check": "tc qdisc del dev faasm2 root",
        "cni-faasm gc --dry-run": "ip netns del faasmns1",
        "cni-faasm validate": """sed -i 's/"egressRate": 33554432/"egressRate": "10Q"/' """
        "/etc/cni/net.d/10-faasm.conflist",
        "cni-faasm metrics": "mkdir -p /var/lib/node_exporter/textfile",
        "cni-faasm migrate": "cp tests/runtime/87-ptp.conflist /etc/cni/net.d",
    },
    "README.md": {
        "./build.sh --uninstall": "CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d cnitool del "
        "faasm /run/netns/test",
        "ip -d link": "CNI_PATH=/opt/cni/bin NETCONFPATH=/etc/cni/net.d cnitool add faasm "
        "/run/netns/test",
    },
    "docs/cluster.md": {
        "deploy/kubernetes/image-root.sh": "rm -rf build/image",
        "ip route add": "ip addr add 192.0.2.1/24 dev uplink",
        "ip -6 route add": "ip addr add 2001:db8::1/64 dev uplink nodad",
    },
    "docs/json.md": {"cni-faasm set-rate": "cni-faasm pool up 3"},
    "docs/network-check.md": {"cni-faasm network-check": "cni-faasm pool up 3"},
}
# Pages whose reader has firewalld.
FIREWALLD = ("docs/firewalls.md",)
# Commands that end with another status than 0, for the page shows what is wrong.
STATUS = {
    ("docs/json.md", "cni-faasm check"): 3,
    ("docs/operating.md", "cni-faasm check"): 1,
    ("docs/operating.md", "cni-faasm validate"): 1,
}

SCRIPTS = {
    "sudo": 'exec env "$@"',
    "ping": 'exec busybox ping "$@"',
    # Raising limits takes a capability that not every root has; nor is there a registry.
    "podman": """
options=(--root /run/p/root --runroot /run/p/run --tmpdir /run/p/tmp --storage-driver vfs)
options+=(--runtime runc --network-backend cni --cgroup-manager cgroupfs --events-backend file)
words=()
for word in "$@"; do
    words+=("$word")
    if [ "$word" = run ]; then
        words+=(--ulimit nofile=1000:1000 --ulimit nproc=1000:1000 --cgroup-parent /CGROUP)
    fi
done
exec /usr/bin/podman "${options[@]}" "${words[@]}"
""",
    "ctr": 'exec /usr/bin/ctr --namespace CGROUP "$@"',
    # It is libcni's, and not in Debian; the client does the same.
    "cnitool": """
export CACHE_DIR=/run/cnitool
exec CLIENT "$1" "$NETCONFPATH/10-$2.conflist" cnitool "$3" eth0
""",
    # From outside of the reader's own layer over /usr: two of them are the most.
    "firewall-cmd": f"exec nsenter --mount --target {os.getpid()} -- "
    f'{shlex.join(seeing_them("/usr/bin/firewall-cmd"))} "$@"',
    # There is no cluster: it only looks at what it would be given.
    "kubectl": """
[ "$1 $2" = "apply -f" ] || exit 2
exec PYTHON - "$3" <<'END'
import sys
import kubernetes_validate
import yaml
for document in yaml.safe_load_all(open(sys.argv[1])):
    kubernetes_validate.validate(document, "1.34", strict=True)
END
""",
}


def commands(page: Path) -> list[tuple[str, str]]:
    """Return (prompt, command) of every command in a page's console blocks."""
    found = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text.startswith("```"):
            inside = text == "```console"
        elif inside and (match := re.fullmatch(r"((?:server)?[$#]) (.*)", text)):
            command = re.sub(r"\s{2,}# .*", "", match[2])
            found.append((match[1], command.strip()))
    return found


def is_elsewhere(command: str) -> bool:
    return any(command.removeprefix("sudo ").startswith(one) for one in ELSEWHERE)


WITH_COMMANDS = [
    page for page in PAGES if not all(is_elsewhere(command) for _, command in commands(page))
]


def test_every_console_block_is_understood() -> None:
    assert {page.name for page in WITH_COMMANDS} >= {
        "README.md",
        "getting-started.md",
        "operating.md",
        "cluster.md",
        "network-check.md",
        "performance.md",
    }
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"```(sh|bash|shell)\n", text), f"{page}: write ```console"
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (page.parent / target).exists(), f"{page}: {target}"


class Reader:
    """Somebody with a shell on a host, and one on the server."""

    def __init__(self, host: Host, scripts: Path, installed: Installed, page: Path) -> None:
        self.host = host
        self.scripts = scripts
        # Each on a file system of its own, which goes with the page.
        layers = Path("/run/docs")
        layers.mkdir(exist_ok=True)
        installs = any(INSTALL in command for _, command in commands(page))
        shown = installed.shown(layers, is_installed=not installs)
        steps = [f"mount -t tmpfs tmpfs {layers}", *shown, "echo ready", "exec sleep 1000"]
        self.place = host.start(["unshare", "--mount", "sh", "-ec", "\n".join(steps)])
        assert self.place.stdout is not None
        assert self.place.stdout.readline() == b"ready\n", self.place.communicate()

    def _argv(self, command: str) -> list[str]:
        variables = f"PATH={self.scripts}:{SYSTEM_PATH}"
        script = f"cd {shlex.quote(str(REPO))} && {command}"
        shell = ["env", "-i", variables, "HOME=/run/home", "LC_ALL=C.UTF-8", "bash", "-c", script]
        return ["nsenter", "--mount", "--target", str(self.place.pid), *shell]

    def run(self, command: str) -> "subprocess.CompletedProcess[str]":
        return self.host.run(self._argv(command), check=False, timeout=300)

    def must(self, command: str) -> None:
        done = self.run(command)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    def close(self) -> None:
        end(self.place)
        self.place.communicate()  # closes the pipe


@pytest.fixture
def reader(
    make_host: Callable[[list[str]], Host], short_path: Path, installed: Installed, page: Path
) -> Iterator[Reader]:
    host = make_host(built_plugin())
    remote = host.add_remote()
    remote.run(["ip", "addr", "add", "9.9.9.9/32", "dev", "lo"])
    scripts = short_path / "bin"
    scripts.mkdir()
    values = {"CGROUP": CGROUP, "PYTHON": sys.executable}
    if any("cnitool" in command for _, command in commands(page)):
        values["CLIENT"] = str(Libcni(host, short_path, short_path).client)
    for name, text in SCRIPTS.items():
        for mark, value in values.items():
            text = text.replace(mark, value)  # noqa: PLW2901 -- step by step
        (scripts / name).write_text(f"#!/bin/bash\n{text}\n", encoding="utf-8")
        (scripts / name).chmod(0o755)
    found = Reader(host, scripts, installed, page)
    yield found
    found.close()
    remove_cgroups()


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.name)
def test_every_command(reader: Reader, page: Path, short_path: Path) -> None:
    name = str(page.relative_to(REPO))
    listed = [one for one in commands(page) if not is_elsewhere(one[1])]
    daemon = None
    if any(BUSYBOX.partition(":")[0] in command for _, command in listed):
        make_image(short_path / "busybox.tar", BUSYBOX, sleeps=False)
        places = [f"--{key}={short_path}/{key}" for key in ("root", "state")]
        daemon = reader.host.start(
            reader._argv(shlex.join(["containerd", *places])),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        reader.must(
            "for i in $(seq 100); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done; "
            f"ctr images import {short_path}/busybox.tar && "
            f"podman load --input {short_path}/busybox.tar"
        )
    background = []
    stack = contextlib.ExitStack()
    if name in FIREWALLD:
        firewalld = Firewalld(reader.host)
        stack.enter_context(firewalld.bus())
        firewalld.start()
    try:
        # A page may tell how to undo what it needs later.
        for prompt, command in sorted(listed, key=lambda pair: "--uninstall" in pair[1]):
            for start, preparation in BEFORE.get(name, {}).items():
                if command.removeprefix("sudo ").startswith(start):
                    reader.run(preparation)
            for word, value in SUBSTITUTES:
                command = command.replace(word, value)  # noqa: PLW2901 -- step by step
            if prompt == "server$":
                with reader.host.remotes[0].entered():
                    background.append(
                        subprocess.Popen(
                            reader._argv(f"exec {command}"),
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                            start_new_session=True,
                        )
                    )
                continue
            expected = next(
                (s for (p, start), s in STATUS.items() if p == name and command.startswith(start)),
                0,
            )
            done = reader.run(command)
            told = f"{name}: {command}\n{done.stdout}{done.stderr}"
            assert done.returncode == expected, told
            assert "Traceback" not in done.stderr, told
    finally:
        stack.close()
        for process in background:
            end(process)
        if daemon is not None:
            end(daemon)
