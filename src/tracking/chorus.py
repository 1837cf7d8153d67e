"""The consoles of several runs in one process, which has one screen."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tracking.console import Console
from tracking.record import Record


class Chorus(Console):
    """Takes over stdout and stderr: what the process prints is kept by every run, and shown once."""

    def __init__(self, logs: Sequence[Path], t_max: int, titles: Sequence[str], title: str) -> None:
        """One voice for every log, called by its title; ``title`` is that of all together."""
        super().__init__(logs[0], t_max, title)
        self._logs = list(logs)
        self.voices = [Voice(self, log, t_max, name) for log, name in zip(logs, titles, strict=True)]

    def show(self, text: str) -> None:
        """One line on the screen, which no run keeps."""
        self._streams[0].show(text + "\n")
        self._streams[0].flush()

    def _open(self) -> Any:
        return _Logs(self._logs)


class Voice(Console):
    """The console of one of them. What the run says is kept by itself, and shown with its title before it."""

    def __init__(self, chorus: Chorus, log: Path, t_max: int, title: str) -> None:
        super().__init__(log, t_max, title)
        self._chorus = chorus
        self._said: Any = None

    @contextlib.contextmanager
    def attached(self) -> Iterator[Voice]:
        """While active, the log is open."""
        self._said = self._open()
        try:
            yield self
        finally:
            self._said.close()

    def message(self, text: str) -> None:
        """See ``Console.message``."""
        self._keep(text)
        self._chorus.show(f"{self._title} | {text}")

    def failure(self, trace: str) -> None:
        """Nothing: it has been printed for all of them."""

    def record(self, record: Record) -> None:
        """See ``Console.record``; where the run stands is kept, and only tests are shown."""
        if record.kind == "test":
            super().record(record)
        elif record.kind == "train":
            self._keep(self.line(record))

    def _keep(self, text: str) -> None:
        self._said.write((text + "\n").encode("utf-8", "replace"))


class _Logs:
    """Several open files as one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._files = [open(path, "ab", buffering=0) for path in paths]  # noqa: SIM115 - closed by the block
        self.closed = False

    def __enter__(self) -> _Logs:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True
        for file in self._files:
            file.close()

    def write(self, data: bytes) -> None:
        """To each of them."""
        for file in self._files:
            file.write(data)
