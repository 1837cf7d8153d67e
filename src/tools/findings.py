"""What a check of the installation finds, and what checks are given to look with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tools.probes import Probes

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    status: Status
    """``warning``: something is slower or missing than it could be; ``error``: runs will fail, or what was asked for
    does not work."""
    detail: str
    remedy: str = ""
    """What to do about it, in one line; empty where nothing need be done."""


@dataclass(frozen=True)
class Context:
    """What is looked at."""

    probes: Probes
    sc2: Path
    """Where StarCraft II is expected."""
    results: Path
    mongo: str | None
    """The database's address, None where none was given."""
    mongo_db: str
    memory: Path = Path("/dev/shm")
    """Shared memory, through which simulators in processes of their own answer."""


def ok(detail: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", detail)


def warning(detail: str, remedy: str) -> Finding:
    """Runs work, but slower or with less than they could."""
    return Finding("warning", detail, remedy)


def error(detail: str, remedy: str) -> Finding:
    """Runs will fail, or what was asked for does not work."""
    return Finding("error", detail, remedy)


def gib(amount: float) -> str:
    """Bytes for people."""
    return f"{amount / 2**30:.1f} GiB" if amount >= 2**30 else f"{amount / 2**20:.0f} MiB"
