"""FOP: factorised soft policy iteration, discrete actions."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from controllers.base import Controller, unroll_agents
from core.config import Settings
from core.registry import LEARNERS
from core.schedule import Scalar
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics
from learners.soft import SoftConfig, policy_improvement
from memory.replay import Replay
from modules.mixers.base import mix_locals
from modules.target import Target
from rl.masked import entropy, masked_log_softmax, masked_mean, sample, taken
from rl.soft import soft_value


class SoftCritic(nn.Module):
    """Local soft values Q_i(τ_i, ·) of all agents, and the mixer that makes Q_jt of them."""

    def __init__(self, spec: EnvSpec, settings: Settings) -> None:
        super().__init__()
        self.agent = settings.build("agent", spec)
        self.mixer = settings.build("mixer", spec)

    def joint(
        self, batch: EpisodeBatch, q: Float[Tensor, "b t n a"], action: Int[Tensor, "b t n"], alpha: Scalar
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Q_jt(τ, u) = Σ_i λ_i(τ, u) [Q_i - V_i] + V_jt at the first t states, and the mixer's regulariser."""
        return mix_locals(self.mixer, batch, q, action, partial(soft_value, alpha=alpha))


@LEARNERS.register
class FOP(Learner):
    """Zhang et al., "FOP: Factorizing Optimal Joint Policy of Maximum-Entropy MARL", ICML 2021.

    Symbols: π_i policy, Q_i and V_i local soft values, λ_i positive weights, α temperature; two critics, whose
    minimum is used.

    Differences from the released code (algorithms.md section 6): the entropy of the next action stands inside γ, is
    summed over agents unless ``entropy_reduction`` says mean, and is absent after terminal steps (T-27); V_i ignores
    unavailable actions (T-11); critics learn before the policy; α is annealed over the time that is said (T-19).
    Every network is evaluated once per update, so the policy improves on the critics from before their step.
    """

    batches_seeds = True

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftConfig):
        """Keys of FOP."""

        mixer: str = "fop"
        """The factorisation; ``fop`` is the paper's."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        self.critics = nn.ModuleList([SoftCritic(spec, settings) for _ in range(2)])
        self.target = Target(self.critics, cfg.target_update_interval)
        self.optimise("policy", controller, lr=cfg.lr)
        for m, critic in enumerate(self.critics):
            self.optimise(f"critic{m}", critic, lr=cfg.critic_lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:
        """One step of each critic and one of the policy."""
        batch, alpha = self.draw(replay), self.cfg.alpha(t_env, replay.added)
        logits, *q = self.controller.unroll_beside([critic.agent for critic in self.critics], batch)
        log_pi = masked_log_softmax(logits, batch.avail)
        y = self.critic_target(batch, log_pi.detach(), alpha)
        q_min = torch.minimum(*q).detach()
        losses = {f"critic{m}": self.critic_loss(m, batch, q[m], y, alpha) for m in range(2)}
        metrics = self.descend_together(losses | {"policy": policy_improvement(batch, log_pi, q_min, alpha)})
        self.target.step(self.new_episodes(replay))
        return metrics | {
            "alpha": torch.as_tensor(alpha),
            "policy_entropy": masked_mean(batch.steps(entropy(log_pi.detach(), batch.avail)), batch.mask),
            "target_mean": masked_mean(y, batch.mask),
        }

    @torch.no_grad()
    def critic_target(
        self, batch: EpisodeBatch, log_pi: Float[Tensor, "b states n a"], alpha: Scalar
    ) -> Float[Tensor, "b t"]:
        """y = r + γ [min_m Q_jt^m(s', u') - α Σ_i log π_i(u'_i)], u' ~ π (algorithms.md 6.4), as TD(λ)."""
        action = sample(log_pi, batch.uniforms(self.rng))
        slow = self.target.slow
        q = unroll_agents([critic.agent for critic in slow], batch, self.spec.n_actions)
        q_jt = [critic.joint(batch, local, action, alpha)[0] for critic, local in zip(slow, q, strict=True)]
        return self.cfg.soft_target(batch, torch.minimum(*q_jt), taken(log_pi, action), alpha)

    def critic_loss(
        self, m: int, batch: EpisodeBatch, q: Float[Tensor, "b states n a"], y: Float[Tensor, "b t"], alpha: Scalar
    ) -> Float[Tensor, ""]:
        """(Q_jt^m(s, u) - y)² of the actions taken (algorithms.md 6.4), plus the attention's regulariser."""
        q_jt, regulariser = self.critics[m].joint(batch, batch.steps(q), batch.action, alpha)
        return masked_mean((q_jt - y).square() + regulariser, batch.mask)
