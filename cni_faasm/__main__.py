"""The edge of the process: environment, stdin, stdout, stderr, exit status.

The only place that catches everything. Whatever happens, the runtime gets one CNI result
or one CNI error document, and after a failed ADD nothing is left.
"""

import os
import posix
import sys
import time
from collections.abc import Callable
from typing import NoReturn

from cni_faasm import arguments, calls
from cni_faasm.attachment.undo import Undo
from cni_faasm.netavark import edge
from cni_faasm.netlink import debuglog
from cni_faasm.netlink.transport import Netlink
from cni_faasm.spec import jsonio, protocol, results
from cni_faasm.spec.errors import DECODING_FAILURE, INTERNAL, IO_FAILURE, CniError
from cni_faasm.verbs.add import add
from cni_faasm.verbs.check import check
from cni_faasm.verbs.delete import delete
from cni_faasm.verbs.gc import gc
from cni_faasm.verbs.status import status

Tell = Callable[[int, bytes], None]

MAX_STDIN_BYTES = 8 << 20
_READ_BYTES = 1 << 16
_SIGNALS = (15, 2)  # SIGTERM, SIGINT


def main() -> NoReturn:
    """Serve one call of a container runtime and end the process.

    Exit status: 0 with a result (or nothing, for DEL, CHECK, GC, STATUS) on stdout, 1
    with an error document. Without CNI_COMMAND: what the arguments ask for, 2 when nobody
    knows them; without arguments a word on stderr about what this is.
    """
    began_ns = time.monotonic_ns()
    environ = cni_variables(posix.environ)
    _fill_descriptors()
    if not environ.get("CNI_COMMAND"):
        words = arguments.given()
        if words and words[0] in arguments.NETAVARK:
            _catch_signals()
            code = _serve_netavark(words)
            calls.add(words[0], code, began_ns)
            os._exit(1 if code else 0)
        status, stdout, stderr = arguments.answer(words)
        try:
            _write(1, stdout.encode())
            _write(2, stderr.encode())
        except OSError:
            status = 1  # nobody listens
        os._exit(status)
    _catch_signals()
    code = serve(environ)
    calls.add(environ["CNI_COMMAND"], code, began_ns)
    # Flushed and done: the interpreter's own tear-down would cost a millisecond.
    os._exit(1 if code else 0)


def cni_variables(environ: dict[bytes, bytes]) -> dict[str, str]:
    """Return the specification's variables of an environment, and the trace a call is part of."""
    return {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in environ.items()
        if key.startswith(b"CNI_") or key == b"TRACEPARENT"
    }


def _serve_netavark(words: list[str]) -> int:
    """Serve a call of podman's or netavark's. Returns: 0, or the code of its error."""

    def tell(_: int, text: bytes) -> None:
        _write(1, text)

    def serve_call(variables: dict[str, str], document: dict[str, object], translate: Tell) -> int:
        return serve(variables, tell=translate, given=document)

    try:
        return edge.answer(
            words,
            posix.environ,
            is_root=os.geteuid() == 0,
            read=lambda: _read_all(0),
            tell=tell,
            serve=serve_call,
            warn=lambda text: _write(2, f"cni-faasm: {text}\n".encode("utf-8", "replace")),
        )
    except BaseException as error:
        known = error if isinstance(error, CniError) else _internal(error)
        try:
            _write(1, edge.refusal(known))
        except OSError:
            return IO_FAILURE  # nobody listens
        return known.code or INTERNAL


def serve(
    environ: dict[str, str],
    stdin: int = 0,
    stdout: int = 1,
    stderr: int = 2,
    *,
    tell: Tell | None = None,
    given: dict[str, object] | None = None,
) -> int:
    """Serve one call over the given descriptors.

    tell: gets the exit status and the document instead of stdout, and raises OSError when
    nobody took them. given: the configuration, in the place of stdin.
    Returns: 0, or the code of the error that was told.
    """
    undo = Undo()

    def write(_: int, text: bytes) -> None:
        _write(stdout, text)

    tell = tell or write
    try:
        return _answer(environ, undo, stdin, stderr, tell, given=given)
    except BaseException as error:
        # The runtime never learnt of this attachment, so it must not exist.
        undo.roll_back(error)
        known = _internal(error)
        if isinstance(error, (KeyboardInterrupt, MemoryError)):  # after which stdout is empty
            document = protocol.error_document(known, protocol.LATEST_VERSION)
            try:
                tell(1, jsonio.dumps(document) + b"\n")
            except (OSError, MemoryError):
                return known.code  # nobody listens
        return known.code


def _answer(
    environ: dict[str, str],
    undo: Undo,
    stdin: int,
    stderr: int,
    tell: Tell,
    *,
    given: protocol.Given | None,
) -> int:
    version = ""
    warnings: list[str] = []
    document: dict[str, object] | None
    try:
        given = protocol.decode(_read_all(stdin)) if given is None else given
        version = protocol.version_of(given)
        request = protocol.parse_request(environ, given)
        _begin_log(environ, request)
        document = _run(request, undo, warnings)
        code = 0
    except BaseException as error:
        undo.roll_back(error)
        known = error if isinstance(error, CniError) else _internal(error)
        document, code = protocol.error_document(known, version), known.code or INTERNAL
    _ignore_signals()
    try:
        for warning in dict.fromkeys(warnings):  # each once
            _write(stderr, f"cni-faasm: {warning}\n".encode("utf-8", "replace"))
    except OSError:
        pass  # nobody listens on stderr: not a reason to fail
    tell(1 if code else 0, b"" if document is None else jsonio.dumps(document) + b"\n")
    undo.drop()
    if "CNI_FAASM_LOG" in environ:
        try:
            _end_log(environ, document if code else None)
        except Exception:
            return code  # the runtime has its answer: what the log lacks must not change it
    return code


def _begin_log(environ: dict[str, str], request: protocol.Request) -> None:
    """Have each step told, where that is wanted; otherwise not even the module is loaded."""
    if "CNI_FAASM_LOG" not in environ and not any(
        key.lower() == "logfile" for key in request.document
    ):
        return
    path = debuglog.wanted(environ, request.document)
    if path:
        environ["CNI_FAASM_LOG"] = path
        Netlink.log = debuglog.Log(time.monotonic)
        Netlink.log.step(f"{request.verb} {request.container_id} {request.ifname} {request.netns}")
        for name in ("TRACEPARENT", "CNI_NETNS_OVERRIDE"):
            if environ.get(name):
                Netlink.log.step(f"{name}={environ[name]}")


def _end_log(environ: dict[str, str], fault: dict[str, object] | None) -> None:
    log, Netlink.log = Netlink.log, None
    if log is not None:
        log.step("done" if fault is None else f"error {fault.get('code')}: {fault.get('msg')}")
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        log.write(environ["CNI_FAASM_LOG"], f"{now} {os.getpid()} {environ['CNI_COMMAND']}")


def _run(request: protocol.Request, undo: Undo, warnings: list[str]) -> dict[str, object] | None:
    """Run the verb. Returns: what goes to stdout, if anything."""
    verb = request.verb
    if verb == "ADD":
        result = add(request, undo, warnings)
        return results.result_document(result, request.cni_version)
    if verb == "DEL":
        delete(request, warnings)
    elif verb == "CHECK":
        check(request)
    elif verb == "GC":
        gc(request)
    elif verb == "STATUS":
        status(request)
    else:
        return protocol.version_document()
    return None


def _has_signals() -> bool:
    """Say whether this interpreter has signal handlers.

    The one of the snapshot has not: SIGTERM and SIGINT are blocked there until the verb has
    ended (packaging/snapshot/adopt.c).
    """
    return not hasattr(sys, "_is_snapshot")


def _catch_signals() -> None:
    """Have what a verb has done undone when somebody wants it to end."""
    if not _has_signals():
        return
    import signal  # which the snapshot has not

    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _terminated)


def _terminated(*_: object) -> None:
    """Stop the work; once, for what follows is the undoing."""
    _ignore_signals()
    raise KeyboardInterrupt


def _ignore_signals() -> None:
    """Let no signal come between the result and the end, nor into the undoing."""
    if not _has_signals():
        return
    import signal  # which the snapshot has not

    for number in _SIGNALS:
        if signal.getsignal(number) is _terminated:
            signal.signal(number, signal.SIG_IGN)


def _fill_descriptors() -> None:
    """Occupy closed standard descriptors, lest a socket of ours take the result for a request.

    The wrong way round, so that reading and writing fail as they must.
    """
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", flags)  # takes the lowest free number, which is fd


def _internal(error: BaseException) -> CniError:
    """Turn what nobody foresaw into an error document that helps to report it."""
    if isinstance(error, KeyboardInterrupt):
        notes = "; ".join(getattr(error, "__notes__", ())) or "nothing was left behind"
        return CniError(INTERNAL, "interrupted by a signal", f"call again; {notes}")
    if isinstance(error, MemoryError):
        return CniError(IO_FAILURE, "out of memory", "free memory on the host and call again")
    trace = error.__traceback__
    place = ""
    while trace is not None:
        place = f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"
        trace = trace.tb_next
    notes = "; ".join(getattr(error, "__notes__", ()))
    if isinstance(error, ImportError):
        remedy = "raise the runtime's limit of open files, or install cni-faasm again"
        return CniError(IO_FAILURE, f"cannot load a part of the plugin: {error}", remedy)
    if isinstance(error, OSError):
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return CniError(IO_FAILURE, what, f"at {place}" + (f"; {notes}" if notes else ""))
    return CniError(
        INTERNAL,
        f"internal error: {type(error).__name__}: {error}",
        f"at {place}; please report it with this text" + (f"; {notes}" if notes else ""),
    )


def _read_all(fd: int) -> bytes:
    """Read to the end of a descriptor, but no more than MAX_STDIN_BYTES.

    Raises: CniError 5 or 6.
    """
    parts: list[bytes] = []
    size = 0
    try:
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > MAX_STDIN_BYTES:
                raise CniError(
                    DECODING_FAILURE,
                    f"stdin holds more than {MAX_STDIN_BYTES >> 20} MiB",
                    "a network configuration is a few kilobytes of JSON",
                )
    except OSError as error:
        raise CniError(
            IO_FAILURE,
            f"cannot read the network configuration from stdin: {error.strerror}",
            "the runtime writes it to the plugin's standard input",
        ) from None
    return b"".join(parts)


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


if __name__ == "__main__":
    main()
