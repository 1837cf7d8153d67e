"""Sacred's observers on files, hardened: a full disk or an odd value does not switch them off, a resume continues them.

The one for MongoDB is in ``mongo.py``; what both share is here.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sacred.observers import FileStorageObserver, RunObserver

from core.config import masked
from tracking.folder import RunFolder
from tracking.journal import Series
from tracking.plain import number, plain

_BEAT_SECONDS = 30.0

Curves = dict[str, dict[str, list[Any]]]
"""Metric name -> its steps, values and timestamps: the form in which Sacred hands them over and stores them."""


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

    def __init__(self, basedir: Path, resume: bool = False) -> None:
        """``basedir`` belongs to one run, so there is only one numbered directory in it."""
        super().__init__(basedir)
        self.lock, self.complaints = threading.RLock(), set[str]()
        self._resume = resume
        self._curves: Curves = {}

    def _make_run_dir(self, _id: Any) -> None:
        base = Path(self.basedir)
        earlier = [path for path in base.glob("*") if path.name.isdigit()] if self._resume else []
        if earlier:
            self.dir = str(earlier[0])
        else:
            super()._make_run_dir(_id)

    def started_event(self, *args: Any, **kwargs: Any) -> Any:
        """Begins the entry, or continues the one that is there with its start time, artifacts and curves."""
        earlier = self._earlier("run.json")
        _id = super().started_event(*args, **kwargs)
        kept = {key: earlier[key] for key in ("start_time", "artifacts", "resources") if key in earlier}
        self.run_entry.update(kept)
        self.save_json(self.run_entry, "run.json")
        self._curves = self._earlier("metrics.json")
        return _id

    def save_json(self, obj: Any, filename: str) -> None:
        """Replaces the file at once."""
        path = Path(self.dir) / filename
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(plain(obj), sort_keys=True, indent=2, default=str))
        os.replace(temporary, path)

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
        """Adds points to metrics.json, which is written only when there are any."""
        if metrics_by_name:
            extend(self._curves, metrics_by_name)
            self._write_curves()

    @surviving
    def restore(self, curves: Series) -> None:
        """Makes metrics.json equal to the rewound journal."""
        self._curves = merged(curves, self._curves)
        self._write_curves()

    def _write_curves(self) -> None:
        for curve in self._curves.values():
            curve["timestamps"] = [t.isoformat() if isinstance(t, datetime) else t for t in curve["timestamps"]]
        self.save_json(self._curves, "metrics.json")

    def _earlier(self, filename: str) -> dict[str, Any]:
        """What an earlier part of this run left in a file; empty for a new run."""
        if not self._resume:
            return {}
        for path in Path(self.basedir).glob(f"[0-9]*/{filename}"):
            return json.loads(path.read_text())
        return {}


def extend(curves: Curves, points: Mapping[str, Mapping[str, list[Any]]]) -> None:
    """Appends points as Sacred hands them over, made plain; what is no number is left out with a warning."""
    for name, new in points.items():
        curve = curves.setdefault(name, {"steps": [], "values": [], "timestamps": []})
        for step, value, timestamp in zip(new["steps"], new["values"], new["timestamps"], strict=True):
            try:
                point = number(step), number(value)
            except (TypeError, ValueError) as error:
                say(f"warning: {name}: {error}")
                continue
            curve["steps"].append(point[0])
            curve["values"].append(point[1])
            curve["timestamps"].append(timestamp)


def merged(curves: Series, stored: Mapping[str, Mapping[str, list[Any]]]) -> Curves:
    """The journal's curves, with the times at which points were measured as far as ``stored`` has them, else now."""
    merged: Curves = {}
    now = datetime.now(UTC).replace(tzinfo=None)  # Sacred's times are UTC without saying so
    for name, curve in curves.items():
        known = stored.get(name, {"steps": [], "timestamps": []})
        times = dict(zip(known["steps"], known["timestamps"], strict=False))
        steps = [step for step, _ in curve]
        values = [value for _, value in curve]
        merged[name] = {"steps": steps, "values": values, "timestamps": [times.get(step, now) for step in steps]}
    return merged
