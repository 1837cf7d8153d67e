"""Recordings of updates, with a stand-in for the GPU's recorder: it does the recorded work again."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import toy  # noqa: F401 - registers the environment
from core import graphs
from core.config import ConfigError, Settings, load, resolve
from core.graphs import Graphed, fixed
from memory.replay import Replay
from pretended_gpu import DeviceTensor, Pretended, Stream, move, pretended_gpu
from run import Session, build

ALGS = Path(__file__).parents[2] / "config" / "algs"
LIMIT = 40


class Again(graphs.Tape):
    """Records what is done, and does it again. As on a GPU recording does not do it."""

    made = 0

    def __init__(self, work: Callable[[], dict[str, Tensor]], pool: Any) -> None:
        self._work, self.results = work, {}
        Again.made += 1

    def replay(self) -> None:
        Pretended.sealed = True
        self.results = self._work()
        Pretended.sealed = False


@pytest.fixture(autouse=True)
def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "Tape", Again)
    monkeypatch.setattr(Again, "made", 0)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", Stream.entered)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _=None: Stream.present)


def settings(name: str, **more: Any) -> Settings:
    small = {"env": "toy", "seed": 1, "batch_size": 4, "batch_size_run": 6, "env_args": {"limit": LIMIT}}
    return resolve(load(ALGS / f"{name}.yaml") | small | {"target_update_interval": 3} | more)


def session(name: str, **more: Any) -> Session:
    """With episodes of very different lengths."""
    made = build(settings(name, **more))
    for chance in (0.02, 0.3):  # so that there are few and many steps
        object.__setattr__(made.env.cfg, "end_chance", chance)
        made.replay.add(made.runner.collect(t_env=0, mode="explore").episodes)
    return made


def parameters(made: Session) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in made.learner.named_parameters()}


def shapes(replay: Replay, draws: int) -> set[int]:
    """How many steps the next batches are padded to."""
    seen = copy.deepcopy(replay)
    return {fixed(seen.uniform(4), seen.spec).mask.shape[1] for _ in range(draws)}


@pytest.mark.parametrize(
    ("name", "agent"),
    [
        ("qmix", "rnn"),
        ("vdn", "mlp"),
        *(pytest.param(n, "rnn", marks=pytest.mark.slow) for n in ("iql", "vdn", "qplex")),
    ],
)
def test_replayed_updates_are_those_of_packed_episodes(name: str, agent: str) -> None:
    plain, recorded = session(name, agent=agent), session(name, agent=agent)
    recorded.learner._graphs = {}
    assert len(shapes(plain.replay, 9)) > 1
    for _ in range(9):
        losses = [made.learner.update(made.replay, 0) for made in (plain, recorded)]
        assert losses[0].keys() == losses[1].keys()
        assert all(torch.allclose(losses[1][k], x, rtol=1e-4) for k, x in losses[0].items())
    assert Again.made >= 1
    ends = [parameters(made) for made in (plain, recorded)]
    assert all(torch.allclose(x, ends[1][k], rtol=1e-3, atol=1e-5) for k, x in ends[0].items())


@pytest.mark.parametrize(
    ("name", "agent"), [("qmix", "rnn"), ("iql", "mlp"), pytest.param("qplex", "rnn", marks=pytest.mark.slow)]
)
def test_nothing_within_a_recording_comes_from_the_host(name: str, agent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = session(name, agent=agent)
    made.learner._graphs = {}
    move(made)
    with pretended_gpu(monkeypatch):
        for _ in range(6):
            metrics = made.learner.update(made.replay, 0)
    assert Again.made >= 1
    assert all(isinstance(x, DeviceTensor) for x in metrics.values())


def test_a_recording_reads_the_new_batch_and_keeps_no_results_of_the_old_one() -> None:
    made = session("vdn")
    graphed = Graphed(lambda batch: {"sum": batch.obs.sum(), "seen": batch.extras["visible"].sum()})
    batches = [fixed(made.replay.uniform(4), made.env.spec) for _ in range(8)]
    results = [graphed(batch) for batch in batches]
    assert Again.made >= 1
    for batch, result in zip(batches, results, strict=True):
        assert torch.equal(result["sum"], batch.obs.sum())
        assert torch.equal(result["seen"], batch.extras["visible"].sum())


def test_padding_to_a_bucket_changes_nothing_else() -> None:
    made = session("vdn")
    batch = made.replay.uniform(4)
    padded = fixed(batch, made.env.spec)
    t = batch.mask.shape[1]
    assert padded.mask.shape[1] == min(-(-t // graphs.BUCKET) * graphs.BUCKET, LIMIT)
    assert torch.equal(padded.mask[:, :t], batch.mask) and not padded.mask[:, t:].any()
    assert torch.equal(padded.obs[:, : t + 1], batch.obs) and torch.equal(padded.length, batch.length)
    assert padded.avail[:, t + 1 :].all()


def test_a_loaded_state_is_recorded_anew() -> None:
    one, two = session("qmix"), session("qmix")
    for made in (one, two):
        made.learner._graphs = {}
        for _ in range(6):
            made.learner.update(made.replay, 0)
    saved = copy.deepcopy(one.learner.state_dict())
    one.learner.update(one.replay, 0)
    one.learner.load_state_dict(saved)
    assert one.learner._graphs == {}
    one.replay.load_state_dict(two.replay.state_dict())
    for made in (one, two):
        made.learner.update(made.replay, 0)
    assert all(torch.equal(x, parameters(two)[k]) for k, x in parameters(one).items())


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        build(settings("qmix", cuda_graphs=True))
    with pytest.raises(ConfigError, match="learner 'macpf' cannot be recorded; these can: q_learner"):
        build(settings("macpf", cuda_graphs=True))
