"""Killed in the middle of training and resumed, a run ends as if nothing had happened: bit for bit, on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from core import checkpoint
from tracking.journal import read

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["seed=5", "batch_size=8", "burn_in=8", "buffer_size=64", "target_update_interval=16", "device=cpu"]
GAMES = {
    "matrix_game": ["env_args.preset=four", "t_max=1600", "checkpoint_interval=400", "log_interval=100", "agent=mlp"],
    "sc2": [
        "env_args.map_name=3m",
        "env_args.engine=skirmish",
        "t_max=2400",
        "checkpoint_interval=600",
        "log_interval=300",
        "batch_size_run=4",
        "updates_per_collect=1",
    ],
}


def command(algorithm: str, game: str, results: Path) -> list[str]:
    keys = [*SMALL, *GAMES[game], "test_interval=500", "test_nepisode=4", f"results_dir={results}"]
    return [sys.executable, "src/main.py", f"--config={algorithm}", f"--env-config={game}", "with", *keys]


def run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=240)


def folder_of(results: Path) -> Path:
    (record,) = results.rglob("record.json")
    return record.parent


def curves(folder: Path) -> list[tuple[object, ...]]:
    """All that a second run must reproduce; what the clock decides is left out."""
    return [(r["kind"], r["t_env"], r["values"]) for r in read(folder / "metrics.jsonl") if r["kind"] != "perf"]


def learnt(folder: Path) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder / "checkpoint.pt")["session"]["learner"]
    return {name: x for name, x in state.items() if isinstance(x, torch.Tensor)}


def kill_after_first_checkpoint(words: list[str], results: Path) -> Path:
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(results.rglob("checkpoint.pt")):
        assert process.poll() is None, "the run ended before its first checkpoint"
        assert time.monotonic() < deadline, "no checkpoint was made"
        time.sleep(0.01)
    time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run ended before it could be killed"
    return folder_of(results)


@pytest.mark.parametrize("algorithm", ["qmix", "macpf"])
@pytest.mark.parametrize("game", GAMES)
def test_killed_and_resumed_equals_uninterrupted(algorithm: str, game: str, tmp_path: Path) -> None:
    whole = run(command(algorithm, game, tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    one = folder_of(tmp_path / "whole")
    two = kill_after_first_checkpoint(command(algorithm, game, tmp_path / "killed"), tmp_path / "killed")
    resumed = run([sys.executable, "src/main.py", "resume", str(two)])
    assert resumed.returncode == 0, resumed.stderr
    assert curves(one) == curves(two)
    assert len(curves(one)) > 6
    first, second = learnt(one), learnt(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_saves_and_says_so(stop: signal.Signals, tmp_path: Path) -> None:
    words = [*command("qmix", "matrix_game", tmp_path), "t_max=1000000"]
    process = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not [path for path in tmp_path.rglob("metrics.jsonl") if path.stat().st_size]:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert "resume" in errors
    folder = folder_of(tmp_path)
    assert '"status": "INTERRUPTED"' in (folder / "record.json").read_text()
    assert checkpoint.load(folder / "checkpoint.pt")["session"]["progress"]["t_env"] > 0
