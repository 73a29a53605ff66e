"""Whatever is sent, however much: the built executable answers, in bounded memory and time.

The kernel holds it to both: MEMORY is its whole address space, and it has CPU_SECONDS. What
takes more is killed, or has to tell that it is out of memory, and either fails the test.
"""

import json
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.host import BUNDLE

PLUGIN = BUNDLE / "faasm"
MEMORY = 640 << 20
CPU_SECONDS = 20
MOST = (8 << 20) - 64  # of what is read at all
VERBS = ("ADD", "CHECK", "DEL", "GC", "STATUS")

# Of a document without cniVersion: neither verb is of 0.1.0.
SINCE = {"CHECK", "GC", "STATUS"}
HEAD = b'"cniVersion": "1.1.0", "name": "big", "type": "faasm", '
IPAM = b'"ipam": {"type": "host-local", "subnet": "10.9.0.0/16"}, '


def filled(before: bytes, unit: bytes, after: bytes, size: int = MOST) -> bytes:
    """Repeat a unit between two texts until there are so many bytes."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


def listed(key: bytes, unit: bytes, head: bytes = HEAD + IPAM) -> bytes:
    """Return a configuration with a list as long as can be at a key."""
    return filled(b"{" + head + b'"' + key + b'": [', unit + b",", unit + b"]}")


def keys(make: Callable[[int], bytes], number: int = 500_000) -> bytes:
    text = b",".join(b'"%s":0' % make(index) for index in range(number))
    return b"{" + HEAD + IPAM + text[:MOST].rpartition(b",")[0] + b"}"


def ranges() -> Iterator[bytes]:
    for number in range(65_536):
        yield b'{"subnet": "10.%d.%d.0/24"}' % divmod(number, 256)


# What is sent, and the codes of which one may be told: 0 is none. 3: /nowhere is no namespace.
SENT: dict[str, tuple[Callable[[], bytes], set[int]]] = {
    "100 MB of blanks": (lambda: b" " * (100 << 20), {6}),
    "100 MB of brackets": (lambda: b"[" * (100 << 20), {6}),
    "100 MB of text": (lambda: b'{"name": "' + b"a" * (100 << 20) + b'"}', {6}),
    "lists in lists": (lambda: filled(b"", b"[", b""), {6}),
    "objects in objects": (lambda: filled(b"", b'{"a":', b""), {6}),
    "a million lists": (lambda: listed(b"x", b"[]"), {0, 3}),
    "a million objects": (lambda: listed(b"x", b"{}"), {0, 3}),
    "a fault at the end": (lambda: listed(b"x", b"1")[:-2] + b"?]}", {6}),
    "no end": (lambda: listed(b"x", b"1")[:-2], {6}),
    "an endless number": (lambda: filled(b'{"mtu": ', b"9", b"}"), {6}),
    "a number with an endless fraction": (lambda: filled(b'{"mtu": 1.', b"9", b"}"), {6}),
    "a number too large": (lambda: b'{"mtu": 1e400}', {6}),
    "a long name": (lambda: filled(b'{"name": "', b"a", b'"}'), {0, 7}),
    "escapes": (lambda: filled(b'{"name": "', b"\\ud800", b'"}'), {0, 7}),
    "NUL bytes": (lambda: bytes(MOST), {6}),
    "no UTF-8 at the end": (lambda: filled(b'{"name": "', b"a", b'\xff"}'), {6}),
    "one key again and again": (lambda: filled(b"{", b'"name":0,', b'"name":"n"}'), {6}),
    "unknown keys": (lambda: keys(lambda index: b"k%d" % index), {6}),
    "as many as may be": (lambda: keys(lambda index: b"k%d" % index, 1000), {0, 3}),
    "slips of keys": (lambda: keys(lambda index: b"ingres%05x" % index), {6}),
    "slips of as many as may be": (
        lambda: keys(lambda index: b"ingres%05x" % index, 1000), {0, 3, 7}
    ),
    "addresses asked for": (
        lambda: filled(b"{" + HEAD + IPAM + b'"runtimeConfig": {"ips": [', b"0,", b"0]}}"),
        {0, 7},
    ),
    "routes": (
        lambda: filled(
            b"{" + HEAD + IPAM[:-3] + b', "routes": [', b'{"dst":"1.2.3.0/24"},', b"{}]}}"
        ),
        {0, 7},
    ),
    "range sets": (
        lambda: b"{%s%s[[%s]]}}"
        % (HEAD, b'"ipam": {"ranges": ', b"],[".join(ranges())),
        {0, 7},
    ),
    "ranges of a set": (
        lambda: b"{%s%s[[%s]]}}" % (HEAD, b'"ipam": {"ranges": ', b",".join(ranges())),
        {0, 7},
    ),
    "allowHost": (lambda: listed(b"allowHost", b'"tcp/1"'), {0, 7}),
    "subnets": (lambda: listed(b"unshapedSubnets", b'"10.0.0.0/8"'), {0, 7}),
    "attachments": (
        lambda: listed(b"cni.dev/valid-attachments", b'{"containerID":"c","ifname":"e"}'),
        {0, 3},
    ),
    "attachments that are none": (
        lambda: listed(b"cni.dev/valid-attachments", b"{}"),
        {0, 7},
    ),
    "attachments of zeros": (lambda: listed(b"cni.dev/valid-attachments", b"0"), {0, 7}),
    "routes of prevResult": (
        lambda: filled(
            b"{" + HEAD + IPAM + b'"prevResult": {"cniVersion": "1.0.0", "routes": [',
            b'{"dst":"1.2.3.0/24"},',
            b'{"dst":"1.2.3.0/24"}]}}',
        ),
        {0, 2, 3},
    ),
}  # fmt: skip


def limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))


def call(verb: str, stdin: bytes, folder: Path, **variables: str) -> tuple[int, bytes]:
    """Return (exit status, stdout)."""
    path = folder / "stdin"
    path.write_bytes(stdin)
    environment: dict[str, str] = {
        "CNI_COMMAND": verb, "CNI_CONTAINERID": "big", "CNI_NETNS": "/nowhere",
        "CNI_IFNAME": "eth0", "CNI_PATH": "/nowhere", **variables,
    }  # fmt: skip
    with path.open("rb") as source:
        done = subprocess.run(
            [PLUGIN], stdin=source, capture_output=True, env=environment, preexec_fn=limit,
            check=False, timeout=300,
        )  # fmt: skip
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stdout


def judge(status: int, stdout: bytes, allowed: set[int]) -> None:
    assert status in (0, 1), (status, stdout[:500])
    assert len(stdout) < 65_536
    code = 0
    if status:
        document = json.loads(stdout)
        code = document["code"]
        assert document["msg"]
    assert code in allowed, stdout[:500]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("case", SENT)
def test_stdin(case: str, verb: str, tmp_path: Path) -> None:
    make, allowed = SENT[case]
    text = make()
    if verb in SINCE and b"cniVersion" not in text:
        allowed = {*allowed, 1}
    judge(*call(verb, text, tmp_path), {*allowed, 7} if verb == "GC" else allowed)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "value",
    ["a" * 100_000, "\n", "a\nb", "\udcff\udcfe", ";" * 100_000, "K=V;" * 25_000, "=", "../../x"],
    ids=["long", "newline", "two lines", "no UTF-8", "semicolons", "pairs", "equals", "path"],
)
@pytest.mark.parametrize(
    "name", ["CNI_COMMAND", "CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_PATH", "CNI_ARGS"]
)
def test_environment(name: str, value: str, verb: str, tmp_path: Path) -> None:
    state = os.fsencode(tmp_path)
    folders = b'"stateDir": "%s/s", "dataDir": "%s/d", ' % (state, state)
    text = b"{" + HEAD + IPAM + folders + b'"cni.dev/valid-attachments": []}'
    status, stdout = call(verb, text, tmp_path, **{name: value})
    judge(status, stdout, {0, 3, 4})
