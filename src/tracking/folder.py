"""A run's folder: where everything about one run lies, and the record of what became of it."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.metadata
import json
import os
import platform
import re
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import yaml

from core.config import ConfigError, masked
from core.registry import did_you_mean
from tracking.plain import now, plain

RECORD = "record.json"
STALE_SECONDS = 600
"""A run on another host whose heartbeat is older than this is taken for dead."""
_SOURCES = Path(__file__).resolve().parents[1]
_PACKAGES = ("torch", "numpy", "sacred", "pymongo", "warp-lang", "smac", "smacv2", "pysc2", "protobuf")


class RunFolder:
    """The paths of one run, and ``record.json``: its status, origin and times, replaced atomically."""

    def __init__(self, path: Path | str) -> None:
        """An existing run folder; see ``create`` and ``open``."""
        self.path = Path(path).resolve()
        self._writing = threading.RLock()
        self._claimed = False
        self.config = self.path / "config.yaml"
        self.journal = self.path / "metrics.jsonl"
        self.console = self.path / "console.log"
        self.checkpoint = self.path / "checkpoint.pt"
        self.best = self.path / "best.pt"
        self.sacred = self.path / "sacred"
        self.tensorboard = self.path / "tensorboard"

    @classmethod
    def create(cls, settings: Mapping[str, Any], label: str) -> RunFolder:
        """A new folder ``<results_dir>/<label>/<name>/<UTC time>_seed<seed>_<4 hex>`` with its configuration.

        ``label`` says environment and engine ("sc2-skirmish/corridor"). Passwords in addresses are not written.
        """
        parent = Path(settings["results_dir"]) / _safe(label) / _safe(str(settings["name"]))
        parent.mkdir(parents=True, exist_ok=True)
        folder = cls(_fresh(parent, int(settings["seed"])))
        config = plain(dict(settings))
        if config.get("mongo_url"):
            config["mongo_url"] = masked(config["mongo_url"])
        _replace(folder.config, yaml.safe_dump(config, allow_unicode=True))
        folder.update(
            uid=uuid.uuid4().hex,
            status="CREATED",
            name=config["name"],
            label=label,
            engine=_engine(config),
            game_version=(config.get("env_args") or {}).get("game_version"),
            seed=config["seed"],
            created=now(),
            command=masked(shlex.join(sys.argv)),
            resumes=[],
        )
        return folder

    @classmethod
    def open(cls, path_or_id: Path | str, results_dir: Path | str = "results") -> RunFolder:
        """The run at a path (its folder or a file in it), or the one whose folder name contains ``path_or_id``.

        Raises:
            ConfigError: no such run, or several; the message names them or the nearest.
        """
        path = Path(path_or_id)
        for candidate in (path, path.parent):
            if (candidate / RECORD).is_file():
                return cls(candidate)
        runs = sorted(found.parent for found in Path(results_dir).rglob(RECORD))
        wanted = str(path_or_id).strip("/")
        hits = [run for run in runs if wanted and wanted in run.relative_to(results_dir).as_posix()]
        hits = [run for run in hits if run.name == wanted] or hits
        if len(hits) == 1:
            return cls(hits[0])
        if hits:
            listed = "".join(f"\n  {run}" for run in hits[:10]) + ("\n  ..." if len(hits) > 10 else "")
            raise ConfigError([f"'{wanted}' fits {len(hits)} runs; say which:{listed}"])
        hint = did_you_mean(wanted, [run.name for run in runs][-20:]) if runs else " There are no runs yet."
        raise ConfigError([f"no run '{path_or_id}' in {results_dir}.{hint}"])

    @property
    def record(self) -> dict[str, Any]:
        """What ``record.json`` says now."""
        path = self.path / RECORD
        return json.loads(path.read_text()) if path.exists() else {}

    def update(self, **fields: Any) -> None:
        """Sets fields of ``record.json``; a reader sees the old file or the new one, nothing between."""
        with self._writing:
            record = self.record | plain(fields)
            _replace(self.path / RECORD, json.dumps(record, indent=2) + "\n")

    def begin(self, resume: bool) -> None:
        """Notes that this process works on the run from now on: who, where, with what."""
        process = {
            "pid": os.getpid(),
            "process_started": psutil.Process().create_time(),
            "host": socket.gethostname(),
            "started": now(),
        }
        resumes = self.record.get("resumes", [])
        if resume:
            resumes = [*resumes, process | {"command": masked(shlex.join(sys.argv))}]
            process.pop("started")  # the run's own start stays
        self.update(
            **process,
            status="RUNNING",
            heartbeat=now(),
            stopped=None,
            error=None,
            resumes=resumes,
            host_facts=host_facts(),
            versions=versions(),
            git=git_facts(),
        )

    def beat(self, **fields: Any) -> None:
        """Notes that the run is alive."""
        self.update(heartbeat=now(), **fields)

    def end(self, status: str, error: str | None = None) -> None:
        """Notes how the run ended: COMPLETED, INTERRUPTED or FAILED with its error."""
        self.update(status=status, error=error, heartbeat=now(), stopped=now())

    @property
    def status(self) -> str:
        """The recorded status; DEAD instead of RUNNING where the process is gone."""
        record = self.record
        status = record.get("status", "CREATED")
        return "DEAD" if status == "RUNNING" and not _alive(record) else status

    @contextlib.contextmanager
    def claim(self) -> Iterator[None]:
        """Keeps every other process from writing to this run; released by the system when this process ends.

        Raises:
            ConfigError: another process has it.
        """
        if self._claimed:
            yield
            return
        with open(self.path / ".lock", "a") as lock:
            try:
                # A POSIX record lock is not inherited by forked environment workers, who may outlive a killed run.
                fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                record = self.record
                raise ConfigError(
                    [f"{self.path} is being written by process {record.get('pid')} on {record.get('host')}"]
                ) from None
            self._claimed = True
            try:
                yield
            finally:
                self._claimed = False


def versions() -> dict[str, str]:
    """Python, and the installed packages that results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def host_facts() -> dict[str, Any]:
    """The machine: name, system, processors, memory, and the GPUs that torch sees where torch is loaded."""
    facts: dict[str, Any] = {
        "hostname": socket.gethostname(),
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        facts["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return facts


def git_facts() -> dict[str, Any] | None:
    """Commit, whether files differ from it, and origin; None without git or without a commit."""

    def git(*args: str) -> str:
        command = ["git", "-C", str(_SOURCES), *args]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        commit, dirty = git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        origin: str | None = masked(git("remote", "get-url", "origin"))
    except subprocess.SubprocessError:
        origin = None
    return {"commit": commit, "dirty": dirty, "origin": origin}


def _engine(config: Mapping[str, Any]) -> str | None:
    """The simulator behind the environment, where it has a choice of them."""
    return (config.get("env_args") or {}).get("engine")


def _alive(record: Mapping[str, Any]) -> bool:
    """Whether the process that wrote ``record`` still runs; on another host, whether it was heard of lately."""
    if record.get("host") != socket.gethostname():
        seen = datetime.fromisoformat(record["heartbeat"])
        return (datetime.now(UTC) - seen).total_seconds() < STALE_SECONDS
    try:
        started = psutil.Process(record["pid"]).create_time()
    except psutil.NoSuchProcess:
        return False
    return abs(started - record["process_started"]) < 1.0  # else the number was given to another process


def _safe(label: str) -> Path:
    """``label`` as a relative path of harmless names."""
    parts = [re.sub(r"[^\w.+=-]+", "-", part).lstrip(".") for part in label.split("/")]
    return Path(*(part for part in parts if part))


def _fresh(parent: Path, seed: int) -> Path:
    """A new empty folder, also when many runs start within the same second."""
    while True:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        path = parent / f"{stamp}_seed{seed}_{secrets.token_hex(2)}"
        try:
            path.mkdir()
        except FileExistsError:
            continue
        return path


def _replace(path: Path, text: str) -> None:
    """Writes ``path`` so that it is always whole, whenever the power goes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
