"""The bundle on an older and on a newer Debian than that it was built on."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attached import REMOTE
from tests.host import AFTER_LAST_DEL, DUAL_STACK, Host
from tests.roots.conftest import TOOL
from tests.roots.root import Root
from tests.tool import Done, Tool

CONFIG = "etc/cni/net.d/10-faasm.conflist"
FOLDER = "usr/lib/cni-faasm"


@pytest.fixture(params=["bullseye-tools", "trixie-tools"])
def root(request: pytest.FixtureRequest, make_root: Callable[[str], Root]) -> Root:
    root = make_root(request.param)
    version = root.run("ldd", "--version").split("\n")[0].split()[-1]
    assert version == {"bullseye-tools": "2.31", "trixie-tools": "2.41"}[request.param]
    return root


@pytest.fixture
def tool(root: Root, host: Host) -> Tool:
    tool = Tool(host, root.within(TOOL))
    tool.network()
    return tool


def test_what_is_installed_and_goes(root: Root) -> None:
    shipped = root.path / FOLDER / "_internal" / "conf" / "10-faasm.conflist"
    assert (root.path / CONFIG).read_bytes() == shipped.read_bytes()
    assert root.run(TOOL, "version").startswith("cni-faasm ")
    assert root.run(TOOL, "validate", f"/{CONFIG}") == f"/{CONFIG}: valid\n"
    root.run(TOOL, "uninstall")
    for path in (FOLDER, CONFIG, "opt/cni/bin/faasm", "usr/bin/cni-faasm"):
        assert not (root.path / path).exists()


def test_the_life_of_an_attachment(root: Root, host: Host) -> None:
    del root
    network = host.config(
        cniVersion="1.1.0",
        ipMasq=True,
        isolated=True,
        ipam=DUAL_STACK,
        bandwidth={"ingressRate": "20M", "egressRate": "10M", "enforceEgress": "host"},
    )
    assert "1.1.0" in host.cni("VERSION", None, {"cniVersion": "1.1.0"}).ok()["supportedVersions"]
    host.cni("STATUS", None, network).ok()
    host.sysctl("net.ipv6.conf.all.forwarding", "1")  # makes an anycast address of the uplink's
    before = host.snapshot()
    inside = host.add_container()
    result = host.add(inside, network)
    host.check(inside, network, result).ok()
    for version, address in REMOTE.items():
        inside.run(["busybox", "ping", f"-{version}", "-c1", "-W5", address])
    host.delete_attachment(inside, {**network, "prevResult": result})
    inside.delete()
    host.containers.remove(inside)
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)
    host.cni("GC", None, {**network, "cni.dev/valid-attachments": []}).ok()
    assert host.nft_tables() == []


def test_a_pool(tool: Tool, host: Host) -> None:
    before = host.snapshot()
    assert len(tool("pool", "up", "2", "--json").ok().document["members"]) == 2
    rows = tool("status", "--json").ok().document["attachments"]
    assert len(rows) == 2
    inside = tool("pool", "exec", "1", "--", "ip", "-o", "address").ok().stdout
    assert f"{tool.prefix}p1    inet 10.200.0.2/32" in inside
    tool("set-rate", f"{tool.prefix}2", "--egress", "1M").ok()
    host.run(["tc", "qdisc", "del", "dev", f"{tool.prefix}1", "root"])
    assert "root qdisc" in tool("check").expect(1).stdout
    tool("repair").ok()
    tool("check").ok()
    assert "cni_faasm_limit_bytes_per_second" in tool("metrics").ok().stdout
    assert tool("gc", "--dry-run").ok().stdout == "nothing to remove\n"
    tool("pool", "down").ok()
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_names_are_asked_as_the_host_says(root: Root, tool: Tool) -> None:
    """By services that were linked against another C library than runs."""
    (root.path / "etc/hosts").write_text("127.0.0.1 in-a-file\n")
    (root.path / "etc/nsswitch.conf").write_text("passwd: compat\nhosts: myhostname files\n")

    tool("pool", "up", "1").ok()

    def ask(name: str) -> Done:
        return tool("network-check", name, "--prefix", tool.prefix)

    assert "in-a-file is every namespace's own loopback" in ask("in-a-file").expect(3).stderr
    assert "nor a name that can be resolved" in ask("in-none").expect(3).stderr
    # Debian 13's wants a later C library than ours, and then it is as if it were not installed.
    (service,) = root.path.glob("usr/lib/*/libnss_myhostname.so.2")
    wanted = "loopback" if needs_at_most(service, 36) else "nor a name"
    assert wanted in ask("some.localhost").expect(3).stderr


def needs_at_most(library: Path, minor: int) -> bool:
    text = library.read_bytes()
    return not any(b"GLIBC_2.%d\0" % number in text for number in range(minor + 1, 100))
