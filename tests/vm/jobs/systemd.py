"""On a host with systemd: what is installed, and who configures interfaces besides us.

The tests are done in this order: the last one uninstalls.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cni_faasm.cli.install import networkd
from tests.host import wait_until
from tests.vm.jobs import real_host
from tests.vm.jobs.real_host import Attachment, Witness, attached, run, settle

FORMER_UNIT = Path("/usr/lib/systemd/system/cni-faasm.service")
RULES = Path("/usr/lib/udev/rules.d/85-cni-faasm.rules")
NETWORK = Path("/usr/lib/systemd/network/00-cni-faasm.network")
ETC = Path("/etc/systemd/network")
RULES_IN_ETC = Path("/etc/udev/rules.d") / RULES.name
CATCH_ALL = ETC / "50-all.network"
CATCH_ALLS = {
    "DHCP": "[Match]\nName=*\n[Network]\nDHCP=yes\n",
    "static": "[Match]\nType=ether\n[Network]\nAddress=192.0.2.7/24\nGateway=192.0.2.1\n",
}
NM_CONF = Path("/etc/NetworkManager/conf.d/x.conf")
EDGE: dict[str, Any] = {"hostInterfacePrefix": "edge", "bandwidth": {"enforceEgress": "host"}}


def version() -> int:
    return int(run("systemctl", "--version").split()[1])


@pytest.fixture(scope="module", autouse=True)
def installed() -> Iterator[None]:
    """Install; it stays until the last test."""
    if not RULES.exists():
        run(real_host.BUNDLE_TOOL, "install")
    yield
    run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd", "NetworkManager")


@pytest.fixture
def networkd_runs() -> Iterator[None]:
    """Let networkd run, with no file of an operator's at first."""
    shutil.rmtree(ETC)
    ETC.mkdir()
    run("systemctl", "restart", "systemd-networkd")
    yield
    run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd")
    shutil.rmtree(ETC)
    ETC.mkdir()


def remarks() -> str:
    return run(real_host.TOOL, "validate", str(real_host.CONFLIST))


def assert_untouched(before: dict[str, list[Any]], *made: Attachment) -> None:
    for one in made:
        for name in one.ends():
            assert real_host.verdict(name) == "unmanaged", name
        assert one.state() == before[one.name]
        one.check().ok()


def test_the_installation() -> None:
    for path in (RULES, NETWORK, Path(real_host.PLUGIN), Path(real_host.TOOL)):
        assert path.exists(), path
    if version() >= 254:
        run("udevadm", "verify", str(RULES))
    with attached(Attachment("c1")) as (one,):
        one.assert_well()
        assert "c1" in run(real_host.TOOL, "status")


def test_the_service_of_an_earlier_version_goes() -> None:
    """Version 0.1.0 had one that did calls for others."""
    FORMER_UNIT.write_text(
        "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    )
    run("systemctl", "daemon-reload")
    run("systemctl", "enable", "--now", FORMER_UNIT.name)
    run(real_host.BUNDLE_TOOL, "install")
    assert not FORMER_UNIT.exists()
    # Of a unit that it does not know systemd says so by another status since version 253.
    status = 3 if version() < 253 else 4
    assert run("systemctl", "is-active", FORMER_UNIT.name, status=status) == "inactive\n"
    assert not list(Path("/etc/systemd/system").glob(f"*/{FORMER_UNIT.name}"))


def test_udev_leaves_name_and_address_alone() -> None:
    with attached(Attachment("c1", **EDGE)) as (one,):
        before = one.state()
        settle()
        assert one.state() == before
        for name in one.ends():
            found = real_host.udev_properties(name)
            assert found["ID_NET_LINK_FILE"].endswith("/99-default.link")
            assert found["ID_NET_MANAGED_BY"] == "cni-faasm"
            assert found["NM_UNMANAGED"] == "1"
        assert before[0]["link"]["address"] == one.result["interfaces"][0]["mac"]
        one.assert_well()


@pytest.mark.parametrize("kind", CATCH_ALLS)
@pytest.mark.usefixtures("networkd_runs")
def test_networkd(kind: str) -> None:
    """At its start and restart, when it reloads, and for what is attached while it runs."""
    run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd")
    CATCH_ALL.write_text(CATCH_ALLS[kind])
    with attached(Attachment("c1"), Attachment("c2", **EDGE)) as (one, two), Witness() as witness:
        before = {each.name: each.state() for each in (one, two)}
        for action in ("start", "restart"):
            witness.give_address()
            run("systemctl", action, "systemd-networkd")
            witness.wait()
            assert_untouched(before, one, two)
        with attached(Attachment("c3", **EDGE)) as (three,):
            before[three.name] = three.state()
            witness.renew()
            witness.wait()
            assert_untouched(before, one, two, three)
            CATCH_ALL.rename(ETC / "60-all.network")
            witness.give_address()
            run("networkctl", "reload")
            wait_until(
                lambda: "60-all" in real_host.networkd_state(witness.name).get("NETWORK_FILE", ""),
                "networkd to read the file anew",
                30,
            )
            run("networkctl", "reconfigure", one.outer, three.outer, witness.name)
            witness.wait()
            assert_untouched(before, one, two, three)
            for each in (one, two, three):
                each.assert_well()
        assert "systemd-networkd" not in remarks()
    journal = run("journalctl", "--boot", "--unit=systemd-networkd", "--output=cat")
    assert NETWORK.name not in journal


@pytest.mark.usefixtures("networkd_runs")
def test_networkd_without_the_file() -> None:
    """It takes what it can get; `validate` says so; `install` and `repair` mend it."""
    hidden = (RULES_IN_ETC, ETC / NETWORK.name)
    for path in hidden:
        path.symlink_to("/dev/null")
    run("udevadm", "control", "--reload")
    CATCH_ALL.write_text(CATCH_ALLS["DHCP"])
    try:
        run("networkctl", "reload")
        assert f"{CATCH_ALL} has systemd-networkd configure faasm0" in remarks()
        with attached(Attachment("c1")) as (one,):
            before = one.state()
            settle()
            wait_until(lambda: one.state() != before, "networkd to spoil it", 60)
            assert one.check().status != 0
            wait_until(
                lambda: real_host.networkd_state(one.outer)["ADMIN_STATE"] == "configuring", "", 30
            )
            assert f"systemd-networkd configures {one.outer}, by {CATCH_ALL}" in remarks()
            for path in hidden:
                path.unlink()
            NETWORK.unlink()
            # Files of the operator's have changed since networkd started.
            told = real_host.steps(real_host.BUNDLE_TOOL, "install")[str(NETWORK)]
            assert str(CATCH_ALL) in told[1]
            assert told[1].endswith("networkctl reload")
            assert real_host.udev_properties(one.outer)["ID_NET_MANAGED_BY"] == "cni-faasm"
            run("networkctl", "reload")
            wait_until(
                lambda: real_host.networkd_state(one.outer)["ADMIN_STATE"] == "unmanaged",
                "networkd to let go",
                30,
            )
            run(real_host.TOOL, "repair")
            one.assert_well()
    finally:
        for path in hidden:
            path.unlink(missing_ok=True)
        run("udevadm", "control", "--reload")


@pytest.mark.usefixtures("networkd_runs")
def test_installed_while_networkd_runs() -> None:
    """It reads the file at once, so that the first container is safe; and marks who is there."""
    run("systemctl", "stop", "systemd-networkd.socket", "systemd-networkd")
    CATCH_ALL.write_text(CATCH_ALLS["static"])
    run(real_host.TOOL, "uninstall")
    for path in (RULES, NETWORK):
        assert not path.exists()
    time.sleep(1.1)  # The file's time must lie before networkd's start.
    with Witness() as witness:
        run("systemctl", "start", "systemd-networkd")
        witness.wait()
        told = real_host.steps(real_host.BUNDLE_TOOL, "install")
        assert told[str(NETWORK)] == ("installed", "systemd-networkd has read it")
        with attached(Attachment("c1"), Attachment("c2", **EDGE)) as made:
            before = {each.name: each.state() for each in made}
            witness.renew()
            witness.wait()
            assert_untouched(before, *made)


SECTIONS = (
    "Name=faasm*",
    "Name=en* faasm??",
    "Name=en*\nName=f*",
    "Name=f*\nName=\nName=en*",
    "Name=!en* lo",
    "Name=!faasm*",
    "Type=ether",
    "Type=!ether",
    "Driver=veth",
    "Kind=veth\nName=en*",
    "Kind=!bridge",
    "MACAddress=00:11:22:33:44:55",
    "Path=pci-*",
    "Path=!pci-*",
    "Property=ID_NET_DRIVER=veth",
    "Property=ID_NET_DRIVER=veth ID_PATH=*",
    "Property=!ID_PATH=*",
    "SSID=x",
)


@pytest.mark.usefixtures("networkd_runs")
def test_sections_are_understood_as_networkd_does() -> None:
    """What `validate` says of a file is what the daemon makes of it."""
    end = networkd.End("faasm77", "veth", {"INTERFACE": "faasm77", "ID_NET_DRIVER": "veth"})
    run("ip", "link", "add", end.name, "type", "veth", "peer", "name", "peer77")
    try:
        run("ip", "link", "set", end.name, "up")
        settle()
        for number, section in enumerate(SECTIONS):
            shutil.rmtree(ETC)
            ETC.mkdir()
            one, rest = ETC / f"10-{number}.network", ETC / f"50-{number}.network"
            one.write_text(f"[Match]\n{section}\n")
            rest.write_text(CATCH_ALLS["static"])
            run("networkctl", "reload")
            names = (str(one), str(rest))
            wait_until(
                lambda names=names: real_host.networkd_state(end.name).get("NETWORK_FILE") in names,
                f"networkd to read {section}",
                30,
            )
            found = real_host.networkd_state(end.name)["NETWORK_FILE"] == str(one)
            (read,) = (each for each in networkd.sections() if each.path == str(one))
            assert found == networkd.matches(read.match, end), section
    finally:
        run("ip", "link", "del", end.name)


def start_networkmanager() -> None:
    run("systemctl", "restart", "NetworkManager")

    def is_up() -> bool:
        return "connected" in run("nmcli", "--terse", "general", "status", status=None)

    wait_until(is_up, "NetworkManager", 60)


def nm_states() -> dict[str, str]:
    lines = run("nmcli", "--terse", "--colors=no", "--fields=DEVICE,STATE", "device").splitlines()
    return dict(line.split(":", 1) for line in lines)


@pytest.mark.parametrize("conf", ["", "[keyfile]\nunmanaged-devices=none\n"], ids=["", "none"])
def test_networkmanager(conf: str) -> None:
    """A profile for any interface, even where Debian's own rule about veths does not count."""
    debians_rule = Path("/etc/udev/rules.d/85-nm-unmanaged.rules")
    debians_rule.symlink_to("/dev/null")
    NM_CONF.write_text(conf)
    profile = Path("/etc/NetworkManager/system-connections/any.nmconnection")
    profile.write_text(
        "[connection]\nid=any\ntype=ethernet\nautoconnect=true\nmulti-connect=3\n"
        "[ipv4]\nmethod=manual\naddress1=192.0.2.7/24\n"
        # Both ends of a witness get that address, which later versions look for in the network.
        "dad-timeout=0\n[ipv6]\nmethod=ignore\n"
    )
    profile.chmod(0o600)
    run("udevadm", "control", "--reload")
    witnesses: list[str] = []

    def witness() -> None:
        """Make a veth that is anybody's, and wait until it has the profile's address."""
        name = f"anybody{len(witnesses)}"
        witnesses.append(name)
        run("ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p")
        for each in (name, f"{name}p"):
            run("ip", "link", "set", each, "up")
        wait_until(
            lambda: "192.0.2.7" in run("ip", "addr", "show", "dev", name),
            f"{name}: {nm_states()}",
            60,
        )

    try:
        with attached(Attachment("c1"), Attachment("c2", **EDGE)) as (one, two):
            made = [one, two]
            before = {each.name: each.state() for each in made}

            def assert_left_alone() -> None:
                states = nm_states()
                for each in made:
                    assert {states[name] for name in each.ends()} == {"unmanaged"}
                    assert each.state() == before[each.name]
                    each.check().ok()

            start_networkmanager()
            witness()
            assert_left_alone()
            with attached(Attachment("c3", **EDGE)) as later:
                made += later
                before["c3"] = later[0].state()
                witness()
                assert_left_alone()
                run("systemctl", "restart", "NetworkManager")
                start_networkmanager()
                witness()
                assert_left_alone()
                for each in made:
                    each.assert_well()
                del made[2:]
    finally:
        run("systemctl", "stop", "NetworkManager")
        for name in witnesses:
            run("ip", "link", "del", name, status=None)
        for path in (debians_rule, NM_CONF, profile):
            path.unlink(missing_ok=True)
        run("udevadm", "control", "--reload")


def test_uninstalled() -> None:
    done = real_host.steps(real_host.TOOL, "uninstall")
    assert {action for action, _ in done.values()} == {"removed"}
    folders = ("/etc", "/opt", "/usr/bin", "/usr/lib/systemd", "/usr/lib/udev")
    assert run("find", *folders, "-name", "*faasm*") == ""
    assert not Path("/usr/lib/cni-faasm").exists()
