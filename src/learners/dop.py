"""DOP: decomposed off-policy policy gradients, discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from controllers.policy_mac import PolicyMAC
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics, lambda_returns, require
from memory.replay import Replay
from modules.critics.base import build_critic
from modules.critics.policy import PolicyCritic
from modules.fit import Fit
from modules.target import Target
from rl.masked import draw, entropy, masked_log_softmax, masked_mean, taken
from rl.returns import tree_backup


@LEARNERS.register
class DOP(Learner):
    """Wang et al., "DOP: Off-Policy Multi-Agent Decomposed Policy Gradients", ICLR 2021, the stochastic form.

    Symbols: π_i policy, π̄_i the same with the exploration's floor, Q_tot = Σ_i k_i(s) Q_i(s, a_i) + b(s) the critic,
    κ the share of off-policy data in its loss. The critic learns from the newest episodes by TD(λ) and from the whole
    replay by the decomposed multi-agent tree backup; the policies learn from the newest episodes.

    Differences (algorithms.md section 3 and A1 to A5, A10): b(s) is there, as in the paper's equations and not in the
    release; κ is explicit, where the release lets the batches' sizes decide (``kappa: null``); the critic learns
    before the policies, as in the release; targets and gradients use π̄, which acts; the true newest episodes are
    taken (T-21); the action of an episode's last state, which nobody took, is drawn from π̄.
    """

    acts: type[Controller] = PolicyMAC
    """The way of acting that it improves."""
    criticises: type = PolicyCritic
    """What it needs of its critic."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Learner.Config):
        """Keys of DOP."""

        critic: str = "decomposed"
        """The form of Q_tot; ``joint`` is the regular critic of appendix G."""
        mixer: str | None = "dop"
        """How a decomposed critic mixes; null for the joint one."""
        critic_lr: float = 1e-4
        """Learning rate of critic and mixer."""
        on_policy_size: int = 32
        """Newest episodes that count as on-policy."""
        on_policy_batch: int = 16
        """Of them, episodes per update."""
        kappa: float | None = 0.5
        """Share of the off-policy loss; null: every step of both batches counts the same."""
        td_lambda: float = 0.8
        """λ of the on-policy targets."""
        tb_lambda: float = 0.93
        """λ of the tree backup."""
        tb_steps: int = 5
        """Its length k."""
        critic_mode: Literal["sequence", "batch"] = "sequence"
        """A gradient step for every time step, forwards, as in the release; or one for all of them."""
        entropy_coef: float = 0.0
        """Weight of the entropy of π in the policies' loss; the paper has none."""
        target_update_interval: int = 600
        """Gradient steps of the critic between two copies into its target."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        require(controller, self.acts, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        self.critic = build_critic(settings, self.criticises, self.observed(spec), settings.build("mixer", spec))
        self.target = Target(self.critic, cfg.target_update_interval)
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("critic", self.critic, lr=cfg.critic_lr)

    def observed(self, spec: EnvSpec) -> EnvSpec:
        """The sizes of what ``read`` returns."""
        return spec

    def read(self, batch: EpisodeBatch) -> EpisodeBatch:
        """Episodes from the replay as targets and losses need them; here, as they are."""
        return batch

    def ready(self, replay: Replay) -> bool:
        """Whether both sources of data have a batch."""
        return super().ready(replay) and len(replay) >= self.cfg.on_policy_batch

    def update(self, replay: Replay, t_env: int) -> Metrics:
        """The critic's steps on both sources of data, then one of the policies on the newest episodes."""
        cfg = self.cfg
        on = self.read(replay.uniform(cfg.on_policy_batch, newest=cfg.on_policy_size)).packed()
        off = self.read(replay.uniform(cfg.batch_size)).packed()
        y_on, y_off = self.on_policy_target(on, t_env), self.off_policy_target(off, t_env)
        fit = Fit.of(on, y_on, off, y_off)
        losses = (self.critic_loss(fit, rows) for rows in fit.steps(cfg.critic_mode))
        metrics = self.descend_each("critic", losses, self.target)
        metrics |= self.learn_policy(self.read(replay.latest(cfg.on_policy_batch)).packed(), t_env)
        return metrics | {"target_on_mean": masked_mean(y_on, on.mask), "target_off_mean": masked_mean(y_off, off.mask)}

    def learn_policy(self, batch: EpisodeBatch, t_env: int) -> Metrics:
        """One step of the policies."""
        return self.descend("policy", self.policy_loss(batch, t_env))

    @torch.no_grad()
    def pi(self, batch: EpisodeBatch, t_env: int) -> Float[Tensor, "b states n a"]:
        """π̄ at every state."""
        return self.controller.behaviour(self.controller.unroll(batch), batch.avail, t_env)

    @torch.no_grad()
    def on_policy_target(self, batch: EpisodeBatch, t_env: int) -> Float[Tensor, "b t"]:
        """y^On: TD(λ) of Q'_tot(s_t, a_t)."""
        drawn = draw(self.pi(batch, t_env), batch.uniforms(self.rng))
        value = self.target.slow.q_tot(batch.state, batch.obs, batch.completed(drawn))
        return lambda_returns(batch, value, self.cfg.gamma, self.cfg.td_lambda)

    @torch.no_grad()
    def off_policy_target(self, batch: EpisodeBatch, t_env: int) -> Float[Tensor, "b t"]:
        """y^TB: the decomposed multi-agent tree backup of Q'_tot with the current policies (Eq. 8, 9)."""
        pi, cfg = self.pi(batch, t_env), self.cfg
        action = batch.completed(pi.new_zeros(pi.shape[:3], dtype=torch.long))  # the last state's is not read
        q, expected = self.target.slow.both(batch.state, batch.obs, action, pi, batch.samples(self.rng))

        def backed_up(whole: EpisodeBatch, x: Tensor) -> Tensor:
            q, joint = x[:, :-1, 0], x[:, :-1, 1]
            returns = whole.reward, whole.terminated, whole.mask, q, x[..., 2], joint
            return tree_backup(*returns, cfg.gamma, cfg.tb_lambda, cfg.tb_steps)

        return batch.over_time(backed_up, torch.stack([q, taken(pi, action).prod(-1), expected], -1))

    def critic_loss(self, fit: Fit, rows: slice) -> Float[Tensor, ""]:
        """κ E_off[(Q_tot - y^TB)²] + (1-κ) E_on[(Q_tot - y^On)²] (Eq. 7) over some of the steps."""
        q_tot = self.critic.q_tot(fit.state[rows], fit.obs[rows], fit.action[rows])
        error, off = (q_tot - fit.y[rows]).square(), fit.off[rows]
        if self.cfg.kappa is None:
            return error.mean()
        return self.cfg.kappa * masked_mean(error, off) + (1 - self.cfg.kappa) * masked_mean(error, 1 - off)

    def logits(self, batch: EpisodeBatch) -> Float[Tensor, "b states n a"]:
        """The policies' logits at every state, with gradient."""
        return self.controller.unroll(batch)

    def policy_loss(self, batch: EpisodeBatch, t_env: int) -> Float[Tensor, ""]:
        """-E[Σ_i k_i(s) A_i log π̄_i(a_i)] (Eq. 10), A_i local advantages of the current critic; mean over agents."""
        avail, logits = batch.steps(batch.avail), batch.steps(self.logits(batch))
        pi = self.controller.behaviour(logits, avail, t_env)
        with torch.no_grad():
            inputs = batch.steps(batch.state), batch.steps(batch.obs), batch.action, pi, avail
            advantage = self.critic.advantage(*inputs, batch.samples(self.rng))
        gain = advantage * taken(pi, batch.action).clamp(min=1e-10).log()
        if self.cfg.entropy_coef:
            gain = gain + self.cfg.entropy_coef * entropy(masked_log_softmax(logits, avail), avail)
        return masked_mean(-gain, batch.mask)
