"""How our ends are marked for udev, and which of networkd's files get in the way.

tests/vm/jobs/networkd.py compares what is said here with what the daemon does.
"""

import fnmatch
import random
import re
from pathlib import Path

import pytest

from cni_faasm.cli.install import networkd
from cni_faasm.config.policy import GROUP_BASE, GROUP_MASK, group
from tests.host import REPO

DELIVERED = REPO / "deploy/systemd"
NAME = "00-cni-faasm.network"
CATCH_ALL = "[Match]\nName=*\n[Network]\nDHCP=yes\n"


def test_the_rule_matches_the_groups_of_ours_and_no_other() -> None:
    text = (DELIVERED / "85-cni-faasm.rules").read_text(encoding="utf-8")
    found = re.search('ATTR{netdev_group}=="([^"]*)"', text)
    assert found is not None
    match = re.compile("|".join(map(fnmatch.translate, found[1].split("|")))).match
    numbers = random.Random(1)
    last = GROUP_BASE + ~GROUP_MASK % 2**32
    groups = [
        *range(1000),
        *range(GROUP_BASE - 1000, GROUP_BASE + 1000),
        *range(last - 1000, last + 1000),
        *(numbers.getrandbits(32) for _ in range(5_000)),
        *(numbers.randint(GROUP_BASE, last) for _ in range(5_000)),
        *(number // 10 for number in range(GROUP_BASE, last, 100_001)),
        group("faasm"),
    ]
    for one in groups:
        assert bool(match(str(one))) == (one & GROUP_MASK == GROUP_BASE), one


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a root where everything is installed."""
    for path, name in (
        ("usr/lib/systemd/network", NAME),
        ("usr/lib/udev/rules.d", "85-cni-faasm.rules"),
    ):
        folder = tmp_path / path
        folder.mkdir(parents=True)
        (folder / name).write_bytes((DELIVERED / name).read_bytes())
    return tmp_path


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def configurer(root: Path, name: str = "faasm0", kind: str = "veth") -> str:
    return networkd.configurer(kind, name, str(root)).removeprefix(f"{root}/")


@pytest.mark.parametrize("name", ["faasm0", "edge12", "eth0"])
def test_ours_comes_first(root: Path, name: str) -> None:
    put(root, "etc/systemd/network/10-all.network", CATCH_ALL)
    assert configurer(root, name) == ""
    assert configurer(root, f"i{name}", "ifb") == ""


def test_one_that_sorts_before(root: Path) -> None:
    put(root, "run/systemd/network/00-all.network", CATCH_ALL)
    assert configurer(root) == "run/systemd/network/00-all.network"
    put(root, "etc/systemd/network/00-all.network", "")
    assert configurer(root) == ""
    (root / "etc/systemd/network/00-all.network").unlink()
    (root / "etc/systemd/network/00-all.network").symlink_to("/dev/null")
    assert configurer(root) == ""


def test_an_operators_file_of_our_name(root: Path) -> None:
    put(root, f"etc/systemd/network/{NAME}", "[Match]\nName=en*\n")
    put(root, "etc/systemd/network/10-all.network", CATCH_ALL)
    assert configurer(root) == "etc/systemd/network/10-all.network"
    put(root, f"etc/systemd/network/{NAME}", "[Match]\nKind=veth\n[Link]\nUnmanaged=true\n")
    assert configurer(root) == ""


@pytest.mark.parametrize("masked", ["", None])
def test_without_the_mark_ours_does_not_count(root: Path, masked: str | None) -> None:
    put(root, "etc/systemd/network/10-all.network", CATCH_ALL)
    rules = "udev/rules.d/85-cni-faasm.rules"
    if masked is None:
        (root / "usr/lib" / rules).unlink()
    else:
        put(root, f"etc/{rules}", masked)
    assert configurer(root) == "etc/systemd/network/10-all.network"


@pytest.mark.parametrize(
    ("lines", "is_met"),
    [
        ("Name=faasm*", True),
        ("Name=en* faasm?", True),
        ("Name=en*\nName=f*", True),
        ("Name=f*\nName=\nName=en*", False),
        ("name=faasm0", True),
        ("Name=!en* lo", True),
        ("Name=!faasm*", False),
        ("Name=en*", False),
        ("Type=ether", True),
        ("Type=!ether", False),
        ("Type=wlan", False),
        ("Kind=veth", True),
        ("Kind=bridge", False),
        ("Driver=veth", True),
        ("Driver=virtio_net\nName=*", False),
        ("MACAddress=00:11:22:33:44:55", False),
        ("PermanentMACAddress=00:11:22:33:44:55", False),
        ("Path=pci-*", False),
        ("Path=!pci-*", True),
        ("SSID=x", False),
        ("Property=ID_NET_DRIVER=veth", True),
        ("Property=ID_NET_DRIVER=veth ID_PATH=*", False),
        ("Property=!ID_PATH=*", True),
        ("Property=ID_NET_MANAGED_BY=cni-*", True),
        ("KernelVersion=>=5\nName=*", True),
        ("# Name=*\nName=\\\n  f*", True),
        ("", False),
    ],
)
def test_what_a_section_asks(root: Path, lines: str, is_met: bool) -> None:
    put(root, "etc/systemd/network/00-a.network", f"[Match]\n{lines}\n[Network]\nDHCP=yes\n")
    assert (configurer(root) != "") == is_met


def test_drop_ins_count(root: Path) -> None:
    put(root, "etc/systemd/network/00-a.network", "[Match]\nName=en*\n")
    put(root, "run/systemd/network/00-a.network.d/10-x.conf", "[Match]\nName=faasm*\n")
    assert configurer(root) == "etc/systemd/network/00-a.network"
    put(root, "etc/systemd/network/00-a.network.d/20-y.conf", "[Link]\nUnmanaged=yes\n")
    assert configurer(root) == ""
