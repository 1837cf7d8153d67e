"""What the particle environments share: who is where, what is shown, how actions become pushes."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.specs import ActionSpec, EnvSpec, Extras, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.particles import physics
from envs.rows.native import Box, Clock, RowRandom, refuse_unknown

# x and y of the actions stay, +x, -x, +y, -y: the original's order for one-hot actions.
PUSHES = [[0.0, 1.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0]]
ACTIONS = ("stay", "right", "left", "up", "down")
LANDMARK = 0.05
"""Radius of a landmark in the original's pictures."""
VIEW = 1.5
"""Half the side of the square that pictures show; whoever leaves it is out of the picture."""
ARROW = 0.25
"""Length of a full push in pictures."""


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


def rings(kind: str, n: int, radius: float, mark: str = "") -> tuple[Entity, ...]:
    """``n`` numbered places that are nobody's, for pictures."""
    return tuple(Entity(name=f"{kind} {i}", kind=kind, mark=mark, radius=radius) for i in range(n))


class Verdict(NamedTuple):
    """What the positions after a step are worth."""

    reward: Float[Tensor, " b"]
    over: Bool[Tensor, " b"]
    """The episode has come to a true end."""
    info: Extras


class ParticleEnv(BatchedEnv):
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
        super().__init__(self.settle(cfg), n_envs, device, seed)
        n, self.scene = cfg.n_agents, scene
        action = ActionSpec(5) if cfg.action == "discrete" else ActionSpec(2, -1.0, 1.0)
        shown = self._what_is_shown()
        obs_dim = shown.shape[1]
        self.spec = EnvSpec(
            actions=(action,) * n,
            obs_dims=(obs_dim,) * n,
            state_dim=n * obs_dim,
            episode_limit=cfg.episode_limit,
            metrics=self.metrics,
            unit_dim=obs_dim,
        )
        self._pushes = torch.tensor(PUSHES, device=self.device)[..., None].expand(-1, -1, n_envs)
        self._box = None if self.spec.discrete else Box(self.spec.actions, self.device)
        self._avail = torch.ones(n_envs, n, action.n, dtype=torch.bool, device=self.device)
        size = torch.full((n,), scene.size, device=self.device)
        self._bodies = physics.bodies(size, collide=torch.full_like(size, scene.collide, dtype=torch.bool))
        self._clock = Clock(cfg.episode_limit, n_envs, self.device)
        self._random = RowRandom(seed, n_envs, self.device)
        # What observations are made of: velocities, positions of agents and landmarks (x of all, y of all), and a 0.
        n_entities = n + scene.n_landmarks
        self._things = torch.zeros(2 * n + 2 * n_entities + 1, n_envs, device=self.device)
        self.vel = self._things[: 2 * n].view(2, n, n_envs)
        self.entities = self._things[2 * n : -1].view(2, n_entities, n_envs)
        self.pos, self.landmarks = self.entities[:, :n], self.entities[:, n:]
        self._rows_shown = shown.flatten().to(self.device)
        self._shown = torch.zeros(n * obs_dim, n_envs, device=self.device)
        seen = self._shown.view(n, obs_dim, n_envs)[:, 4 : obs_dim - scene.silence]
        self._seen, self._origin = seen.view(n, -1, 2, n_envs), self.pos.transpose(0, 1)[:, None]
        self.never = torch.zeros(n_envs, dtype=torch.bool, device=self.device)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the sizes."""
        for name in ("n_agents", "episode_limit"):
            if getattr(cfg, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(cfg, name)}")
        return cfg

    def label(self) -> str:
        """Name, number of agents and kind of action, for instance ``formation/3_discrete``."""
        return f"{super().label()}/{self.cfg.n_agents}_{self.cfg.action}"

    @abstractmethod
    def place(self, u: Float[Tensor, "k b"]) -> Float[Tensor, "2 l b"]:
        """The landmarks of new episodes, made from ``scene.draws`` uniform numbers in [0, 1) per row."""

    @abstractmethod
    def judge(self) -> Verdict:
        """What ``self.pos`` is worth, after a step."""

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """New places in the rows of ``which`` (None: all)."""
        n = self.cfg.n_agents
        which = self._clock.start(which)
        u = self._random.uniform(which, 2 * n + self.scene.draws).t()
        self.vel.masked_fill_(which, 0)
        self._update(which, self.pos, self.scene.start * (2 * u[: 2 * n].reshape(2, n, -1) - 1))
        self._update(which, self.landmarks, self.place(u[2 * n :]))
        return self._show()

    def step(self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"]) -> Outcome:
        """Everybody is pushed, and the new places are judged."""
        running = self._clock.running
        vel, pos = physics.advance(self.vel, self.pos, self._push(action, running), self._bodies)
        self._update(running, self.vel, vel)
        self._update(running, self.pos, pos)
        verdict = self.judge()
        terminated, truncated = self._clock.tick(verdict.over)
        return Outcome(self._show(), torch.where(running, verdict.reward, 0), terminated, truncated, verdict.info)

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """Agents, and landmarks as rings."""
        n = self.cfg.n_agents
        ways = zip(*PUSHES, strict=True) if self.spec.discrete else ((1.0, 0.0), (0.0, 1.0))
        pushes = tuple((ARROW * x, ARROW * y) for x, y in ways)
        actions = ACTIONS if self.spec.discrete else ()
        return Stage(
            title=self.label(),
            teams=("agents",),
            entities=(
                *(Entity.of_agent(i, radius=self.scene.size, actions=actions, pushes=pushes) for i in range(n)),
                *rings("landmark", self.scene.n_landmarks, self.scene.landmark, mark="x"),
            ),
            low=(-VIEW, -VIEW),
            high=(VIEW, VIEW),
        )

    def frame(self, row: int) -> Frame:
        """Where agents and landmarks are."""
        return Frame.of(self.entities[:, :, row].t().cpu().numpy().copy())

    def seed_rows(self, seed: int) -> None:
        """Restarts the draws of places."""
        self.seed, self._random = seed, RowRandom(seed, self.n_envs, self.device)

    def state_dict(self) -> dict[str, Any]:
        """Places, velocities, times and random streams."""
        return {
            "things": self._things.clone(),
            "clock": self._clock.state_dict(),
            "random": self._random.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._things.copy_(state["things"])
        self._clock.load_state_dict(state["clock"])
        self._random.load_state_dict(state["random"])

    @property
    def last_step(self) -> Bool[Tensor, " b"]:
        """Rows whose time is up with the step that is being judged."""
        return self._clock.t + 1 >= self.cfg.episode_limit

    @staticmethod
    def _update(which: Tensor, old: Tensor, new: Tensor) -> None:
        torch.where(which, new, old, out=old)

    def _push(self, action: Tensor, running: Tensor) -> Float[Tensor, "2 n b"]:
        if self._box is not None:
            return self._box.admit(action, running).permute(2, 1, 0)
        action = refuse_unknown(action, len(PUSHES[0]), running)
        return self._pushes.gather(1, action.t().expand(2, -1, -1))

    def _what_is_shown(self) -> Int[Tensor, "n o"]:
        """Rows of ``_things`` that the agents observe; those between own position and silence, relative to it."""
        n, scene = self.cfg.n_agents, self.scene
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

    def _show(self) -> TimeStep:
        torch.index_select(self._things, 0, self._rows_shown, out=self._shown)
        self._seen -= self._origin
        state = self._shown.t().contiguous()
        obs = state.view(self.n_envs, self.cfg.n_agents, -1).clone()
        return TimeStep(obs, state, self._avail.clone())
