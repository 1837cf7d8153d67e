"""A small batched environment with everything that can go wrong for a learner; registered as ``toy``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from core.config import ConfigError, Settings, check_fit
from core.registry import ENVS
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv


@ENVS.register
class Toy(BatchedEnv):
    """Random observations and masks, early ends, time limits; the reward counts agents that choose their target."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        n_agents: int = 3
        n_actions: int = 4
        limit: int = 5
        end_chance: float = 0.25
        visible: bool = True
        box: bool = False
        individual: bool = False
        unlike: bool = False
        """Agent i observes 6 - i numbers and has so many actions less than agent 0 (in boxes all are equal)."""
        garbage: bool = False
        """NaN and available actions where an agent has no entries of its own."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        action = ActionSpec(cfg.n_actions, -1.0, 1.0) if cfg.box else ActionSpec(cfg.n_actions)
        n, less = cfg.n_agents, int(cfg.unlike)
        self.spec = EnvSpec(
            actions=tuple(action if cfg.box else ActionSpec(cfg.n_actions - less * i) for i in range(n)),
            obs_dims=tuple(6 - less * i for i in range(n)),
            state_dim=7,
            episode_limit=cfg.limit,
            extras={"visible": (n, n)} if cfg.visible else {},
            metrics=("won",),
            reward="individual" if cfg.individual else "team",
        )
        self.t = torch.zeros(n_envs, dtype=torch.long)
        self.seed_rows(seed)

    def seed_rows(self, seed: int) -> None:
        self.rngs = [torch.Generator().manual_seed(seed + row) for row in range(self.n_envs)]
        self.now = self._draw(torch.ones(self.n_envs, dtype=torch.bool), None)

    def _draw(self, which: Tensor, old: TimeStep | None) -> TimeStep:
        n, a = self.cfg.n_agents, self.cfg.n_actions
        rows = []
        for row, rng in enumerate(self.rngs):
            if old is not None and not which[row]:
                seen = old.extras["visible"][row] if self.cfg.visible else torch.ones(n, n)
                rows.append((old.obs[row], old.state[row], old.avail[row], seen))
                continue
            avail = torch.rand(n, a, generator=rng) < 0.6
            avail[torch.arange(n), torch.randint(a, (n,), generator=rng)] = True
            obs, state = torch.randn(n, 6, generator=rng), torch.randn(7, generator=rng)
            rows.append((obs, state, avail, torch.rand(n, n, generator=rng) < 0.7))
        obs, state, avail, visible = (torch.stack([r[k] for r in rows]) for k in range(4))
        if self.cfg.unlike:
            obs, avail = self._unlike(obs, avail)
        return TimeStep(obs, state, avail, {"visible": visible.bool()} if self.cfg.visible else {})

    def _unlike(self, obs: Tensor, avail: Tensor) -> tuple[Tensor, Tensor]:
        avail[:, :, 0] |= ~(avail & self.spec.action_mask).any(-1)
        obs = obs.masked_fill(~self.spec.obs_mask, torch.nan if self.cfg.garbage else 0)
        if self.cfg.box:
            return obs, avail
        return obs, avail | ~self.spec.action_mask if self.cfg.garbage else avail & self.spec.action_mask

    def reset(self, which: Tensor | None = None) -> TimeStep:
        which = torch.ones(self.n_envs, dtype=torch.bool) if which is None else which
        self.t[which] = 0
        self.running = which if not hasattr(self, "running") else self.running | which
        self.now = self._draw(which, self.now)
        return self.now

    def step(self, action: Tensor) -> Outcome:
        if not self.cfg.box:
            legal = self.now.avail.gather(-1, action[..., None])[..., 0].all(-1)
            if not legal[self.running].all():
                raise ValueError("an unavailable action was chosen")
        self.t += self.running
        hit = (self.now.obs[..., 0] > 0) == ((action if not self.cfg.box else action[..., 0]) > 0)
        each = torch.where(self.running[:, None], hit.float(), 0.0)
        reward = each if self.cfg.individual else each.sum(-1)
        chance = torch.stack([torch.rand((), generator=rng) for rng in self.rngs])
        terminated = self.running & (chance < self.cfg.end_chance)
        truncated = self.running & ~terminated & (self.t >= self.cfg.limit)
        self.now = self._draw(self.running, self.now)
        self.running = self.running & ~(terminated | truncated)
        return Outcome(self.now, reward, terminated, truncated, {"won": terminated})

    def state_dict(self) -> dict[str, Any]:
        now = {"obs": self.now.obs, "state": self.now.state, "avail": self.now.avail, "extras": self.now.extras}
        running = getattr(self, "running", torch.zeros(self.n_envs, dtype=torch.bool))
        return {"rngs": [r.get_state() for r in self.rngs], "t": self.t.clone(), "running": running, "now": now}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for rng, saved in zip(self.rngs, state["rngs"], strict=True):
            rng.set_state(saved)
        self.t, self.running, self.now = state["t"].clone(), state["running"], TimeStep(**state["now"])


def acts_in_a_box(settings: Settings) -> bool:
    """Whether the selected components refuse the toy's numbered actions, and so want its box."""
    spec = Toy(Toy.Config(), 1, "cpu", 0).spec
    try:
        check_fit(settings, spec)
    except ConfigError:
        return True
    return False
