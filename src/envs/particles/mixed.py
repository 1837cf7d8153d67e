"""Particle worlds of two kinds of agents with rewards of their own, those of MAAC (Iqbal and Sha 2019)."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, TimeStep
from envs.particles.base import ACTIONS, Verdict, World, need
from envs.particles.physics import Bodies

ACCEL = 2.25
"""What a full push accelerates by: MAAC's copy of the particle environments multiplies by its 1.5 twice."""
MAX_SPEED = 1.0


class Kind(NamedTuple):
    """Agents that are alike."""

    n: int
    obs_dim: int


class MixedEnv(World):
    """Two kinds of agents that observe different things; the state is all observations, without padding.

    Episodes end by the time limit only. A subclass writes what each kind observes into ``self.seen``.
    """

    counts: tuple[str, ...] = ()
    """The keys that are numbers of things."""
    kept: tuple[str, ...] = ()
    """Tensors beside places and velocities that decide what happens next."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys that both worlds have."""

        reward: Literal["individual", "team"] = "individual"
        """Every agent has its own, or all have the sum of these."""
        episode_limit: int = 25
        """Steps after which an episode is cut."""

    def __init__(
        self,
        cfg: Any,
        n_envs: int,
        device: torch.device | str,
        seed: int,
        *,
        kinds: tuple[Kind, Kind],
        bodies: Bodies,
        n_things: int,
    ) -> None:
        """The agents are those of the first kind, then those of the second."""
        dims = tuple(kind.obs_dim for kind in kinds for _ in range(kind.n))
        spec = EnvSpec(
            actions=(ActionSpec(len(ACTIONS)),) * len(dims),
            obs_dims=dims,
            state_dim=sum(dims),
            episode_limit=cfg.episode_limit,
            reward=cfg.reward,
        )
        super().__init__(cfg, n_envs, device, seed, spec=spec, bodies=bodies, n_things=n_things)
        self._kinds = kinds
        self._parts = [kind.n * kind.obs_dim for kind in kinds]
        self._shown = torch.zeros(spec.state_dim, n_envs, device=self.device)
        parts = zip(self._shown.split(self._parts), kinds, strict=True)
        self.seen = tuple(part.view(*kind, n_envs) for part, kind in parts)
        """What each kind observes, [n, o, b]."""

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the numbers."""
        need(cfg, 1, *cls.counts, "episode_limit")
        return cfg

    @abstractmethod
    def earn(self) -> Float[Tensor, "n b"]:
        """What each agent gets for a step."""

    @abstractmethod
    def observe(self) -> None:
        """Writes ``self.seen``."""

    def judge(self) -> Verdict:
        """The agents' rewards, or their sum."""
        each = self.earn()
        return Verdict(each if self.spec.reward == "individual" else each.sum(0), self.never, {})

    def show(self) -> TimeStep:
        """Observations padded with zeros, and all of them as the state."""
        self.observe()
        state = self._shown.t().contiguous()
        obs = state.new_empty(self.n_envs, self.spec.n_agents, self.spec.obs_dim)
        first = 0
        for part, (n, dim) in zip(state.split(self._parts, 1), self._kinds, strict=True):
            obs[:, first : first + n, :dim] = part.view(-1, n, dim)
            obs[:, first : first + n, dim:] = 0
            first += n
        return TimeStep(obs, state, self._avail.clone())

    def scatter(self, which: Bool[Tensor, " b"], bound: Float[Tensor, "e 1"], more: int) -> Float[Tensor, "k b"]:
        """Puts all entities of new episodes at rest into squares of half-sides ``bound``.

        Returns:
            ``more`` further uniform numbers of [0, 1) for each row.
        """
        size = self.entities[..., 0].numel()
        u = self._random.uniform(which, size + more).t()
        self.vel.masked_fill_(which, 0)
        self._update(which, self.entities, bound * (2 * u[:size].reshape(2, -1, self.n_envs) - 1))
        return u[size:]

    def state_dict(self) -> dict[str, Any]:
        """Everything of a world of particles, and what is ``kept``."""
        return super().state_dict() | {name: getattr(self, name).clone() for name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        for name in self.kept:
            setattr(self, name, state[name].to(self.device, copy=True))


def one_hot(number: Int[Tensor, "n b"], kinds: int) -> Bool[Tensor, "n {kinds} b"]:
    """True at the number of each; nowhere for -1."""
    return number[:, None] == torch.arange(kinds, device=number.device)[:, None]
