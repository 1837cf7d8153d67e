"""Small foreign environments for the worker processes; no torch, so that a worker starts quickly."""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Dict, Discrete


class Parallel:
    """PettingZoo's parallel interface. Agents of different size count their own steps; ``short`` leaves after two.

    Observations: [t, drawn] for ``long`` and [t] for ``short``, with drawn in [0, 1) once per episode. Action 1 of
    ``long`` is forbidden at odd times. Rewards are the actions, halved for ``short``. The episode is cut after 4 steps.
    """

    def __init__(self, max_cycles: int = 4, masked: bool = True, box: bool = False, fatal: bool = False) -> None:
        self.max_cycles, self.masked, self.box, self.fatal = max_cycles, masked, box, fatal
        self.possible_agents = ["long", "short"]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> Any:
        space = Box(-np.inf, np.inf, (2,) if agent == "long" else (1,))
        return Dict({"observation": space, "action_mask": Box(0, 1, (3,), np.int8)}) if self._has_mask(agent) else space

    def action_space(self, agent: str) -> Any:
        if self.box:
            return Box(-2.0, 2.0, (2,)) if agent == "long" else Box(np.float32([0, -3]), np.float32([10, 3]))
        return Discrete(3 if agent == "long" else 2)

    def _has_mask(self, agent: str) -> bool:
        return self.masked and agent == "long" and not self.box

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict, dict]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents, self.t, self.drawn = list(self.possible_agents), 0, self.rng.random()
        return self._observe(), {a: {} for a in self.agents}

    def _observe(self) -> dict:
        full = {"long": np.array([self.t, self.drawn], np.float32), "short": np.array([self.t], np.float32)}
        obs: dict = {a: full[a] for a in self.agents}
        if self._has_mask("long") and "long" in obs:
            obs["long"] = {"observation": obs["long"], "action_mask": np.array([1, self.t % 2 == 0, 1], np.int8)}
        return obs

    def step(self, actions: dict) -> tuple[dict, dict, dict, dict, dict]:
        assert set(actions) == set(self.agents), "an agent that has left was asked to act"
        self.t += 1
        if self.box:
            rewards = {a: float(np.sum(x)) for a, x in actions.items()}
        else:
            rewards = {a: float(x) / (1 if a == "long" else 2) for a, x in actions.items()}
        terminations = {a: a == "short" and self.t >= 2 for a in self.agents}
        terminations["long"] = self.fatal and self.t >= 3
        truncations = {a: self.t >= self.max_cycles for a in self.agents}
        obs, infos = self._observe(), {a: {"twice": 2.0 * self.t} for a in self.agents}
        self.agents = [a for a in self.agents if not (terminations[a] or truncations[a])]
        return obs, rewards, terminations, truncations, infos

    def close(self) -> None:
        self.agents = []


parallel_env = Parallel


class Marl:
    """PyMARL's interface: a counter whose state is a live array; action 2 of agent 0 is an end, else it is cut at 5.

    ``fault``: how step 2 goes wrong once agent 1 chose action 1. ``marker``: a file that gets a line at the end.
    """

    def __init__(self, seed: int, fault: str | None = None, marker: str | None = None) -> None:
        self.rng, self.fault, self.marker = np.random.default_rng(seed), fault, marker
        if fault == "start":
            raise RuntimeError("no engine here")
        self.state = np.zeros(2)

    def get_env_info(self) -> dict:
        return {"n_agents": 2, "n_actions": 3, "obs_shape": 1, "state_shape": 2, "episode_limit": 5}

    def reset(self) -> None:
        self.t = 0
        self.state[:] = 0, self.rng.random()

    def step(self, actions: list[int]) -> tuple[float, bool, dict]:
        self.t += 1
        self.state[0] = self.t
        if self.t == 2 and self.fault and actions[1] == 1:
            self._fail()
        won = actions[0] == 2
        info = {"battle_won": won}
        if self.t >= 5 and not won:
            info["episode_limit"] = True
        return float(sum(actions)), won or self.t >= 5, info

    def _fail(self) -> None:
        if self.marker:  # says which process is stuck, and that it got here
            with open(self.marker, "a") as file:
                file.write(f"{os.getpid()}\n")
        if self.fault == "raise":
            raise ZeroDivisionError("toy trouble")
        if self.fault == "exit":
            os._exit(7)
        if self.fault == "kill":
            os.kill(os.getpid(), 9)
        while self.fault == "hang":
            time.sleep(0.01)

    def get_obs(self) -> list:
        return [np.array([i + self.t], float) for i in range(2)]

    def get_state(self) -> np.ndarray:
        return self.state

    def get_avail_actions(self) -> list[list[int]]:
        return [[1, 1, 1], [1, 1, 0]]

    def close(self) -> None:
        if self.marker and not self.fault:
            with open(self.marker, "a") as file:
                file.write("closed\n")
