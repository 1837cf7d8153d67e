"""A small Gymnasium environment of two unlike agents, which importing this module registers."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import Box, Discrete, Tuple

gymnasium.register("Band-v0", entry_point="toy_band:Band")


class Band(gymnasium.Env):
    """Agent 0 sees (t, drawn), drawn in [0, 1) once per episode, and has actions 0 to 2; agent 1 sees t mod 3 and has
    actions 5 and 6. Rewards are the actions, and 10 more for agent 0 when it chooses 2 and the other 6: a true end.
    Like many of its kind it calls the limit of 4 steps an end too.

    ``one_reward``, ``each_end`` (agent 1 leaves after 2 steps), ``masked``, ``each_info``: other habits of such
    environments. ``values``: how many of its five values step returns.
    """

    max_steps = 4

    def __init__(
        self,
        one_reward: bool = False,
        each_end: bool = False,
        masked: bool = False,
        each_info: bool = False,
        values: int = 5,
    ) -> None:
        self.one_reward, self.each_end, self.masked, self.each_info = one_reward, each_end, masked, each_info
        self.values = values
        self.observation_space = Tuple((Box(-np.inf, np.inf, (2,)), Discrete(3)))
        self.action_space = Tuple((Discrete(3), Discrete(2, start=5)))

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple:
        super().reset(seed=seed)
        self.t, self.drawn = 0, self.np_random.random()
        return self._observe(), self._info()

    def _observe(self) -> tuple:
        return np.array([self.t, self.drawn], np.float32), self.t % 3

    def _info(self) -> Any:
        info: dict = {"t": self.t}
        if self.masked:
            info["action_mask"] = ([1, self.t % 2 == 0, 1], [1, 1])
        return ({"t": self.t}, {"t": -self.t}) if self.each_info else info

    def step(self, action: tuple) -> tuple:
        assert self.action_space.contains(action), action
        self.t += 1
        won = action == (2, 6)
        rewards = [float(action[0] + 10 * won), float(action[1])]
        reward = sum(rewards) if self.one_reward else rewards
        ended: Any = won or self.t >= 4
        if self.each_end:
            ended = [ended, ended or self.t >= 2]
        return (self._observe(), reward, ended, False, self._info())[: self.values]
