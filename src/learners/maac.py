"""MAAC: multi-actor attention-critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.peers import PeerConfig, PeerLearner
from memory.replay import Replay
from modules.critics.peers import OwnActionCritic
from rl.distributions import Categorical
from rl.masked import masked_mean, taken
from rl.policy_gradient import counterfactual_advantage


@LEARNERS.register
class MAAC(PeerLearner):
    r"""Iqbal & Sha, "Actor-Attention-Critic for Multi-Agent Reinforcement Learning", ICML 2019.

    .. math::
        L_Q = \sum_i E_D[(Q_i(o, a) - y_i)^2], \qquad
        y_i = r_i + \gamma\,(Q_i'(o', a') - \alpha\log\pi_i'(a_i')), \qquad a' \sim \pi' \\
        \nabla J_i = E[\nabla\log\pi_i(a_i)\,(Q_i - B_i - \alpha\log\pi_i(a_i))], \qquad a \sim \pi

    with B_i the mean of Q_i over agent i's own actions. One critic with attention learns for all agents together.

    Differences from the release: the entropy is discounted and absent after true ends (T-52); the gradients of shared
    parameters are not divided by N, which Adam does not notice; no batch normalisation, see ``AttentionCritic``.
    """

    kind = OwnActionCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig):
        """Keys of MAAC."""

        critic: str = "attention"
        """The critic with a value for every agent."""
        alpha: float = 0.01
        """α: the temperature, one over the release's reward scale."""
        critic_grad_norm_clip: float = 10.0
        """Largest norm of the critic's gradient, per agent."""
        critic_weight_decay: float = 1e-3
        """Weight of the critic's squared parameters in its gradient."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics=1)
        self.optimise("critic", self.critics, lr=cfg.critic_lr, weight_decay=cfg.critic_weight_decay)

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed
        """A step of the critic, one of every policy with the critic that follows from it, and of the slow copies."""
        batch = self.draw(replay)
        loss, metrics = self.critic_loss(batch)
        metrics |= self.descend("critic", loss, self.cfg.critic_grad_norm_clip * self.spec.n_agents)
        pi = self.now(batch)
        metrics |= self.descend_stacked("policy", self.policy_loss(batch, pi))
        self.target.step()
        return metrics | {"policy_entropy": masked_mean(pi.entropy().detach(), batch.mask)}

    def critic_loss(self, batch: EpisodeBatch) -> tuple[Float[Tensor, ""], Metrics]:
        """Σ_i (Q_i - y_i)² at the actions taken, and the attention's regulariser."""
        y = self.targets(batch)
        worth = self.critics[0](batch.obs[:, :-1], self.vectors(batch.action).unsqueeze(2))
        losses = (taken(worth.q, batch.action) - y).square()
        losses = losses if worth.cost is None else losses + worth.cost
        return self.total(losses, batch.mask), {"target_mean": masked_mean(y, batch.mask)}

    @torch.no_grad()
    def targets(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """y_i."""
        pi = self.slow_policy(batch)
        drawn = pi.sample(self.rng)
        q = taken(self.target.slow[1][0](batch.obs[:, 1:], self.vectors(drawn).unsqueeze(2)).q, drawn)
        return self.bootstrapped(batch, q - self.cfg.alpha * pi.log_prob(drawn))

    def policy_loss(self, batch: EpisodeBatch, pi: Categorical) -> Float[Tensor, ""]:
        """-log π_i(a_i) (Q_i - B_i - α log π_i(a_i)) for actions that all policies draw now, and mean z²."""
        drawn, log_pi = pi.sample(self.rng), pi.log_pi.detach()
        with torch.no_grad():
            q = self.critics[0](batch.obs[:, :-1], self.vectors(drawn).unsqueeze(2)).q
        advantage = counterfactual_advantage(q, log_pi.exp(), pi.avail, drawn)
        weight = advantage - self.cfg.alpha * taken(log_pi, drawn)
        losses = self.cfg.regulariser * pi.size() - weight * pi.log_prob(drawn)
        return self.total(losses, batch.mask)
