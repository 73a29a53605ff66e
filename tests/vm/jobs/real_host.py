"""The guest itself as the host: its own interfaces, its CNI folders, the installed bundle.

What others do in namespaces of their own is done here where daemons see it.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.host import CniCall, wait_until

PLUGIN = "/opt/cni/bin/faasm"
TOOL = "/usr/bin/cni-faasm"
BUNDLE_TOOL = "/checkout/dist/faasm/cni-faasm"
CONFLIST = Path("/etc/cni/net.d/10-faasm.conflist")
LEASES = Path("/var/lib/cni/networks")
RECORDS = Path("/var/lib/cni/faasm")
PING = ("busybox", "ping", "-c1", "-W5")


def run(*command: str, status: int | None = 0, timeout: float = 120) -> str:
    """Run a command; return what it printed. status: what it must end with, None for anything."""
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "LC_ALL": "C.UTF-8", "SYSTEMD_COLORS": "0"},
    )
    said = f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr, said
    assert status in (None, done.returncode), said
    return done.stdout


def steps(*words: str) -> dict[str, tuple[str, str]]:
    """Install or uninstall; return what happened to which path, and what was told of it."""
    document = json.loads(run(*words, "--json"))
    return {one["path"]: (one["action"], one["note"]) for one in document["steps"]}


class Attachment:
    """A namespace of its own, attached by the installed plugin to the network as delivered.

    network: another name for it. keys: of the plugin's object, beside or in the place of those
    delivered.
    """

    def __init__(self, name: str, *, network: str = "", **keys: Any) -> None:
        listed = json.loads(CONFLIST.read_text())
        bandwidth = {"ingressRate": 10**7, "egressRate": 10**7, **keys.pop("bandwidth", {})}
        self.config: dict[str, Any] = {
            **listed["plugins"][0],
            "cniVersion": "1.1.0",
            "name": network or listed["name"],
            "bandwidth": bandwidth,
            **keys,
        }
        self.name = name
        self.result: dict[str, Any] = {}

    def call(self, verb: str, **keys: Any) -> CniCall:
        """Call the plugin for this container, as a runtime does."""
        done = subprocess.run(
            [PLUGIN],
            input=json.dumps({**self.config, **keys}).encode(),
            capture_output=True,
            check=False,
            timeout=120,
            env={
                "CNI_COMMAND": verb,
                "CNI_CONTAINERID": self.name,
                "CNI_NETNS": f"/run/netns/{self.name}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": "/opt/cni/bin",
                "PATH": os.environ["PATH"],
            },
        )
        return CniCall(verb, done.returncode, done.stdout, done.stderr)

    def add(self) -> Self:
        """Make the namespace and attach it."""
        run("ip", "netns", "add", self.name)
        self.result = self.call("ADD").ok()
        return self

    def check(self) -> CniCall:
        return self.call("CHECK", prevResult=self.result)

    def delete(self) -> None:
        self.call("DEL", prevResult=self.result).ok()
        run("ip", "netns", "del", self.name, status=None)

    @property
    def outer(self) -> str:
        """Return the name of the host's end."""
        return str(self.result["interfaces"][0]["name"])

    @property
    def address(self) -> str:
        return str(self.result["ips"][0]["address"]).partition("/")[0]

    def ends(self) -> list[str]:
        """Return the host's interfaces of this attachment."""
        names = [f"i{self.outer}"] if self.config["bandwidth"].get("enforceEgress") else []
        return [self.outer, *names]

    def state(self) -> list[Any]:
        """Return all of the host's interfaces of this attachment that others might change."""
        return [end_state(name) for name in self.ends()]

    def assert_well(self) -> None:
        """Demand that CHECK is content, and that packets pass both ways."""
        self.check().ok()
        run("ip", "netns", "exec", self.name, *PING, self.result["ips"][0]["gateway"])
        run(*PING, self.address)


@contextlib.contextmanager
def attached(*made: Attachment) -> Iterator[tuple[Attachment, ...]]:
    """Attach for a while."""
    done: list[Attachment] = []
    try:
        for one in made:
            done.append(one)
            one.add()
        yield made
    finally:
        for one in reversed(done):
            one.delete()


def end_state(name: str) -> dict[str, Any]:
    """Return an interface's settings, addresses and routes."""
    (found,) = json.loads(run("ip", "-d", "-j", "addr", "show", "dev", name))
    # Counted by the kernel, or of the moment.
    for key in ("flags", "operstate", "promiscuity", "allmulti"):
        found.pop(key, None)
    routes = [
        run("ip", family, "route", "show", "table", "all", "dev", name).splitlines()
        for family in ("-4", "-6")
    ]
    return {"link": found, "routes": routes, "qdiscs": run("tc", "qdisc", "show", "dev", name)}


def settle() -> None:
    """Wait until udev has done what there is to do."""
    run("udevadm", "settle", "--timeout=60")


def udev_properties(name: str) -> dict[str, str]:
    lines = run("udevadm", "info", "--query=property", f"/sys/class/net/{name}").splitlines()
    return dict(line.split("=", 1) for line in lines)


def networkd_state(name: str) -> dict[str, str]:
    """Return what networkd notes of an interface; {} when it knows of none."""
    try:
        index = Path("/sys/class/net", name, "ifindex").read_text().strip()
        text = Path("/run/systemd/netif/links", index).read_text()
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def verdict(name: str) -> str:
    """Wait until networkd has decided whether an interface is its business; return its word."""
    undecided = ("", "pending", "initialized")
    wait_until(
        lambda: networkd_state(name).get("ADMIN_STATE", "") not in undecided,
        f"networkd to look at {name}",
        120,
    )
    return networkd_state(name)["ADMIN_STATE"]


class Witness:
    """An interface that is anybody's: it has an address, until a daemon takes it off.

    So it is known when that daemon has got round to the interfaces made before.
    """

    ADDRESS = "203.0.113.9"

    def __init__(self, name: str = "witness0") -> None:
        self.name = name

    def __enter__(self) -> Self:
        self.renew()
        return self

    def __exit__(self, *_: object) -> None:
        run("ip", "link", "del", self.name, status=None)

    def renew(self) -> None:
        """Make it anew, so that it is the last of all."""
        run("ip", "link", "del", self.name, status=None)
        run("ip", "link", "add", self.name, "type", "dummy")
        run("ip", "addr", "add", f"{self.ADDRESS}/24", "dev", self.name)
        run("ip", "link", "set", self.name, "up")

    def give_address(self) -> None:
        run("ip", "addr", "replace", f"{self.ADDRESS}/24", "dev", self.name)

    def has_address(self) -> bool:
        return self.ADDRESS in run("ip", "-4", "addr", "show", "dev", self.name)

    def wait(self) -> None:
        try:
            wait_until(lambda: not self.has_address(), f"the daemon to take {self.name}", 120)
        except AssertionError as error:
            log = run("journalctl", "--boot", "--output=cat", "--lines=60")
            raise AssertionError(f"{error}: {networkd_state(self.name)}\n{log}") from None
