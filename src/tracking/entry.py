"""A run's entry for the database, put together from what lies in its folder."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

from tracking.folder import RunFolder
from tracking.plain import plain

CAPTURED_BYTES = 2_000_000
"""Of the printed output the database keeps this much, its end. All of it is in console.log."""
TRACE_BYTES = 100_000
_FORMAT = "MongoObserver-0.7.0"
"""What Sacred 0.8.7 writes there: readers tell versions by it."""
_TIMES = ("start_time", "stop_time", "heartbeat")
_ORDER = ("experiment", "format", "command", "host", "start_time", "stop_time", "result", "status", "heartbeat")
"""What stands first: Omniboard's columns are in the order of the fields, and what is added later is at the far end."""
_PASSING = "fail_trace"
"""What an entry has only when the run has failed; a resumed run loses it again."""


def directory(folder: RunFolder) -> Path | None:
    """Sacred's own directory in a run folder; None for a run that never got that far."""
    return next((path.parent for path in folder.sacred.glob("[0-9]*/run.json")), None)


def entry_of(folder: RunFolder) -> tuple[dict[str, Any], list[str]] | None:
    """The entry as Sacred and Omniboard expect it, without sources, artifacts, output and number; and absent fields.

    None for a run that never started.

    Raises:
        ValueError: a file is damaged; names it.
    """
    where = directory(folder)
    if where is None:
        return None
    record = folder.record
    entry: dict[str, Any] = dict.fromkeys(_ORDER) | _load(where / "run.json")
    entry |= {"format": _FORMAT, "config": _load(where / "config.json")}
    for name in _TIMES:
        if isinstance(entry.get(name), str):
            entry[name] = datetime.fromisoformat(entry[name])
    entry["heartbeat"] = entry.get("heartbeat") or entry["start_time"]
    entry["meta"] = {**entry.get("meta", {}), "uid": record["uid"]}
    entry["info"] = first_info(folder) | (_load(where / "info.json") if (where / "info.json").exists() else {})
    if _PASSING in entry:
        entry[_PASSING] = _end_of(list(entry[_PASSING]), TRACE_BYTES)
    return plain(entry), [_PASSING] if _PASSING not in entry else []


def first_info(folder: RunFolder) -> dict[str, Any]:
    """Every key that a run will set in ``info``: readers find them all filled, from the first moment on."""
    record = folder.record
    return {
        "engine": record.get("engine"),
        "label": record.get("label"),
        "folder": str(folder.path),
        "t_env": 0,
        "episode": 0,
        "summary": {},
    }


def output_of(folder: RunFolder) -> str:
    """The end of what the run printed."""
    if not folder.console.exists():
        return ""
    with open(folder.console, "rb") as file:
        file.seek(max(0, folder.console.stat().st_size - CAPTURED_BYTES))
        data = file.read(CAPTURED_BYTES)
    return data.decode("utf-8", "ignore")


def _end_of(lines: list[str], size: int) -> list[str]:
    """The last lines, and of the first of these the end, that have ``size`` characters together."""
    kept: list[str] = []
    for line in reversed(lines):
        if size <= 0:
            break
        kept.insert(0, line[-size:])
        size -= len(line)
    return kept


def _load(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
