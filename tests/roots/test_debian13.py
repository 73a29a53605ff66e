"""Debian 13's containerd, reference plugins and nft beside the bundle."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.host import AFTER_LAST_DEL, REPO, Host
from tests.kernel.test_nft_reload import NETWORKS, save_and_load
from tests.roots.root import Root
from tests.runtime.conftest import EGRESS, INGRESS, Attached
from tests.runtime.cri import Cri
from tests.runtime.runtimes import CONFIG_FILE, PLUGIN_DIR, Containerd, remove_cgroups

REFERENCE = Path("/usr/lib/cni")
FAASM = {"type": "faasm", "bandwidth": {"ingressRate": INGRESS, "egressRate": EGRESS}}
IPAM = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.200.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
ANNOTATIONS = {"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "4M"}
# What looks closest at how nft writes rules, and at rules that nft has written.
TESTS_OF_NFT = [f"tests/kernel/test_{name}.py" for name in ("guard", "nat", "netlink_nft")]


@pytest.fixture
def root(make_root: Callable[[str], Root]) -> Root:
    """Return Debian 13's root, with its reference plugins beside ours."""
    root = make_root("trixie-tools")
    for plugin in inside(root, REFERENCE).iterdir():
        if plugin.name != "faasm":  # which `install` has put into both folders
            inside(root, PLUGIN_DIR, plugin.name).symlink_to(REFERENCE / plugin.name)
    return root


def inside(root: Root, *parts: Path | str) -> Path:
    return root.path / str(Path(*parts)).removeprefix("/")


@pytest.mark.parametrize(
    "plugins",
    [
        [{**FAASM, "ipam": IPAM}],
        [{"type": "ptp", "ipam": IPAM}, FAASM],
        [{**FAASM, "ipam": IPAM}, {"type": "tuning", "mtu": 1400}],
    ],
    ids=lambda plugins: "-".join(plugin["type"] for plugin in plugins),
)
def test_containerd(
    root: Root,
    host: Host,
    plugins: list[dict[str, Any]],
    short_path: Path,
    root_filesystem: Path,
) -> None:
    listed = {"cniVersion": "1.0.0", "name": "faasm", "plugins": plugins}
    inside(root, CONFIG_FILE).write_text(json.dumps(listed))
    before = host.snapshot()
    containerd = Containerd(host, root_filesystem, short_path, root.within())
    try:
        assert " 1.7." in host.run(root.within("containerd", "--version")).stdout
        container = containerd.run("box1")
        attached = Attached(host, container)
        (outer,) = host.classes(attached.outer)
        (inner,) = container.classes("eth0")
        assert (outer["rate"], inner["rate"]) == (INGRESS, EGRESS)
        containerd.execute("box1", ["/bin/busybox", "ping", "-c", "1", "-W", "5", "10.200.0.1"])
        containerd.remove("box1")
    finally:
        containerd.close()
        remove_cgroups()
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


def test_a_pod(root: Root, host: Host, short_path: Path) -> None:
    inside(root, "/etc/resolv.conf").touch()  # containerd wants one
    before = host.snapshot()
    cri = Cri(host, short_path, within=root.within())
    try:
        pod = cri.run("one", ANNOTATIONS)
        container = cri.namespace(pod)
        attached = Attached(host, container)
        assert cri.addresses(pod) == [attached.address]
        (outer,) = host.classes(attached.outer)
        (inner,) = container.classes("eth0")
        assert (outer["rate"], inner["rate"]) == (8_000_000, 4_000_000)
        cri.stop(pod)
        cri.remove(pod)
    finally:
        cri.close()
        remove_cgroups()
    host.assert_unchanged(before, ignore=AFTER_LAST_DEL)


@pytest.mark.parametrize("keys", NETWORKS, ids=",".join)
def test_rules_are_saved_and_loaded_again(root: Root, host: Host, keys: dict[str, Any]) -> None:
    nft = root.within("nft")
    assert " v1.1." in host.run([*nft, "--version"]).stdout
    save_and_load(host, keys, nft)


def test_all_that_is_tested_of_rules(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """With Debian 13's nft in the place of the machine's."""
    files = TESTS_OF_NFT if request.config.getoption("--soak") else TESTS_OF_NFT[2:]
    root = Root("trixie-tools", tmp_path / "trixie")
    program = tmp_path / "nft"
    program.write_text(f'#!/bin/sh\nexec chroot {root.path} /usr/sbin/nft "$@"\n')
    program.chmod(0o755)
    subprocess.run(["mount", "--bind", program, "/usr/sbin/nft"], check=True)
    try:
        pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command = [*pytest_, "--plugin", "built", *files]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=False)
    finally:
        subprocess.run(["umount", "/usr/sbin/nft"], check=True)
        root.close()
    assert done.returncode == 0, done.stdout
