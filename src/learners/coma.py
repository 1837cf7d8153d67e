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
from core.specs import EnvSpec, EpisodeBatch, States
from learners.base import Learner, Metrics, lambda_returns, require
from memory.replay import Replay
from modules.critics.base import build_critic
from modules.critics.policy import CounterfactualCritic
from modules.layers import last_of
from modules.target import Target
from rl.masked import draw, entropy, masked_log_softmax, masked_mean, taken
from rl.policy_gradient import counterfactual_advantage


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
        batch = replay.latest(self.cfg.batch_size).packed()
        self.new_episodes(replay)
        pi = self.controller.behaviour(self.controller.unroll(batch), batch.avail, t_env)
        action = batch.completed(draw(pi.detach(), batch.uniforms(self.rng)))
        inputs = self.critic_inputs(batch, action)
        y = self.critic_target(batch, inputs, action)
        q = torch.zeros_like(pi)
        metrics = self.descend_each("critic", self.critic_losses(batch, inputs, y, q), self.target)
        metrics |= self.descend("policy", self.policy_loss(batch, pi, q))
        log_pi = masked_log_softmax(pi.detach().clamp(min=1e-10).log(), batch.avail)
        return metrics | {
            "policy_entropy": masked_mean(entropy(log_pi, batch.avail), batch.mask),
            "target_mean": masked_mean(y, batch.mask),
        }

    def critic_inputs(self, batch: EpisodeBatch, action: Tensor) -> tuple[Tensor, ...]:
        """What the critic reads at every state."""
        joint = one_hot(action, self.spec.n_actions).float()
        return batch.state, batch.obs, joint, last_of(batch, self.spec.n_actions)

    @torch.no_grad()
    def critic_target(self, batch: EpisodeBatch, inputs: tuple[Tensor, ...], action: Tensor) -> Float[Tensor, "b t n"]:
        """y_i: TD(λ) of Q'(s_t, a_t) of every agent."""
        value = taken(self.target(*inputs), action)
        return lambda_returns(batch, value, self.cfg.gamma, self.cfg.td_lambda)

    def critic_losses(
        self, batch: States, inputs: tuple[Tensor, ...], y: Tensor, before: Tensor
    ) -> Iterator[Float[Tensor, ""]]:
        """(Q(s, a) - y)² of each gradient step's time steps; ``before`` gets the values from before the step."""
        steps = [slice(None)] if self.cfg.critic_mode == "batch" else batch.acting()[::-1]
        for rows in steps:
            q = self.critic(*(x[rows] for x in inputs))
            before[rows] = q.detach()
            yield masked_mean((taken(q, batch.action[rows]) - y[rows]).square(), batch.mask[rows])

    def policy_loss(
        self, batch: EpisodeBatch, pi: Float[Tensor, "b t n a"], q: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, ""]:
        """-E[A_i log π̄_i(a_i)], A_i = Q(s, a) - Σ_a π̄_i(a) Q(s, (a, a_-i)) (Eq. 4, 5); mean over agents."""
        advantage = counterfactual_advantage(q, pi, batch.steps(batch.avail), batch.action)
        return masked_mean(-advantage * taken(pi, batch.action).clamp(min=1e-10).log(), batch.mask)
