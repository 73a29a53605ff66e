"""DELs at once take what is theirs out of nf_tables, each for those that wait."""

import concurrent.futures
import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.attached import Attached, config
from tests.host import Host, wait_until

COUNT = 12


def guarded(host: Host, attached: list[Attached]) -> list[str]:
    """Return which of the outer ends the guard's tables name."""
    tables = [name for name in host.nft_tables() if name.partition(" ")[2].startswith("guard_")]
    text = "".join(host.run(["nft", "list", "table", *one.split()]).stdout for one in tables)
    return [one.outer for one in attached if f'"{one.outer}"' in text]


def test_many_at_once_leave_nothing_in_the_guard(host: Host) -> None:
    network = config(host)
    attached = [Attached(host, network) for _ in range(COUNT)]
    assert len(guarded(host, attached)) == COUNT
    with concurrent.futures.ThreadPoolExecutor(COUNT) as pool:
        list(pool.map(lambda one: host.delete_attachment(one.inside, network), attached))
    assert guarded(host, attached) == []
    assert not (host.state_dir / network["name"] / "forgetting").exists()


@pytest.fixture
def at_work(host: Host) -> "Callable[[Path], int]":
    def lock(folder: Path) -> int:
        held = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        return held

    return lock


@pytest.mark.parametrize("mac", ["another", "own"])
def test_who_waits_is_served_but_not_somebody_of_the_same_name(
    host: Host, at_work: "Callable[[Path], int]", mac: str
) -> None:
    """A DEL that was killed has left its word; its container was attached anew since."""
    network = config(host)
    one, other = Attached(host, network), Attached(host, network)
    folder = host.state_dir / network["name"]
    held = at_work(folder)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        done = pool.submit(host.delete_attachment, one.inside, network)
        word = folder / "forgetting" / f"{one.inside.name}@eth0"
        wait_until(word.is_symlink, "the DEL to wait")
        own = host.link(other.outer)
        assert own is not None
        told = own["address"].replace(":", "") if mac == "own" else "02" * 6
        (word.parent / f"{other.inside.name}@eth0").symlink_to(told)
        os.close(held)
        done.result()
    assert guarded(host, [one, other]) == ([] if mac == "own" else [other.outer])
    assert not (folder / "forgetting").exists()
    if mac == "another":
        host.check(other.inside, network, other.result).ok()


def test_who_hangs_holds_nobody_up(host: Host, at_work: "Callable[[Path], int]") -> None:
    network = config(host)
    one = Attached(host, network)
    held = at_work(host.state_dir / network["name"])
    try:
        host.delete_attachment(one.inside, network)
    finally:
        os.close(held)
    assert guarded(host, [one]) == []
    assert host.link(one.outer) is None
