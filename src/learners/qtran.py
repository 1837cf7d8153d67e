"""QTRAN-base: a joint action-value of any shape, and a sum of utilities with the same best joint action."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from controllers.base import Controller, encode_agent
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics
from learners.value import ValueConfig, require_values
from memory.replay import Replay
from modules.critics.base import JointHistoryCritic, build_critic
from modules.target import Target
from rl.exploration import greedy
from rl.masked import masked_mean, taken


@LEARNERS.register
class QTRAN(Learner):
    """Son et al., "QTRAN: Learning to Factorize with Transformation for Cooperative MARL", ICML 2019 (QTRAN-base).

    Symbols: Q_i(τ_i, ·) utilities, on which the agents act; ū_i = argmax Q_i; Q_jt(s, τ, u) joint value and V_jt(s)
    state value of the critic, which reads the agents' features h_i; Q' slow copies. Theorem 1: ū maximises Q_jt if
    Σ_i Q_i - Q_jt + V_jt is 0 at ū (4a) and at least 0 elsewhere (4b).

    Differences from the paper, all as in PyMARL's release: targets are double-Q; Q_jt in L_opt and L_nopt is the
    online one; V_jt and Q_jt read the state. Difference from that release: masks and time limits (algorithms.md T-01).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ValueConfig):
        """Keys of QTRAN."""

        critic: str = "qtran"
        """The network of Q_jt and V_jt."""
        double_q: bool = True
        """The online network chooses the target's actions."""
        opt_loss: float = 1.0
        """λ_opt: weight of L_opt."""
        nopt_min_loss: float = 0.1
        """λ_nopt: weight of L_nopt."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        require_values(controller, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        self.critic = build_critic(settings, JointHistoryCritic, spec, controller.agent.hidden_dim)
        self.target: Target[Any] = Target(nn.ModuleList([controller, self.critic]), cfg.target_update_interval)
        self.optimise("q", controller, self.critic, lr=cfg.lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed in the losses
        """One gradient step on L_td + λ_opt L_opt + λ_nopt L_nopt."""
        losses = self.losses(self.draw(replay))
        total = losses["td_loss"] + self.cfg.opt_loss * losses["opt_loss"]
        total = total + self.cfg.nopt_min_loss * losses["nopt_loss"]
        metrics = self.descend("q", total) | {name: loss.detach() for name, loss in losses.items()}
        self.target.step(self.new_episodes(replay))
        return metrics

    def losses(self, batch: EpisodeBatch) -> Metrics:
        """The three losses by name, from one evaluation of every network."""
        h = encode_agent(self.controller.agent, batch, self.spec.n_actions)
        q = self.controller.agent.head(h)
        best = greedy(q.detach(), batch.avail)
        h_now, best_now, q_now = batch.steps(h), batch.steps(best), batch.steps(q)
        q_jt = self.joint(self.critic, h_now, batch, batch.action)
        with torch.no_grad():
            q_jt_best = self.joint(self.critic, h_now, batch, best_now)
        v = self.critic.value(batch.steps(batch.state))
        return {
            "td_loss": self.td_loss(batch, q_jt, self.targets(batch, best)),
            "opt_loss": self.opt_loss(batch, taken(q_now, best_now), q_jt_best, v),
            "nopt_loss": self.nopt_loss(batch, taken(q_now, batch.action), q_jt.detach(), v),
        }

    @staticmethod
    def joint(
        critic: JointHistoryCritic, h: Float[Tensor, "b t n h"], batch: EpisodeBatch, action: Int[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]:
        """Q_jt(s, τ, u) at the first t states."""
        return critic(h, batch.state[:, : h.shape[1]], one_hot(action.long(), batch.avail.shape[-1]).float())

    @torch.no_grad()
    def targets(self, batch: EpisodeBatch, best: Int[Tensor, "b states n"]) -> Float[Tensor, "b t"]:
        """y = r + γ Q'_jt(s', τ', ū'); ū' is ``best``, the online choice, or the slow one without double Q."""
        slow_controller, slow_critic = self.target.slow
        h = encode_agent(slow_controller.agent, batch, self.spec.n_actions)
        if not self.cfg.double_q:
            best = greedy(slow_controller.agent.head(h), batch.avail)
        return self.cfg.returns(batch, self.joint(slow_critic, h, batch, best))

    @staticmethod
    def td_loss(batch: EpisodeBatch, q_jt: Float[Tensor, "b t"], y: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
        """L_td = (Q_jt(s, τ, u) - y)². It also trains the agents, through their features."""
        return masked_mean((q_jt - y).square(), batch.mask)

    @staticmethod
    def opt_loss(
        batch: EpisodeBatch, q: Float[Tensor, "b t n"], q_jt: Float[Tensor, "b t"], v: Float[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """L_opt = (Σ_i Q_i(τ_i, ū_i) - Q_jt(s, τ, ū) + V_jt(s))², condition 4a; Q_jt is constant."""
        return masked_mean((q.sum(-1) - q_jt + v).square(), batch.mask)

    @staticmethod
    def nopt_loss(
        batch: EpisodeBatch, q: Float[Tensor, "b t n"], q_jt: Float[Tensor, "b t"], v: Float[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """L_nopt = min(Σ_i Q_i(τ_i, u_i) - Q_jt(s, τ, u) + V_jt(s), 0)², condition 4b; Q_jt is constant."""
        return masked_mean((q.sum(-1) - q_jt + v).clamp(max=0).square(), batch.mask)
