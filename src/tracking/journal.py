"""The journal: every record of a run, written to a local file before anybody else hears of it.

When a record was written stands in a file beside it, one stamp of fixed width per line: the journal itself holds
nothing that depends on the clock.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]
"""Metric name -> its (t_env, value) pairs in the order they were written."""

Records = list[tuple[datetime, dict[str, Any]]]
"""Some records of a journal, each with the UTC time at which it was written."""
_CRC = b',"crc":"'
_TAIL = len(_CRC) + len(b'00000000"}')
_STAMP = len("2030-01-01T00:00:00.000000\n")
_BATCH_BYTES = 1 << 18


class JournalError(ValueError):
    """A journal that is damaged, or that does not belong to the checkpoint it is rewound to."""


@dataclass(frozen=True)
class Position:
    """A place between two lines of a journal."""

    byte: int = 0
    line: int = 0


class Journal:
    """Append-only, one JSON object with a checksum per line, out of our buffers as soon as it is written."""

    def __init__(self, path: Path | str) -> None:
        """Opens or starts ``path``. A last line that a crash cut short is removed."""
        self.path = Path(path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (lives as long as the run)
        self._times = open(times(self.path), "ab", buffering=0)  # noqa: SIM115
        self._cut(_sound_length(self.path))

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record; ``record["values"]`` may hold NaN and infinities.

        Raises:
            OSError: the disk is full; nothing of the record is left behind.
        """
        stamp = _moment().encode() + b"\n"
        ends = [(file, file.tell()) for file in (self._times, self._file)]
        try:
            _append(self._times, stamp)  # first, so that whoever sees the line finds its time
            _append(self._file, encode(record))
        except OSError:
            for file, end in ends:
                file.truncate(end)
                file.seek(end)
            raise

    @property
    def cursor(self) -> int:
        """The length in bytes: a checkpoint keeps it, to come back to."""
        return self._file.tell()

    def sync(self) -> int:
        """Puts everything on the disk itself and returns the cursor."""
        os.fsync(self._times.fileno())
        os.fsync(self._file.fileno())
        return self.cursor

    def rewind(self, cursor: int) -> None:
        """Forgets what was written after ``cursor``, so that a resumed run continues one unbroken curve.

        Raises:
            JournalError: the journal is shorter than that, or no record ends there.
        """
        if cursor > self.cursor or not _ends_line(self.path, cursor):
            raise JournalError(
                f"{self.path} does not belong to this checkpoint: no record ends at byte {cursor} "
                f"(it has {self.cursor}). Was the journal copied or edited?"
            )
        self._cut(cursor)

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        self._file.close()
        self._times.close()

    def _cut(self, length: int) -> None:
        """Shortens the journal, and gives every line that is left exactly one stamp."""
        changed = _moment(self.path)
        self._file.truncate(length)
        lines, stamps = _count_lines(self.path), self._times.seek(0, os.SEEK_END) // _STAMP
        self._times.truncate(min(lines, stamps) * _STAMP)
        for file in (self._file, self._times):
            file.seek(0, os.SEEK_END)
        _append(self._times, f"{changed}\n".encode() * (lines - stamps))


def encode(record: dict[str, Any]) -> bytes:
    """One line: strict JSON (NaN and infinities of ``values`` as text) ending in the checksum of what precedes it."""
    values = record.get("values")
    if values is not None:
        record = record | {"values": {name: _strict(value) for name, value in values.items()}}
    body = json.dumps(record, allow_nan=False, separators=(",", ":")).encode()[:-1]
    return body + _CRC + b'%08x"}\n' % zlib.crc32(body)


def decode(line: bytes) -> dict[str, Any]:
    """The record of one line, without its checksum.

    Raises:
        JournalError: the line is not what ``encode`` wrote.
    """
    line = line.rstrip(b"\n")
    body = line[:-_TAIL]
    if line[-_TAIL:] != _CRC + b'%08x"}' % zlib.crc32(body):
        raise JournalError("checksum does not match")
    record = json.loads(body + b"}")
    if "values" in record:
        record["values"] = {name: float(x) if isinstance(x, str) else x for name, x in record["values"].items()}
    return record


def read(path: Path | str) -> Iterator[dict[str, Any]]:
    """The records of a journal, also of one that is still being written (an unfinished last line is left out).

    Raises:
        JournalError: a finished line is damaged; names file and line.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decode(line)
            except JournalError as error:
                raise JournalError(f"{path}, line {number}: {error}") from None


def timed(path: Path | str, at: Position) -> tuple[Records, Position]:
    """The next records, with the UTC time at which each was written, and the place after them.

    A bounded piece of the journal at a time; nothing at its end. A time that is missing is that of the last change.

    Raises:
        JournalError: a line is damaged, or no line begins at ``at``; names file and line.
    """
    lines = _lines_from(Path(path), at.byte)
    if not lines:
        return [], at
    records = []
    for number, (moment, line) in enumerate(zip(_stamps(path, at.line, len(lines)), lines, strict=True), start=1):
        try:
            records.append((moment, decode(line)))
        except JournalError as error:
            raise JournalError(f"{path}, line {at.line + number}: {error}") from None
    return records, Position(at.byte + sum(map(len, lines)), at.line + len(lines))


def points(records: Records) -> Iterator[tuple[str, int, float, datetime]]:
    """The (metric, t_env, value, time) of records from ``timed``."""
    for moment, record in records:
        for name, value in record["values"].items():
            yield name, record["t_env"], value, moment


def times(path: Path) -> Path:
    """The file with the times of a journal's lines."""
    return path.with_suffix(".times")


def series(path: Path | str, kinds: Iterable[str] = ("train", "test", "perf")) -> Series:
    """The curves of a journal by metric name."""
    wanted, curves = set(kinds), Series()
    for record in read(path):
        if record.get("kind") in wanted:
            for name, value in record["values"].items():
                curves.setdefault(name, []).append((record["t_env"], value))
    return curves


def _strict(value: float) -> float | str:
    """What strict JSON cannot say as a number, as text that ``float`` understands."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")


def _append(file: Any, data: bytes) -> None:
    written = 0
    while written < len(data):  # a nearly full disk takes part of it
        written += file.write(data[written:])


def _moment(path: Path | None = None) -> str:
    """The present, or when a file was last changed: UTC without saying so, as Sacred writes its times."""
    moment = datetime.now(UTC) if path is None else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds")


def _stamps(path: Path | str, first: int, count: int) -> list[datetime]:
    """The times of ``count`` lines; what is missing or damaged is the journal's last change."""
    path = Path(path)
    data = b""
    if times(path).exists():
        with open(times(path), "rb") as file:
            file.seek(first * _STAMP)
            data = file.read(count * _STAMP)
    changed = datetime.fromisoformat(_moment(path))
    return [_time(data[i * _STAMP : (i + 1) * _STAMP]) or changed for i in range(count)]


def _time(stamp: bytes) -> datetime | None:
    """None where a stamp is not what ``Journal.write`` wrote."""
    try:
        return datetime.fromisoformat(stamp.decode().removesuffix("\n")) if len(stamp) == _STAMP else None
    except ValueError:
        return None


def _lines_from(path: Path, begin: int) -> list[bytes]:
    """Finished lines from a byte on: some, at least one where there is one."""
    size = _BATCH_BYTES
    with open(path, "rb") as file:
        while True:
            file.seek(begin)
            data = file.read(size)
            end = data.rfind(b"\n") + 1
            if end or len(data) < size:
                return [line + b"\n" for line in data[:end].split(b"\n")[:-1]]
            size *= 2


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def _sound_length(path: Path) -> int:
    """Bytes up to the end of the last finished line: one ``write`` per line, so a crash can only cut its end off."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        return size if not size or _ends_line(path, size) else _line_start(file, size)


def _line_start(file: Any, end: int, block: int = 65536) -> int:
    """Where the line that ends at byte ``end`` begins."""
    position = end - 1
    while position > 0:
        start = max(0, position - block)
        file.seek(start)
        found = file.read(position - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0


def _ends_line(path: Path, cursor: int) -> bool:
    """Whether a line ends at byte ``cursor``."""
    if cursor <= 0:
        return cursor == 0
    with open(path, "rb") as file:
        file.seek(cursor - 1)
        return file.read(1) == b"\n"
