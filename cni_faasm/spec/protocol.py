"""Requests, errors and versions of the CNI protocol, as its reference dispatcher rules.

A call is a verb in CNI_COMMAND, its parameters in CNI_* variables, and the network
configuration on stdin. Here they are checked and become one Request; what stands inside
the configuration is config.py's business.
"""

from cni_faasm.spec import inet, jsonio
from cni_faasm.spec.errors import (
    DECODING_FAILURE,
    INCOMPATIBLE_VERSION,
    INVALID_ENVIRONMENT,
    CniError,
)
from cni_faasm.spec.results import (
    SUPPORTED_VERSIONS,
    Interface,
    IPConfig,
    Result,
    Route,
    parse_result,
    result_document,
)

__all__ = [
    "LATEST_VERSION",
    "SUPPORTED_VERSIONS",
    "VERBS",
    "IPConfig",
    "Interface",
    "Request",
    "Result",
    "Route",
    "error_document",
    "parse_request",
    "parse_result",
    "result_document",
    "version_document",
    "version_of",
]

Given = bytes | dict[str, object] | CniError

LATEST_VERSION = SUPPORTED_VERSIONS[-1]
ASSUMED_VERSION = "0.1.0"  # of a configuration that states none

VERBS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
# Which verbs need a variable, and since which version a verb exists.
REQUIRED = (
    ("CNI_CONTAINERID", ("ADD", "DEL", "CHECK")),
    ("CNI_NETNS", ("ADD", "CHECK")),
    ("CNI_IFNAME", ("ADD", "DEL", "CHECK")),
)
# Keys of CNI_ARGS for limits, and the keys of the configuration that they stand for.
RATE_ARGS = {
    "EGRESS_RATE": "egressRate",
    "INGRESS_RATE": "ingressRate",
    "EGRESS_BURST": "egressBurst",
    "INGRESS_BURST": "ingressBurst",
}
SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}

# "<containerID>@<ifname>", with one more byte while it is written, is a file's name.
MAX_CONTAINER_ID = 255 - 1 - len("@") - 15
MAX_NETWORK_NAME = 255 - len("faasm_")  # of nft's table name
_LETTERS_DIGITS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789")
_NAME_CHARACTERS = _LETTERS_DIGITS | frozenset("_.-")


class Request:
    """One call of the runtime. document: the configuration, its keys as given.

    args: CNI_ARGS, with "IP", "MAC" and limits spelt so; IP and MAC are valid, and left out if empty.
    """

    __slots__ = (
        "args",
        "cni_version",
        "container_id",
        "document",
        "ifname",
        "netns",
        "path",
        "verb",
    )

    def __init__(
        self,
        *,
        verb: str,
        container_id: str = "",
        netns: str = "",
        ifname: str = "",
        args: dict[str, str] | None = None,
        path: str = "",
        document: dict[str, object] | None = None,
        cni_version: str = LATEST_VERSION,
    ) -> None:
        self.verb = verb
        self.container_id = container_id
        self.netns = netns
        self.ifname = ifname
        self.args = {} if args is None else args
        self.path = path
        self.document = {} if document is None else document
        self.cni_version = cni_version


def decode(stdin: bytes) -> Given:
    """Return the JSON object on stdin, or why there is none, for who needs it twice."""
    try:
        return _object(stdin)
    except CniError as error:
        return error


def _object(given: Given) -> dict[str, object]:
    if isinstance(given, dict):
        return given
    if isinstance(given, CniError):
        raise given
    return jsonio.load_object(given, "the network configuration on stdin")


def parse_request(environ: dict[str, str], stdin: Given) -> Request:
    """Check a call's variables and decode its configuration.

    stdin: its bytes, or what `decode` made of them.

    DEL must not fail for what ADD would refuse, or containers could not go: it passes
    over malformed CNI_ARGS and an unknown cniVersion.
    Raises: CniError 1, 4 or 6.
    """
    verb = environ.get("CNI_COMMAND", "")
    if not verb:
        raise _environment("CNI_COMMAND: missing", f"set it to one of {', '.join(VERBS)}")
    if verb not in VERBS:
        raise _environment(
            f"CNI_COMMAND: {_shown(verb)} is no verb", f"allowed are {', '.join(VERBS)}"
        )
    if verb == "VERSION":
        return Request(verb=verb)
    missing = [name for name, verbs in REQUIRED if verb in verbs and not environ.get(name)]
    if missing:
        raise _environment(
            f"missing: {', '.join(missing)}",
            f"{verb} needs {', '.join(name for name, verbs in REQUIRED if verb in verbs)}",
        )
    container_id = ifname = ""
    if verb in REQUIRED[0][1]:
        container_id = environ["CNI_CONTAINERID"]
        ifname = environ["CNI_IFNAME"]
        _check_container_id(container_id)
        _check_ifname(ifname, verb)
    tolerant = verb == "DEL"
    document = _object(stdin)
    return Request(
        verb=verb,
        container_id=container_id,
        netns=environ.get("CNI_NETNS", ""),
        ifname=ifname,
        args=_parse_args(environ.get("CNI_ARGS", ""), tolerant or verb in ("GC", "STATUS")),
        path=environ.get("CNI_PATH", ""),
        document=document,
        cni_version=_check_version(document, verb, tolerant),
    )


def is_name(text: str) -> bool:
    """Say whether text is what the specification allows for network names and container ids.

    It begins with a letter or digit and goes on with these, "_", "." and "-"; so it can be
    a file's name and never leads out of its folder.
    """
    return bool(text) and text[0] in _LETTERS_DIGITS and _NAME_CHARACTERS.issuperset(text)


def _check_container_id(text: str) -> None:
    if not is_name(text) or len(text) > MAX_CONTAINER_ID:
        raise _environment(
            f"CNI_CONTAINERID: {_shown(text)} is no container id",
            'it begins with a letter or digit, has only letters, digits, "_", "." and "-", '
            f"and at most {MAX_CONTAINER_ID} of them",
        )


def _check_ifname(text: str, verb: str) -> None:
    """Refuse what the kernel would, or would understand otherwise.

    "%d" would be filled in by the kernel; "lo" is there already. DEL and CHECK of these
    find nothing, which is the truth.
    """
    wrong = (
        len(text.encode("utf-8", "surrogateescape")) > 15
        or text in (".", "..")
        or not text.isprintable()
        or any(code in text for code in "/: ")
    )
    if wrong or (verb == "ADD" and (text == "lo" or "%" in text)):
        raise _environment(
            f"CNI_IFNAME: {_shown(text)} cannot be the name of the container's interface",
            '1 to 15 bytes without "/", ":", "%" and blanks; not ".", ".." or "lo"',
        )


def _parse_args(text: str, tolerant: bool) -> dict[str, str]:
    """Return CNI_ARGS ("K=V;K=V") as a dictionary.

    tolerant: leave out what is malformed. Else, as the reference does, refuse it, and
    refuse unknown keys unless IgnoreUnknown is 1 or true.
    """
    args: dict[str, str] = {}
    unknown: list[str] = []
    ignore = tolerant
    for pair in text.split(";") if text else ():
        key, equals, value = pair.partition("=")
        folded = key.lower()
        try:
            if not pair:
                continue  # a semicolon at the end
            if not equals or not key or "=" in value:
                raise ValueError("it is not of the form KEY=VALUE")  # noqa: TRY301
            if folded == "ignoreunknown":
                if value.lower() not in ("1", "true", "0", "false"):
                    raise ValueError("allowed are 1, true, 0 and false")  # noqa: TRY301
                ignore = tolerant or value.lower() in ("1", "true")
            elif folded == "ip":
                if value:
                    inet.pack(value.partition("/")[0])
                    if "/" in value:
                        inet.parse_cidr(value)
                    args["IP"] = value
            elif folded == "mac":
                if value:
                    inet.parse_mac(value)
                    args["MAC"] = value
            elif folded.upper() in RATE_ARGS:
                args[folded.upper()] = value
            else:
                unknown.append(key)
                args[key] = value
        except ValueError as error:
            if not tolerant:
                raise _environment(
                    f"CNI_ARGS: {_shown(pair)}: {error}",
                    "it is a list of KEY=VALUE, separated by semicolons",
                ) from None
    if unknown and not ignore:
        raise _environment(
            f"CNI_ARGS: unknown {', '.join(_shown(key) for key in unknown[:20])}",
            f"known are IP, MAC, {', '.join(RATE_ARGS)}; IgnoreUnknown=1 lets others pass",
        )
    return args


def _check_version(document: dict[str, object], verb: str, tolerant: bool) -> str:
    """Return the version that the answer must have. Raises: CniError 1 or 6."""
    stated = _stated(document)
    if tolerant:
        known = isinstance(stated, str) and stated in SUPPORTED_VERSIONS
        return str(stated) if known else LATEST_VERSION
    if not isinstance(stated, str):
        raise CniError(
            DECODING_FAILURE,
            f"cniVersion: {_shown(stated)} is not text",
            f"allowed are {', '.join(SUPPORTED_VERSIONS)}",
        )
    if stated not in SUPPORTED_VERSIONS:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion: incompatible version {_shown(stated)}",
            f"this plugin supports {', '.join(SUPPORTED_VERSIONS)}",
        )
    since = SINCE.get(verb)
    # The tuple is in the order of the versions.
    if since and SUPPORTED_VERSIONS.index(stated) < SUPPORTED_VERSIONS.index(since):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}",
            f"cniVersion is {stated}, {verb} exists since {since}",
        )
    return stated


def _stated(document: dict[str, object]) -> object:
    stated: object = None
    for key, value in document.items():
        if key.lower() == "cniversion" and value is not None:
            stated = value
    return ASSUMED_VERSION if stated is None or stated == "" else stated


def version_of(stdin: Given) -> str:
    """Return the version in which an error must be told, before a request is accepted.

    It is the configuration's when that is known and supported, else the latest. Never
    raises.
    """
    try:
        stated = _stated(_object(stdin))
    except CniError:
        return LATEST_VERSION
    known = isinstance(stated, str) and stated in SUPPORTED_VERSIONS
    return str(stated) if known else LATEST_VERSION


def error_document(error: CniError, version: str) -> dict[str, object]:
    """Return the JSON object that tells the runtime of an error."""
    document: dict[str, object] = {
        "cniVersion": version if version in SUPPORTED_VERSIONS else LATEST_VERSION,
        "code": error.code,
        "msg": error.msg,
    }
    if error.details:
        document["details"] = error.details
    return document


def version_document() -> dict[str, object]:
    """Return the answer to VERSION."""
    return {"cniVersion": LATEST_VERSION, "supportedVersions": list(SUPPORTED_VERSIONS)}


def _environment(msg: str, details: str) -> CniError:
    return CniError(INVALID_ENVIRONMENT, msg, details)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
