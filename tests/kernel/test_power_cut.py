"""What a power cut leaves of leases and records: no error, no duplicate, no address lost."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from tests.host import Host, Namespace

EARLIER = "00000000-0000-0000-0000-000000000000"
# Two addresses of each family: the victim's and another one.
FOUR = {"subnet": "10.200.0.0/16", "rangeStart": "10.200.0.2", "rangeEnd": "10.200.0.3"}
SIX = {"subnet": "fd00:200::/64", "rangeStart": "fd00:200::2", "rangeEnd": "fd00:200::3"}
FILES = ("lease", "record", "cursor", "marker")


def torn(content: bytes, kind: str, step: int) -> list[bytes]:
    """Return what may stand there afterwards; step: between the lengths of what is cut."""
    if kind == "cut":
        return [content[:length] for length in range(0, len(content), step)]
    if kind == "zeros":
        return [bytes(len(content)), content[: len(content) // 2].ljust(len(content), b"\0")]
    if kind == "garbage":
        return [b"\xff\xfe" * 40, b"{" * 3000, b"\n" * 10]
    fields = {"version": 99, "bootID": EARLIER, "containerID": "x", "ifname": "eth0", "new": [1]}
    return [json.dumps(fields).encode()]


class Outage:
    """A container's files as an earlier boot wrote them, of which one is torn."""

    def __init__(self, host: Host, config: dict[str, Any]) -> None:
        self.host = host
        self.config = config
        self.victim, self.other = host.add_container(), host.add_container()
        result = host.add(self.victim, config)
        leases, state = host.data_dir / "testnet", host.state_dir / "testnet"
        self.places = {"record": state / f"{self.victim.name}@eth0", "marker": state / "boot"}
        for number, one in enumerate(result["ips"]):
            suffix = "" if number == 0 else str(number + 1)
            self.places[f"lease{suffix}"] = leases / one["address"].partition("/")[0]
            self.places[f"cursor{suffix}"] = leases / f"last_reserved_ip.{number}"
        self.kept = {name: path.read_bytes() for name, path in self.places.items()}
        self.earlier = json.loads(self.kept["record"])["bootID"].encode()
        # The power went: no link is left.
        for name in host.links():
            host.run(["ip", "link", "del", name], check=False)

    def _put(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        os.utime(path, (1, 1))

    def tear(self, which: str, data: bytes) -> None:
        for name, path in self.places.items():
            self._put(path, self.kept[name].replace(self.earlier, EARLIER.encode()))
        self._put(self.places[which], data)

    def assert_all_to_be_had(self, expected: list[str], what: object) -> None:
        """Attach two containers: every address is given once; then all is as before them."""
        both: tuple[Namespace, ...] = (self.other, self.victim)
        results = [self.host.add(one, self.config) for one in both]
        found = [ip["address"] for result in results for ip in result["ips"]]
        assert sorted(found) == expected, what
        for one in both:
            self.host.delete_attachment(one, self.config)
        assert self.host.leases() == {}, what
        assert self.host.records() == {}, what
        assert self.host.links() == [], what


@pytest.mark.parametrize("kind", ["cut", "zeros", "garbage", "version"])
@pytest.mark.parametrize("which", FILES)
def test_torn(host: Host, which: str, kind: str, request: pytest.FixtureRequest) -> None:
    outage = Outage(host, host.config(ipam=FOUR))
    content = outage.kept[which]
    # Every length of what is short; of what is long every twentieth.
    step = 1 if len(content) < 64 or request.config.getoption("--soak") else 20
    for data in torn(content, kind, step):
        outage.tear(which, data)
        outage.assert_all_to_be_had(["10.200.0.2/32", "10.200.0.3/32"], (which, data[:60]))


@pytest.mark.parametrize("kind", ["cut", "zeros", "garbage", "version"])
@pytest.mark.parametrize("which", [*FILES, "lease2", "cursor2"])
def test_torn_of_both_families_with_egress_on_the_host(
    host: Host, which: str, kind: str, request: pytest.FixtureRequest
) -> None:
    """A record that tells of an ifb too, and two leases of which one is torn."""
    limits = {"ingressRate": 8_000_000, "egressRate": 4_000_000, "enforceEgress": "host"}
    ranges = {"subnet": None, "ranges": [[FOUR], [SIX]]}
    outage = Outage(host, host.config(ipMasq=True, isolated=True, bandwidth=limits, ipam=ranges))
    content = outage.kept[which]
    step = 1 if request.config.getoption("--soak") else max(1, len(content) // 8)
    expected = ["10.200.0.2/32", "10.200.0.3/32", "fd00:200::2/128", "fd00:200::3/128"]
    for data in torn(content, kind, step):
        outage.tear(which, data)
        outage.assert_all_to_be_had(expected, (which, data[:60]))
