"""Undo, in reverse, what has been done so far when a later step fails."""

from collections.abc import Callable

from cni_faasm.spec.errors import CniError


class Undo:
    """A stack of (what, function, arguments), one for each act.

    A step must not mind if its act has not happened, or only half: then it may be pushed
    before the act, and a signal between the two loses nothing.

    A step that fails during the rollback is added to the error's details and never
    masks the cause. An exception other than CniError gets its details by a note.
    """

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[..., object], tuple[object, ...]]] = []

    def push(self, what: str, function: Callable[..., object], *arguments: object) -> None:
        """Add the step that reverses what is being done."""
        self._steps.append((what, function, arguments))

    def drop(self) -> None:
        """Forget every step: the work has succeeded."""
        self._steps.clear()

    def roll_back(self, cause: BaseException) -> None:
        """Run all steps, newest first; none of them stops the others.

        A step that Ctrl-C interrupts is run again.
        """
        while self._steps:
            what, function, arguments = self._steps[-1]
            try:
                function(*arguments)
            except KeyboardInterrupt:
                continue
            except Exception as error:
                text = f"could not undo: {what}: {error}"
                if isinstance(cause, CniError):
                    cause.add_details(text)
                else:
                    cause.add_note(text)
            self._steps.pop()
