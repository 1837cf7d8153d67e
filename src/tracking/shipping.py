"""Brings a database up to what lies in a run folder, during the run and after it.

Nothing waits in memory: whatever has to be sent is read from the folder when it can be sent. So a database may be
absent, die, come back or come much later, and the same code serves a live run and ``sync``.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bson import ObjectId
from pymongo.errors import ConnectionFailure, PyMongoError
from sacred.dependencies import get_digest

from core.config import masked
from tracking.entry import CAPTURED_BYTES, directory, entry_of, output_of
from tracking.folder import RunFolder
from tracking.journal import Position, Records, points, timed
from tracking.mongo import CURVE_POINTS, Archive, Curve, Extent, MovedError, Points, curve_id
from tracking.observers import say

BEAT_SECONDS = 10.0
DRAIN_SECONDS = 30.0
"""How long a database may keep a finished run waiting."""
_REST_SECONDS = (5.0, 60.0)
"""After a failure the database is left alone for the first time; the pause doubles up to the second."""
_RETRY_SECONDS = 0.5
_OUTPUT_SECONDS = 60.0
"""Least time between two sendings of output of the greatest length."""
_LOOKS = 10
"""Times that one pass looks again when somebody else changes the same run."""
_TYPES = {".yaml": "text/yaml", ".json": "application/json", ".jsonl": "text/plain", ".log": "text/plain"}
_TYPES |= {".txt": "text/plain", ".png": "image/png", ".svg": "image/svg+xml", ".csv": "text/csv"}
"""By these Omniboard decides how to show an artifact."""


class OutOfTimeError(Exception):
    """The time for sending is over."""


@dataclass
class Sent:
    """What a shipment has brought to the database."""

    points: int = 0
    files: int = 0


class Shipment:
    """One run folder and one database."""

    def __init__(self, folder: RunFolder, archive: Archive) -> None:
        """Contacts nobody yet."""
        self.folder, self.archive, self.sent = folder, archive, Sent()
        self.run_id: int | None = None
        self.deadline: float | None = None
        """On the monotonic clock; may be set while ``send`` works in another thread."""
        self.refused: dict[Curve, str] = {}
        self._uid = ""
        self._known: dict[Curve, Extent] | None = None
        self._reached: dict[Curve, Extent] | None = None
        self._forget()

    def _forget(self) -> None:
        """What the database has is not known any more."""
        self._reached = self._known or self._reached
        self._known = None
        self._at, self._passed = Position(), Counter[str]()
        self._files: dict[Path, tuple[Any, ObjectId]] = {}
        self._replaced: set[str] = set()
        self._printed, self._print_again = -1, 0.0

    def send(self, look: bool = False) -> bool:
        """Sends all that the database lacks; whether the run has begun. ``look`` asks anew what that is.

        Raises:
            PyMongoError: the database is not there, or refuses.
            OutOfTimeError: it is later than ``deadline``.
            JournalError: the journal is damaged.
            OSError: a file cannot be read.
            ValueError: a file is damaged.
        """
        if look:
            self._forget()
        try:
            return self._send()
        except BaseException:
            self._forget()  # the last write may or may not have arrived
            raise

    def _send(self) -> bool:
        for _ in range(_LOOKS):
            read = entry_of(self.folder)
            if read is None:
                return False
            try:
                self._enter(read[0])
                self._send_curves()
                self._send_entry(*read)
            except MovedError:
                self.run_id = None
                self._forget()
            else:
                return True
        raise PyMongoError(f"somebody else keeps changing run {self.run_id}")

    def missing(self) -> tuple[int, int] | None:
        """(Points of the journal that the database may lack, all points); None where it was never reached."""
        reached = self._known or self._reached
        if reached is None:
            return None
        counts, known = points_of(self.folder.journal), Counter[str]()
        for curve, extent in list(reached.items()):
            known[curve.metric] += extent.n
        return sum(max(0, n - known[name]) for name, n in counts.items()), sum(counts.values())

    def _check(self) -> None:
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise OutOfTimeError

    # --- the entry and its files

    def _enter(self, entry: dict[str, Any]) -> None:
        if self.run_id is None:
            self._uid = entry["meta"]["uid"]
            first = entry | {
                "resources": [],
                "artifacts": [],
                "captured_out": "",
                "status": "RUNNING",
                "stop_time": None,
            }
            first["experiment"] = entry["experiment"] | {"sources": []}
            self.run_id = self.archive.enter(first)

    def _send_entry(self, entry: dict[str, Any], gone: list[str]) -> None:
        """Last of all: an entry that says COMPLETED has all its curves and files."""
        assert self.run_id is not None and self._known is not None
        sources = [(name, self._file(self.folder.sacred / path, name)) for name, path in entry["experiment"]["sources"]]
        entry["experiment"]["sources"] = [[name, _id] for name, _id in sources]
        artifacts = self._send_artifacts(entry["artifacts"])
        entry["artifacts"] = [{"name": name, "file_id": _id} for name, _id in artifacts.items()]
        curves = [curve for curve, known in self._known.items() if known.n]
        ids = {curve.name: str(curve_id(self._uid, self.run_id, curve)) for curve in curves}
        entry["info"]["metrics"] = [{"name": name, "id": _id} for name, _id in ids.items()]
        self.archive.save(self.run_id, entry | self._new_output(), gone)
        for name, _id in artifacts.items():
            if self._target(name) in self._replaced:
                self.archive.drop_older(self._target(name), _id)
        self._replaced.clear()

    def _new_output(self) -> dict[str, str]:
        """What was printed, if there is more than was sent; long output not at every beat, as it is sent as a whole."""
        size = self.folder.console.stat().st_size if self.folder.console.exists() else 0
        if size == self._printed or time.monotonic() < self._print_again:
            return {}
        text = output_of(self.folder)
        self._printed, self._print_again = size, time.monotonic() + _OUTPUT_SECONDS * len(text) / CAPTURED_BYTES
        return {"captured_out": text}

    def _target(self, name: str) -> str:
        """What Sacred calls an artifact's file."""
        return f"artifact://{self.archive.runs.name}/{self.run_id}/{name}"

    def _send_artifacts(self, names: list[str]) -> dict[str, ObjectId]:
        where = directory(self.folder)
        sent = {name: self._file(where / name, self._target(name)) for name in names if where is not None}
        return {name: _id for name, _id in sent.items() if _id is not None}

    def _file(self, path: Path, name: str) -> ObjectId | None:
        """The stored form of a file; None where it is gone. Looks at its contents only when it has changed."""
        try:
            state = path.stat()
        except FileNotFoundError:
            return None
        signature = (state.st_ino, state.st_size, state.st_mtime_ns)
        if path not in self._files or self._files[path][0] != signature:
            self._check()
            md5 = get_digest(str(path))
            _id = self.archive.find(name, md5)
            if _id is None:
                _id = self.archive.put(path, name, md5, _TYPES.get(path.suffix, "application/octet-stream"))
                self._replaced.add(name)
                self.sent.files += 1
            self._files[path] = (signature, _id)
        return self._files[path][1]

    # --- curves

    def _send_curves(self) -> None:
        if not self.folder.journal.exists():
            self._known = {}
            return
        if self._known is None:
            self._compare()
        if self.folder.journal.stat().st_size < self._at.byte:
            raise MovedError("the journal was set back")
        while True:
            self._check()
            records, after = timed(self.folder.journal, self._at)
            if not records:
                return
            self._send_points(records)
            self._at = after

    def _send_points(self, records: Records) -> None:
        assert self._known is not None and self.run_id is not None
        new: dict[Curve, tuple[Extent, Points]] = {}
        for name, step, value, moment in points(records):
            curve, offset = self._next(name)
            known = self._known.setdefault(curve, Extent())
            if offset >= known.n and curve not in self.refused:
                new.setdefault(curve, (known, Points()))[1].add(step, value, moment)
        if not new:
            return
        refused = self.archive.extend(self.run_id, self._uid, new)
        for curve in refused:
            say(f"warning: MongoDB refuses the metric '{curve.name}' ({refused[curve]}); {self.folder.journal} has it")
        self.refused |= refused
        self.sent.points += sum(len(each.steps) for curve, (_, each) in new.items() if curve not in refused)

    def _next(self, name: str) -> tuple[Curve, int]:
        """Where the next point of a metric belongs."""
        number, offset = divmod(self._passed[name], CURVE_POINTS)
        self._passed[name] += 1
        return Curve(name, number), offset

    def _compare(self) -> None:
        """Finds out what the database has, and takes out of it what the journal has not."""
        assert self.run_id is not None
        stored = self.archive.extents(self.run_id)
        journal: dict[Curve, Extent] = {}
        ids: dict[Curve, ObjectId] = {}
        sound: set[Curve] = set()
        end = Position()
        while True:
            self._check()
            records, end = timed(self.folder.journal, end)
            if not records:
                break
            for name, step, value, _ in points(records):
                curve, _ = self._next(name)
                if curve not in journal:
                    journal[curve], ids[curve] = Extent(), curve_id(self._uid, self.run_id, curve)
                    sound |= {curve} if stored.get(ids[curve], Extent()) == Extent() else set()
                journal[curve].add(step, value)
                if stored.get(ids[curve]) == journal[curve]:
                    sound.add(curve)
        self._known = {}
        for curve, extent in journal.items():
            known = stored.pop(ids[curve], Extent())
            self._known[curve] = known if curve in sound else self.archive.shorten(ids[curve], known, extent)
        self.archive.forget(stored)
        if self._known == journal:
            self._at = end
        else:
            self._passed.clear()


def points_of(journal: Path) -> dict[str, int]:
    """The number of points of each metric in a journal."""
    counts, at = Counter[str](), Position()
    while journal.exists():
        records, at = timed(journal, at)
        if not records:
            break
        counts.update(name for name, *_ in points(records))
    return counts


class Shipper:
    """Ships in a thread of its own for as long as the run lasts; the run itself never waits for the database."""

    def __init__(
        self, shipment: Shipment, command: str, held: bool = False, entered: Callable[[], None] = lambda: None
    ) -> None:
        """``command`` sends later what could not be sent. While ``held``, nothing is sent until ``restore``.

        ``entered`` is called when the run has its number in the database.
        """
        self._shipment, self._command, self._entered = shipment, command, entered
        self._held, self._look, self._complete = held, False, False
        self._number: int | None = None
        self._failures = 0
        self._wake, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="shipper", daemon=True)

    def start(self) -> None:
        """Begins, unless held."""
        if not self._held and not self._thread.is_alive():
            self._thread.start()

    def restore(self) -> None:
        """The journal was set back: the database follows."""
        self._held, self._look = False, True
        self._wake.set()
        self.start()

    def finish(self) -> bool:
        """Sends the rest, for a bounded time; says what is left and how to send it. Whether nothing is left."""
        self._shipment.deadline = time.monotonic() + DRAIN_SECONDS
        self._held = False
        self._over.set()
        self._wake.set()
        self.start()
        self._thread.join(DRAIN_SECONDS + 1.0)
        if not self._complete:
            self._say_missing()
        return self._complete

    def _say_missing(self) -> None:
        archive, folder = self._shipment.archive, self._shipment.folder
        missing = self._shipment.missing()
        points = "" if missing is None else f" (up to {missing[0]:,} of {missing[1]:,} points)"
        say(
            f"MongoDB at {archive.address} did not get the end of this run{points}: all of it is in {folder.path}; "
            f"to send it later: {self._command}"
        )

    def _work(self) -> None:
        while not self._over.is_set():
            self._attempt(self._look)
            self._wake.wait(self._pause())
            self._wake.clear()
        # A server that was away for a moment has a second chance; one that is away for good costs two waits.
        self._complete = self._attempt(look=True) or (self._rested() and self._attempt(look=True))

    def _rested(self) -> bool:
        time.sleep(_RETRY_SECONDS)
        return True

    def _attempt(self, look: bool) -> bool:
        self._look = False
        try:
            begun = self._shipment.send(look)
        except OutOfTimeError:
            return False
        except Exception as error:  # noqa: BLE001  (whatever it is, the run must go on)
            self._missed(error)
            return False
        if self._failures:
            say(f"MongoDB at {self._shipment.archive.address} answers again")
            self._failures = 0
        if begun and self._number != self._shipment.run_id:
            self._number = self._shipment.run_id
            say(f"MongoDB at {self._shipment.archive.address}: this is run {self._number}")
            self._entered()
        return begun

    def _missed(self, error: Exception) -> None:
        if not self._failures:
            reason = re.split(r" \(configured|, Timeout:", masked(str(error)))[0][:200]
            what = "is not reachable" if isinstance(error, ConnectionFailure) else "does not take this run"
            say(
                f"MongoDB at {self._shipment.archive.address} {what}: the run goes on, everything is kept in "
                f"{self._shipment.folder.path} ({type(error).__name__}: {reason})"
            )
        self._failures += 1

    def _pause(self) -> float:
        if not self._failures:
            return BEAT_SECONDS
        return float(min(_REST_SECONDS[0] * 2 ** (self._failures - 1), _REST_SECONDS[1]))
