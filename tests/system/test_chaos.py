"""Runs whose simulators crash, hang, raise and dawdle: nothing false is learnt, and nothing stays behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from core.config import load, merge, resolve
from envs import fleet
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
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: environment worker")]
    counts = run.state_dict()["progress"]  # with what the last test cost, after the last record
    assert counts["env_restarts"] == len(said) >= lost
    assert counts["episodes_discarded"] == sum("while stepping" in line for line in said) >= lost
    assert 0 < shown["env_restarts"] <= len(said) and shown["episodes_discarded"] > 0 and shown["env_recycled"] == 0
    tests = [record.values for record in records if record.kind == "test"]
    assert len(tests) == 3 and all(2 <= values["test_length_mean"] <= 8 for values in tests)
