"""What tests of learners' mathematics share: small runs, random episodes, and oracles without tensors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import toy  # noqa: F401 - registers the environment
from core.config import Settings, load, merge, resolve
from core.specs import EpisodeBatch, States, valid_mask
from modules.fit import Fit
from run import Session, build

ALGS = Path(__file__).parents[1] / "config" / "algs"
N, A, GAMMA = 3, 4, 0.9
LENGTHS, TERMINATED = (2, 3, 1, 2), (True, False, True, False)
"""A true end, a time limit, a true end at once, and a time limit before the batch's end (T-01)."""


def settings(name: str, **more: object) -> Settings:
    algorithm = load(ALGS / f"{name}.yaml")
    small = {"env": "toy", "seed": 5, "batch_size": 4, "gamma": GAMMA, "hidden_dim": 8}
    soft = {"entropy_reduction": "sum"} if "entropy_reduction" in algorithm else {}
    return resolve(merge(merge(algorithm, small | soft), more))


def session(name: str, **more: object) -> Session:
    """A new run whose target networks differ from the online ones, as they do after some learning."""
    made = build(settings(name, **more))
    rng = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for p in made.learner.target.slow.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng))
    return made


def batch(lengths: tuple[int, ...] = LENGTHS, terminated: tuple[bool, ...] = TERMINATED, seed: int = 0) -> EpisodeBatch:
    """Random episodes in the replay's form: zeros on padding, every action available there."""
    rng, b, t = torch.Generator().manual_seed(seed), len(lengths), max(lengths)
    length = torch.tensor(lengths)
    step = torch.arange(t) < length[:, None]
    state = torch.arange(t + 1) <= length[:, None]
    avail = torch.rand(b, t + 1, N, A, generator=rng) < 0.6
    action = torch.randint(A, (b, t, N), generator=rng) * step[..., None]
    avail[:, :t] |= one_hot(action, A).bool()
    avail[:, t, :, 1] = True
    return EpisodeBatch(
        action=action,
        reward=torch.randn(b, t, generator=rng) * step,
        terminated=(torch.arange(t) == length[:, None] - 1) & torch.tensor(terminated)[:, None],
        mask=valid_mask(length, t),
        length=length,
        obs=torch.randn(b, t + 1, N, 6, generator=rng) * state[..., None, None],
        state=torch.randn(b, t + 1, 7, generator=rng) * state[..., None],
        avail=avail | ~state[..., None, None],
        extras={"visible": (torch.rand(b, t + 1, N, N, generator=rng) < 0.7) & state[..., None, None]},
    )


def returns(reward: list[float], ended: bool, value: list[float], lam: float) -> list[float]:
    """TD(λ) of one episode by its definition: the λ-weighted average of the n-step returns."""
    steps = len(reward)

    def n_step(t: int, n: int) -> float:
        total = sum(GAMMA**k * reward[t + k] for k in range(n))
        return total + (0.0 if ended and t + n == steps else GAMMA**n * value[t + n])

    def average(t: int) -> float:
        most = steps - t
        parts = [(1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, most)]
        return sum(parts) + lam ** (most - 1) * n_step(t, most)

    return [average(t) for t in range(steps)]


def ends(of: Tensor, terminated: bool = True) -> Tensor:
    """The entries of a [b, t] tensor at the last steps of the episodes that ended truly (or were cut)."""
    rows = [row for row, ended in enumerate(TERMINATED) if ended == terminated]
    return torch.stack([of[row, LENGTHS[row] - 1] for row in rows])


def legal(episodes: EpisodeBatch, row: int, t: int) -> list[list[int]]:
    """Every agent's available actions."""
    return [[a for a in range(A) if episodes.avail[row, t, i, a]] for i in range(N)]


def best_of(table: list[list[float]], allowed: list[list[int]]) -> list[int]:
    """Every agent's best available action; ``table`` has one row of values per agent."""
    return [max(actions, key=lambda a, i=i: table[i][a]) for i, actions in enumerate(allowed)]


def gradients(loss: Tensor, module: torch.nn.Module) -> set[str]:
    """Names of the module's trainable parameters that ``loss`` reaches, be it with gradient 0."""
    named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    found = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True, retain_graph=True)
    return {name for (name, _), g in zip(named, found, strict=True) if g is not None}


def fitted(on: EpisodeBatch, y_on: Tensor, off: EpisodeBatch, y_off: Tensor) -> Fit:
    """What a critic is fitted to, from padded episodes and the targets of their steps."""

    def packed(batch: EpisodeBatch, y: Tensor) -> tuple[States, Tensor]:
        states = batch.packed()
        return states, states.pack(torch.cat([y, torch.zeros_like(y[:, :1])], 1))

    return Fit.of(*packed(on, y_on), *packed(off, y_off))
