"""A batch learnt in two threads, against the same batch in one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor

import toy  # noqa: F401 - registers the environment
from core.config import ConfigError, load, resolve
from core.specs import EpisodeBatch
from learners.halves import in_halves
from run import Session, build

ALGS = Path(__file__).parents[2] / "config" / "algs"


def session(algorithm: str = "qmix", **more: object) -> Session:
    base = {"env": "toy", "seed": 3, "batch_size_run": 4, "batch_size": 7, "hidden_dim": 8, "test_nepisode": 0}
    return build(resolve({**load(ALGS / f"{algorithm}.yaml"), **base, **more}))


def played(made: Session, n: int) -> EpisodeBatch:
    while len(made.replay) < n:
        made.replay.add(made.runner.collect(t_env=0, mode="explore").episodes)
    return made.replay.latest(n)


def parameters(made: Session) -> list[Tensor]:
    return [p for group in made.learner._optimisers["q"].param_groups for p in group["params"]]


@pytest.mark.parametrize("n", [2, 7])
@pytest.mark.parametrize("algorithm", ["qmix", "iql", "vdn", "qplex"])
def test_loss_and_gradients_are_those_of_the_whole_batch(algorithm: str, n: int) -> None:
    made = session(algorithm)
    batch, params = played(made, n), parameters(made)
    assert len({int(batch.length[: n // 2].sum()) * 2, int(batch.length.sum())}) == 2, "halves of unlike weight"
    whole = made.learner.td_loss(batch.packed())
    split = in_halves(lambda half: made.learner.td_loss(half.packed()), batch, params)
    assert split.item() == pytest.approx(whole.item(), rel=1e-6)
    expected, got = (torch.autograd.grad(3 * loss, params, allow_unused=True) for loss in (whole, split))
    scale = max(float(g.abs().max()) for g in expected if g is not None)
    for one, two in zip(expected, got, strict=True):
        assert (one is None) == (two is None)
        assert one is None or float((one - two).abs().max()) <= 1e-6 * scale


def test_each_half_has_a_thread() -> None:
    made, threads, episodes = session(), [], []

    def loss(half: EpisodeBatch) -> Tensor:
        threads.append(threading.get_ident())
        episodes.append(len(half))
        return made.learner.td_loss(half)

    in_halves(loss, played(made, 7), parameters(made))
    assert len(set(threads)) == 2 and threading.get_ident() in threads and sorted(episodes) == [3, 4]


def test_a_mistake_in_either_half_is_told() -> None:
    made = session()
    batch = played(made, 7)
    for guilty in (3, 4):

        def loss(half: EpisodeBatch, guilty: int = guilty) -> Tensor:
            if len(half) == guilty:
                raise ZeroDivisionError(f"half of {guilty}")
            return made.learner.td_loss(half)

        with pytest.raises(ZeroDivisionError, match=f"half of {guilty}"):
            in_halves(loss, batch, parameters(made))


def test_the_seed_decides_the_run_and_one_thread_learns_alike() -> None:
    learnt = []
    for threads in (2, 2, 1):
        made = session(learner_threads=threads, t_max=120)
        for _ in made.train():
            pass
        learnt.append([p.detach().clone() for p in parameters(made)])
    assert all(torch.equal(a, b) for a, b in zip(learnt[0], learnt[1], strict=True))
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(learnt[0], learnt[2], strict=True))


def test_both_threads_compute_in_the_precision_of_the_run() -> None:
    """Autocast is each thread's own: the second one has to be told."""
    made = session(precision="bfloat16", learner_threads=2, t_max=40)
    dtypes, td_loss = set(), made.learner.td_loss

    def loss(half: EpisodeBatch) -> Tensor:
        dtypes.add((threading.get_ident(), torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")))
        return td_loss(half)

    made.learner.td_loss = loss
    for _ in made.train():
        pass
    assert len(dtypes) == 2
    assert {how[1:] for how in dtypes} == {(True, torch.bfloat16)}


def test_a_single_episode_cannot_be_halved() -> None:
    with pytest.raises(ConfigError, match="learner_threads=2 needs batch_size of at least 2, not 1"):
        session(learner_threads=2, batch_size=1)
