"""Answer one call of podman's or netavark's; what is impure about it comes from `__main__`."""

from collections.abc import Callable

from cni_faasm import __version__
from cni_faasm.netavark import API_VERSION, VERBS, container, creation, stale, taken
from cni_faasm.spec import jsonio
from cni_faasm.spec.errors import INVALID_ENVIRONMENT, UNSUPPORTED_FIELD, CniError

Tell = Callable[[int, bytes], None]

_ROOTLESS = b"_CONTAINERS_ROOTLESS_UID"  # which podman sets for whom it started anew in a namespace


def answer(
    words: list[str],
    environ: dict[bytes, bytes],
    *,
    is_root: bool,
    read: Callable[[], bytes],
    tell: Tell,
    serve: Callable[[dict[str, str], dict[str, object], Tell], int],
    warn: Callable[[str], None],
) -> int:
    """Answer a call by its arguments. Returns: 0, or the code of the error that was told.

    read: stdin. tell: takes the exit status and stdout; OSError when nobody reads it.
    serve: serves a CNI call, whatever happens, and tells its document. warn: a line on stderr.
    Raises: CniError for what `refusal` tells; OSError.
    """
    verb = words[0]
    wanted = 2 if verb in container.CNI_VERBS else 1
    if verb not in VERBS or len(words) != wanted:
        raise CniError(
            INVALID_ENVIRONMENT,
            f"faasm {verb}: {len(words) - 1} arguments",
            "netavark calls: create, setup NETNS, teardown NETNS, info",
        )
    if verb == "info":
        tell(0, _line({"version": __version__, "api_version": API_VERSION}))
        return 0
    if verb != "teardown" and (not is_root or environ.get(_ROOTLESS, b"0") != b"0"):
        raise CniError(
            UNSUPPORTED_FIELD,
            "rootless podman: faasm makes its links on the host, which takes the host's root",
            "run podman as root, or use another driver",
        )
    given = jsonio.load_object(read(), "the document on stdin")
    if verb == "create":
        made = creation.complete(given, taken.of_networks(), taken.of_host(), taken.names())
        tell(0, _line(made))
        return 0
    call = container.call(verb, words[1], given)
    if verb == "setup":
        warnings: list[str] = []
        stale.detach(call, warnings)
        for one in warnings:
            warn(one)

    def translate(status: int, text: bytes) -> None:
        document = jsonio.load_object(text, "our own answer") if text else {}
        if status:
            tell(status, _line(container.error(_text(document, "msg"), _text(document, "details"))))
        elif verb == "setup":
            tell(0, _line(container.status(document, call.variables["CNI_IFNAME"])))
        else:
            tell(0, b"")

    variables = {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in environ.items()
        if key == b"CNI_FAASM_LOG"
    }
    return serve({**variables, **call.variables}, call.document, translate)


def refusal(error: CniError) -> bytes:
    """Return what netavark gets to read of an error."""
    return _line(container.error(error.msg, error.details))


def _text(document: dict[str, object], key: str) -> str:
    return str(document.get(key, ""))


def _line(document: dict[str, object]) -> bytes:
    return jsonio.dumps(document) + b"\n"
