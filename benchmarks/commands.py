"""What benchmarks share that train with the real command line: start, resume or skip a run, and read its tests.

Importing this module makes Cofactor's packages importable.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import yaml  # noqa: E402

from tracking.journal import read  # noqa: E402


@dataclass(frozen=True)
class Task:
    """Runs of one environment."""

    environment: str
    """Its YAML file."""
    place: str
    """Where its runs lie among the results, for instance ``sc2-skirmish/3m``."""
    results: Path
    t_max: int
    """Steps of every run; a complete run of fewer goes on."""
    keys: tuple[str, ...]
    """What follows ``with`` for every algorithm."""
    more: dict[str, tuple[str, ...]]
    """What follows for some."""

    def command(self, algorithm: str, seed: int) -> list[str]:
        """The command line of one run."""
        keys = [*self.keys, *self.more.get(algorithm, ()), f"t_max={self.t_max}", f"seed={seed}"]
        keys.append(f"results_dir={self.results}")
        return [f"--config={algorithm}", f"--env-config={self.environment}", "with", *keys]

    def folder(self, algorithm: str, seed: int) -> Path | None:
        """The run's folder, if it has been started."""
        found = sorted(self.results.glob(f"{self.place}/{algorithm}/*_seed{seed}_*/record.json"))
        return found[-1].parent if found else None

    def run(self, algorithm: str, seed: int) -> None:
        """Starts, resumes or skips one run."""
        path, words = self.folder(algorithm, seed), self.command(algorithm, seed)
        if path is not None:
            status = json.loads((path / "record.json").read_text())["status"]
            wanted = yaml.safe_load((path / "config.yaml").read_text())["t_max"]
            if status == "COMPLETED" and wanted >= self.t_max:
                return
            words = ["resume", str(path), "with", f"t_max={max(wanted, self.t_max)}"]
        log = self.results / f"{self.place.replace('/', '_')}_{algorithm}_{seed}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as file:
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            main = [sys.executable, str(ROOT / "src" / "main.py")]
            result = subprocess.run([*main, *words], stdout=file, stderr=file, env=environment, cwd=ROOT)
        print(f"{algorithm} seed {seed}: exit status {result.returncode}", flush=True)

    def run_all(self, algorithms: Sequence[str], seeds: Sequence[int], processes: int) -> None:
        """Every seed of every algorithm, the first algorithm first; without ``processes`` nothing is run."""
        if not processes:
            return
        with ThreadPoolExecutor(processes) as pool:
            list(
                pool.map(lambda job: self.run(*job), [(algorithm, seed) for algorithm in algorithms for seed in seeds])
            )

    def tests(self, algorithm: str, seed: int, names: dict[str, str], kind: str = "test") -> list[dict[str, Any]]:
        """Every test of a run, or its records of another ``kind``; ``names`` says which column a metric goes to."""
        path = self.folder(algorithm, seed)
        found = [r for r in read(path / "metrics.jsonl") if r["kind"] == kind] if path else []
        return [
            {"algorithm": algorithm, "seed": seed, "t_env": r["t_env"]}
            | {column: r["values"].get(name, "") for name, column in names.items()}
            for r in found
        ]
