"""How agents act. Nothing is kept between calls: the recurrent state is handed in and out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from core.config import Settings
from core.precision import in_precision
from core.specs import EnvSpec, EpisodeBatch, Extras, States, TimeStep
from modules.agents.base import Agent
from modules.agents.rnn import encode_together
from modules.layers import last_actions


@dataclass(frozen=True)
class Acted:
    """A joint action and what is to be remembered of how it came about."""

    action: Tensor
    hidden: Tensor
    extras: Extras = field(default_factory=dict)
    """By name, each [b, ...]: stored with the episode (for instance behaviour probabilities)."""


class Controller(nn.Module, ABC):
    """The policies of all agents."""

    agent: Any
    """The network under the policies."""
    explore_mode = "explore"
    """The mode in which experience is collected."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of every way of acting."""

        agent: str = "rnn"
        """The network under the policies."""

    def __init__(self, spec: EnvSpec, cfg: Any, settings: Settings) -> None:
        super().__init__()
        self.spec, self.cfg, self.settings = spec, cfg, settings

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Agents act by what their networks say in the precision of the run, in which they also learn."""
        super().__init_subclass__(**kwargs)
        if "act" in vars(cls):
            cls.act = in_precision(cls.act)  # type: ignore[method-assign]

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """Why this controller cannot act in such an environment, or None."""
        return None if spec.discrete else "it needs discrete actions"

    @property
    def test_modes(self) -> tuple[str, ...]:
        """The ways of acting that evaluation reports; the first one is the policy that is executed."""
        return ("test",)

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """The recurrent state at the start of b episodes, on the parameters' device: the network's, zeros."""
        return self.agent.initial_hidden(b)

    @abstractmethod
    def act(
        self,
        step: TimeStep,
        last: Float[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        *,
        t_env: int,
        mode: str,
        rng: torch.Generator,
    ) -> Acted:
        """One joint action for each of b environments.

        Args:
            step: what the environments show.
            last: each agent's last action, one-hot (the action itself in a box); zeros at the start of an episode.
            hidden: what the last call returned.
            t_env: environment steps collected so far; decides schedules.
            mode: ``explore_mode`` while collecting, one of ``test_modes`` in tests (no exploration).
            rng: the only source of randomness.
        """

    @abstractmethod
    def unroll(self, batch: EpisodeBatch) -> Tensor:
        """The network's output at every state of the batch, [b, t+1, n, ·], with gradient."""

    def unroll_beside(self, agents: Sequence[Any], batch: EpisodeBatch) -> list[Tensor]:
        """``unroll``, and the outputs of further agent networks at the same states."""
        return [self.unroll(batch), *unroll_agents(agents, batch, self.spec.n_actions)]


def unroll_agent(agent: nn.Module, batch: EpisodeBatch, n_actions: int) -> Tensor:
    """An agent network's output at every state of the batch, [b, t+1, n, a], from an empty memory (T-04)."""
    if isinstance(batch, States):
        if hasattr(agent, "encode_states"):
            return agent.head(agent.encode_states(batch))
        whole = replace(batch.whole, obs=batch.spread(batch.obs))
        return batch.pack(unroll_agent(agent, whole, n_actions))
    return agent(batch.obs, last_actions(batch.action, n_actions), None, batch.length + 1)[0]


def unroll_agents(agents: Sequence[Any], batch: EpisodeBatch, n_actions: int) -> list[Tensor]:
    """``unroll_agent`` of each; those of one kind take their steps together where that is faster."""
    if isinstance(batch, States) and all(isinstance(agent, Agent) for agent in agents):
        return [agent.head(h) for agent, h in zip(agents, encode_together(agents, batch), strict=True)]
    return [unroll_agent(agent, batch, n_actions) for agent in agents]


def encode_agents(agents: Sequence[Any], batch: EpisodeBatch, n_actions: int) -> list[Tensor]:
    """``encode_agent`` of each, as in ``unroll_agents``."""
    if isinstance(batch, States) and all(isinstance(agent, Agent) for agent in agents):
        return encode_together(agents, batch)
    return [encode_agent(agent, batch, n_actions) for agent in agents]


def encode_agent(agent: nn.Module, batch: EpisodeBatch, n_actions: int) -> Tensor:
    """The features below an agent network's head at every state, [b, t+1, n, h], from an empty memory (T-04)."""
    if isinstance(batch, States):
        return agent.encode_states(batch)
    return agent.encode(batch.obs, last_actions(batch.action, n_actions), None, batch.length + 1)[0]
