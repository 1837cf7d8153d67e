"""Sacred's observers on files, hardened: a full disk or an odd value does not switch them off, a resume continues them.

MongoDB has none: ``shipping.py`` brings it what these and the journal have written.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver, RunObserver

from core.config import masked
from tracking.folder import RunFolder
from tracking.journal import Position, points, timed
from tracking.plain import plain

_BEAT_SECONDS = 30.0

_SHARE = 0.02
"""Of a run's time, what rewriting metrics.json may take: the file grows with the run."""


def say(text: str) -> None:
    """One line for the reader; it goes where the console and Sacred's captured output take it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def surviving(method: Callable[..., Any]) -> Callable[..., Any]:
    """Sacred switches an observer off for good at its first exception; here it is reported, once, and life goes on."""

    @functools.wraps(method)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            try:
                return method(self, *args, **kwargs)
            except Exception as error:  # noqa: BLE001  (whatever it is, the run must go on)
                complaint = f"{type(self).__name__}.{method.__name__}: {type(error).__name__}: {error}"
                if complaint not in self.complaints:
                    self.complaints.add(complaint)
                    say(f"warning: {masked(complaint)}")
                return None

    return call


class FolderObserver(RunObserver):
    """Keeps the heartbeat in ``record.json``."""

    priority = 0

    def __init__(self, folder: RunFolder) -> None:
        """``folder`` is the run's own."""
        self.folder = folder
        self.lock, self.complaints = threading.RLock(), set[str]()
        self._last = 0.0

    @surviving
    def heartbeat_event(self, info: dict[str, Any], **_: Any) -> None:
        """At most every 30 s."""
        if time.monotonic() - self._last >= _BEAT_SECONDS:
            self._last = time.monotonic()
            self.folder.beat(t_env=info.get("t_env"))


class FileObserver(FileStorageObserver):
    """FileStorageObserver whose files are always whole, and which continues its directory when a run is resumed."""

    dir: Any
    run_entry: Any

    def __init__(self, folder: RunFolder, resume: bool = False) -> None:
        """``folder`` has the journal and the output, so there is only one numbered directory in its ``sacred``."""
        super().__init__(folder.sacred)
        self.lock, self.complaints = threading.RLock(), set[str]()
        self._journal, self._console, self._resume = folder.journal, folder.console, resume
        self._stale, self._rest = False, 0.0

    def _make_run_dir(self, _id: Any) -> None:
        base = Path(self.basedir)
        earlier = [path for path in base.glob("*") if path.name.isdigit()] if self._resume else []
        if earlier:
            self.dir = str(earlier[0])
        else:
            super()._make_run_dir(_id)

    def started_event(self, *args: Any, **kwargs: Any) -> Any:
        """Begins the entry, or continues the one that is there with its start time and artifacts.

        Returns:
            The run folder's name, by which Sacred calls the run on the screen.
        """
        earlier = self._earlier("run.json")
        super().started_event(*args, **kwargs)
        kept = {key: earlier[key] for key in ("start_time", "artifacts", "resources") if key in earlier}
        self.run_entry.update(kept)
        self.save_json(self.run_entry, "run.json")
        return Path(self.basedir).parent.name

    def save_json(self, obj: Any, filename: str) -> None:
        """Replaces the file at once."""
        self._replace(filename, json.dumps(plain(obj), sort_keys=True, indent=2, default=str))

    def save_cout(self) -> None:
        """cout.txt is console.log by a second name: complete, and nothing is kept in memory for it."""
        target = Path(self.dir) / "cout.txt"
        if not target.exists() and self._console.exists():
            try:
                os.link(self._console, target)
            except OSError:  # a file system without hard links
                target.symlink_to(os.path.relpath(self._console, self.dir))

    @surviving
    def heartbeat_event(self, *args: Any, **kwargs: Any) -> None:
        """As Sacred's."""
        super().heartbeat_event(*args, **kwargs)

    @surviving
    def resource_event(self, *args: Any, **kwargs: Any) -> None:
        """As Sacred's."""
        super().resource_event(*args, **kwargs)

    @surviving
    def artifact_event(self, name: str, *args: Any, **kwargs: Any) -> None:
        """As Sacred's; a file given again replaces the earlier one."""
        super().artifact_event(name, *args, **kwargs)
        self.run_entry["artifacts"] = list(dict.fromkeys(self.run_entry["artifacts"]))
        self.save_json(self.run_entry, "run.json")

    def save_file(self, filename: str, target_name: str | None = None) -> None:
        """As Sacred's, but by a second name for the same file where that is possible: it lies in the same folder."""
        target = Path(self.dir) / (target_name or Path(filename).name)
        if target.suffix == ".json" or target.name == "cout.txt":
            return super().save_file(filename, target_name)
        target.unlink(missing_ok=True)
        try:
            os.link(filename, target)
        except OSError:
            super().save_file(filename, target_name)
        return None

    @surviving
    def log_metrics(self, metrics_by_name: Mapping[str, Mapping[str, list[Any]]], **_: Any) -> None:
        """Points are in the journal already; metrics.json follows it, as often as that is cheap."""
        self._stale |= bool(metrics_by_name)
        if self._stale and time.monotonic() >= self._rest:
            self._write_curves()

    @surviving
    def restore(self) -> None:
        """Makes metrics.json equal to the rewound journal."""
        self._write_curves()

    def completed_event(self, *args: Any, **kwargs: Any) -> None:
        """As Sacred's, with all curves."""
        self._write_curves()
        super().completed_event(*args, **kwargs)

    def interrupted_event(self, *args: Any, **kwargs: Any) -> None:
        """As Sacred's, with all curves."""
        self._write_curves()
        super().interrupted_event(*args, **kwargs)

    def failed_event(self, *args: Any, **kwargs: Any) -> None:
        """As Sacred's, with all curves."""
        self._write_curves()
        super().failed_event(*args, **kwargs)

    @surviving
    def _write_curves(self) -> None:
        begin = time.monotonic()
        self._replace("metrics.json", json.dumps(curves_of(self._journal), sort_keys=True))
        self._stale, end = False, time.monotonic()
        self._rest = end + (end - begin) / _SHARE

    def _replace(self, filename: str, text: str) -> None:
        path = Path(self.dir) / filename
        temporary = path.with_suffix(".tmp")
        temporary.write_text(text)
        os.replace(temporary, path)

    def _earlier(self, filename: str) -> dict[str, Any]:
        """What an earlier part of this run left in a file; empty for a new run."""
        if not self._resume:
            return {}
        for path in Path(self.basedir).glob(f"[0-9]*/{filename}"):
            return json.loads(path.read_text())
        return {}


def curves_of(journal: Path) -> dict[str, dict[str, list[Any]]]:
    """The curves of a journal in the form of Sacred's metrics.json."""
    curves: dict[str, dict[str, list[Any]]] = {}
    records, at = timed(journal, Position()) if journal.exists() else ([], Position())
    while records:
        for name, step, value, moment in points(records):
            curve = curves.setdefault(name, {"steps": [], "values": [], "timestamps": []})
            curve["steps"].append(step)
            curve["values"].append(value)
            curve["timestamps"].append(moment.isoformat())
        records, at = timed(journal, at)
    return curves
