"""Serve the metrics by HTTP: to some at a time, none of whom can hold the others up.

Several who ask at once share one look at the host. A connection is one request, and is closed
when its time is over, whatever its other end does.
"""

import contextlib
import http.server
import ipaddress
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, NamedTuple

from cni_faasm import __version__
from cni_faasm.cli import output
from cni_faasm.cli.fault import ToolError
from cni_faasm.spec.errors import CniError

FRESH_S = 1.0  # so long a look counts for who asks next
MOST = 16  # connections at a time
REQUEST_S = 5.0  # from a connection to the end of its request
ANSWER_S = 30.0  # to the end of its answer
TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PAGE = (
    '<!DOCTYPE html>\n<html lang="en"><title>cni-faasm</title>'
    '<p>cni-faasm, <a href="/metrics">metrics</a>\n'
)


class Place(NamedTuple):
    """Where to listen."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else ":".join(map(str, self))


def place_of(text: str) -> Place:
    """Return the place that is meant by PORT, :PORT, ADDRESS:PORT or [ADDRESS]:PORT.

    Raises: ToolError.
    """
    address, _, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]") or "127.0.0.1"
    with contextlib.suppress(ValueError):
        if port.isascii() and port.isdigit() and int(port) < 1 << 16:
            return Place(str(ipaddress.ip_address(address)), int(port))
    raise ToolError(
        f"--listen {text}: no address and port", "such as 9762, 192.0.2.1:9762 or [::1]:9762"
    )


class Source:
    """Make the metrics, once for all who ask within a moment."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[float, bytes] | None = None

    def get(self) -> bytes:
        """Return the metrics. Raises: what making them raises."""
        with self._lock:
            if self._made is None or time.monotonic() - self._made[0] > FRESH_S:
                text = self._make()
                self._made = time.monotonic(), text
            return self._made[1]


class Handler(http.server.BaseHTTPRequestHandler):
    """Answer one request."""

    server: "Server"
    server_version = f"cni-faasm/{__version__}"
    sys_version = ""
    timeout = REQUEST_S

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            # What it takes to look at many containers is not the asker's fault.
            self.server.extend(self.connection)
            try:
                text = self.server.source.get()
            except (ToolError, CniError, OSError) as error:
                self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}\n".encode())
            else:
                self._answer(HTTPStatus.OK, text, TYPE)
        elif path == "/":
            self._answer(HTTPStatus.OK, _PAGE.encode(), "text/html; charset=utf-8")
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"there is /metrics\n")

    do_HEAD = do_GET

    def _refuse(self) -> None:
        self._answer(HTTPStatus.METHOD_NOT_ALLOWED, b"there is GET\n", allow="GET, HEAD")

    do_POST = do_PUT = do_DELETE = do_PATCH = do_OPTIONS = do_TRACE = do_CONNECT = _refuse

    def _answer(
        self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8", **head: str
    ) -> None:
        self.send_response(status)
        head |= {"content-type": kind, "content-length": str(len(body)), "connection": "close"}
        for name, text in head.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing: a line for every scrape is nobody's."""


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """Hold the connections, and close those whose time is over."""

    daemon_threads = True
    request_queue_size = 2 * MOST

    def __init__(self, place: Place, source: Source) -> None:
        self.address_family = socket.AF_INET6 if ":" in place.address else socket.AF_INET
        self.source = source
        self._lock = threading.Lock()
        self._ends: dict[socket.socket, float] = {}
        super().__init__((place.address, place.port), Handler)

    def server_bind(self) -> None:
        # Not HTTPServer's, which asks a nameserver for our name.
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.socket.getsockname()[:2]

    def verify_request(self, request: Any, client_address: Any) -> bool:
        del client_address
        with self._lock:
            if len(self._ends) >= MOST:
                return False
            self._ends[request] = time.monotonic() + REQUEST_S
        return True

    def extend(self, connection: socket.socket) -> None:
        """Give a connection the time of an answer."""
        with self._lock:
            if connection in self._ends:
                self._ends[connection] = time.monotonic() + ANSWER_S

    def service_actions(self) -> None:
        """Be called twice a second."""
        with self._lock:
            late = [one for one, end in self._ends.items() if end < time.monotonic()]
        for one in late:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._ends.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone in the middle of it."""


def serve(place: Place, make: Callable[[], bytes]) -> None:
    """Serve until the process is ended. Raises: OSError when the place cannot be had."""
    try:
        server = Server(place, Source(make))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None
    with server:
        output.note(f"listening on http://{place._replace(port=server.server_port)}/metrics")
        server.serve_forever()
