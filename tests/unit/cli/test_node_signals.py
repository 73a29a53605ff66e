"""A node's keeper is told to go at any moment, from the first on."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from cni_faasm.cli.install import node
from cni_faasm.cli.install.command import Step

PATIENCE_S = 10


class Node:
    """Stand for one on which nothing is to do."""

    folder = "/nowhere"

    def __init__(self) -> None:
        self.removed = False

    def install(self, **_: Any) -> Iterator[Step]:
        yield from ()

    clear = install

    def remove(self) -> Iterator[Step]:
        self.removed = True
        yield from ()


@pytest.fixture
def signals() -> Iterator[None]:
    """Put back what the keeper sets, and end a test that waits for ever."""

    def give_up(*_: object) -> None:
        pytest.fail(f"the keeper has not heard the signal for {PATIENCE_S} s")

    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
    }
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_S)
    yield
    signal.alarm(0)
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_a_signal_as_soon_as_it_is_heeded(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was lost where it came before the keeper had said what it wakes."""
    heed: Callable[..., Any] = signal.signal

    def heed_and_tell(number: int, handler: Any) -> Any:
        before = heed(number, handler)
        if number == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)
        return before

    monkeypatch.setattr(signal, "signal", heed_and_tell)
    place = Node()
    assert list(node.wait(cast("node.Node", place), 3600)) == []
    monkeypatch.undo()
    assert place.removed
