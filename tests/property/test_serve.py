"""Whatever a runtime sends, it gets one JSON document or nothing, status 0 or 1, and soon.

In-process, at the very edge. Here only what ends before it touches the host; the same with
configurations that go all the way is tests/kernel/test_edges.py's.
"""

import json
import os
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.serve import serve
from cni_faasm.spec.errors import IO_FAILURE
from cni_faasm.spec.protocol import SUPPORTED_VERSIONS, VERBS
from tests.property.test_jsonio import VALUES
from tests.property.test_protocol import ENVIRONS

MAX_SECONDS = 5.0
KEYS = st.sampled_from(
    [
        "cniVersion",
        "name",
        "NAME",
        "type",
        "mtu",
        "ipMasq",
        "hostInterfacePrefix",
        "stateDir",
        "dataDir",
        "dns",
        "bandwidth",
        "ingressRate",
        "egresRate",
        "ipam",
        "runtimeConfig",
        "args",
        "prevResult",
        "cni.dev/valid-attachments",
        "lockTimeout",
        "capabilities",
    ]
)
DOCUMENTS = st.dictionaries(KEYS, VALUES, max_size=8)
SOUND = {
    "cniVersion": "1.1.0",
    "name": "testnet",
    "type": "faasm",
    "stateDir": "/nowhere/state",
    "ipam": {"type": "host-local", "subnet": "10.200.0.0/16", "dataDir": "/nowhere/data"},
}


def call(environ: dict[str, str], stdin: bytes) -> tuple[int, bytes, bytes]:
    """Serve over files; return (status, stdout, stderr)."""
    descriptors = [os.memfd_create(name) for name in ("stdin", "stdout", "stderr")]
    try:
        os.write(descriptors[0], stdin)
        os.lseek(descriptors[0], 0, os.SEEK_SET)
        status = serve(environ, *descriptors)
        answers = []
        for fd in descriptors[1:]:
            os.lseek(fd, 0, os.SEEK_SET)
            answers.append(os.read(fd, 1 << 20))
    finally:
        for fd in descriptors:
            os.close(fd)
    return status, answers[0], answers[1]


def descriptors() -> list[str]:
    """Return what this process has open, but for the folder that lists it."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(f"{fd} {os.readlink(f'/proc/self/fd/{fd}')}")
        except FileNotFoundError:
            continue
    return sorted(found)


def judge(environ: dict[str, str], stdin: bytes) -> dict[str, Any] | None:
    """Serve; AssertionError unless the answer is what a runtime can read."""
    before = descriptors()
    start = time.monotonic()
    status, stdout, stderr = call(environ, stdin)
    assert time.monotonic() - start < MAX_SECONDS
    assert descriptors() == before
    assert b"Traceback" not in stderr
    if not stdout:
        assert status == 0
        return None
    assert stdout.endswith(b"\n")
    document = json.loads(stdout)
    assert isinstance(document, dict)
    assert document["cniVersion"] in SUPPORTED_VERSIONS
    if status:
        assert status == document["code"]
        assert isinstance(document["code"], int)
        assert document["code"] != 100, document
        assert document["msg"]
    else:
        assert "code" not in document
    return document


@given(ENVIRONS, st.binary(max_size=200))
def test_any_bytes(environ: dict[str, str], stdin: bytes) -> None:
    judge(environ, stdin)


@given(ENVIRONS, VALUES.filter(lambda value: not isinstance(value, dict)))
def test_any_json_that_is_no_object(environ: dict[str, str], value: object) -> None:
    judge(environ, json.dumps(value).encode())


@given(st.sampled_from(["ADD", "CHECK", "VERSION"]), ENVIRONS, DOCUMENTS, st.booleans())
def test_any_configuration(
    verb: str, environ: dict[str, str], document: dict[str, object], sound: bool
) -> None:
    """No namespace of a container is in these environments, so ADD and CHECK come to an end."""
    given_document = {**SOUND, **document} if sound else document
    answer = judge({**environ, "CNI_COMMAND": verb}, json.dumps(given_document).encode())
    assert answer is not None
    assert ("code" in answer) == (verb != "VERSION")


@pytest.mark.parametrize("verb", VERBS)
def test_an_endless_configuration_is_refused(verb: str) -> None:
    with open("/dev/zero", "rb") as endless, open(os.devnull, "wb") as stderr:
        stdout = os.memfd_create("stdout")
        try:
            assert serve({"CNI_COMMAND": verb}, endless.fileno(), stdout, stderr.fileno()) == 6
            os.lseek(stdout, 0, os.SEEK_SET)
            assert json.loads(os.read(stdout, 4096))["code"] == 6
        finally:
            os.close(stdout)


@given(ENVIRONS)
def test_nobody_listens(environ: dict[str, str]) -> None:
    read_end, write_end = os.pipe()
    os.close(read_end)
    stdin = os.memfd_create("stdin")
    try:
        assert serve(environ, stdin, write_end, write_end) == IO_FAILURE
    finally:
        os.close(stdin)
        os.close(write_end)
