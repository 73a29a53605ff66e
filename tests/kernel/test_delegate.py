"""Other IPAM plugins: executed, passed every verb, undone, and ended when they hang."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, REFERENCE_PLUGINS, Host, Namespace

STATIC = {
    "type": "static",
    "addresses": [
        {"address": "10.9.0.7/24", "gateway": "10.9.0.1"},
        {"address": "fd00:9::7/64", "gateway": "fd00:9::1"},
    ],
    "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
    "dns": {"nameservers": ["10.9.0.53"]},
}

# Notes how it was called, then does as the file beside it says.
SCRIPT = """#!/bin/sh
here=$(dirname "$0")
{{ echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_IFNAME"; }} >>"$here/calls"
env >"$here/env.$CNI_COMMAND"
cat >"$here/stdin.$CNI_COMMAND"
{body}
"""
ANSWER = '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.1.2/24", "gateway": "10.9.1.1"}]}'


class Script:
    """An IPAM plugin of the test's own in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.environment = {"CNI_PATH": f"{BUNDLE}:{folder}:{REFERENCE_PLUGINS}"}
        self.does(f"""[ "$CNI_COMMAND" != ADD ] || echo '{ANSWER}'""")

    def does(self, body: str) -> None:
        path = self.folder / "mine"
        path.write_text(SCRIPT.format(body=body), encoding="utf-8")
        path.chmod(0o755)

    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    def variables(self, verb: str) -> dict[str, str]:
        lines = (self.folder / f"env.{verb}").read_text(encoding="utf-8").splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def given(self, verb: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / f"stdin.{verb}").read_bytes())
        return found


@pytest.fixture
def script(tmp_path: Path) -> Script:
    return Script(tmp_path / "plugins")


def config(host: Host, ipam: dict[str, Any], **keys: Any) -> dict[str, Any]:
    return {**host.config(cniVersion="1.0.0", **keys), "ipam": ipam}


def test_static(host: Host, container: Namespace) -> None:
    host.add_remote()
    host.sysctl("net.ipv6.conf.all.forwarding", "1")  # makes anycast routes
    before = host.snapshot()
    network = config(host, STATIC, ipMasq=True, bandwidth={"ingressRate": 8_000_000})
    result = host.add(container, network)
    assert [one["address"] for one in result["ips"]] == ["10.9.0.7/32", "fd00:9::7/128"]
    assert result["dns"] == {"nameservers": ["10.9.0.53"]}
    assert container.addresses("eth0") == ["10.9.0.7/32", "fd00:9::7/128"]
    assert host.leases() == {}
    container.run(["busybox", "ping", "-c1", "-W2", "198.51.100.1"])  # masqueraded
    container.run(["busybox", "ping", "-6", "-c1", "-W2", "fd00:9::1"])
    host.check(container, network, result).ok()
    host.delete_attachment(container, {**network, "prevResult": result})
    host.delete_attachment(container, network)
    host.assert_unchanged(before, ignore=["nft"])


def test_dns_of_the_plugin(host: Host) -> None:
    """The network's own holds against it, an empty list too; nothing with a zone is passed on."""
    ipam = {**STATIC, "dns": {"nameservers": ["fe80::1%3", "10.9.0.53"], "search": ["a"]}}
    call = host.cni("ADD", host.add_container(), config(host, ipam))
    assert call.ok()["dns"] == {"nameservers": ["10.9.0.53"], "search": ["a"]}
    assert b"IPAM plugin 'static': nameserver fe80::1%3 left out" in call.stderr
    ipam["addresses"] = [{"address": "10.9.0.8/24", "gateway": "10.9.0.1"}]
    network = config(host, ipam, dns={"search": []})
    assert "dns" not in host.add(host.add_container(), network)


def test_host_local(host: Host, container: Namespace) -> None:
    """The real one shares our lock and our folder: neither must wait for the other."""
    network = host.config(cniVersion="1.0.0", ipam={"delegate": True})
    result = host.add(container, network)
    assert list(host.leases()) == ["testnet/10.200.0.2"]
    host.check(container, network, result).ok()
    error = host.cni("ADD", host.add_container(), network, container_id=container.name).error(101)
    assert container.name in error["msg"]
    assert list(host.leases()) == ["testnet/10.200.0.2"], "the one who is attached keeps it"
    (host.data_dir / "testnet" / "10.200.0.2").unlink()
    error = host.check(container, network, result).error(107)
    assert "IPAM plugin host-local" in error["details"]
    host.delete_attachment(container, network)
    assert container.links() == []
    assert host.records() == {}


def test_what_is_handed_over(host: Host, container: Namespace, script: Script) -> None:
    network = config(host, {"type": "mine", "anything": [1, None]}, args={"cni": {"ips": ["x"]}})
    host.add(container, network, args="IgnoreUnknown=1;K8S_POD_NAME=a", env=script.environment)
    assert script.given("ADD") == network
    variables = script.variables("ADD")
    assert variables["CNI_COMMAND"] == "ADD"
    assert variables["CNI_CONTAINERID"] == container.name
    assert variables["CNI_NETNS"] == container.path
    assert variables["CNI_IFNAME"] == "eth0"
    assert variables["CNI_ARGS"] == "IgnoreUnknown=1;K8S_POD_NAME=a"
    assert variables["CNI_PATH"] == script.environment["CNI_PATH"]
    strange = [name for name in variables if name.startswith(("LD_", "_PYI", "_MEI"))]
    assert strange == []
    assert container.addresses("eth0") == ["10.9.1.2/32"]
    host.delete_attachment(container, network, env=script.environment)
    assert script.calls() == [f"{verb} {container.name} eth0" for verb in ("ADD", "DEL")]


@pytest.mark.parametrize("verb", ["ADD", "STATUS"])
def test_without_a_path_to_plugins(
    host: Host, container: Namespace, script: Script, verb: str
) -> None:
    """Only who executes one needs CNI_PATH."""
    before = host.snapshot()
    network = {**config(host, {"type": "mine"}), "cniVersion": "1.1.0"}
    error = host.cni(verb, container, network, env={"CNI_PATH": None}).error(4)
    assert error["msg"] == "missing: CNI_PATH"
    assert script.calls() == []
    host.assert_unchanged(before)
    own = {**host.config(), "cni.dev/valid-attachments": None}
    result = host.add(container, own, env={"CNI_PATH": None})
    for call in ("CHECK", "STATUS", "DEL", "GC"):
        host.cni(call, container, {**own, "prevResult": result}, env={"CNI_PATH": None}).ok()


def test_its_error_is_ours(host: Host, container: Namespace, script: Script) -> None:
    before = host.snapshot()
    network = config(host, {"type": "mine"})
    fault = '{"cniVersion": "1.0.0", "code": 120.0, "msg": "the pool is dry", "details": "pour"}'
    script.does(f"""[ $CNI_COMMAND != ADD ] || {{ echo '{fault}'; echo why >&2; exit 1; }}""")
    call = host.cni("ADD", container, network, env=script.environment)
    error = call.error(120)
    assert "IPAM plugin 'mine': the pool is dry" in error["msg"]
    assert error["details"] == "pour"
    assert b"why" in call.stderr
    assert [line.split()[0] for line in script.calls()] == ["ADD", "DEL"]
    host.assert_unchanged(before)


def test_released_when_the_link_cannot_be_made(
    host: Host, container: Namespace, script: Script
) -> None:
    host.run(["ip", "route", "add", "10.9.1.2/32", "dev", "lo"])
    before = host.snapshot()
    network = config(host, {"type": "mine"})
    host.cni("ADD", container, network, env=script.environment).error(104)
    assert [line.split()[0] for line in script.calls()] == ["ADD", "DEL"]
    host.assert_unchanged(before)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("echo '{'", "no result"),
        ("""echo '{"cniVersion": "1.0.0", "ips": []}'""", "no address"),
        ("exit 3", "status 3"),
        ("kill -9 $$", "signal 9"),
        ("exit 0", "no result"),
    ],
)
def test_nonsense(host: Host, container: Namespace, script: Script, body: str, words: str) -> None:
    before = host.snapshot()
    script.does(f"[ $CNI_COMMAND = DEL ] || {{ {body}; }}")
    call = host.cni("ADD", container, config(host, {"type": "mine"}), env=script.environment)
    assert words in call.error(108)["msg"]
    host.assert_unchanged(before)


def test_absent(host: Host, container: Namespace) -> None:
    before = host.snapshot()
    error = host.cni("ADD", container, config(host, {"type": "nobody"})).error(108)
    assert "'nobody'" in error["msg"]
    assert "CNI_PATH" in error["msg"]
    host.assert_unchanged(before)


def test_hanging(host: Host, container: Namespace, script: Script) -> None:
    """It is ended with its children, and the runtime told to try again."""
    before = host.snapshot()
    network = config(host, {"type": "mine"}, ipamTimeout=300)
    script.does("[ $CNI_COMMAND != ADD ] || { sleep 1000 & echo $! >$here/child; wait; }")
    begin = time.monotonic()
    error = host.cni("ADD", container, network, env=script.environment).error(11)
    assert time.monotonic() - begin < 30  # 60 s were the default
    assert "300 ms" in error["msg"]
    child = int((script.folder / "child").read_text(encoding="ascii"))
    status = Path(f"/proc/{child}/status")
    assert not status.exists() or "zombie" in status.read_text(encoding="ascii")
    assert [line.split()[0] for line in script.calls()] == ["ADD", "DEL"]
    host.assert_unchanged(before)


def test_del_with_another_configuration(host: Host, container: Namespace, script: Script) -> None:
    """The one who leased it is called, with what it was given then."""
    network = config(host, {"type": "mine", "pool": "a"})
    host.add(container, network, env=script.environment)
    changed = host.config(cniVersion="1.0.0")
    host.delete_attachment(container, changed, env=script.environment)
    assert script.given("DEL")["ipam"] == {"type": "mine", "pool": "a"}
    assert host.records() == {}


def test_del_that_fails_can_be_repeated(host: Host, container: Namespace, script: Script) -> None:
    network = config(host, {"type": "mine"})
    host.add(container, network, env=script.environment)
    script.does("exit 1")
    host.cni("DEL", container, network, env=script.environment).error(108)
    assert len(host.records()) == 1
    script.does("true")
    host.delete_attachment(container, network, env=script.environment)
    assert host.records() == {}


def test_gc_and_status(host: Host, script: Script) -> None:
    network = {**config(host, {"type": "mine"}), "cniVersion": "1.1.0"}
    host.cni("STATUS", None, network, env=script.environment).ok()
    kept, dead = host.add_container(), host.add_container()
    for one in (kept, dead):
        answer = ANSWER.replace("10.9.1.2", f"10.9.1.{2 + (one is dead)}")
        script.does(f"""[ $CNI_COMMAND != ADD ] || echo '{answer}'""")
        host.add(one, network, env=script.environment)
    valid = [{"containerID": kept.name, "ifname": "eth0"}]
    collected = {**network, "cni.dev/valid-attachments": valid}
    host.cni("GC", None, collected, env=script.environment).ok()
    assert dead.links() == []
    assert kept.links() == ["eth0"]
    assert script.given("GC") == collected
    assert script.calls()[-2:] == [f"DEL {dead.name} eth0", "GC  "]
    script.does('echo \'{"code": 50, "msg": "closed"}\'; exit 1')
    error = host.cni("STATUS", None, network, env=script.environment).error(50)
    assert "closed" in error["msg"]


def test_released_after_a_reboot(host: Host, container: Namespace, script: Script) -> None:
    network = config(host, {"type": "mine"})
    host.add(container, network, env=script.environment)
    (path,) = (host.state_dir / "testnet").glob("*@*")
    fields = json.loads(path.read_bytes())
    path.write_text(json.dumps({**fields, "bootID": "earlier"}), encoding="utf-8")
    (host.state_dir / "testnet" / "boot").unlink()
    for name in host.links():
        if name.startswith("faasm"):
            host.run(["ip", "link", "del", name])
    fresh = host.add_container()
    host.add(fresh, network, env=script.environment)
    calls = script.calls()
    assert calls[1:] == [f"DEL {container.name} eth0", f"ADD {fresh.name} eth0"]
    assert list(host.records()) == [f"testnet/{fresh.name}@eth0"]


def test_masquerading_needs_a_subnet(host: Host, container: Namespace, script: Script) -> None:
    before = host.snapshot()
    answer = ANSWER.replace("/24", "/32").replace(', "gateway": "10.9.1.1"', "")
    script.does(f"""[ $CNI_COMMAND != ADD ] || echo '{answer}'""")
    network = config(host, {"type": "mine"}, ipMasq=True)
    assert (
        "10.9.1.2/32" in host.cni("ADD", container, network, env=script.environment).error(2)["msg"]
    )
    host.assert_unchanged(before)
    host.add(container, {**network, "ipMasq": False}, env=script.environment)
    (gateway,) = container.routes(dst="169.254.1.1")
    assert gateway["dev"] == "eth0"


def test_gc_takes_what_is_half_written(host: Host, script: Script) -> None:
    network = {**config(host, {"type": "mine"}), "cniVersion": "1.1.0"}
    folder = host.state_dir / "testnet"
    folder.mkdir(parents=True)
    (folder / ".dead@eth0").write_bytes(b"{")
    collected = {**network, "cni.dev/valid-attachments": []}
    host.cni("GC", None, collected, env=script.environment).ok()
    assert [path.name for path in folder.iterdir()] == ["collected"]  # when, for the metrics


@pytest.mark.parametrize(
    "answer",
    [
        {"ips": [{"address": "10.9.1.2/24", "gateway": "fd00::1"}]},
        {
            "ips": [{"address": "10.9.1.2/24"}, {"address": "fd00::2/64"}],
            "routes": [{"dst": "0.0.0.0/0", "gw": "fd00::1"}],
        },
        {"ips": [{"address": "10.9.1.2/24"}], "routes": [{"dst": "0.0.0.0/0", "scope": 300}]},
    ],
    ids=["gateway", "route", "scope"],
)
def test_an_answer_that_the_kernel_could_not_be_told(
    host: Host, container: Namespace, script: Script, answer: dict[str, Any]
) -> None:
    """It was an internal error once the pair was there."""
    text = json.dumps({"cniVersion": "1.1.0", **answer})
    script.does(f"""[ "$CNI_COMMAND" != ADD ] || echo '{text}'""")
    network = config(host, {"type": "mine"})
    before = host.snapshot()
    error = host.cni("ADD", container, network, env=script.environment).error(108)
    assert "IPAM plugin 'mine'" in error["msg"]
    host.assert_unchanged(before)
    assert [line.split()[0] for line in script.calls()] == ["ADD", "DEL"]
