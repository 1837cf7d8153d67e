"""A small environment with everything that trips learners up, and the ways to get it wrong (``fault``)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Box, Clock, RowRandom, refuse_unavailable


class Toy(BatchedEnv):
    """Two unlike agents, unavailable actions, early ends, time limits, random starts and random steps.

    Agent 0 observes (drawn, t) and has 3 actions, the last of which is available at even times and ends the episode;
    agent 1 observes t and has 2 actions. The reward is the sum of the actions. With ``box`` both have boxes instead, of
    2 dimensions and of 1, whose first number stands for these actions.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """What goes wrong, if anything."""

        fault: str | None = None
        limit: int = 4
        box: bool = False

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        limit, metrics = cfg.limit, ("won",)
        actions = (ActionSpec(2, -1.0, 1.0), ActionSpec(1, 0.0, 0.5)) if cfg.box else (ActionSpec(3), ActionSpec(2))
        self.spec = EnvSpec(actions, (2, 1), 2, limit, extras={"odd": (1,)}, metrics=metrics)
        self.box = Box(actions, self.device) if cfg.box else None
        self.clock = Clock(limit + (cfg.fault == "limit"), n_envs, self.device)
        self.random = RowRandom(0 if cfg.fault == "seed_ignored" else seed, n_envs, self.device)
        self.generator = torch.Generator().manual_seed(seed)
        if cfg.fault == "same_rows":
            self.random.key[:] = self.random.key[0]
        self.drawn = torch.zeros(n_envs, device=self.device)
        self.live = torch.zeros(n_envs, 2, device=self.device)

    def reset(self, which: Tensor | None = None) -> TimeStep:
        if self.cfg.fault == "reset_all":
            which = None
        which = self.clock.start(which)
        self._draw(which)
        return self._show()

    def _draw(self, which: Tensor, stepped: bool = False) -> None:
        u = self.random.uniform(which, 1)[:, 0]
        if self.cfg.fault == "shared_generator":
            u = torch.rand(self.n_envs, generator=self.generator).to(self.device)
        if self.cfg.fault == "global_generator":
            u = torch.rand(self.n_envs).to(self.device)
        self.drawn = torch.where(which, (u + self.drawn.fmod(1) if stepped else u), self.drawn)

    def step(self, action: Tensor) -> Outcome:
        fault, running = self.cfg.fault, self.clock.running.clone()
        action = self._numbered(action, running)
        ended = action[:, 0] == 2
        if fault == "row_leak":
            self.drawn = self.drawn + 0.5 * action[0, 0]
        terminated, truncated = self.clock.tick(ended)
        self._draw(running, stepped=True)
        if fault == "shared_clock":
            self.clock.t[:] = self.clock.t[0]
        if fault == "both_flags":
            truncated = truncated | terminated
        reward = torch.where(running, action.sum(-1), 0).float()
        if fault == "ended_reward":
            reward = reward + ~running
        if fault == "ended_moves":
            self.drawn = self.drawn + 0.25
        info = {"won": terminated.float()}
        if fault == "no_metric":
            info = {}
        if fault == "reward_shape":
            reward = reward[:, None]
        if fault == "reward_nan":
            reward = reward * torch.nan
        return Outcome(self._show(), reward, terminated, truncated, info)

    def _numbered(self, action: Tensor, running: Tensor) -> Tensor:
        if self.box is not None:
            admitted = action.nan_to_num() if self.cfg.fault == "no_refusal" else self.box.admit(action, running)
            return (admitted[..., 0] > 0.3).long() + (admitted[..., 0] > 0.8)
        if self.cfg.fault == "no_refusal":
            return action.clamp(0, 1)
        return refuse_unavailable(action, self._avail(), running)

    def _avail(self) -> Tensor:
        if self.box is not None:
            return torch.ones(self.n_envs, 2, 2, dtype=torch.bool, device=self.device)
        avail = torch.ones(self.n_envs, 2, 3, dtype=torch.bool, device=self.device)
        avail[:, 0, 2] = self.clock.t % 2 == 0
        avail[:, 1, 2] = False
        if self.cfg.fault == "nothing_of_its_own":
            avail[:, 1] = ~self.spec.action_mask[1]
        if self.cfg.fault == "empty_mask":
            avail[self.clock.t >= 3, 1] = False
        return avail

    def _show(self) -> TimeStep:
        t = self.clock.t.float()
        obs = torch.zeros(self.n_envs, 2, 2, device=self.device)
        obs[:, 0, 0], obs[:, 0, 1], obs[:, 1, 0] = self.drawn, t, t
        state = torch.stack([self.drawn, t], -1)
        shown = TimeStep(obs, state, self._avail(), {"odd": (self.clock.t % 2 == 1)[:, None]})
        return self._broken(shown)

    def _broken(self, shown: TimeStep) -> TimeStep:
        match self.cfg.fault:
            case "alias":
                self.live.copy_(shown.state)
                return replace(shown, state=self.live)
            case "live":  # what the receiver writes comes back
                self.drawn = shown.state[:, 0]
            case "obs_dtype":
                return replace(shown, obs=shown.obs.double())
            case "obs_shape":
                return replace(shown, obs=shown.obs[..., :1])
            case "obs_padding":
                shown.obs[:, 1, 1] = 1
            case "avail_padding":
                shown.avail[:, 1, 2] = True
            case "no_extras":
                return replace(shown, extras={})
        return shown

    def seed_rows(self, seed: int) -> None:
        if self.cfg.fault != "reseed":
            self.random = RowRandom(seed, self.n_envs, self.device)
            self.generator.manual_seed(seed)

    def state_dict(self) -> dict[str, Any]:
        state = {"drawn": self.drawn.clone(), "clock": self.clock.state_dict()}
        return state if self.cfg.fault == "state" else state | {"random": self.random.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"].clone()
        self.clock.load_state_dict(state["clock"])
        if "random" in state:
            self.random.load_state_dict(state["random"])
