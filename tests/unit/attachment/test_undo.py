"""The undo stack runs every step, newest first, whatever the steps and signals do."""

import pytest

from cni_faasm.attachment.undo import Undo
from cni_faasm.spec.errors import INTERNAL, CniError


def test_newest_first_and_once() -> None:
    done: list[int] = []
    undo = Undo()
    for number in range(3):
        undo.push(f"step {number}", done.append, number)
    undo.roll_back(CniError(INTERNAL, "cause"))
    undo.roll_back(CniError(INTERNAL, "cause"))
    assert done == [2, 1, 0]


def test_what_is_dropped_is_not_run() -> None:
    undo = Undo()
    undo.push("never", pytest.fail, "it was dropped")
    undo.drop()
    undo.roll_back(CniError(INTERNAL, "cause"))


def fail() -> None:
    raise OSError(5, "disk on fire")


@pytest.mark.parametrize("cause", [CniError(INTERNAL, "cause", "first"), ValueError("cause")])
def test_a_failing_step_stops_no_other_and_is_told(cause: Exception) -> None:
    done: list[int] = []
    undo = Undo()
    undo.push("sweep", done.append, 1)
    undo.push("release the address", fail)
    undo.roll_back(cause)
    assert done == [1]
    told = cause.details if isinstance(cause, CniError) else " ".join(cause.__notes__)
    assert "could not undo: release the address" in told
    assert "disk on fire" in told
    if isinstance(cause, CniError):
        assert cause.details.startswith("first; ")


def test_an_interrupted_step_is_run_again() -> None:
    tries: list[int] = []

    def step() -> None:
        tries.append(len(tries))
        if len(tries) == 1:
            raise KeyboardInterrupt

    undo = Undo()
    undo.push("last", tries.append, 99)
    undo.push("interrupted", step)
    undo.roll_back(CniError(INTERNAL, "cause"))
    assert tries == [0, 1, 99]


def test_a_rollback_that_is_stopped_goes_on_where_it_was() -> None:
    """SystemExit stops it; the edge calls roll_back again."""
    tries: list[str] = []

    def step() -> None:
        tries.append("step")
        if len(tries) == 1:
            raise SystemExit

    undo = Undo()
    undo.push("last", tries.append, "last")
    undo.push("stopped", step)
    with pytest.raises(SystemExit):
        undo.roll_back(CniError(INTERNAL, "cause"))
    undo.roll_back(CniError(INTERNAL, "cause"))
    assert tries == ["step", "step", "last"]
