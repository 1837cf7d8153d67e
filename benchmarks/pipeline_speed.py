"""Where the time of a run goes: collecting alone, learning alone, both together, on this machine.

    python benchmarks/pipeline_speed.py [--algs qmix,fop,macpf] [--maps 3m,corridor] [--envs 8] [--seconds 5]

The replay is filled with episodes of the untrained policy, so updates have the lengths of a run's beginning. One row
per algorithm and map goes to ``pipeline_speed.csv``. Figures are environment steps per second of wall-clock time, on
one thread; a busy machine shows less than a quiet one.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "src"))

import torch  # noqa: E402

from core.config import load, merge, resolve, settle  # noqa: E402
from run import Session, build  # noqa: E402

CSV = Path(__file__).with_suffix(".csv")


def session_of(algorithm: str, map_name: str, envs: int) -> Session:
    """A session whose replay can be learnt from."""
    config = merge(load(ROOT / "config/envs/sc2.yaml"), load(ROOT / f"config/algs/{algorithm}.yaml"))
    more = {"seed": 1, "batch_size_run": envs, "test_nepisode": 0, "device": "cpu"}
    more["env_args"] = {"map_name": map_name, "engine": "skirmish"}
    session = build(settle(resolve(merge(config, more))))
    while not session.learner.ready(session.replay):
        session.replay.add(session.runner.collect(t_env=0, mode="explore").episodes)
    return session


def timed(work: Any, seconds: float) -> tuple[float, float]:
    """Seconds per call and the mean of what the calls return."""
    work()
    start, calls, total = time.perf_counter(), 0, 0.0
    while time.perf_counter() - start < seconds:
        total += work()
        calls += 1
    return (time.perf_counter() - start) / calls, total / calls


def measure(algorithm: str, map_name: str, envs: int, seconds: float) -> dict[str, Any]:
    """One row."""
    session = session_of(algorithm, map_name, envs)
    per_collect = session.settings["updates_per_collect"]

    def collect() -> float:
        rollout = session.runner.collect(t_env=0, mode="explore")
        session.replay.add(rollout.episodes)
        return float(rollout.episodes.length.sum())

    def learn() -> float:
        session.learner.update(session.replay, 0)
        return 1.0

    def both() -> float:
        steps = collect()
        for _ in range(per_collect):
            learn()
        return steps

    collecting, steps = timed(collect, seconds)
    learning, _ = timed(learn, seconds)
    together, steps_together = timed(both, seconds)
    return {
        "algorithm": algorithm,
        "map": map_name,
        "envs": envs,
        "mean_length": round(steps / envs, 1),
        "collect_steps_per_s": round(steps / collecting),
        "update_ms": round(1000 * learning, 1),
        "updates_per_collect": per_collect,
        "together_steps_per_s": round(steps_together / together),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}",
    }


def main() -> None:
    """Measures and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algs", default="qmix,fop,macpf")
    parser.add_argument("--maps", default="3m,corridor")
    parser.add_argument("--envs", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5.0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for map_name in options.maps.split(","):
        for algorithm in options.algs.split(","):
            rows.append(measure(algorithm, map_name, options.envs, options.seconds))
            print(rows[-1], flush=True)
    with CSV.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
