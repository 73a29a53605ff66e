"""The plugin starts from a snapshot of an interpreter: in every process, on every processor."""

import concurrent.futures
import ctypes
import json
import os
import random
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.host import BUNDLE, REPO, SYSTEM_PATH, Host, wait_until

PLUGIN = BUNDLE / "faasm"
INPUT = b'{"cniVersion": "1.0.0"}'
SIMPLEJSON = REPO / ".venv" / "simplejson"

ADDR_NO_RANDOMIZE = 0x0040000  # <linux/personality.h>
READ_IMPLIES_EXEC = 0x0400000
ADDR_COMPAT_LAYOUT = 0x0200000
STARTS = 1000
AT_ONCE = 64


def version(
    *words: str | Path, env: dict[str, str] | None = None, **options: Any
) -> subprocess.CompletedProcess[bytes]:
    """Call VERSION, by way of other programs where words are given."""
    return subprocess.run(
        [*words, PLUGIN],
        input=INPUT,
        env={"CNI_COMMAND": "VERSION", "PATH": SYSTEM_PATH, **(env or {})},
        capture_output=True,
        timeout=120,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def answer() -> bytes:
    """Return what VERSION prints when nothing is unusual."""
    done = version()
    assert (done.returncode, done.stderr) == (0, b"")
    assert "1.1.0" in json.loads(done.stdout)["supportedVersions"]
    return done.stdout


def make(sources: Path, folder: Path, **environment: str) -> bytes:
    """Build the executable alone. Returns: its bytes."""
    (simplejson,) = (path for path in SIMPLEJSON.iterdir() if path.is_dir())
    done = subprocess.run(
        ["/usr/bin/python3", sources / "packaging/snapshot/build.py", simplejson, folder],
        env={"PATH": SYSTEM_PATH, **environment},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return (folder / "faasm").read_bytes()


def test_the_same_sources_give_the_same_bytes(tmp_path: Path) -> None:
    """In another folder, by another user, with another environment, at another time."""
    tmp_path.chmod(0o755)
    other = tmp_path / "a folder with a long name" / "sources"
    for name in ("cni_faasm", "packaging"):
        shutil.copytree(REPO / name, other / name, ignore=shutil.ignore_patterns("__pycache__"))
    first = make(REPO, tmp_path / "first")
    second = make(
        other, tmp_path / "second", TZ="Asia/Tokyo", LANG="tr_TR.UTF-8", HOME="/nowhere",
        PYTHONHASHSEED="77", SOURCE_DATE_EPOCH="1", PYTHONDONTWRITEBYTECODE="1",
    )  # fmt: skip
    assert first == second
    assert first == PLUGIN.read_bytes(), "dist/ is not of these sources: ./build.sh"


LIBRARY = [
    "dataclasses",
    "enum",
    "functools",
    "ipaddress",
    "json",
    "os",
    "re",
    "socket",
    "struct",
    "typing",
]


def test_modules_of_the_library_may_be_imported(tmp_path: Path) -> None:
    """They cost a call nothing; those that keep something of a process end the build."""
    sources = tmp_path / "sources"
    for name in ("cni_faasm", "packaging"):
        shutil.copytree(REPO / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    face = sources / "cni_faasm" / "__init__.py"
    plain = face.read_text()
    face.write_text(f"{plain}\nimport {', '.join(LIBRARY)}\n")
    make(sources, tmp_path / "made")
    done = subprocess.run(
        [tmp_path / "made" / "faasm"], input=INPUT, env={"CNI_COMMAND": "VERSION"},
        capture_output=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout)["cniVersion"] == "1.1.0"
    face.write_text(f"{plain}\nimport random\n")
    with pytest.raises(AssertionError, match="the same in every process"):
        make(sources, tmp_path / "made")


def test_many_starts_at_once(answer: bytes) -> None:
    """Each has its stack, its heap and its own libraries' data elsewhere."""

    def call(_: int) -> tuple[int, bytes, bytes]:
        done = version()
        return done.returncode, done.stdout, done.stderr

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        found = set(pool.map(call, range(STARTS)))
    assert found == {(0, answer, b"")}


def with_personality(kinds: int) -> None:
    ctypes.CDLL(None, use_errno=True).personality(ctypes.c_ulong(kinds))


@pytest.mark.parametrize("kinds", [ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC, ADDR_COMPAT_LAYOUT])
def test_other_layouts_of_memory(answer: bytes, kinds: int) -> None:
    for _ in range(5):
        done = version(preexec_fn=lambda: with_personality(kinds))
        assert (done.returncode, done.stdout, done.stderr) == (0, answer, b"")


def test_what_calls_write_to_lies_together() -> None:
    """The kernel copies few pages: scattered, it was 305."""
    with subprocess.Popen(
        [PLUGIN], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env={"CNI_COMMAND": "VERSION"}
    ) as process:
        assert process.stdin is not None
        process.stdin.write(INPUT)
        process.stdin.close()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
    assert status == 0
    assert used.ru_minflt < 260


@pytest.mark.parametrize("masquerade", [False, True])
def test_verbs_touch_few_pages(runtime_host: Host, *, masquerade: bool) -> None:
    """The build has seen what they write to: before it had, ADD had 587 faults and CHECK 634."""
    host = runtime_host
    config = host.config(ipMasq=masquerade, bandwidth={"ingressRate": "10M", "egressRate": "20M"})
    faults: dict[str, int] = {}
    for _ in range(2):  # the first one makes what the others find
        inside = host.add_container()
        for verb in ("ADD", "CHECK"):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt
            host.cni(verb, inside, config, plugin=[str(PLUGIN)]).ok()
            faults[verb] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_minflt - before
        host.delete_attachment(inside, config)
    assert faults["ADD"] < 500, faults
    assert faults["CHECK"] < 480, faults


def test_it_needs_little_memory(answer: bytes) -> None:
    """Ten MiB, of which most is shared among all calls; and little more of addresses."""
    with subprocess.Popen(
        [PLUGIN], env={"CNI_COMMAND": "VERSION"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        status = Path(f"/proc/{running.pid}/status")

        def waits() -> bool:
            return "State:\tS" in status.read_text() and "faasm" in status.read_text()

        wait_until(waits, "it to read its input")
        words = dict(line.split(":", 1) for line in status.read_text().splitlines())
        assert running.communicate(INPUT)[0] == answer
    assert int(words["VmHWM"].split()[0]) <= 10 * 1024
    assert int(words["VmPeak"].split()[0]) <= 32 * 1024
    # It owns no more than it writes to, a part of these.
    assert int(words["RssAnon"].split()[0]) <= 4 * 1024


def test_every_limit_of_memory_is_survived_or_told(answer: bytes) -> None:
    """Where there is too little for the call, it says so or is not started at all."""
    seen = set()
    for mib in range(1, 40):
        limit = mib << 20
        done = version(
            preexec_fn=lambda limit=limit: resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        )
        if done.returncode == 0:
            assert done.stdout == answer
        elif done.returncode > 0:
            assert json.loads(done.stdout)["code"] in (5, 100), done
        seen.add(done.returncode)
    assert 0 in seen


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999, -1])
def test_a_file_that_was_cut(answer: bytes, tmp_path: Path, keep: float) -> None:
    """The kernel refuses it, or it does; nothing is begun."""
    whole = PLUGIN.read_bytes()
    short = tmp_path / "faasm"
    short.write_bytes(whole[: int(len(whole) * keep) if keep >= 0 else -1])
    short.chmod(0o755)
    try:
        done = subprocess.run(
            [short], input=INPUT, env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False
        )
    except OSError:
        return  # no executable at all
    assert done.returncode != 0
    assert done.stdout != answer
    if done.returncode > 0:
        assert json.loads(done.stdout)["code"] == 100


def test_flipped_bits_leave_nothing_that_del_does_not_remove(
    runtime_host: Host, tmp_path: Path
) -> None:
    """What a broken executable does nobody knows; but a whole one ends it."""
    host = runtime_host
    whole = bytearray(PLUGIN.read_bytes())
    chance = random.Random(3)
    config = host.config(ipMasq=True, bandwidth={"ingressRate": 8_000_000})
    warm = host.add_container()
    host.add(warm, config)
    host.delete_attachment(warm, config)
    failed = 0
    for number in range(40):
        inside = host.add_container()
        broken = tmp_path / f"faasm{number}"
        data = bytearray(whole)
        for _ in range(200):
            data[chance.randrange(4096, len(data))] ^= 1 << chance.randrange(8)
        broken.write_bytes(data)
        broken.chmod(0o755)
        call = host.cni("ADD", inside, config, plugin=["timeout", "-s", "KILL", "20", str(broken)])
        failed += call.status != 0
        host.delete_attachment(inside, config)
        broken.unlink()
    assert failed > 3
    host.cni("GC", None, {**config, "cniVersion": "1.1.0", "cni.dev/valid-attachments": []}).ok()
    assert host.leases() == {}
    assert host.records() == {}
    assert [name for name in host.links() if name.startswith("faasm")] == []


COLLIDING = """
import sys
wanted, bits = int(sys.argv[1]), int(sys.argv[2])
mask = (1 << bits) - 1
found = []
number = 0
while len(found) < wanted:
    key = f"{number:x}"
    if hash(key) & mask == 5:
        found.append(key)
    number += 1
print("\\n".join(found))
"""


def colliding_keys(count: int, bits: int) -> list[str]:
    """Return keys whose hashes share their lowest bits, with the seed that the plugin has."""
    done = subprocess.run(
        ["/usr/bin/python3", "-S", "-c", COLLIDING, str(count), str(bits)],
        env={"PYTHONHASHSEED": "0"}, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return str(done.stdout).split()


def timed(document: Any) -> tuple[float, dict[str, Any]]:
    """Return the seconds and the answer of a call of ADD, the best of three."""
    best = 1e9
    for _ in range(3):
        begin = time.monotonic()
        done = subprocess.run(
            [PLUGIN], input=json.dumps(document).encode(), capture_output=True, check=False,
            env={"CNI_COMMAND": "ADD", "CNI_CONTAINERID": "c", "CNI_NETNS": "/nowhere",
                 "CNI_IFNAME": "eth0", "CNI_PATH": "/"},
        )  # fmt: skip
        best = min(best, time.monotonic() - begin)
    return best, json.loads(done.stdout)


def test_keys_made_to_collide_hold_no_call_up() -> None:
    """The seed is known, so anybody can make them."""
    keys = colliding_keys(4096, 11)
    base = {"cniVersion": "1.0.0", "name": "n", "type": "faasm"}
    _, error = timed({**base, "args": dict.fromkeys(keys, "")})
    assert error["code"] == 6
    assert "more than 1024 keys" in error["msg"]
    # As many as may be, in an object and in a document of 256 KiB.
    lists = [keys[at : at + 1024] for at in range(0, 4096, 1024)]
    slow, error = timed({**base, "args": [dict.fromkeys(one, "") for one in lists]})
    assert error["code"] != 6
    plain = [[f"key{number}" for number in range(at, at + 1024)] for at in range(0, 4096, 1024)]
    fast, _ = timed({**base, "args": [dict.fromkeys(one, "") for one in plain]})
    assert slow < 5 * fast + 0.05, (slow, fast)


def test_nothing_of_the_build_is_in_it() -> None:
    data = PLUGIN.read_bytes()
    words = {
        str(REPO),
        str(SIMPLEJSON),
        "pypi",
        "/tmp/",
        *(w for w in [os.uname().nodename] if len(w) > 3),
    }
    assert {word for word in words if word.encode() in data} == set()
    assert data[:4] == b"\x7fELF"


def test_no_call_before_the_snapshot_is_remembered(runtime_host: Host) -> None:
    """Those that are played there have a boot of their own, and a kernel that lacks things."""
    container = runtime_host.add_container()
    runtime_host.add(container, runtime_host.config(ipMasq=True))
    (record,) = runtime_host.records().values()
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    assert json.loads(record)["bootID"] == boot_id


def test_who_closes_descriptors_gets_no_other(tmp_path: Path) -> None:
    """Whatever a call opens, it is none of the standard ones."""
    for closed in ("<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"):
        trace = tmp_path / "trace"
        script = f'exec "$0" {closed}'
        version(
            "strace", "-o", trace, "-e", "trace=socket,openat", "sh", "-c", script,
            env={"CNI_COMMAND": "STATUS"},
        )  # fmt: skip
        lines = [line for line in trace.read_text().splitlines() if "socket(" in line]
        assert not [line for line in lines if line.endswith(("= 0", "= 1", "= 2"))], closed


PROCESSORS = {
    "x86_64": ["qemu64", "core2duo", "Nehalem", "Haswell", "EPYC", "max"],
    "aarch64": ["cortex-a53", "cortex-a72", "max"],
}


@pytest.mark.parametrize("number", range(6))
def test_processors_old_and_new(answer: bytes, number: int) -> None:
    """What one can do is asked at each start, and never what the build machine's could."""
    machine = os.uname().machine
    models = PROCESSORS[machine]
    model = models[number % len(models)]
    done = version(f"qemu-{machine}-static", "-cpu", model)
    assert (done.returncode, done.stdout) == (0, answer), model


# What a process does before it reads its input: by the C library, by adopt.c, by Python.
BEGINNING = (
    *("arch_prctl", "brk", "getrandom", "gettid", "mmap", "mprotect", "newfstatat", "prlimit64"),
    *("readlink", "rseq", "rt_sigaction", "rt_sigprocmask", "set_robust_list", "set_tid_address"),
)
NEEDED = {"arch_prctl", "brk", "mmap", "mprotect", "newfstatat"}


@pytest.mark.parametrize("error", ["EPERM", "ENOSYS"])
@pytest.mark.parametrize("name", BEGINNING)
def test_a_profile_that_forbids_calls(answer: bytes, name: str, error: str) -> None:
    """As seccomp's do: what is not needed is done without; else it says so, or does not start."""
    done = version("strace", "-o", "/dev/null", "-e", f"inject={name}:error={error}")
    if done.returncode == 0:
        assert done.stdout == answer
    else:
        assert name in NEEDED
        if done.stdout:
            assert json.loads(done.stdout)["code"] in (5, 100)
