"""The server of the metrics: whom it answers, whom it lets go, and that it is held up by nobody."""

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from cni_faasm.cli.fault import ToolError
from cni_faasm.cli.metrics import listening
from cni_faasm.cli.metrics.listening import Place, Server, Source, place_of
from tests.host import wait_until

Ask = Callable[..., tuple[int, dict[str, str], bytes]]


class Made:
    """Make metrics, and count how often; slowly or not at all if it must."""

    def __init__(self) -> None:
        self.times = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.error: Exception | None = None

    def __call__(self) -> bytes:
        self.times += 1
        assert self.go_on.wait(20)
        if self.error is not None:
            raise self.error
        return b"cni_faasm_info 1\n"


@pytest.fixture
def made() -> Made:
    return Made()


@pytest.fixture
def server(made: Made, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(listening, "REQUEST_S", 1.0)
    with Server(Place("127.0.0.1", 0), Source(made)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            made.go_on.set()
            server.shutdown()
            thread.join()


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.server_port), timeout=20)


@pytest.fixture
def ask(server: Server) -> Ask:
    def ask(path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer.status, {name.lower(): text for name, text in answer.getheaders()}, body

    return ask


def test_what_there_is(ask: Ask, made: Made) -> None:
    status, head, body = ask("/metrics")
    assert (status, body) == (200, b"cni_faasm_info 1\n")
    assert head["content-type"].startswith("text/plain; version=0.0.4")
    assert ask("/metrics?x=1")[0] == 200
    assert b"/metrics" in ask("/")[2]
    status, head, body = ask("/metrics", "HEAD")
    assert (status, head["content-length"], body) == (200, "17", b"")
    assert made.times == 1  # within a moment


@pytest.mark.parametrize("path", ["/metrics/", "/etc/passwd", "/../metrics", "*"])
def test_nothing_else(ask: Ask, made: Made, path: str) -> None:
    assert ask(path)[0] == 404
    assert made.times == 0


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_nothing_but_get(ask: Ask, method: str) -> None:
    status, head, _ = ask("/metrics", method)
    assert (status, head["allow"]) == (405, "GET, HEAD")


def test_what_cannot_be_looked_at_is_told(ask: Ask, made: Made) -> None:
    made.error = ToolError("the state folder cannot be read", "run it as root")
    status, _, body = ask("/metrics")
    assert (status, body.startswith(b"the state folder cannot be read")) == (500, True)
    made.error = None
    assert ask("/metrics")[0] == 200


def test_several_at_once_share_one_look(ask: Ask, made: Made) -> None:
    made.go_on.clear()
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ask, "/metrics") for _ in range(8)]
        assert ask("/")[0] == 200  # meanwhile
        made.go_on.set()
        assert [one.result()[0] for one in asked] == [200] * 8
    assert made.times == 1


def test_who_dawdles_is_let_go(server: Server, ask: Ask) -> None:
    """Byte by byte, so that no wait for the next one is long."""
    began = time.monotonic()
    with connect(server) as slow:
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - began < 20:
                slow.sendall(b"G")
                time.sleep(0.1)
        assert time.monotonic() - began < 10
    assert ask("/metrics")[0] == 200


def test_more_than_it_holds_are_turned_away(server: Server, ask: Ask) -> None:
    held = [connect(server) for _ in range(listening.MOST + 4)]
    for one in held[listening.MOST :]:
        assert one.recv(1) == b""
    for one in held:
        one.close()

    def is_answered() -> bool:
        try:
            return ask("/metrics")[0] == 200
        except ConnectionError:  # it has not yet seen that those have gone
            return False

    wait_until(is_answered, "an answer")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("9762", Place("127.0.0.1", 9762)),
        (":9762", Place("127.0.0.1", 9762)),
        ("192.0.2.1:80", Place("192.0.2.1", 80)),
        ("[::1]:9762", Place("::1", 9762)),
        ("::1:9762", Place("::1", 9762)),
    ],
)
def test_places(text: str, place: Place) -> None:
    assert place_of(text) == place
    assert place_of(str(place)) == place


@pytest.mark.parametrize("text", ["x", "127.0.0.1", "127.0.0.1:", "1.2.3:80", "host:80", "65536"])
def test_no_places(text: str) -> None:
    with pytest.raises(ToolError, match="no address and port"):
        place_of(text)


def test_other_commands_do_not_load_a_server() -> None:
    script = (
        "import sys, cni_faasm.cli.main; print(sorted({'http.server', 'ssl'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
