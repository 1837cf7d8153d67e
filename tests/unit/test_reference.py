"""The benchmarks' plain updates are ours: same losses, gradients and parameters after one update, to 1e-5."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import toy  # noqa: F401 - registers the environment
from core.config import load, merge, resolve
from memory.replay import Replay
from run import build

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from reference.updates import REFERENCES  # noqa: E402

SMALL = {"env": "toy", "seed": 3, "batch_size_run": 4, "batch_size": 8, "burn_in": 8, "hidden_dim": 16, "device": "cpu"}


class Given(Replay):
    """A replay that hands out one batch, of which no episode is new."""

    def __init__(self, batch):
        self.batch, self.added = batch, 0

    def uniform(self, n, newest=None):
        assert n == len(self.batch)
        return self.batch


@pytest.mark.parametrize(("name", "more"), [*((name, {}) for name in REFERENCES), ("fop", {"adv_hypernet_layers": 1})])
def test_one_update_is_ours(name: str, more: dict) -> None:
    session = build(resolve(merge(load(ROOT / "config" / "algs" / f"{name}.yaml"), SMALL | more)))
    learner, rng = session.learner, torch.Generator().manual_seed(1)
    while not learner.ready(session.replay):
        session.replay.add(session.runner.collect(t_env=0, mode="explore").episodes)
    with torch.no_grad():  # otherwise online and target networks could be confused
        for p in learner.target.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=rng))
    batch = session.replay.uniform(8)
    assert batch.length.unique().numel() > 1, "padding is part of the question"
    before = {path: p.detach().clone() for path, p in learner.named_parameters()}
    reference = REFERENCES[name](learner)
    theirs, ours = reference.update(batch), learner.update(Given(batch), 0)
    for loss, value in theirs.items():
        torch.testing.assert_close(ours[loss], value, rtol=1e-5, atol=1e-6)
    other = dict(reference.own.named_parameters())
    for path, p in learner.named_parameters():
        torch.testing.assert_close(p, other[path], rtol=1e-5, atol=1e-5)
        if not path.startswith("target"):
            assert not torch.equal(p, before[path])
            scale = float(p.grad.abs().max())
            torch.testing.assert_close(p.grad, other[path].grad, rtol=1e-5, atol=1e-5 * scale)
