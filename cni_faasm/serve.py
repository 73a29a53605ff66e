"""One call: from an environment and an input to an answer.

The only place that catches everything. Whatever happens, the runtime gets one CNI result
or one CNI error document, and after a failed ADD nothing is left.
"""

import os
import time
from collections.abc import Callable

from cni_faasm import signals
from cni_faasm.attachment.undo import Undo
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


def cni_variables(environ: dict[bytes, bytes]) -> dict[str, str]:
    """Return the specification's variables of an environment, and the trace a call is part of."""
    return {
        key.decode("utf-8", "surrogateescape"): value.decode("utf-8", "surrogateescape")
        for key, value in environ.items()
        if key.startswith(b"CNI_") or key == b"TRACEPARENT"
    }


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
        write_all(stdout, text)

    tell = tell or write
    try:
        return _answer(environ, undo, stdin, stderr, tell, given=given)
    except BaseException as error:
        # The runtime never learnt of this attachment, so it must not exist.
        undo.roll_back(error)
        known = internal(error)
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
        given = protocol.decode(read_all(stdin)) if given is None else given
        version = protocol.version_of(given)
        request = protocol.parse_request(environ, given)
        _begin_log(environ, request)
        document = _run(request, undo, warnings)
        code = 0
    except BaseException as error:
        undo.roll_back(error)
        known = error if isinstance(error, CniError) else internal(error)
        document, code = protocol.error_document(known, version), known.code or INTERNAL
    signals.ignore()
    try:
        for warning in dict.fromkeys(warnings):  # each once
            write_all(stderr, f"cni-faasm: {warning}\n".encode("utf-8", "replace"))
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
        status(request, warnings)
    else:
        return protocol.version_document()
    return None


def internal(error: BaseException) -> CniError:
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


def read_all(fd: int) -> bytes:
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


def write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
