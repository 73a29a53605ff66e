"""What a power cut leaves of leases and records: no error, no duplicate, no address lost."""

import json
import os
from pathlib import Path

import pytest

from tests.host import Host

EARLIER = "00000000-0000-0000-0000-000000000000"


def torn(content: bytes, kind: str) -> list[bytes]:
    """Return what may stand there afterwards."""
    if kind == "cut":
        # Every length of what is short; of what is long every twentieth.
        step = 1 if len(content) < 64 else 20
        return [content[:length] for length in range(0, len(content), step)]
    if kind == "zeros":
        return [bytes(len(content)), content[: len(content) // 2].ljust(len(content), b"\0")]
    if kind == "garbage":
        return [b"\xff\xfe" * 40, b"{" * 3000, b"\n" * 10]
    fields = {"version": 99, "bootID": EARLIER, "containerID": "x", "ifname": "eth0", "new": [1]}
    return [json.dumps(fields).encode()]


@pytest.mark.parametrize("kind", ["cut", "zeros", "garbage", "version"])
@pytest.mark.parametrize("which", ["lease", "record", "cursor", "marker"])
def test_torn(host: Host, which: str, kind: str) -> None:
    config = host.config(ipam={"rangeStart": "10.200.0.2", "rangeEnd": "10.200.0.3"})
    victim, other = host.add_container(), host.add_container()
    host.add(victim, config)
    places = {
        "lease": host.data_dir / "testnet" / "10.200.0.2",
        "record": host.state_dir / "testnet" / f"{victim.name}@eth0",
        "cursor": host.data_dir / "testnet" / "last_reserved_ip.0",
        "marker": host.state_dir / "testnet" / "boot",
    }
    kept = {name: path.read_bytes() for name, path in places.items()}
    # The power went: no link is left, and the files are as an earlier boot wrote them.
    host.run(["ip", "link", "del", "faasm0"])
    earlier = json.loads(kept["record"])["bootID"].encode()

    def put_back(path: Path, data: bytes) -> None:
        path.write_bytes(data.replace(earlier, EARLIER.encode()))
        os.utime(path, (1, 1))

    for data in torn(kept[which], kind):
        for name, path in places.items():
            put_back(path, kept[name])
        places[which].write_bytes(data)
        os.utime(places[which], (1, 1))
        # Both addresses are to be had, each once.
        found = [host.add(one, config)["ips"][0]["address"] for one in (other, victim)]
        assert sorted(found) == ["10.200.0.2/32", "10.200.0.3/32"], (which, data[:60])
        for one in (other, victim):
            host.delete_attachment(one, config)
        assert host.leases() == {}
        assert host.records() == {}
