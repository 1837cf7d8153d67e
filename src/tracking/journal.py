"""The journal: every record of a run, written to a local file before anybody else hears of it."""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Series = dict[str, list[tuple[int, float]]]
"""Metric name -> its (t_env, value) pairs in the order they were written."""

_CRC = b',"crc":"'
_TAIL = len(_CRC) + len(b'00000000"}')


class JournalError(ValueError):
    """A journal that is damaged, or that does not belong to the checkpoint it is rewound to."""


class Journal:
    """Append-only, one JSON object with a checksum per line, out of our buffers as soon as it is written."""

    def __init__(self, path: Path | str) -> None:
        """Opens or starts ``path``. A last line that a crash cut short is removed."""
        self.path = Path(path)
        self._file = open(self.path, "ab", buffering=0)  # noqa: SIM115  (lives as long as the run)
        self._file.truncate(_sound_length(self.path))
        self._file.seek(0, os.SEEK_END)

    def write(self, record: dict[str, Any]) -> None:
        """Appends one record; ``record["values"]`` may hold NaN and infinities."""
        line = encode(record)
        written = self._file.write(line)
        while written < len(line):  # a nearly full disk takes part of a line
            written += self._file.write(line[written:])

    @property
    def cursor(self) -> int:
        """The length in bytes: a checkpoint keeps it, to come back to."""
        return self._file.tell()

    def sync(self) -> int:
        """Puts everything on the disk itself and returns the cursor."""
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
        self._file.truncate(cursor)
        self._file.seek(0, os.SEEK_END)

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        self._file.close()


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
