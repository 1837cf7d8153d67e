"""What agents share that learn side by side: actors and critics of their own, each agent's own reward."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from controllers.base import Controller
from controllers.policy_mac import PolicyMAC
from core.config import ConfigError, Settings
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics, gradients_of, require
from learners.transitions import TransitionLearner
from memory.replay import Replay
from modules.agents.separate import SeparateAgents
from modules.critics.base import build_critic
from modules.critics.peers import PeerCritic
from modules.normaliser import RewardNorm
from modules.stacked import StackedAdam
from modules.target import Target
from rl.distributions import Categorical
from rl.masked import masked_mean

Pull = Callable[[Sequence[Tensor]], list[Tensor | None]]


@dataclass(frozen=True, kw_only=True)
class PeerConfig(TransitionLearner.Config):
    """Keys of agents that learn side by side."""

    optimiser: Literal["adam"] = "adam"
    """Each agent has an Adam of its own."""
    critic_lr: float = 1e-3
    """Learning rate of the critics."""
    tau: float = 0.005
    """How far the slow copies follow with each update."""
    regulariser: float = 1e-3
    """Weight of the mean square of the logits in the policies' loss."""
    standardise_rewards: bool = False
    """Whether each agent learns from its reward with the mean taken off and over its deviation."""


class PeerLearner(TransitionLearner):
    """Stacked actors and critics, of which each agent's learn from that agent's reward.

    A loss is the sum of the agents' losses: no parameter is two agents', so each gets its own loss's gradient, which is
    clipped and stepped by itself. Where there is one reward for the team, every agent takes it as its own.
    """

    controller: PolicyMAC
    kind: type[PeerCritic]
    """The critics that the subclass can use."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Any, settings: Settings, rng: torch.Generator, critics: int
    ) -> None:
        """``critics`` are as many critics of each agent."""
        require(controller, PolicyMAC, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        if not isinstance(controller.agent, SeparateAgents):
            name = settings["learner"]
            raise ConfigError([f"learner '{name}' needs one network per agent: give share_parameters=False"])
        self.refuse_memory()
        self.critics = nn.ModuleList([build_critic(settings, self.kind, spec) for _ in range(critics)])
        self.reward_norm = RewardNorm(spec.n_agents)
        self.target: Target[Any] = Target(nn.ModuleList([controller, self.critics]), tau=cfg.tau)
        self._optimisers["policy"] = StackedAdam(controller.agent.networks.parameters(), cfg.lr, cfg.adam_eps)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """Rewards may be the team's or the agents' own."""
        return None if spec.discrete else "it needs discrete actions"

    def ready(self, replay: Replay) -> bool:
        """Whether there are enough steps or episodes; new ones, on-policy."""
        return Learner.ready(self, replay) if self.on_policy else super().ready(replay)

    def draw(self, replay: Replay) -> EpisodeBatch:
        """What an update learns from; everything new is counted, and measured where rewards are standardised."""
        new = self.new_episodes(replay)
        if self.cfg.standardise_rewards and new:
            latest = replay.latest(new)
            self.reward_norm.update(self.each(latest.reward), latest.mask)
        return self.pick(replay)

    def pick(self, replay: Replay) -> EpisodeBatch:
        """The newest episodes on-policy, else steps or episodes at random."""
        return replay.latest(self.cfg.batch_size) if self.on_policy else super().draw(replay)

    def each(self, reward: Float[Tensor, "b t *n"]) -> Float[Tensor, "b t n"]:
        """Every agent's reward."""
        return reward if reward.dim() == 3 else reward.unsqueeze(-1).expand(-1, -1, self.spec.n_agents)

    def rewards(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """What the agents learn from."""
        reward = self.each(batch.reward)
        return self.reward_norm.normalise(reward) if self.cfg.standardise_rewards else reward

    def bootstrapped(self, batch: EpisodeBatch, ahead: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """y_i = r_i + γ (1 - terminated) ``ahead``_i, the value of the state after each step."""
        return self.rewards(batch) + self.cfg.gamma * torch.where(batch.terminated[..., None], 0.0, ahead)

    def policy(self, batch: EpisodeBatch) -> Categorical:
        """π at every state, with gradient."""
        return self.controller.policy(self.controller.unroll(batch), batch.avail)

    def now(self, batch: EpisodeBatch) -> Categorical:
        """π at the batch's steps, with gradient."""
        pi = self.policy(batch)
        return Categorical(pi.logits[:, :-1], pi.avail[:, :-1])

    def slow_policy(self, batch: EpisodeBatch) -> Categorical:
        """The slow copies' policies at the states after the batch's steps."""
        controller = self.target.slow[0]
        return controller.policy(controller.unroll(batch)[:, 1:], batch.avail[:, 1:])

    def vectors(self, action: Int[Tensor, "*rest n"]) -> Float[Tensor, "*rest n a"]:
        """Actions as one-hots."""
        return one_hot(action.long(), self.spec.n_actions).float()

    def total(self, x: Float[Tensor, "b t n"], mask: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
        """The sum over agents of each one's mean over real steps."""
        return masked_mean(x, mask) * self.spec.n_agents

    def descend_stacked(
        self, name: str, loss: Tensor, pull: Pull | None = None, which: Tensor | None = None
    ) -> Metrics:
        """One step of the agents of ``which`` (None: all), each along its own gradient, clipped by its own norm.

        ``pull`` says what is added to the gradients, after the clipping.
        """
        optimiser = self._optimisers[name]
        assert isinstance(optimiser, StackedAdam)
        params = [p for group in optimiser.param_groups for p in group["params"]]
        gradients = gradients_of(loss, params)
        norm = torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
        scale = (self.cfg.grad_norm_clip / (norm + 1e-6)).clamp(max=1)
        steps = [g * scale.view(-1, *[1] * (g.dim() - 1)) for g in gradients]
        for step, force in zip(steps, pull(params) if pull else [], strict=pull is not None):
            if force is not None:
                step.add_(force)
        optimiser.step_where(which, steps)
        return {f"{name}_loss": loss.detach(), f"{name}_grad_norm": norm.mean()}
