"""What benchmarks share that train within their own process: sessions, and rows on disk that are not made again.

Importing this module makes Cofactor's packages importable.
"""

from __future__ import annotations

import csv
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import torch  # noqa: E402

from core.config import load, merge, resolve  # noqa: E402
from run import Session, build  # noqa: E402

Row = dict[str, Any]


def new_session(environment: str, algorithm: str, settings: dict[str, Any]) -> Session:
    """A new run of two YAML files and further settings, on one thread."""
    torch.set_num_threads(1)
    config = merge(load(ROOT / f"config/envs/{environment}.yaml"), load(ROOT / f"config/algs/{algorithm}.yaml"))
    return build(resolve(merge(config, settings)))


def known(algorithm: str) -> bool:
    """Whether there is a configuration of this name; says so if there is none."""
    found = (ROOT / f"config/algs/{algorithm}.yaml").exists()
    if not found:
        print(f"config/algs/{algorithm}.yaml is missing: left out")
    return found


def conditions() -> str:
    """Machine, versions and date, for a report."""
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    return f"Written on {date.today()}; {os.cpu_count()} CPU cores, one thread per run; {versions}."


def rows_of(path: Path) -> list[dict[str, str]]:
    """What has been run so far."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def make_rows(
    path: Path, columns: Sequence[str], work: Callable[[Any], list[Row]], jobs: Sequence[Any], processes: int
) -> None:
    """Appends the rows of every job, those of one job together and as soon as it is done; adds its ``cpu_s``.

    Args:
        path: the CSV file.
        columns: its columns.
        work: makes the rows of one job; a function of a module, since other processes have to find it.
        jobs: what has not been run yet.
        processes: how many jobs run side by side.
    """
    new = not (path.exists() and path.stat().st_size)
    with path.open("a", newline="") as file, multiprocessing.get_context("spawn").Pool(processes) as pool:
        writer = csv.DictWriter(file, columns)
        if new:
            writer.writeheader()
        for number, rows in enumerate(pool.imap_unordered(_Timed(work), jobs), 1):
            writer.writerows(rows)
            file.flush()
            print(f"{number}/{len(jobs)}", rows[-1], flush=True)


class _Timed:
    """``work``, whose rows say what CPU time it took."""

    def __init__(self, work: Callable[[Any], list[Row]]) -> None:
        self.work = work

    def __call__(self, job: Any) -> list[Row]:
        start = time.process_time()
        rows = self.work(job)
        return [row | {"cpu_s": round(time.process_time() - start, 1)} for row in rows]
