"""The one object that the training loop tells what happened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tracking.console import Console
from tracking.folder import RunFolder
from tracking.journal import Journal, Series, series
from tracking.plain import number
from tracking.record import Record
from tracking.tensorboard import open_writer

MAX_ARTIFACT_BYTES = 64 * 2**20
_JOURNAL_ARTIFACT_BYTES = 8 * 2**20


class SacredRun(Protocol):
    """What is used of ``sacred.run.Run``."""

    info: dict[str, Any]
    result: Any

    def log_scalar(self, metric_name: str, value: float, step: int | None = None) -> None:
        """One point of one curve."""

    def add_artifact(self, filename: str, name: str | None = None) -> None:
        """A file that the run produced."""


class Restorable(Protocol):
    """A store of curves that follows the journal."""

    def restore(self) -> None:
        """The journal was set back: becomes equal to it."""


class Tracker:
    """One per run. Every record is in the local journal before anybody else hears of it."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        folder: RunFolder,
        journal: Journal,
        run: SacredRun,
        console: Console,
        stores: tuple[Restorable, ...] = (),
        resumed: bool = False,
    ) -> None:
        """``stores`` follow the journal when it is rewound; a ``resumed`` run must load its state before it logs."""
        self._settings, self._folder, self._journal = settings, folder, journal
        self._run, self._console, self._stores = run, console, stores
        self._waiting = resumed
        self._summary: dict[str, float] = {}
        self._writer: Any = None if resumed else self._tensorboard()

    def log(self, record: Record) -> None:
        """Keeps one record: journal, then Sacred (metric names as they are, step ``t_env``), TensorBoard, console.

        Raises:
            RuntimeError: a resumed run logs before ``load_state_dict``, which would cut its curves in two.
        """
        if self._waiting:
            raise RuntimeError("a resumed run must call Tracker.load_state_dict before it logs")
        values = {name: number(value) for name, value in record.values.items()}
        t_env = int(record.t_env)
        self._journal.write({"kind": record.kind, "t_env": t_env, "values": values} | record.kept)
        for name, value in values.items():
            self._run.log_scalar(name, value, t_env)
            if self._writer is not None:
                self._writer.add_scalar(name, value, t_env)
        if record.kind == "test":
            self._summarise(t_env, values)
        self._console.record(Record(record.kind, t_env, values))

    def progress(self, t_env: int, episode: int) -> None:
        """Says how far the run is; called after every iteration."""
        self._run.info["t_env"], self._run.info["episode"] = t_env, episode
        self._console.progress(t_env)

    def message(self, text: str) -> None:
        """One line for the reader, kept in console.log and in Sacred's captured output."""
        self._console.message(text)

    def artifact(self, path: Path | str, name: str | None = None) -> bool:
        """Gives a file to Sacred; one above 64 MiB stays in the run folder only. Says whether it was given."""
        path = Path(path)
        size = path.stat().st_size
        if size > MAX_ARTIFACT_BYTES:
            self.message(f"{path.name} ({size / 2**20:.0f} MiB) is too large for the database: it stays at {path}")
            return False
        self._run.add_artifact(str(path), name)
        return True

    def finish(self) -> None:
        """On completion: configuration, last checkpoint and, while it is small, the journal become artifacts."""
        self.artifact(self._folder.config)
        if 0 < self._journal.sync() <= _JOURNAL_ARTIFACT_BYTES:
            self.artifact(self._folder.journal)
        if self._folder.checkpoint.exists():
            self.artifact(self._folder.checkpoint)

    def state_dict(self) -> dict[str, int]:
        """Where the journal ends, for a checkpoint; everything before is on the disk when this returns."""
        return {"cursor": self._journal.sync()}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Goes back to a checkpoint: journal, Sacred and TensorBoard forget what came after it.

        ``{"cursor": 0}`` is the beginning, for a run that was stopped before its first checkpoint.

        Raises:
            JournalError: the journal does not belong to that checkpoint, or is damaged.
        """
        self._journal.rewind(state["cursor"])
        for store in self._stores:
            store.restore()
        curves = series(self._journal.path)
        last = max((curve[-1][0] for curve in curves.values()), default=-1)
        self._summary = _last(series(self._journal.path, kinds=("test",)))
        self._publish()
        self._waiting = False
        self._writer = self._tensorboard(purge_step=last + 1)

    def close(self) -> None:
        """Closes the files."""
        if self._writer is not None:
            self._writer.close()
        self._journal.close()

    def _summarise(self, t_env: int, values: dict[str, float]) -> None:
        """Last test results where Omniboard's custom columns find them, and in the run's record."""
        self._summary = self._summary | values | {"test_t_env": t_env}
        self._publish()

    def _publish(self) -> None:
        self._run.info["summary"] = dict(self._summary)
        self._run.result = result(self._summary)
        self._folder.beat(summary=_finite(self._summary))

    def _tensorboard(self, purge_step: int | None = None) -> Any:
        if not self._settings.get("tensorboard"):
            return None
        try:
            return open_writer(self._folder.tensorboard, purge_step)
        except ImportError as error:
            self.message(f"TensorBoard is not installed ({error}): the run goes on without it")
            return None


def result(summary: Mapping[str, float]) -> float | None:
    """The one number of a run: its last win rate where there is one, else its last return; None before any test."""
    return next((summary[name] for name in ("test_battle_won_mean", "test_return_mean") if name in summary), None)


def _last(tests: Series) -> dict[str, float]:
    """The summary that the last test left behind."""
    summary = {name: curve[-1][1] for name, curve in tests.items()}
    return summary | {"test_t_env": max(curve[-1][0] for curve in tests.values())} if tests else summary


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    """``values`` for strict JSON."""
    return {name: value if abs(value) < float("inf") else None for name, value in values.items()}
