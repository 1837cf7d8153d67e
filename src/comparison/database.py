"""Runs from the MongoDB that Sacred reports to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymongo
from pymongo.database import Database
from pymongo.errors import PyMongoError

from comparison.runs import Run
from core.config import ConfigError, masked
from tracking.journal import Series
from tracking.mongo import parse_address

WAIT_MS = 10_000


def from_mongo(url: str, db_name: str, words: Sequence[str], prefixes: tuple[str, ...] = ("test_",)) -> list[Run]:
    """The runs whose number is among ``words``, or whose name or label contains one of them; all without words.

    Args:
        url: of the server.
        db_name: the database, unless the address names one.
        words: numbers, and parts of names or labels.
        prefixes: beginnings of the metrics that are read.

    Raises:
        ConfigError: the server cannot be reached, or no run fits a word.
    """
    url, name, host = parse_address(url, db_name)
    try:
        client: pymongo.MongoClient[dict[str, Any]]
        with pymongo.MongoClient(url, serverSelectionTimeoutMS=WAIT_MS) as client:
            database: Database[dict[str, Any]] = client[name]
            entries = list(database.runs.find({}, {"captured_out": 0, "experiment.sources": 0}).sort("_id", 1))
            chosen = _chosen(entries, words, f"{host}/{name}")
            return [
                _run(entry, _curves(database.metrics, entry["_id"], prefixes), f"{host}/{name}") for entry in chosen
            ]
    except PyMongoError as error:
        raise ConfigError([f"MongoDB at {host}: {masked(str(error))}"]) from error


def _chosen(entries: list[dict[str, Any]], words: Sequence[str], where: str) -> list[dict[str, Any]]:
    fitting = {word: [entry["_id"] for entry in entries if _fits(entry, word)] for word in words}
    unknown = [word for word, ids in fitting.items() if not ids]
    if unknown or not entries:
        raise ConfigError([f"no run in {where} has the number, name or label '{word}'" for word in unknown or ["*"]])
    wanted = {number for ids in fitting.values() for number in ids}
    return [entry for entry in entries if not words or entry["_id"] in wanted]


def _fits(entry: dict[str, Any], word: str) -> bool:
    if word.isdecimal():
        return bool(entry["_id"] == int(word))
    label = (entry.get("info") or {}).get("label") or ""
    return word in f"{label}/{entry['config'].get('name', '')}"


def _curves(metrics: Any, number: Any, prefixes: tuple[str, ...]) -> Series:
    """A step that was sent twice counts once, as it was sent last."""
    curves: Series = {}
    for found in metrics.find({"run_id": number}):
        if found["name"].startswith(prefixes):
            points = dict(zip(found["steps"], found["values"], strict=True))
            curves[found["name"]] = sorted((int(step), float(value)) for step, value in points.items())
    return curves


def _run(entry: dict[str, Any], curves: Series, where: str) -> Run:
    info, experiment = entry.get("info") or {}, entry.get("experiment") or {}
    repository: dict[str, Any] = next(iter(experiment.get("repositories") or []), {})
    facts = {
        "engine": info.get("engine"),
        "game_version": info.get("game_version"),
        "git": {"commit": repository.get("commit"), "dirty": repository.get("dirty")},
        "versions": dict(word.split("==", 1) for word in experiment.get("dependencies", []) if "==" in word),
        "host_facts": entry.get("host") or {},
        "summary": info.get("summary") or {},
        "started": _time(entry.get("start_time")),
        "stopped": _time(entry.get("stop_time")),
        "error": "\n".join(entry.get("fail_trace") or []) or None,
    }
    return Run(
        source=f"mongodb://{where}/{entry['_id']}",
        config=dict(entry["config"]),
        status=entry["status"],
        label=info.get("label") or str(entry["config"].get("env")),
        curves=curves,
        facts=facts,
    )


def _time(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat(timespec="seconds")
