"""``sync [RUN...]``: sends to a MongoDB what runs have kept in their folders and it has not got."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymongo.errors import ConnectionFailure, PyMongoError
from rich.console import Console
from rich.table import Table

from core import cli
from core.config import ConfigError, load, masked
from tracking.folder import RECORD, RunFolder
from tracking.mongo import Archive
from tracking.shipping import Shipment

if TYPE_CHECKING:
    from collections.abc import Iterable

_PIPE_WIDTH = 160
"""Columns where there is no terminal to ask."""


@dataclass
class Outcome:
    """What became of one run."""

    folder: RunFolder
    status: str
    number: int | None = None
    points: int = 0
    files: int = 0
    note: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether the database lacks something of it."""
        return bool(self.error)


def main(argv: list[str]) -> int:
    """Sends and prints a table; 0 where the database has everything now, else 1.

    Raises:
        ConfigError: no such run, or no usable address.
    """
    options = _parser().parse_args(argv)
    folders = find(options.runs, options.results_dir)
    url = options.mongo or os.environ.get(cli.MONGO_VARIABLE)
    outcomes = sync(folders, {folder.path: _address(folder, url) for folder in folders})
    _print(outcomes)
    return int(any(outcome.failed for outcome in outcomes))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} sync",
        description="Sends runs to a MongoDB: whatever it has not got of them, however they were started. "
        "Can be repeated, also while runs go on; nothing is ever there twice.",
    )
    parser.add_argument(
        "runs", metavar="RUN", nargs="*", help="a run's folder, a part of its name, or a folder of runs"
    )
    parser.add_argument(
        "-m", "--mongo", metavar="URL", help=f"the MongoDB (default: {cli.MONGO_VARIABLE}, or the run's)"
    )
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def find(words: Iterable[str], results_dir: str) -> list[RunFolder]:
    """The runs that are meant, each once; all of ``results_dir`` where none is named.

    Raises:
        ConfigError: no such run.
    """
    found: dict[Path, RunFolder] = {}
    for word in list(words) or [results_dir]:
        path = Path(word)
        below = sorted(path.rglob(RECORD)) if path.is_dir() and not (path / RECORD).exists() else []
        folders = [RunFolder(each.parent) for each in below] or [RunFolder.open(word, results_dir)]
        found |= {folder.path: folder for folder in folders}
    return list(found.values())


def _address(folder: RunFolder, url: str | None) -> tuple[str, str]:
    """Address and database for one run."""
    config = load(folder.config)
    url = url or config.get("mongo_url")
    if not url:
        remedy = f"give its address with -m URL or the variable {cli.MONGO_VARIABLE}"
        raise ConfigError([f"no MongoDB to send {folder.path.name} to: {remedy}"])
    return str(url), str(config.get("mongo_db") or "cofactor")


def sync(folders: list[RunFolder], addresses: dict[Path, tuple[str, str]]) -> list[Outcome]:
    """Sends one run after the other; a database that is away is not asked again.

    Raises:
        ConfigError: an address is none.
    """
    archives = {address: Archive.connect(*address) for address in set(addresses.values())}
    away: set[Archive] = set()
    outcomes = []
    with Console(stderr=True).status("") as line:
        for i, folder in enumerate(folders, start=1):
            line.update(f"{i} of {len(folders)}: {folder.path.name}")
            archive = archives[addresses[folder.path]]
            outcome = Outcome(folder, folder.status)
            if archive in away:
                outcome.note = outcome.error = "not tried"
            elif not _send(outcome, archive):
                away.add(archive)
            outcomes.append(outcome)
    for archive in archives.values():
        archive.close()
    return outcomes


def _send(outcome: Outcome, archive: Archive) -> bool:
    """Sends one run; whether the database is there."""
    shipment = Shipment(outcome.folder, archive)
    reached = True
    try:
        if not shipment.send():
            outcome.note = "never started: there is nothing to send"
        elif outcome.status == "RUNNING":
            shipment.send(look=True)  # it may have been set back to its checkpoint meanwhile
            outcome.note = "still running: sync again when it has ended"
        if shipment.refused:
            outcome.error = f"refused: {', '.join(curve.name for curve in shipment.refused)}"
    except ConnectionFailure as error:
        outcome.error, reached = f"MongoDB at {archive.address} is not reachable ({type(error).__name__})", False
    except (PyMongoError, ValueError, OSError, KeyError) as error:
        outcome.error = masked(f"{type(error).__name__}: {error}")
    outcome.number, outcome.points, outcome.files = shipment.run_id, shipment.sent.points, shipment.sent.files
    return reached


def _print(outcomes: list[Outcome]) -> None:
    table = Table("run", "status", "number", "points sent", "files sent", "", box=None, pad_edge=False)
    for each in outcomes:
        note = each.note or ("failed" if each.failed else "sent" if each.points or each.files else "was complete")
        number = "" if each.number is None else str(each.number)
        table.add_row(each.folder.path.name, each.status, number, f"{each.points:,}", f"{each.files:,}", note)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)
    console.print(table)
    errors = [each for each in outcomes if each.failed and each.error != each.note]
    for each in errors:
        console.print(f"{each.folder.path.name} failed: {each.error}", soft_wrap=True, markup=False)
    failed, points = sum(each.failed for each in outcomes), sum(each.points for each in outcomes)
    console.print(f"{len(outcomes)} runs, {points:,} points sent; {failed} failed", soft_wrap=True)
