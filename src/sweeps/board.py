"""What a person sees of a sweep: one table, live on a terminal; a line per change elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeps.cells import shown
from sweeps.pool import log_of
from sweeps.work import State, Work, best, find, tail
from tracking.console import Speed, headline

_REDRAW_SECONDS = 1.0
_LOOK_SECONDS = 5.0
"""Folders of runs that have just been started are looked for this often."""
_TAIL = 15
"""Lines of a failed run's output that are shown."""
_STYLES = {
    State.WAITING: "dim",
    State.QUEUED: "dim",
    State.RUNNING: "cyan",
    State.DONE: "green",
    State.STOPPED: "yellow",
    State.FAILED: "red",
}


class Board:
    """The states of all runs, grouped by algorithm and environment."""

    def __init__(self, works: Sequence[Work], results_dir: Path, console: Console | None = None) -> None:
        """``console``: where to; standard output by default."""
        self.works, self.results_dir = works, results_dir
        self.console = console or Console()
        self._live: Live | None = None
        self._drawn = self._looked = 0.0
        self._states = [work.state for work in works]
        self._speed = Speed(sum(work.cell.t_max for work in works))

    @contextlib.contextmanager
    def live(self) -> Iterator[Board]:
        """Shows the table, and keeps it up to date by ``update``."""
        if not self.console.is_terminal:
            yield self
            return
        # No thread redraws: a process with threads cannot safely start others.
        with Live(self.table(), console=self.console, auto_refresh=False) as self._live:
            yield self
            self._live.update(self.table(), refresh=True)
        self._live = None

    def update(self) -> None:
        """Cheap enough to be called some times a second."""
        clock = time.monotonic()
        if clock - self._looked >= _LOOK_SECONDS:
            self._looked = clock
            self._look()
        if self._live is None:
            self._say_changes()
        elif clock - self._drawn >= _REDRAW_SECONDS:
            self._drawn = clock
            self._live.update(self.table(), refresh=True)

    def table(self) -> Table:
        """One row per algorithm and environment."""
        groups: dict[tuple[str, str], list[Work]] = {}
        for work in self.works:
            groups.setdefault(work.cell.group, []).append(work)
        reached = {work.cell.id: min(work.reached(), work.cell.t_max) for work in self.works}
        self._speed.update(sum(reached.values()), time.monotonic())
        table = Table("algorithm", "environment", "seeds", "steps", "last tests", caption=self._caption())
        for (algorithm, environment), works in groups.items():
            steps = sum(reached[work.cell.id] for work in works) / sum(work.cell.t_max for work in works)
            seeds = Text("  ").join(_seed(work, reached[work.cell.id]) for work in works)
            table.add_row(algorithm, environment, seeds, f"{steps:.0%}", _tests(works))
        return table

    def failures(self, logs: Path) -> None:
        """Prints every failed run with the end of its output and the command that goes on with it."""
        for work in self.works:
            if work.state is not State.FAILED:
                continue
            log = log_of(logs, work)
            self.console.print(Text(f"\n{work.cell} failed: {work.note or 'see its output'}", style="red"))
            output = tail(log, _TAIL) or (tail(work.folder.console, _TAIL) if work.folder else "")
            self.console.print(Text(output, style="dim"), soft_wrap=True)
            self.console.print(Text(f"all of it: {log}\nby hand:   {shown(work.words())}"), soft_wrap=True)

    def _caption(self) -> str:
        numbers = [(sum(work.state is state for work in self.works), state) for state in State]
        parts = [f"{number} {state.value}" for number, state in numbers if number]
        return ", ".join(parts) + (f" | {self._speed}" if self._live and self._speed.rate else "")

    def _say_changes(self) -> None:
        for at, work in enumerate(self.works):
            if work.state is not self._states[at]:
                self._states[at] = work.state
                note = f" ({work.note})" if work.note else ""
                self.console.print(Text(f"{work.cell}: {work.state.value}{note}"), soft_wrap=True)

    def _look(self) -> None:
        """Finds the folders of runs that had none when they were started, perhaps by another host."""
        new = [work for work in self.works if work.state in (State.RUNNING, State.QUEUED)]
        folders = find(self.results_dir) if any(work.folder is None for work in new) else {}
        for work in new:
            work.folder = work.folder or best(folders.get(work.cell.id, []))
            if work.state is State.QUEUED and work.folder is not None and work.folder.status == "RUNNING":
                work.state = State.RUNNING


def _seed(work: Work, reached: int) -> Text:
    """A seed and where its run stands."""
    part = work.state is not State.DONE and reached
    words = f"{work.state.value} {reached / work.cell.t_max:.0%}" if part else work.state.value
    return Text(f"{work.cell.seed} {words}", style=_STYLES[work.state])


def _tests(works: Sequence[Work]) -> str:
    """The mean of the last tests of a group's runs, as far as there are any."""
    found: list[dict[str, Any]] = [work.folder.record.get("summary") or {} for work in works if work.folder]
    found = [summary for summary in found if summary]
    if not found:
        return ""
    names = set.intersection(*map(set, found))
    numbers = {name: [summary[name] for summary in found] for name in names}
    means = {name: sum(x) / len(x) for name, x in numbers.items() if None not in x}
    return headline(means).removeprefix("test ")
