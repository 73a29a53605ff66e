"""Requests: required variables, names, CNI_ARGS, versions, as the reference dispatcher rules."""

import json
from typing import Any

import pytest

from cni_faasm.spec import protocol
from cni_faasm.spec.errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_ENVIRONMENT,
    CniError,
)

ENVIRON = {
    "CNI_CONTAINERID": "c0ffee",
    "CNI_NETNS": "/run/netns/a",
    "CNI_IFNAME": "eth0",
    "CNI_PATH": "/opt/cni/bin",
}
CONFIG = b'{"cniVersion": "1.1.0", "name": "faasm", "type": "faasm"}'


def parse(verb: str = "ADD", stdin: bytes = CONFIG, **variables: str | None) -> protocol.Request:
    environ: dict[str, str] = {"CNI_COMMAND": verb, **ENVIRON}
    for name, value in variables.items():
        if value is None:
            environ.pop(name)
        else:
            environ[name] = value
    return protocol.parse_request(environ, stdin)


def refused(
    code: int, verb: str = "ADD", stdin: bytes = CONFIG, **variables: str | None
) -> CniError:
    with pytest.raises(CniError) as caught:
        parse(verb, stdin, **variables)
    assert caught.value.code == code, caught.value.msg
    assert caught.value.details
    return caught.value


def test_request() -> None:
    request = parse(CNI_ARGS="IP=10.1.0.2;MAC=02:00:00:00:00:01")
    assert request.verb == "ADD"
    assert request.container_id == "c0ffee"
    assert request.netns == "/run/netns/a"
    assert request.ifname == "eth0"
    assert request.path == "/opt/cni/bin"
    assert request.args == {"IP": "10.1.0.2", "MAC": "02:00:00:00:00:01"}
    assert request.document == {"cniVersion": "1.1.0", "name": "faasm", "type": "faasm"}
    assert request.cni_version == "1.1.0"


REQUIRED = {
    "ADD": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
    "CHECK": {"CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"},
    "DEL": {"CNI_CONTAINERID", "CNI_IFNAME"},
    "GC": set(),
    "STATUS": set(),
    "VERSION": set(),
}


@pytest.mark.parametrize("verb", protocol.VERBS)
@pytest.mark.parametrize("empty", [True, False], ids=["empty", "unset"])
def test_every_missing_variable_is_named_at_once(verb: str, empty: bool) -> None:
    absent: dict[str, Any] = dict.fromkeys(ENVIRON, "" if empty else None)
    if not REQUIRED[verb]:
        assert parse(verb, **absent).verb == verb
        return
    error = refused(INVALID_ENVIRONMENT, verb, **absent)
    assert set(error.msg.removeprefix("missing: ").split(", ")) == REQUIRED[verb]


@pytest.mark.parametrize("verb", protocol.VERBS)
@pytest.mark.parametrize("name", ENVIRON)
def test_one_missing_variable(verb: str, name: str) -> None:
    absent: dict[str, Any] = {name: None}
    if name in REQUIRED[verb]:
        assert refused(INVALID_ENVIRONMENT, verb, **absent).msg == f"missing: {name}"
    else:
        assert parse(verb, **absent).verb == verb


@pytest.mark.parametrize("verb", ["", "add", "Add", "GET", "UPDATE", "ADD ", "\ud8ff"])
def test_unknown_verb(verb: str) -> None:
    assert "CNI_COMMAND" in refused(INVALID_ENVIRONMENT, verb).msg


@pytest.mark.parametrize("text", ["a", "0", "c0ffee", "a_b.c-d", "A" * 238, "a..", "k8s_pod-0.1"])
def test_container_id(text: str) -> None:
    assert parse(CNI_CONTAINERID=text).container_id == text


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    "text",
    [
        ".",
        "..",
        "../x",
        "a/b",
        "-a",
        "_a",
        ".a",
        "a b",
        "a@b",
        "a\n",
        "é",
        "a\0",
        "A" * 239,
        "\udcff",
    ],
)
def test_container_id_refused(text: str, verb: str) -> None:
    error = refused(INVALID_ENVIRONMENT, verb, CNI_CONTAINERID=text)
    assert error.msg.startswith("CNI_CONTAINERID: ")
    assert len(error.msg) < 200


def test_record_names_fit_a_file_name() -> None:
    assert len("." + "A" * protocol.MAX_CONTAINER_ID + "@" + "i" * 15) == 255


@pytest.mark.parametrize("text", ["e", "eth0", "faasmp1", "x" * 15, "ü" * 7, "a@b", "a.b", '"'])
def test_ifname(text: str) -> None:
    assert parse(CNI_IFNAME=text).ifname == text


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK"])
@pytest.mark.parametrize(
    "text",
    [
        ".",
        "..",
        "x" * 16,
        "ü" * 8,
        "a/b",
        "a b",
        "a:b",
        "a\tb",
        "a\nb",
        "a\u00a0b",
        "\udcff",
        "../..",
    ],
)
def test_ifname_refused(text: str, verb: str) -> None:
    assert refused(INVALID_ENVIRONMENT, verb, CNI_IFNAME=text).msg.startswith("CNI_IFNAME: ")


@pytest.mark.parametrize("text", ["lo", "eth%d", "%"])
def test_names_that_only_add_refuses(text: str) -> None:
    refused(INVALID_ENVIRONMENT, "ADD", CNI_IFNAME=text)
    assert parse("DEL", CNI_IFNAME=text).ifname == text
    assert parse("CHECK", CNI_IFNAME=text).ifname == text


@pytest.mark.parametrize("verb", ["GC", "STATUS"])
def test_verbs_of_the_network_ignore_the_container(verb: str) -> None:
    request = parse(verb, CNI_CONTAINERID="../x", CNI_IFNAME="a/b", CNI_ARGS="=;=")
    assert request.container_id == ""
    assert request.ifname == ""


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("", {}),
        ("IP=10.1.0.2", {"IP": "10.1.0.2"}),
        ("ip=10.1.0.2/16;", {"IP": "10.1.0.2/16"}),
        ("IP=;MAC=", {}),
        ("IP=10.1.0.2;IP=10.1.0.3", {"IP": "10.1.0.3"}),
        ("Mac=02-00-00-00-00-01", {"MAC": "02-00-00-00-00-01"}),
        ("IgnoreUnknown=1;K8S_POD_NAME=p", {"K8S_POD_NAME": "p"}),
        ("K8S_POD_NAME=p;ignoreunknown=TRUE", {"K8S_POD_NAME": "p"}),
        ("IgnoreUnknown=0", {}),
    ],
)
def test_args(text: str, args: dict[str, str]) -> None:
    assert parse(CNI_ARGS=text).args == args


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("IP", "'IP'"),
        ("=x", "'=x'"),
        ("a=b=c;IgnoreUnknown=1", "'a=b=c'"),
        ("IgnoreUnknown=yes", "IgnoreUnknown=yes"),
        ("IP=10.1.0.300", "10.1.0.300"),
        ("IP=10.1.0.3/33", "10.1.0.3/33"),
        ("MAC=nope", "nope"),
        ("K8S_POD_NAME=p;FOO=1", "'K8S_POD_NAME', 'FOO'"),
        ("IgnoreUnknown=false;FOO=1", "'FOO'"),
    ],
)
def test_args_refused(text: str, named: str) -> None:
    error = refused(INVALID_ENVIRONMENT, CNI_ARGS=text)
    assert error.msg.startswith("CNI_ARGS: ")
    assert named in error.msg
    assert parse("DEL", CNI_ARGS=text + ";IP=10.1.0.2").args["IP"] == "10.1.0.2"


def config(**keys: object) -> bytes:
    return json.dumps({"name": "faasm", "type": "faasm", **keys}).encode()


@pytest.mark.parametrize("version", protocol.SUPPORTED_VERSIONS)
def test_which_verbs_a_version_has(version: str) -> None:
    order = protocol.SUPPORTED_VERSIONS.index
    for verb in ("ADD", "DEL", "CHECK", "GC", "STATUS"):
        since = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}.get(verb, "0.1.0")
        stdin = config(cniVersion=version)
        if order(version) >= order(since):
            assert parse(verb, stdin).cni_version == version
        else:
            error = refused(INCOMPATIBLE_VERSION, verb, stdin)
            assert error.msg == f"config version does not allow {verb}"
    assert protocol.version_of(config(cniVersion=version)) == version


def test_unknown_version() -> None:
    for version in ("0.0.1", "1.0", "1.2.0", "2.0.0", "x", "1.0.0 ", "9" * 500):
        error = refused(INCOMPATIBLE_VERSION, stdin=config(cniVersion=version))
        assert "1.0.0, 1.1.0" in error.details
        assert len(error.msg) < 200
        assert parse("DEL", config(cniVersion=version)).cni_version == "1.1.0"
        assert protocol.version_of(config(cniVersion=version)) == "1.1.0"
    refused(DECODING_FAILURE, stdin=config(cniVersion=1.0))
    assert parse("DEL", config(cniVersion=["1.0.0"])).cni_version == "1.1.0"


def test_absent_version_is_the_first() -> None:
    for keys in ({}, {"cniVersion": None}, {"cniVersion": ""}):
        assert parse(stdin=config(**keys)).cni_version == "0.1.0"
        assert protocol.version_of(config(**keys)) == "0.1.0"
    assert parse(stdin=config(CNIVERSION="1.0.0")).cni_version == "1.0.0"


@pytest.mark.parametrize("verb", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b"null", b"1", b'"x"', b"\xff", b"{}\0"])
def test_broken_configuration(verb: str, stdin: bytes) -> None:
    refused(DECODING_FAILURE, verb, stdin)
    assert protocol.version_of(stdin) == "1.1.0"
    assert parse("VERSION", stdin).verb == "VERSION"


def test_error_document() -> None:
    error = CniError(7, "wrong", "do it right")
    assert protocol.error_document(error, "0.4.0") == {
        "cniVersion": "0.4.0",
        "code": 7,
        "msg": "wrong",
        "details": "do it right",
    }
    assert protocol.error_document(CniError(5, "x"), "7") == {
        "cniVersion": "1.1.0",
        "code": 5,
        "msg": "x",
    }


def test_version_document() -> None:
    assert protocol.version_document() == {
        "cniVersion": "1.1.0",
        "supportedVersions": ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


@pytest.mark.parametrize(
    "text",
    [
        # What runtimes send: nerdctl, Nomad with what its users add, podman, containerd.
        "IgnoreUnknown=1;IP=10.1.0.2;MAC=02:00:00:00:00:01;NERDCTL_CNI_DHCP_HOSTNAME=a",
        "IgnoreUnknown=true;NOMAD_ALLOC_ID=5f;NOMAD_GROUP_NAME=web;NOMAD_JOB_NAME=a b;team=x",
        "IgnoreUnknown=1;K8S_POD_NAME=web",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_UID=7",
    ],
)
def test_args_of_runtimes(text: str) -> None:
    assert len(parse(CNI_ARGS=text).args) == text.count("=") - 1


def test_limits_in_args_are_known() -> None:
    args = parse(CNI_ARGS="egress_rate=10M;INGRESS_BURST=").args
    assert args == {"EGRESS_RATE": "10M", "INGRESS_BURST": ""}
