"""What has become of the runs of a sweep, read from their folders, and what is to be done next."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import yaml

from sweeps.cells import DIGITS, Cell
from tracking.folder import RECORD, RunFolder
from tracking.journal import JournalError, decode

_LABEL = re.compile(rf"^label: .*?([0-9a-f]{{{DIGITS}}})'?$", re.MULTILINE)
_T_MAX = re.compile(r"^t_max: (\d+)$", re.MULTILINE)
_LAST = 65536
"""Bytes of a journal's end in which its last record is looked for."""


class State(Enum):
    """Where a run stands."""

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


OPEN = (State.WAITING, State.STOPPED, State.FAILED)
"""States from which a sweep starts or resumes a run."""


@dataclass
class Work:
    """One run of a sweep and its state."""

    cell: Cell
    state: State = State.WAITING
    folder: RunFolder | None = None
    attempts: int = 0
    """How often this sweep has started it."""
    note: str = ""
    """Why it failed, or where it is queued."""

    def __getstate__(self) -> dict[str, Any]:
        """Without the folder, which is open here only; whoever gets this looks for it (``take_over``)."""
        return self.__dict__ | {"folder": None}

    def refresh(self, folder: RunFolder | None) -> None:
        """Reads the state from the run's folder."""
        self.folder = folder
        if folder is None:
            self.state = State.WAITING
            return
        status = folder.status
        enough = _planned(folder) >= self.cell.t_max
        self.state = {
            "COMPLETED": State.DONE if enough else State.STOPPED,
            "RUNNING": State.RUNNING,
            "FAILED": State.FAILED,
        }.get(status, State.STOPPED)

    def find(self, results_dir: Path) -> RunFolder | None:
        """Its folder, where it has been started."""
        return best(find(results_dir).get(self.cell.id, []))

    def take_over(self, results_dir: Path) -> None:
        """Prepares to go on with it where nobody else may be at work on it, whatever its folder says.

        Who was, was stopped or lost. Should it live on, its claim to the folder ends this attempt with exit status 2.
        """
        self.attempts, self.note = 0, ""
        self.refresh(self.find(results_dir))
        if self.state is State.RUNNING:
            self.state = State.STOPPED

    def words(self) -> list[str]:
        """The command line that starts or resumes it."""
        if self.folder is None:
            return list(self.cell.words)
        t_max = max(self.cell.t_max, _planned(self.folder))
        return ["resume", str(self.folder.path), "with", *self.cell.moved(), f"t_max={t_max}"]

    def reached(self) -> int:
        """Steps made so far."""
        return 0 if self.folder is None else last_step(self.folder)


def survey(cells: Iterable[Cell], results_dir: Path) -> list[Work]:
    """Every run with its state as its folder tells it."""
    folders = find(results_dir)
    works = []
    for cell in cells:
        work = Work(cell)
        work.refresh(best(folders.get(cell.id, [])))
        works.append(work)
    return works


def find(results_dir: Path) -> dict[str, list[RunFolder]]:
    """The runs below a folder that belong to sweeps, by id, oldest first."""
    found: dict[str, list[RunFolder]] = {}
    for path in sorted(_run_folders(results_dir)):
        folder = RunFolder(path)
        label = _LABEL.search(_text(folder.config))
        if label:
            found.setdefault(label[1], []).append(folder)
    return found


def best(folders: list[RunFolder]) -> RunFolder | None:
    """Of several folders of one run the completed one, else the newest."""
    completed = [folder for folder in folders if folder.status == "COMPLETED"]
    return [None, *folders, *completed][-1]


def last_step(folder: RunFolder) -> int:
    """The step of the last record in a run's journal; 0 where there is none."""
    try:
        with open(folder.journal, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LAST))
            lines = file.read().split(b"\n")[:-1]
        return int(decode(lines[-1])["t_env"]) if lines else 0
    except (OSError, JournalError, KeyError, ValueError):
        return 0  # an unreadable journal is reported when the run is resumed or read, not by a table


def tail(path: Path, lines: int) -> str:
    """The last lines of a text file."""
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def _run_folders(top: Path) -> Iterator[Path]:
    """Folders with a run's record; what lies within them is not looked at."""
    for path, folders, files in os.walk(top):
        if RECORD in files:
            folders.clear()
            yield Path(path)


def _planned(folder: RunFolder) -> int:
    """``t_max`` as the run's configuration has it."""
    text = _text(folder.config)
    found = _T_MAX.search(text)
    return int(found[1]) if found else int((yaml.safe_load(text) or {}).get("t_max", 0))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
