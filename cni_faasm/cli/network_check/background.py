"""Do something in a thread for the length of a block."""

import threading
from types import TracebackType


class Background:
    """Run `work` beside the block from a delay on; it ends when `over` is set."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.work, daemon=True)

    def work(self) -> None:
        """Do what is to be done until `over` is set."""
        raise NotImplementedError

    def close(self) -> None:
        """Give back what the work used."""
        raise NotImplementedError

    def __enter__(self) -> None:
        self.thread.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.over.set()
        self.thread.join()
        self.close()
