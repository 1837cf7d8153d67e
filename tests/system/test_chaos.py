"""Runs whose simulators crash, hang, raise and dawdle: nothing false is learnt, and nothing stays behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from core.config import load, merge, resolve
from envs import fleet
from patience import wait_for
from run import Session, build

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
DOOMED = 1
"""Place of the observation's entry that says that the episode will end in a fault."""
FAULTS = ("raise", "exit", "kill", "hang")


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))
    monkeypatch.setattr(fleet, "BACK_OFF", 0.05)
    monkeypatch.setattr(fleet, "STACK_DELAY", 0.01)


def session(env_args: dict[str, Any], **more: Any) -> Session:
    settings = merge(load(ROOT / "config" / "algs" / "iql.yaml"), {"env": "external", "env_args": env_args})
    base = {"batch_size_run": 2, "buffer_size": 5000, "device": "cpu", "seed": 1, "t_max": 10**9}
    return build(resolve(merge(merge(settings, base), more)))


def flaky(log: Path, **kwargs: Any) -> dict[str, Any]:
    """The toy whose episodes are doomed now and then."""
    log.touch()
    kwargs = {"log": str(log), **kwargs}
    return {"factory": "toy_flaky:Flaky", "api": "pymarl", "kwargs": kwargs, "metrics": ["length"]}


def ours() -> set[int]:
    """Numbers of the processes that this one has started, and what they started."""
    return {child.pid for child in psutil.Process().children(recursive=True)}


def warnings(text: str) -> list[str]:
    """What was said of every failure."""
    return [line for line in text.splitlines() if line.startswith("warning: environment worker")]


def test_faults_cost_their_episode_and_nothing_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, before = tmp_path / "log", ours()
    args = flaky(log) | {"timeout": 0.6, "max_failures": 20}
    run = session(args, t_max=60, log_interval=1, test_interval=40, test_nepisode=4, buffer_size=200)
    try:
        records = [record for tick in run.train() for record in tick.records]
        stored = run.replay.latest(len(run.replay))
    finally:
        run.close()
    assert ours() <= before
    faults = Counter(log.read_text().split())
    lost = sum(faults[fault] for fault in FAULTS)
    assert all(faults[fault] for fault in FAULTS), f"the schedule must try every fault, not only {faults}"
    assert run.progress.t_env >= 60 and len(stored) == run.progress.episode
    assert int(stored.length.sum()) == run.progress.t_env
    assert not (stored.obs[..., DOOMED] * torch.nn.functional.pad(stored.mask, (0, 1))[..., None]).any()
    shown = [record.values for record in records if record.kind == "perf"][-1]
    # On a busy machine a healthy simulator may seem to hang, too: what counts is what was said.
    said = warnings(capsys.readouterr().err)
    counts = run.state_dict()["progress"]  # with what the last test cost, after the last record
    assert counts["env_restarts"] == len(said) >= lost
    assert counts["episodes_discarded"] == sum("while stepping" in line for line in said) >= lost
    assert 0 < shown["env_restarts"] <= len(said) and shown["episodes_discarded"] > 0 and shown["env_recycled"] == 0
    tests = [record.values for record in records if record.kind == "test"]
    assert len(tests) == 3 and all(2 <= values["test_length_mean"] <= 8 for values in tests)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_no_game_outlives_a_trainer(signum: int, tmp_path: Path) -> None:
    game = tmp_path / "game"
    kwargs = {"log": str(tmp_path / "log"), "doom": 0.0, "game": str(game)}
    words = ["--config=iql", "--env-config=external", "with", "env_args.factory=toy_flaky:Flaky", "batch_size_run=2"]
    words += ["env_args.api=pymarl", f"env_args.kwargs={kwargs}", "device=cpu", f"results_dir={tmp_path}"]
    command = [sys.executable, str(ROOT / "src" / "main.py"), *words]
    env = os.environ | {"PYTHONPATH": str(TESTS)}
    trainer = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        assert wait_for(lambda: game.exists() and len(game.read_text().split()) == 2, 60)
        games = [psutil.Process(int(pid)) for pid in game.read_text().split()]
        family = psutil.Process(trainer.pid).children(recursive=True)
        assert len(family) >= 6, "two wardens, two workers, two games"
        trainer.send_signal(signum)
        _, alive = psutil.wait_procs([*games, *family], timeout=10 if signum == signal.SIGKILL else 30)
        assert not alive
    finally:
        trainer.kill()
        trainer.wait()


# ---------------------------------------------------------------- the stand-in for StarCraft II

GAME = importlib.util.find_spec("pysc2") and importlib.util.find_spec("smac")
needs_smac = pytest.mark.skipif(
    not GAME, reason="smac is not installed: ./run.sh install sc2 (docs/environments/sc2.md)"
)
FATAL = {"crash", "exit", "hang", "stall", "drop", "error"}


@dataclass
class Toll:
    """What a run among failing games has cost."""

    episodes: int
    faults: Counter[str]
    restarts: int
    discarded: int
    seconds: float
    rss: list[float]
    """MiB of the main process, a quarter of the run apart."""
    descriptors: list[int]


def survive(folder: Path, faults: list[Any], games: int, episodes: int, timeout: float) -> Toll:
    """Trains on ``games`` failing games until so many episodes are stored; looks for false ends and remains."""
    from fake_sc2 import install, journal

    install(folder, faults, seed=5)
    env_args = {"engine": "starcraft2", "map_name": "3m", "timeout": timeout, "max_failures": 8, "max_starting": 3}
    more = {"batch_size_run": games, "buffer_size": 200, "test_nepisode": 0, "log_interval": 500, "batch_size": 8}
    before, begin, begun = ours(), time.monotonic(), time.time()
    run = session(env_args, env="sc2", **more)
    me, marks, rss, descriptors = psutil.Process(), [episodes * k // 4 for k in range(1, 5)], [], []
    try:
        for tick in run.train():
            assert not false_ends(run, games)
            if tick.episode >= marks[len(rss)]:
                rss.append(me.memory_info().rss / 2**20)
                descriptors.append(me.num_fds())
            if len(rss) == len(marks):
                break
        counts = run.state_dict()["progress"]
    finally:
        run.close()
    assert ours() <= before
    left = [p for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or [])]
    assert not left
    noted = journal(folder)
    assert not _taken({note["port"] for note in noted}, since=begun)
    happened = Counter(note["kind"] for note in noted if note["event"] == "fault")
    restarts, discarded = counts["env_restarts"], counts["episodes_discarded"]
    seconds = time.monotonic() - begin
    return Toll(counts["episode"], happened, restarts, discarded, seconds, rss, descriptors)


def _taken(ports: set[int], since: float) -> list[int]:
    """Those of ``ports`` that are in use, but for ones that others on this host have taken meanwhile.

    Ours could be held only by processes that have lost their parent.
    """
    taken = []
    for found in psutil.net_connections("inet"):
        if found.laddr.port in ports and found.pid is not None and psutil.pid_exists(found.pid):
            owner = psutil.Process(found.pid)
            taken += [found.laddr.port] if owner.create_time() >= since and owner.ppid() == 1 else []
    return taken


def false_ends(run: Session, newest: int) -> bool:
    """Whether one of the newest episodes ended without a team's death, and before the limit."""
    batch, n, unit = run.replay.latest(newest), run.env.spec.n_agents, run.env.spec.unit_dim
    assert unit is not None
    last = batch.state[torch.arange(len(batch)), batch.length]
    allies = last[:, : n * unit].unflatten(1, (n, unit))[..., 0].any(1)
    enemies = last[:, n * unit : n * unit + 3 * n].unflatten(1, (n, 3))[..., 0].any(1)  # of Marines, on 3m
    ended = batch.terminated.any(1)
    limit = batch.length == run.env.spec.episode_limit
    return bool((ended & allies & enemies).any() or (~ended & ~limit).any())


@needs_smac
def test_failing_games_in_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from fake_sc2 import Fault

    faults = [Fault("crash", at=9, starts=(0,)), Fault("hang", at=30, starts=(1,)), Fault("drop", at=12, starts=(2,))]
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    toll = survive(tmp_path, faults, games=2, episodes=8, timeout=6.0)
    said = warnings(capfd.readouterr().err)
    assert toll.restarts == len(said) and toll.discarded == sum("while stepping" in line for line in said)
    assert set(toll.faults) <= {"crash", "hang", "drop"} and toll.faults["crash"] == 1
    assert toll.restarts >= sum(toll.faults.values())


@needs_smac
@pytest.mark.slow
def test_failing_games(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """8 games, 2,000 episodes."""
    from fake_sc2 import Fault

    rates = {"crash": 4e-4, "exit": 1.5e-4, "drop": 2e-4, "error": 2e-4, "stall": 1.5e-4, "hang": 1.5e-4}
    faults = [Fault(kind, probability=p) for kind, p in rates.items()]
    faults += [Fault("slow", probability=2e-3, seconds=0.5), Fault("exit", request="start", probability=0.05)]
    monkeypatch.setenv("SC2PATH", str(tmp_path))
    toll = survive(tmp_path, faults, games=8, episodes=2000, timeout=10.0)
    said = warnings(capfd.readouterr().err)
    with capfd.disabled():
        sys.stdout.write(f"\n{toll}\n")
    assert toll.episodes >= 2000
    assert toll.restarts == len(said) >= sum(toll.faults[kind] for kind in FATAL)
    assert toll.discarded == sum("while stepping" in line for line in said)
    assert toll.faults["slow"] and all(toll.faults[kind] for kind in rates)
    assert toll.rss[-1] - toll.rss[0] < 50, toll.rss
    assert max(toll.descriptors) - min(toll.descriptors) <= 2 * 8 * 4
