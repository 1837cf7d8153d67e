"""Gymnasium's environments, of one agent or of several, as PettingZoo's ``ParallelEnv``.

Imported by worker processes: numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from envs.rows.board import FactoryError, Source
from envs.rows.simulators import PettingZoo, find

Each = dict[int, Any]


class Gathered:
    """A Gymnasium ``Env`` with its agents told apart; they are numbered from 0.

    There are several where the action space is a ``Tuple``: one entry each, in the observations too. Rewards, ends and
    infos are then lists of one per agent, or one for all. The environment is always told all actions: of agents that
    have left, the first one.
    """

    def __init__(self, env: Any, name: str, individual: bool) -> None:
        """``individual``: every agent's own reward is wanted; ``name`` is the environment's in messages."""
        for what in ("observation_space", "action_space", "reset", "step"):
            if not hasattr(env, what):
                raise FactoryError(f"'{name}' returns no Gymnasium Env (it has no {what})")
        self._env, self._name, self._individual = env, name, individual
        self._several = type(env.action_space).__name__ == "Tuple"
        self._acts = list(env.action_space.spaces) if self._several else [env.action_space]
        self._obs = self._observations(env.observation_space)
        self.possible_agents = list(range(len(self._acts)))
        self.agents: list[int] = []
        self.unwrapped = getattr(env, "unwrapped", env)
        self.episode_limit = getattr(getattr(env, "spec", None), "max_episode_steps", None)
        if callable(state := getattr(self.unwrapped, "state", None)):
            self.state = state

    def _observations(self, space: Any) -> list[Any]:
        if not self._several:
            return [space]
        if type(space).__name__ != "Tuple" or len(space.spaces) != len(self._acts):
            raise FactoryError(
                f"'{self._name}' has a Tuple of {len(self._acts)} action spaces, one per agent, and needs as many "
                f"observation spaces, not {space}; wrap the environment to return a tuple of observations"
            )
        return list(space.spaces)

    def observation_space(self, agent: int) -> Any:
        """What one agent observes."""
        return self._obs[agent]

    def action_space(self, agent: int) -> Any:
        """What one agent can do."""
        return self._acts[agent]

    def reset(self, seed: int | None = None) -> tuple[Each, Each]:
        """A new episode of all agents: observations, infos."""
        obs, info = self._unpacked(self._env.reset(seed=seed), 2, "reset")
        self.agents = list(self.possible_agents)
        return self._seen(obs), self._infos(info)

    def step(self, actions: Mapping[int, Any]) -> tuple[Each, Each, Each, Each, Each]:
        """One joint action: observations, rewards, terminations, truncations and infos of those who acted."""
        joint = tuple(actions[a] if a in actions else _first(self._acts[a]) for a in self.possible_agents)
        result = self._env.step(joint if self._several else joint[0])
        obs, reward, terminated, truncated, info = self._unpacked(result, 5, "step")
        shown = self._seen(obs), self._rewards(reward)
        ended, cut, infos = self._each(terminated), self._each(truncated), self._infos(info)
        self.agents = [a for a in self.agents if not ended[a] and not cut[a]]
        return *shown, ended, cut, infos

    def _unpacked(self, result: Any, n: int, what: str) -> Any:
        if isinstance(result, tuple) and len(result) == n:
            return result
        raise FactoryError(
            f"{what} of '{self._name}' does not return {n} values as Gymnasium's interface has it: if it is made for "
            "the older Gym, use a version for Gymnasium, or wrap it"
        )

    def _seen(self, obs: Any) -> Each:
        return {a: obs[a] if self._several else obs for a in self.agents}

    def _each(self, values: Any) -> Each:
        """One per agent: its own, or the common one."""
        own = isinstance(values, list | tuple | np.ndarray) and np.size(values) == len(self.possible_agents)
        values = np.ravel(values) if own else [values] * len(self.possible_agents)
        return {a: values[a] for a in self.agents}

    def _rewards(self, reward: Any) -> Each:
        """The agents' own ones; a common one is given to the first, so that the team's sum is right."""
        if np.ndim(reward) == 0 and len(self.possible_agents) > 1:
            if self._individual:
                raise FactoryError(f"'{self._name}' has one reward for all agents; set env_args.reward to team")
            return {0: float(reward)}
        return {a: float(r) for a, r in self._each(reward).items()}

    def _infos(self, info: Any) -> Each:
        """The agents' own ones, or the common one for all, out of which everybody gets its own action mask."""
        if isinstance(info, list | tuple):
            return {a: info[a] for a in self.agents}
        if self._several and "action_mask" in info:
            return {a: {**info, "action_mask": info["action_mask"][a]} for a in self.agents}
        return dict.fromkeys(self.agents, info)

    def close(self) -> None:
        """Closes the environment."""
        self._env.close()


def _first(space: Any) -> Any:
    """An action of an agent that has left, which the environment has to be told all the same."""
    return int(getattr(space, "start", 0)) if type(space).__name__ == "Discrete" else np.clip(0, space.low, space.high)


class Gymnasium(PettingZoo):
    """Gymnasium's ``Env``, gathered into a ``ParallelEnv``.

    Many of several agents call their time limit an end. So an end at the very limit that is not marked as truncated
    counts as a cut all the same, unless ``limit_is_end``.
    """

    def _build(self, source: Source) -> Any:
        return Gathered(find(source.factory)(**source.kwargs), source.factory, source.reward == "individual")
