"""HAPPO: proximal policy optimisation of one agent after the other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from controllers.base import Controller
from controllers.stochastic import StochasticController
from core.config import ConfigError, Settings
from core.registry import LEARNERS
from core.specs import EnvSpec
from learners.base import Learner, Metrics, gradients_of, means
from learners.ppo import Experience, PPOConfig, ValueFunction, gather, policy, refuse_unfit, surrogate
from memory.replay import Replay
from modules.agents.separate import SeparateAgents
from modules.stacked import StackedAdam
from rl.distributions import Distribution


@LEARNERS.register
class HAPPO(Learner):
    r"""Kuba et al., "Trust Region Policy Optimisation in Multi-Agent Reinforcement Learning", ICLR 2022.

    Agents with networks of their own learn in a random order. The joint advantage Â that agent i_m improves on is
    weighed with what the agents before it have changed,
    :math:`M^{i_m} = \prod_{j<m} \pi^{new}_{i_j}(a) / \pi^{old}_{i_j}(a)`.

    Differences from the released code: one value of the state for all agents, as in the paper, instead of one critic
    per agent; see MAPPO for the rest.
    """

    on_policy = True
    controller: StochasticController

    @dataclass(frozen=True, kw_only=True)
    class Config(PPOConfig):
        """Keys of HAPPO."""

        optimiser: Literal["adam"] = "adam"
        """Each agent has an Adam of its own."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        refuse_unfit(settings, controller, cfg)
        if not isinstance(controller.agent, SeparateAgents):
            raise ConfigError(["learner 'happo' needs one network per agent: give share_parameters=False"])
        self.value = ValueFunction(spec, settings, cfg, "state")
        self.adam = StackedAdam(controller.agent.networks.parameters(), lr=cfg.lr, eps=cfg.adam_eps)
        self._optimisers["policy"] = self.adam
        self.optimise("value", self.value, lr=cfg.critic_lr)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """The agents share one advantage; actions may be numbered or of a box."""
        return None if spec.reward == "team" else "it needs one team reward"

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed
        """Every agent's policy once, ``epochs`` times through the newest episodes each; then the value likewise."""
        self.new_episodes(replay)
        data, _ = gather(replay.latest(self.cfg.batch_size), self.controller, self.value, self.cfg)
        metrics, parts = self.value.begin(data), []
        factor = torch.ones_like(data.mask)[..., None]
        for i in torch.randperm(self.spec.n_agents, generator=self.host_rng).tolist():
            own = data.agent(i)
            weighed = replace(own, advantage=factor * own.advantage)
            parts += [self.improve(i, part) for part in weighed.parts(self.cfg, self.host_rng)]
            factor = factor * self.change(i, own)
        values = [self.descend("value", self.value.loss(part)) for part in data.parts(self.cfg, self.host_rng)]
        return metrics | means(parts) | means(values)

    def improve(self, i: int, part: Experience) -> Metrics:
        """One step of agent i's policy alone."""
        leaves = self.controller.agent.networks.leaves(i)
        loss, metrics = self.policy_loss(part, leaves)
        gradients = gradients_of(loss, list(leaves.values()))
        norm = nn.utils.get_total_norm(gradients)
        shrink = (self.cfg.grad_norm_clip / (norm + 1e-6)).clamp(max=1)
        self.adam.step_of(i, [gradient * shrink for gradient in gradients])
        return metrics | {"policy_loss": loss.detach(), "policy_grad_norm": norm}

    def policy_loss(self, part: Experience, parameters: dict[str, Tensor]) -> tuple[Float[Tensor, ""], Metrics]:
        """-mean M min(ρ_i Â, clip(ρ_i, 1±ε) Â) - c mean H(π_i) (Kuba et al., equation 11).

        The advantage of ``part`` is M Â: M is positive, so it may stand inside of the minimum as well (T-53).
        """
        objective, entropy, metrics = surrogate(self.policy_of(part, parameters), part, self.cfg.clip)
        return -objective - self.cfg.entropy_coef * entropy, metrics

    @torch.no_grad()
    def change(self, i: int, own: Experience) -> Float[Tensor, "c l 1"]:
        """π_i^new(a_i) / π_i^old(a_i) at every step, with the memories that the update began with; 1 on padding."""
        pi = self.policy_of(own, self.controller.agent.networks.leaves(i))
        return torch.where(own.mask[..., None] > 0, pi.log_prob(own.action) - own.log_prob, 0.0).exp()

    def policy_of(self, part: Experience, parameters: dict[str, Tensor]) -> Distribution:
        """The policy of the one agent of ``part``."""

        def network(*inputs: Tensor) -> tuple[Tensor, Tensor]:
            return self.controller.agent.single(parameters, *inputs)

        return policy(self.controller, network, part)[0]
