"""The power goes while containers are attached: what the next boot finds, and what comes of it.

    python3 -m tests.vm.jobs.power      in the guest whose power is cut; it never ends

Nothing of an attachment is synced, so ext4 has some files whole, some empty, some not at all.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host import wait_until
from tests.vm.jobs import real_host
from tests.vm.jobs.real_host import CONFLIST, LEASES, RECORDS, TOOL, Attachment, attached, run

# What is written on the host, for the guest's disk is what is cut off.
TOLD = Path("/out/attached.json")
READY = Path("/out/ready")
MOMENTS = ("synced", "half written", "cut")
# How many containers of each network are attached at each moment.
NETWORKS = {"faasm": 2, "collected": 1, "full": 1}
RANGES: dict[str, dict[str, Any]] = {
    "collected": {"subnet": "10.201.0.0/24"},
    "full": {"subnet": "10.202.0.0/24", "rangeStart": "10.202.0.2", "rangeEnd": "10.202.0.4"},
}


def attachment(network: str, name: str, **keys: Any) -> Attachment:
    if network in RANGES:
        keys["ipam"] = {"type": "host-local", **RANGES[network]}
    return Attachment(name, network=network, **keys)


def cut() -> None:
    """Install, attach, and say so; the power is cut when all is attached."""
    run(real_host.BUNDLE_TOOL, "install")
    delivered = json.loads(CONFLIST.read_text())
    for number, name in enumerate(RANGES):
        one = attachment(name, "")
        keys = {key: one.config[key] for key in ("type", "ipam", "bandwidth")}
        listed = {**delivered, "name": name, "plugins": [keys]}
        CONFLIST.with_name(f"{20 + number}-{name}.conflist").write_text(json.dumps(listed))
    told = []
    for moment in MOMENTS:
        for network, count in NETWORKS.items():
            for number in range(count):
                one = attachment(network, f"{moment.replace(' ', '-')}-{network}-{number}").add()
                told.append(
                    {"moment": moment, "network": network, "name": one.name, "result": one.result}
                )
        if moment == "synced":
            os.sync()
        elif moment == "half written":
            # The journal goes to the disk with the names of all files, without what is in them.
            with open("/var/lib/other", "wb") as file:
                file.write(b"x")
                file.flush()
                os.fsync(file.fileno())
    TOLD.write_text(json.dumps(told))
    READY.touch()
    while True:
        time.sleep(1)


@pytest.fixture(scope="module")
def before() -> list[dict[str, Any]]:
    """What was attached when the power went."""
    found: list[dict[str, Any]] = json.loads(TOLD.read_text())
    return found


def address(one: dict[str, Any]) -> str:
    return str(one["result"]["ips"][0]["address"]).partition("/")[0]


def of(before: list[dict[str, Any]], network: str) -> list[dict[str, Any]]:
    return [one for one in before if one["network"] == network]


def state(path: Path) -> str:
    """Say what is left of a file: whole, torn, empty or missing."""
    if not path.exists():
        return "missing"
    data = path.read_bytes()
    if not data:
        return "empty"
    is_whole = (data.startswith(b"{") and data.rstrip().endswith(b"}")) or b"\r\n" in data
    return "whole" if is_whole and b"\0" not in data else "torn"


def leases(network: str) -> set[str]:
    folder = LEASES / network
    names = os.listdir(folder) if folder.exists() else []
    return {name for name in names if name[0].isdigit()}


def records(network: str) -> set[str]:
    folder = RECORDS / network
    return {name for name in os.listdir(folder) if "@" in name} if folder.exists() else set()


def gone(one: dict[str, Any]) -> Attachment:
    """Return an attachment of the earlier boot, as its runtime remembers it."""
    found = attachment(one["network"], one["name"])
    found.result = one["result"]
    return found


def test_what_is_left(before: list[dict[str, Any]], record_property: Any) -> None:
    found = {}
    for moment in MOMENTS:
        for kind in ("lease", "record"):
            states = [
                state(
                    LEASES / one["network"] / address(one)
                    if kind == "lease"
                    else RECORDS / one["network"] / f"{one['name']}@eth0"
                )
                for one in before
                if one["moment"] == moment
            ]
            found[moment, kind] = states
            counts = {word: states.count(word) for word in dict.fromkeys(states)}
            text = ", ".join(f"{count} {word}" for word, count in counts.items())
            record_property(f"{kind}s, {moment}", text)
    assert set(found["synced", "lease"] + found["synced", "record"]) == {"whole"}
    # Else the rest would prove nothing.
    assert "empty" in found["half written", "lease"], found
    assert "missing" in found["cut", "lease"], found
    assert "faasm" not in run("ip", "-o", "link")


def test_what_the_tool_says_of_it(before: list[dict[str, Any]]) -> None:
    """Before anything is attached anew: nobody is alive, and a look changes nothing."""
    names = leases("faasm") | records("faasm")
    rows = json.loads(run(TOOL, "status", "--json"))["attachments"]
    # Records that were on the disk.
    assert len(rows) >= sum(NETWORKS.values())
    for row in rows:
        assert [one["found"] for one in row["drifts"]] == ["it is of an earlier boot"]
        assert row["ingress"]["bytes"] is None
    assert run(TOOL, "check", status=1).count("it is of an earlier boot") == len(rows)
    run(TOOL, "gc", "--dry-run")
    for one in of(before, "faasm"):
        assert gone(one).check().document["code"] in (3, 107)
    assert leases("faasm") | records("faasm") == names


def test_the_first_add(before: list[dict[str, Any]]) -> None:
    """It works, and gives back what the earlier boot held."""
    taken = address(of(before, "faasm")[0])
    one = attachment("faasm", "first", runtimeConfig={"ips": [f"{taken}/16"]})
    with attached(one):
        assert one.address == taken
        one.assert_well()
        assert (leases("faasm"), records("faasm")) == ({taken}, {"first@eth0"})
        # Runtimes take down what they remember.
        for each in of(before, "faasm"):
            assert gone(each).check().status != 0
            gone(each).call("DEL", prevResult=each["result"]).ok()
        one.assert_well()
        assert (leases("faasm"), records("faasm")) == ({taken}, {"first@eth0"})
        assert "no drift" in run(TOOL, "check", one.name)
    assert (leases("faasm"), records("faasm")) == (set(), set())


def test_a_full_range(before: list[dict[str, Any]]) -> None:
    expected = {address(one) for one in of(before, "full")}
    assert len(expected) == 3
    with attached(*(attachment("full", f"new-{number}") for number in range(3))) as made:
        assert {one.address for one in made} == expected
    assert (leases("full"), records("full")) == (set(), set())


def test_gc_where_no_container_comes() -> None:
    held = leases("collected") | records("collected")
    assert held
    told = run(TOOL, "gc", "--dry-run")
    assert leases("collected") | records("collected") == held
    assert "collected: would remove" in told
    assert "collected: removed" in run(TOOL, "gc")
    assert (leases("collected"), records("collected")) == (set(), set())
    assert "removed" not in run(TOOL, "gc")
    wait_until(lambda: "faasm" not in run("ip", "-o", "link"), "the last link to go")


if __name__ == "__main__":
    cut()
