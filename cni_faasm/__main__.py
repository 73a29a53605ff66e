"""The edge of the process: environment, arguments, descriptors, exit status."""

import os
import posix
import time
from typing import NoReturn

from cni_faasm import arguments, calls, signals
from cni_faasm.netavark import edge
from cni_faasm.serve import Tell, cni_variables, internal, read_all, serve, write_all
from cni_faasm.spec.errors import INTERNAL, IO_FAILURE, CniError


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
            signals.catch()
            code = _serve_netavark(words)
            calls.add(words[0], code, began_ns)
            os._exit(1 if code else 0)
        status, stdout, stderr = arguments.answer(words)
        try:
            write_all(1, stdout.encode())
            write_all(2, stderr.encode())
        except OSError:
            status = 1  # nobody listens
        os._exit(status)
    signals.catch()
    code = serve(environ)
    calls.add(environ["CNI_COMMAND"], code, began_ns)
    # Flushed and done: the interpreter's own tear-down would cost a millisecond.
    os._exit(1 if code else 0)


def _serve_netavark(words: list[str]) -> int:
    """Serve a call of podman's or netavark's. Returns: 0, or the code of its error."""

    def tell(_: int, text: bytes) -> None:
        write_all(1, text)

    def serve_call(variables: dict[str, str], document: dict[str, object], translate: Tell) -> int:
        return serve(variables, tell=translate, given=document)

    try:
        return edge.answer(
            words,
            posix.environ,
            is_root=os.geteuid() == 0,
            read=lambda: read_all(0),
            tell=tell,
            serve=serve_call,
            warn=lambda text: write_all(2, f"cni-faasm: {text}\n".encode("utf-8", "replace")),
        )
    except BaseException as error:
        known = error if isinstance(error, CniError) else internal(error)
        try:
            write_all(1, edge.refusal(known))
        except OSError:
            return IO_FAILURE  # nobody listens
        return known.code or INTERNAL


def _fill_descriptors() -> None:
    """Occupy closed standard descriptors, lest a socket of ours take the result for a request.

    The wrong way round, so that reading and writing fail as they must.
    """
    for fd, flags in enumerate((os.O_WRONLY, os.O_RDONLY, os.O_RDONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open("/dev/null", flags)  # takes the lowest free number, which is fd


if __name__ == "__main__":
    main()
