"""The counts of calls: every one is in them once, whoever writes, counts or is killed meanwhile."""

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cni_faasm import calls
from cni_faasm.spec.errors import INVALID_CONFIG

RECORD = 16
PER_FILE = calls.LONG // RECORD


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "run" / "calls"
    monkeypatch.setattr(calls, "FOLDER", str(found))
    monkeypatch.setattr(calls, "LATE_NS", 0)
    return found


def end(verb: str = "ADD", *, code: int = 0, times: int = 1) -> None:
    for _ in range(times):
        calls.add(verb, code, time.monotonic_ns())


def numbers() -> dict[str, int]:
    return {verb: sum(one.within) for verb, one in calls.read().items()}


def test_none() -> None:
    assert calls.read() == {}


def test_what_is_counted(folder: Path) -> None:
    end(times=2)
    end("CHECK", code=INVALID_CONFIG)
    end("SOMETHING\n", code=10**9)
    end("VERSION")
    end("info", times=2)
    counts = calls.read()
    assert {verb: sum(one.within) for verb, one in counts.items()} == {
        "ADD": 2,
        "CHECK": 1,
        "VERSION": 1,
        "info": 2,
        calls.OTHER: 1,
    }
    assert counts["CHECK"].errors == {INVALID_CONFIG: 1}
    assert counts[calls.OTHER].errors == {0xFFFF: 1}
    assert counts["ADD"].errors == {}
    assert counts["ADD"].within[0] == 2  # within a millisecond
    assert (folder.stat().st_mode & 0o777, folder.parent.stat().st_mode & 0o777) == (0o700, 0o755)


def test_who_asks_for_the_version_leaves_no_trace(folder: Path) -> None:
    end("VERSION")
    end("info")
    assert not folder.parent.exists()
    end("DEL")
    end("VERSION")
    assert numbers() == {"DEL": 1, "VERSION": 1}


def test_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    now_ns = 1 << 60
    monkeypatch.setattr("time.monotonic_ns", lambda: now_ns)
    for took_us in (1_000, 1_001, 3_000_000, 11_000_000, 1 << 40):
        calls.add("ADD", 0, now_ns - took_us * 1000)
    counted = calls.read()["ADD"]
    places = {place: number for place, number in enumerate(counted.within) if number}
    last = len(calls.BOUNDS_US)
    assert places == {0: 1, 1: 1, last - 2: 1, last: 2}
    assert counted.took_us == 1_000 + 1_001 + 3_000_000 + 11_000_000 + 0xFFFFFFFF


def test_many_leave_files_as_short_as_they_were(folder: Path) -> None:
    for done in range(1, 4):
        end(times=PER_FILE)
        end("DEL", code=5)
        assert numbers() == {"ADD": done * PER_FILE, "DEL": done}
    assert sum(path.stat().st_size for path in folder.iterdir()) < 3 * calls.LONG
    assert calls.read()["DEL"].errors == {5: 3}


def test_many_at_a_time_lose_none(folder: Path) -> None:
    """Three processes write while this one reads: the counts never go down, and none is missing."""
    times = 3 * PER_FILE
    script = f"""
import time
from cni_faasm import calls
calls.FOLDER, calls.LATE_NS = {str(folder)!r}, 200_000_000
for _ in range({times}):
    calls.add("ADD", 0, 0)
    time.sleep(0.0002)
"""
    writers = [subprocess.Popen([sys.executable, "-c", script]) for _ in range(3)]
    before = 0
    while any(one.poll() is None for one in writers):
        now = numbers().get("ADD", 0)
        assert now >= before
        before = now
    assert [one.returncode for one in writers] == [0] * 3
    assert numbers() == {"ADD": 3 * times}
    assert (folder / calls.TOTALS).exists()


def test_who_comes_late_is_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    end(times=PER_FILE)
    late = os.open(folder / calls.EARLIER, os.O_WRONLY | os.O_APPEND)
    monkeypatch.setattr(calls, "LATE_NS", 3600 * 10**9)
    end(times=PER_FILE)  # which would have counted it
    os.write(late, (folder / calls.EARLIER).read_bytes()[:RECORD])
    os.close(late)
    monkeypatch.setattr(calls, "LATE_NS", 0)
    end()
    assert numbers() == {"ADD": 2 * PER_FILE + 2}
    assert not (folder / calls.RECENT).exists()


@pytest.mark.parametrize("act", ["rename", "write"])
@pytest.mark.parametrize("when", [1, 2])
def test_who_is_killed_while_he_counts(
    folder: Path, act: str, when: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    end(times=2 * PER_FILE - 1)
    total = 2 * PER_FILE - 1
    real = getattr(os, act)
    acts = iter(range(1, 100))

    def killed(*args: object, **kwargs: object) -> object:
        if next(acts) == when:
            raise KeyboardInterrupt
        return real(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(os, act, killed)
        with pytest.raises(KeyboardInterrupt):
            end()
    total += (act, when) != ("write", 1)
    assert numbers() == {"ADD": total}
    end(times=2 * PER_FILE)
    assert numbers() == {"ADD": total + 2 * PER_FILE}


def test_a_reader_holds_nobody_up(folder: Path) -> None:
    end()
    holder = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_SH)
        end(times=2 * PER_FILE)
    finally:
        os.close(holder)
    assert numbers() == {"ADD": 2 * PER_FILE + 1}
    end()
    assert not (folder / calls.RECENT).exists()  # counted
    assert numbers() == {"ADD": 2 * PER_FILE + 2}


def test_a_reader_that_never_ends_costs_no_more_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "_TOO_LONG", 2 * calls.LONG)
    end()
    holder = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_SH)
        end(times=5 * PER_FILE)
        assert (folder / calls.RECENT).stat().st_size <= 2 * calls.LONG
    finally:
        os.close(holder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"counted": 1, "verbs": {}}',
        '{"counted": "zz", "verbs": {}}',
        '{"counted": "", "verbs": {"ADD": 1}}',
        '{"counted": "", "verbs": {"ADD": [1, [1], []]}}',
        '{"counted": "", "verbs": {"ADD": [1, "x", []]}}',
    ],
)
def test_totals_that_nobody_can_read(folder: Path, text: str) -> None:
    end(times=PER_FILE)
    (folder / calls.TOTALS).write_text(text)
    assert numbers() == {"ADD": PER_FILE}
    end(times=PER_FILE)
    assert numbers() == {"ADD": 2 * PER_FILE}


def test_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file" / "calls", tmp_path / "file", Path("/proc/nowhere/calls")):
        monkeypatch.setattr(calls, "FOLDER", str(folder))
        end()
    planted = tmp_path / "calls"
    planted.mkdir()
    monkeypatch.setattr(calls, "FOLDER", str(planted))
    (planted / calls.RECENT).symlink_to(tmp_path / "elsewhere")
    end()
    assert not (tmp_path / "elsewhere").exists()
    (planted / calls.RECENT).unlink()
    os.mkfifo(planted / calls.RECENT)
    end()
