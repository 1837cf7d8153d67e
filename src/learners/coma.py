"""COMA: counterfactual multi-agent policy gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from controllers.base import Controller
from controllers.policy_mac import PolicyMAC
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics, require
from memory.replay import Replay
from modules.critics.base import build_critic
from modules.critics.policy import CounterfactualCritic
from modules.layers import last_actions
from modules.target import Target
from rl.masked import draw, entropy, masked_log_softmax, masked_mean, taken
from rl.policy_gradient import counterfactual_advantage
from rl.returns import td_lambda


@LEARNERS.register
class COMA(Learner):
    """Foerster et al., "Counterfactual Multi-Agent Policy Gradients", AAAI 2018.

    Symbols: π̄_i policy with the exploration's floor, Q(s, (·, a_-i)) the critic's values of agent i's own actions.
    On-policy: every update learns from the newest ``batch_size`` episodes, which are collected anew for it.

    Differences: the action of an episode's last state, which nobody took, is drawn from π̄; time limits are
    bootstrapped through.
    """

    on_policy = True

    @dataclass(frozen=True, kw_only=True)
    class Config(Learner.Config):
        """Keys of COMA."""

        critic: str = "coma"
        """The centralised critic."""
        critic_lr: float = 5e-4
        """Its learning rate."""
        td_lambda: float = 0.8
        """λ of its targets."""
        critic_mode: Literal["sequence", "batch"] = "sequence"
        """A gradient step for every time step, backwards, as in the release; or one for all of them."""
        target_update_interval: int = 200
        """Gradient steps of the critic between two copies into its target."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        require(controller, PolicyMAC, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        self.critic = build_critic(settings, CounterfactualCritic, spec)
        self.target = Target(self.critic, cfg.target_update_interval)
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("critic", self.critic, lr=cfg.critic_lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:
        """The critic's steps, then one of the policy on the values from before each of them."""
        batch = replay.latest(self.cfg.batch_size)
        self.new_episodes(replay)
        pi = self.controller.behaviour(self.controller.unroll(batch), batch.avail, t_env)
        action = batch.completed(draw(pi.detach(), self.rng))
        inputs = self.critic_inputs(batch, action)
        y = self.critic_target(batch, inputs, action)
        before: dict[int, Tensor] = {}
        metrics = self.descend_each("critic", self.critic_losses(batch, inputs, y, before), self.target)
        q = torch.cat([before[t] for t in sorted(before)], 1)
        metrics |= self.descend("policy", self.policy_loss(batch, pi[:, :-1], q))
        log_pi = masked_log_softmax(pi.detach().clamp(min=1e-10).log(), batch.avail)
        return metrics | {
            "policy_entropy": masked_mean(entropy(log_pi, batch.avail)[:, :-1], batch.mask),
            "target_mean": masked_mean(y, batch.mask),
        }

    def critic_inputs(self, batch: EpisodeBatch, action: Tensor) -> tuple[Tensor, ...]:
        """What the critic reads at every state."""
        joint = one_hot(action, self.spec.n_actions).float()
        return batch.state, batch.obs, joint, last_actions(batch.action, self.spec.n_actions)

    @torch.no_grad()
    def critic_target(self, batch: EpisodeBatch, inputs: tuple[Tensor, ...], action: Tensor) -> Float[Tensor, "b t n"]:
        """y_i: TD(λ) of Q'(s_t, a_t) of every agent."""
        value = taken(self.target(*inputs), action)
        return td_lambda(batch.reward, batch.terminated, batch.mask, value, self.cfg.gamma, self.cfg.td_lambda)

    def critic_losses(
        self, batch: EpisodeBatch, inputs: tuple[Tensor, ...], y: Tensor, before: dict[int, Tensor]
    ) -> Iterator[Float[Tensor, ""]]:
        """(Q(s, a) - y)² of each gradient step's time steps; ``before`` gets the values from before the step."""
        last = y.shape[1]
        steps = [slice(0, last)] if self.cfg.critic_mode == "batch" else [slice(t, t + 1) for t in range(last)][::-1]
        for at in steps:
            q = self.critic(*(x[:, :-1][:, at] for x in inputs))
            before[at.start] = q.detach()
            yield masked_mean((taken(q, batch.action[:, at]) - y[:, at]).square(), batch.mask[:, at])

    def policy_loss(
        self, batch: EpisodeBatch, pi: Float[Tensor, "b t n a"], q: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, ""]:
        """-E[A_i log π̄_i(a_i)], A_i = Q(s, a) - Σ_a π̄_i(a) Q(s, (a, a_-i)) (Eq. 4, 5); mean over agents."""
        advantage = counterfactual_advantage(q, pi, batch.avail[:, :-1], batch.action)
        return masked_mean(-advantage * taken(pi, batch.action).clamp(min=1e-10).log(), batch.mask)
