"""What a person sees of a run: a live bar on a terminal, a line per log interval elsewhere; all is in console.log."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console as Screen
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from tracking.record import Record

_WINDOW_SECONDS = 60.0
"""Speed is measured over the last minute: short enough to follow a change, long enough to include a test."""
_REDRAW_SECONDS = 0.1


class Speed:
    """Environment steps per second over the last minute, and the time that the rest of the run will take."""

    def __init__(self, t_max: int) -> None:
        """``t_max`` is the run's last step."""
        self.t_max, self.t_env = t_max, 0
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, t_env: int, clock: float) -> None:
        """Notes that ``t_env`` steps were reached at ``clock`` seconds."""
        self.t_env = t_env
        self._seen.append((clock, t_env))
        while len(self._seen) > 2 and clock - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()

    @property
    def rate(self) -> float:
        """Steps per second; 0 while unknown."""
        if len(self._seen) < 2:
            return 0.0
        (begin, first), (end, last) = self._seen[0], self._seen[-1]
        return (last - first) / (end - begin) if end > begin else 0.0

    @property
    def left(self) -> str:
        """Time to ``t_max`` as h:mm:ss."""
        if self.rate <= 0:
            return "-:--:--"
        seconds = round(max(0, self.t_max - self.t_env) / self.rate)
        return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def __str__(self) -> str:
        return f"{self.rate:,.0f} steps/s | {self.left} left"


class Console:
    """Takes over stdout and stderr for the length of a run."""

    def __init__(self, log: Path, t_max: int, title: str = "") -> None:
        """Everything printed is appended to ``log``; ``title`` stands before the bar."""
        self._log_path, self._title = log, title
        self._speed = Speed(t_max)
        self._headline = ""
        self._lock = threading.RLock()
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._redrawn = 0.0

    @contextlib.contextmanager
    def attached(self) -> Iterator[Console]:
        """While active, what this process prints goes to console.log and to the screen, above the bar."""
        out, err = sys.stdout, sys.stderr
        with self._open() as log:
            self._bar = self._make_bar(_terminal(err) or _terminal(out))
            streams = self._streams = [Stream(stream, log, self._bar, self._lock) for stream in (out, err)]
            sys.stdout, sys.stderr = streams  # type: ignore[assignment]  # they pass on all of TextIO
            try:
                yield self
            finally:
                sys.stdout, sys.stderr = out, err
                for stream in streams:
                    stream.finish()
                if self._bar is not None:
                    self._bar.stop()
                    self._bar = None

    def _open(self) -> Any:
        """Where everything printed is kept."""
        return open(self._log_path, "ab", buffering=0)

    def failure(self, trace: str) -> None:
        """Why the run has failed."""
        sys.stderr.write(trace)
        sys.stderr.flush()

    def message(self, text: str) -> None:
        """One line for the reader."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def progress(self, t_env: int) -> None:
        """Moves the bar; cheap enough for every iteration of the loop."""
        clock = time.monotonic()
        if clock - self._redrawn < _REDRAW_SECONDS and t_env < self._speed.t_max:
            return
        self._redrawn = clock
        self._speed.update(t_env, clock)
        if self._bar is not None:
            parts = (f"{t_env:,}/{self._speed.t_max:,}", self._headline, str(self._speed))
            self._bar.update(self._task, completed=t_env, note=" | ".join(part for part in parts if part))

    def record(self, record: Record) -> None:
        """Prints a test's result; without a bar also where the run stands, once per log interval."""
        if record.kind == "test":
            self._headline = headline(record.values)
            self.message(f"{self._position(record.t_env)} | {_listed(record.values) or 'test'}")
        elif record.kind == "train" and self._bar is None:
            self.message(self.line(record))

    def line(self, record: Record) -> str:
        """Where the run stands."""
        parts = [self._position(record.t_env), _listed(record.values), self._headline, str(self._speed)]
        return " | ".join(part for part in parts if part)

    def _position(self, t_env: int) -> str:
        return f"t_env {t_env:,}/{self._speed.t_max:,} ({100 * t_env / max(1, self._speed.t_max):.1f}%)"

    def _make_bar(self, screen: TextIO | None) -> Progress | None:
        """The live bar, already shown; None where there is no terminal to show it on."""
        if screen is None:
            return None
        bar = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Screen(file=screen),
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._task = bar.add_task(self._title, total=self._speed.t_max, note="")
        bar.start()
        return bar


class Stream:
    """Stands for stdout or stderr: copies to console.log; whole lines go to the screen above the bar."""

    def __init__(self, wrapped: TextIO, log: Any, bar: Progress | None, lock: threading.RLock) -> None:
        self._wrapped, self._log, self._lock = wrapped, log, lock
        self._bar = bar if _terminal(wrapped) else None
        self._line = ""
        self._owner = os.getpid()

    def write(self, text: str) -> int:
        """Takes ``text``; returns its length."""
        if not self._log.closed:
            self._log.write(text.encode("utf-8", "replace"))
        return self.show(text)

    def show(self, text: str) -> int:
        """Only on the screen."""
        if self._bar is None or os.getpid() != self._owner:
            return self._wrapped.write(text)  # also in a forked worker, where the bar's lock may be held for ever
        with self._lock:
            *lines, self._line = (self._line + text).split("\n")
            for line in lines:
                self._bar.console.print(Text.from_ansi(line), soft_wrap=True)
        return len(text)

    def finish(self) -> None:
        """Shows an unfinished last line."""
        if self._bar is not None and self._line:
            self.write("\n")

    def flush(self) -> None:
        """Passes it on."""
        self._wrapped.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)


def headline(values: dict[str, float]) -> str:
    """The one number of a test: the win rate where there is one, else the return."""
    if "test_battle_won_mean" in values:
        return f"test win {values['test_battle_won_mean']:.1%}"
    if "test_return_mean" not in values:
        return ""
    each = values.get("test_return_per_agent_mean")
    own = "" if each is None else f" ({each:.4g} per agent)"
    return f"test return {values['test_return_mean']:.4g}{own}"


def _listed(values: dict[str, float]) -> str:
    """The results of episodes among ``values``; losses and the like are for the plots."""
    names = ("return", "return_per_agent", "battle_won", "ep_length")
    chosen = [form for name in names for form in (name, f"test_{name}_mean") if form in values]
    return "  ".join(f"{name} {values[name]:.4g}" for name in chosen)


def _terminal(stream: TextIO) -> TextIO | None:
    """``stream`` where it is a terminal that can move its cursor."""
    usable = stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")
    return stream if usable else None
