"""Stopping in good order when the system or the user asks for it."""

from __future__ import annotations

import os
import signal
from contextlib import AbstractContextManager
from types import FrameType


class Stop(AbstractContextManager["Stop"]):
    """Turns the first SIGINT or SIGTERM into a wish that the loop fulfils; Ctrl-C after it ends the run at once.

    A further SIGTERM changes nothing: schedulers send it to a process and then to its group; they kill what is slow.
    """

    signum = 0

    def __enter__(self) -> Stop:
        self._before = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._before.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum and signum == signal.SIGTERM:
            return
        if self.signum:
            self.__exit__()  # a third one kills
            raise KeyboardInterrupt
        self.signum = signum
        os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C (once more) to stop at once\n")
