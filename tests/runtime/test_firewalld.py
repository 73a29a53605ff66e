"""The installed tool on a host with firewalld: what install and uninstall say of it."""

from pathlib import Path

import pytest

from tests.firewalls import Firewalld
from tests.host import REPO
from tests.runtime.test_docs import Reader, reader

__all__ = ["reader"]  # a fixture


@pytest.fixture
def page() -> Path:
    """Return one whose reader has nothing installed yet."""
    return REPO / "CONTRIBUTING.md"


def test_install_and_uninstall_say_what_firewalld_does(reader: Reader) -> None:
    assert "firewalld" not in reader.run("./build.sh --install").stderr
    firewalld = Firewalld(reader.host)
    with firewalld.bus():
        firewalld.start()
        done = reader.run("./build.sh --install")
        assert done.returncode == 0, done.stderr
        assert "cni-faasm firewall-trust --network faasm puts its ranges" in done.stderr
        reader.must("cni-faasm firewall-trust --network faasm")
        assert "firewalld" not in reader.run("./build.sh --install").stderr
        done = reader.run("cni-faasm uninstall --json")
        assert done.returncode == 0, done.stderr
        rest = "--zone=trusted --remove-source=10.200.0.0/16"
        command = f"firewall-cmd {rest}; firewall-cmd --permanent {rest}"
        assert done.stderr.rstrip().endswith(command)
        reader.must(command)
        assert firewalld.command("--zone=trusted", "--list-sources") == ""
