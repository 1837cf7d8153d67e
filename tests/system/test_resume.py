"""Killed in the middle of training and resumed, a run ends as if nothing had happened: bit for bit, on the CPU."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import main
from core import checkpoint
from tracking.folder import RunFolder
from tracking.journal import read

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["seed=5", "batch_size=8", "burn_in=8", "buffer_size=64", "target_update_interval=16", "device=cpu"]
SPACING = {"matrix_game": 48, "sc2": 200}
"""Steps from one checkpoint to the next; there are several tests and records between them."""
GAMES = {
    "matrix_game": ["env_args.preset=four", "agent=mlp"],
    "sc2": ["env_args.map_name=3m", "env_args.engine=skirmish", "batch_size_run=4", "updates_per_collect=1"],
}
ENDLESS = 10_000_000


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs set stays here, and what the user set stays out."""
    monkeypatch.delenv("COFACTOR_MONGO_URL", raising=False)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


def words(algorithm: str, game: str, results: Path, t_max: int) -> list[str]:
    n = SPACING[game]
    rhythm = [f"checkpoint_interval={n}", f"log_interval={n // 4}", f"test_interval={n // 3}", "test_nepisode=2"]
    keys = [*SMALL, *GAMES[game], *rhythm, f"t_max={t_max}", f"results_dir={results}"]
    return [f"--config={algorithm}", f"--env-config={game}", "with", *keys]


def start(arguments: list[str], results: Path, until: int) -> tuple[subprocess.Popen[str], RunFolder]:
    """A run by the real command line that has recorded something beyond ``until`` steps."""
    process = subprocess.Popen(
        [sys.executable, "src/main.py", *arguments],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 200
    while not any(step > until for file in results.rglob("metrics.jsonl") for step in steps(file)):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"nothing was recorded beyond step {until}"
        time.sleep(0.02)
    return process, folder_of(results)


def steps(journal: Path) -> list[int]:
    return [record["t_env"] for record in read(journal)]


def folder_of(results: Path) -> RunFolder:
    (record,) = results.rglob("record.json")
    return RunFolder(record.parent)


def curves(folder: RunFolder) -> list[tuple[object, ...]]:
    """All that a second run must reproduce; what the clock decides is left out."""
    return [(r["kind"], r["t_env"], r["values"]) for r in read(folder.journal) if r["kind"] != "perf"]


def reached(folder: RunFolder) -> int:
    return checkpoint.load(folder.checkpoint)["session"]["progress"]["t_env"]


def learnt(folder: RunFolder) -> dict[str, torch.Tensor]:
    state = checkpoint.load(folder.checkpoint)["session"]["learner"]
    return {name: x for name, x in state.items() if isinstance(x, torch.Tensor)}


@pytest.mark.parametrize("algorithm", ["qmix", "macpf"])
@pytest.mark.parametrize("game", GAMES)
def test_killed_and_resumed_equals_uninterrupted(algorithm: str, game: str, tmp_path: Path) -> None:
    arguments = words(algorithm, game, tmp_path / "killed", ENDLESS)
    process, two = start(arguments, tmp_path / "killed", until=SPACING[game] * 3 // 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    assert reached(two) >= SPACING[game]
    last = reached(two) + SPACING[game]
    assert main.main(["resume", str(two.path), "with", f"t_max={last}"]) == 0
    assert main.main(words(algorithm, game, tmp_path / "whole", last)) == 0
    one = folder_of(tmp_path / "whole")
    assert curves(one) == curves(two)
    assert len(curves(one)) > 6
    first, second = learnt(one), learnt(two)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("stop", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_asked_to_stop_it_saves_and_says_so(stop: signal.Signals, tmp_path: Path) -> None:
    process, folder = start(words("qmix", "matrix_game", tmp_path, ENDLESS), tmp_path, until=0)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert f"resume {folder.path.name}" in errors
    assert folder.status == "INTERRUPTED"
    at = reached(folder)
    assert at > 0
    assert main.main(["resume", str(folder.path), "with", f"t_max={at + 20}"]) == 0
    assert steps(folder.journal)[-1] == at + 20
