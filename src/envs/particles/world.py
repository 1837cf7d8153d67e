"""Particle worlds of equal agents, who see their landmarks and perhaps each other."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Stage
from core.specs import ActionSpec, EnvSpec, TimeStep
from envs.particles import physics
from envs.particles.base import ACTIONS, ARROW, ARROWS, World, need, rings
from envs.rows.native import Box, refuse_unknown

LANDMARK = 0.05
"""Radius of a landmark in the original's pictures."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What one particle environment has, and what its agents see of it."""

    n_landmarks: int
    size: float
    """Radius of the agents."""
    draws: int
    """Uniform numbers that ``place`` needs."""
    collide: bool = True
    """Whether agents are solid. Landmarks never are."""
    see_others: bool = False
    """Whether agents observe where the others are, after the landmarks."""
    silence: int = 0
    """Channels of the others' messages at the end of an observation; nobody speaks, so they are 0."""
    start: float = 1.0
    """Half-side of the square in which agents start."""
    landmark: float = LANDMARK
    """Radius with which pictures show landmarks."""


class ParticleEnv(World):
    """N agents that are pushed about on the plane, and landmarks that stay. A subclass places landmarks and judges.

    An agent observes its velocity, its position, the landmarks relative to itself, and what else ``Scene`` says; the
    state is all observations in a row. Agents start at rest, uniformly in the square of half-side 1, and may leave it.
    """

    metrics: tuple[str, ...] = ()
    """Names of the ``Verdict.info`` entries."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys that all particle environments have."""

        n_agents: int = 3
        """N."""
        action: Literal["discrete", "continuous"] = "discrete"
        """Stay and a full push in one of four directions, or any push in the box from -1 to 1."""
        episode_limit: int = 25
        """Steps after which an episode is cut."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int, scene: Scene) -> None:
        cfg, self.scene = self.settle(cfg), scene
        n, shown = cfg.n_agents, self._what_is_shown(cfg.n_agents)
        obs_dim = shown.shape[1]
        action = ActionSpec(5) if cfg.action == "discrete" else ActionSpec(2, -1.0, 1.0)
        spec = EnvSpec(
            actions=(action,) * n,
            obs_dims=(obs_dim,) * n,
            state_dim=n * obs_dim,
            episode_limit=cfg.episode_limit,
            metrics=self.metrics,
            unit_dim=obs_dim,
        )
        size = torch.full((n,), scene.size, device=device)
        bodies = physics.bodies(size, collide=torch.full_like(size, scene.collide, dtype=torch.bool))
        super().__init__(cfg, n_envs, device, seed, spec=spec, bodies=bodies, n_things=scene.n_landmarks)
        self._box = None if spec.discrete else Box(spec.actions, self.device)
        # Observations are rows of what there is.
        self._rows_shown = shown.flatten().to(self.device)
        self._shown = torch.zeros(n * obs_dim, n_envs, device=self.device)
        seen = self._shown.view(n, obs_dim, n_envs)[:, 4 : obs_dim - scene.silence]
        self._seen, self._origin = seen.view(n, -1, 2, n_envs), self.pos.transpose(0, 1)[:, None]

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the sizes."""
        need(cfg, 1, "n_agents", "episode_limit")
        return cfg

    def label(self) -> str:
        """Name, number of agents and kind of action, for instance ``formation/3_discrete``."""
        return f"{super().label()}/{self.cfg.n_agents}_{self.cfg.action}"

    @abstractmethod
    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """The landmarks of new episodes, made from ``scene.draws`` uniform numbers in [0, 1) per row."""

    def begin(self, which: Bool[Tensor, " b"]) -> None:
        """New places, at rest."""
        n = self.cfg.n_agents
        u = self._random.uniform(which, 2 * n + self.scene.draws).t()
        self.vel.masked_fill_(which, 0)
        self._update(which, self.pos, self.scene.start * (2 * u[: 2 * n].reshape(2, n, -1) - 1))
        self._update(which, self.landmarks, self.place(u[2 * n :]))

    def act(
        self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"], running: Bool[Tensor, " b"]
    ) -> Float[Tensor, "2 m b"]:
        """The agents' pushes."""
        if self._box is not None:
            return self._box.admit(action, running).permute(2, 1, 0)
        return self._pushed(refuse_unknown(action, len(ACTIONS), running))

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """Agents, and landmarks as rings."""
        n, discrete = self.cfg.n_agents, self.spec.discrete
        pushes, actions = (ARROWS, ACTIONS) if discrete else (((ARROW, 0.0), (0.0, ARROW)), ())
        agents = (Entity.of_agent(i, radius=self.scene.size, actions=actions, pushes=pushes) for i in range(n))
        landmarks = rings("landmark", self.scene.n_landmarks, self.scene.landmark, mark="x")
        return self._stage(("agents",), (*agents, *landmarks))

    @property
    def last_step(self) -> Bool[Tensor, " b"]:
        """Rows whose time is up with the step that is being judged."""
        return self._clock.t + 1 >= self.cfg.episode_limit

    def _what_is_shown(self, n: int) -> Int[Tensor, "n o"]:
        """Rows of ``_things`` that the agents observe; those between own position and silence, relative to it."""
        scene = self.scene
        n_entities = n + scene.n_landmarks
        vel = torch.arange(2 * n).view(2, n).t()
        place = 2 * n + torch.arange(2 * n_entities).view(2, -1).t()
        seen = place[n:].expand(n, -1, 2)
        if scene.see_others:
            others = torch.arange(n - 1).expand(n, -1)
            others = others + (others >= torch.arange(n)[:, None])
            seen = torch.cat([seen, place[others]], 1)
        silence = torch.tensor(2 * n + 2 * n_entities).expand(n, scene.silence)
        return torch.cat([vel, place[:n], seen.flatten(1), silence], 1)

    def show(self) -> TimeStep:
        """Observations, and all of them as the state."""
        torch.index_select(self._things, 0, self._rows_shown, out=self._shown)
        self._seen -= self._origin
        state = self._shown.t().contiguous()
        obs = state.view(self.n_envs, self.cfg.n_agents, -1).clone()
        return TimeStep(obs, state, self._avail.clone())
