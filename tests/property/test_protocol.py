"""Any environment and any bytes on stdin are a request or a CNI error; results survive."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cni_faasm.spec import jsonio, protocol
from cni_faasm.spec.errors import DECODING_FAILURE, CniError
from cni_faasm.spec.results import (
    Interface,
    IPConfig,
    Result,
    Route,
    parse_result,
    result_document,
)
from tests.property.test_jsonio import VALUES

CODES = {1, 4, 6}
# What an environment can hold: any bytes but NUL, decoded as the edge decodes them.
VARIABLES = st.binary(max_size=40).map(
    lambda data: data.replace(b"\0", b"").decode("utf-8", "surrogateescape")
)
ARGS = st.lists(
    st.sampled_from(["IP", "MAC", "IgnoreUnknown", "K", "=", ";", "10.1.0.2", "1", "true", "/16"])
).map("".join)
ENVIRONS = st.fixed_dictionaries(
    {"CNI_COMMAND": st.sampled_from(protocol.VERBS) | VARIABLES},
    optional={
        "CNI_CONTAINERID": st.just("c0ffee") | VARIABLES,
        "CNI_NETNS": st.just("/run/netns/a") | VARIABLES,
        "CNI_IFNAME": st.just("eth0") | VARIABLES,
        "CNI_PATH": st.just("/opt/cni/bin"),
        "CNI_ARGS": ARGS | VARIABLES,
    },
)
CONFIGS = st.fixed_dictionaries(
    {"cniVersion": st.sampled_from(protocol.SUPPORTED_VERSIONS) | VALUES}, optional={"name": VALUES}
)


@given(ENVIRONS, st.binary() | CONFIGS.map(jsonio.dumps))
def test_any_call_is_a_request_or_an_error(environ: dict[str, str], stdin: bytes) -> None:
    version = protocol.version_of(stdin)
    assert version in protocol.SUPPORTED_VERSIONS
    try:
        request = protocol.parse_request(environ, stdin)
    except CniError as error:
        assert error.code in CODES  # noqa: PT017
        assert error.details  # noqa: PT017
        jsonio.dumps(protocol.error_document(error, version))
        return
    assert request.verb in protocol.VERBS
    assert request.cni_version in protocol.SUPPORTED_VERSIONS
    for name in (request.container_id, request.ifname):
        assert "/" not in name
        assert name not in {".", ".."}
    assert len(f".{request.container_id}@{request.ifname}".encode()) <= 255


def addresses(length: int) -> st.SearchStrategy[bytes]:
    return st.binary(min_size=length, max_size=length).filter(
        # This is IPv4 in IPv6's clothes, and is read as IPv4.
        lambda packed: packed[:12] != b"\0" * 10 + b"\xff\xff"
    )


NUMBERS = st.none() | st.integers(1, 0xFFFFFFFF)
IPS = st.sampled_from([4, 16]).flatmap(
    lambda length: st.builds(
        IPConfig,
        address=addresses(length),
        prefix_len=st.integers(0, length * 8),
        gateway=st.none() | addresses(length),
        interface=st.none() | st.integers(0, 1),
    )
)
ROUTES = st.sampled_from([4, 16]).flatmap(
    lambda length: st.builds(
        Route,
        dst=addresses(length),
        prefix_len=st.integers(0, length * 8),
        gateway=st.none() | addresses(length),
        mtu=NUMBERS,
        advmss=NUMBERS,
        priority=NUMBERS,
        table=st.none() | st.integers(0, 0xFFFFFFFF),
        scope=st.none() | st.integers(0, 255),
    )
)
TEXTS = st.text(alphabet=st.characters(codec="utf-8"))
RESULTS = st.builds(
    Result,
    interfaces=st.lists(
        st.builds(Interface, name=TEXTS, mac=TEXTS, sandbox=TEXTS, mtu=NUMBERS),
        min_size=2,
        max_size=2,
    ),
    ips=st.lists(IPS, max_size=4),
    routes=st.lists(ROUTES, max_size=4),
    dns=st.fixed_dictionaries({}, optional={"nameservers": st.lists(TEXTS, min_size=1)}),
)


@given(RESULTS, st.sampled_from(protocol.SUPPORTED_VERSIONS))
def test_a_result_survives_its_own_version(result: Result, version: str) -> None:
    document = result_document(result, version)
    read: Any = jsonio.loads(jsonio.dumps(document))
    assert result_document(parse_result(read), version) == document


@given(RESULTS, st.data())
def test_a_result_converted_twice_is_the_one_converted_once(result: Result, data: Any) -> None:
    """What a version keeps, every later one keeps too."""
    order = protocol.SUPPORTED_VERSIONS
    last = data.draw(st.integers(0, len(order) - 1))
    between = data.draw(st.integers(last, len(order) - 1))
    by_way = parse_result(result_document(result, order[between]))
    assert result_document(by_way, order[last]) == result_document(result, order[last])


KEYS = st.sampled_from(
    [
        "cniVersion",
        "interfaces",
        "IPS",
        "routes",
        "dns",
        "ip4",
        "ip6",
        "ip",
        "address",
        "gateway",
        "interface",
        "dst",
        "gw",
        "mtu",
        "name",
        "mac",
        "sandbox",
        "nameservers",
        "search",
        "domain",
    ]
)
DOCUMENTS = st.recursive(
    VALUES | st.sampled_from(["1.0.0", "0.2.0", "10.1.0.2/16", "fd00::1", 0, 1]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYS, DOCUMENTS))
def test_any_object_is_a_result_or_an_error(document: dict[str, Any]) -> None:
    try:
        result = parse_result(document)
    except CniError as error:
        assert error.code == DECODING_FAILURE  # noqa: PT017
        return
    for version in protocol.SUPPORTED_VERSIONS:
        jsonio.dumps(result_document(result, version))
