"""FOP for continuous actions: factorised soft policies that learn through their draws."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from controllers.base import Controller
from controllers.squashed_mac import SquashedMAC
from core.config import ConfigError, Settings
from core.registry import LEARNERS
from core.specs import ActionSpec, EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.soft import SoftConfig
from learners.transitions import TransitionLearner
from memory.replay import Replay
from modules.critics.action import LocalCritic
from modules.critics.base import build_critic
from modules.mixers.base import Mixer
from modules.target import Target
from rl.masked import masked_mean


class SoftActionCritic(nn.Module):
    """Q_i(o_i, u_i) and V_i(o_i) of all agents, and the mixer that makes Q_jt of them."""

    q: LocalCritic
    mixer: Mixer
    v: LocalCritic
    """Of no action; only where the mixer reads V_i."""

    def __init__(self, spec: EnvSpec, settings: Settings) -> None:
        super().__init__()
        self.q = build_critic(settings, LocalCritic, spec)
        self.mixer = settings.build("mixer", spec)
        if self.mixer.reads_joint:
            self.v = build_critic(settings, LocalCritic, replace(spec, actions=(ActionSpec(0),) * spec.n_agents))

    def local(self, batch: EpisodeBatch, action: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n"]:
        """Q_i(o_i, u_i) at the first t states."""
        return self.q(batch.state[:, : action.shape[1]], batch.obs[:, : action.shape[1]], action)

    def value(self, batch: EpisodeBatch, steps: int) -> Float[Tensor, "b t n"]:
        """V_i(o_i) at the first ``steps`` states."""
        obs = batch.obs[:, :steps]
        return self.v(batch.state[:, :steps], obs, obs[..., :0])

    def joint(
        self, batch: EpisodeBatch, action: Float[Tensor, "b t n a"]
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Q_jt(τ, u) = Σ_i λ_i(τ, u) [Q_i - V_i] + V_jt at the first t states, and the mixer's regulariser.

        Mixers without advantages read no V_i.
        """
        q, steps = self.local(batch, action), action.shape[1]
        v = self.value(batch, steps) if self.mixer.reads_joint else q
        return self.mixer.joint(q, v, batch.state[:, :steps], action, batch.obs[:, :steps])


@LEARNERS.register
class FOPContinuous(TransitionLearner):
    """Zhang et al., "FOP: Factorizing Optimal Joint Policy of Maximum-Entropy MARL", ICML 2021, actions in a box.

    Symbols as in ``FOP``. π_i is a squashed normal distribution; V_i is a network, for lack of a closed form.

    No released code has this form. Differences from the paper (algorithms.md section 7): the anchored mixer of the
    discrete release (T-25), whose λ has a hidden layer (T-26); α_i = α; one V_i for each of the two critics.
    """

    controller: SquashedMAC

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftConfig, TransitionLearner.Config):
        """Keys of continuous FOP."""

        mixer: str = "fop"
        """The factorisation; ``fop`` is the paper's, ``dop`` its linear ablation."""
        critic: str = "local"
        """The networks of Q_i and V_i."""
        action_samples: int = 1
        """Actions drawn per state for every expectation over the policies."""

        def __post_init__(self) -> None:
            """Raises ValueError for expectations over nothing."""
            super().__post_init__()
            if self.action_samples < 1:
                raise ValueError(f"action_samples must be at least 1, not {self.action_samples}")

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        if not isinstance(controller, SquashedMAC):
            raise ConfigError([f"mac '{settings['mac']}' has no density in the box: choose squashed_mac"])
        self.refuse_memory()
        critics = [SoftActionCritic(spec, settings) for _ in range(2)]
        self.critics = nn.ModuleList(critics)
        self.target = Target(self.critics, cfg.target_update_interval)
        self.learns_values = critics[0].mixer.reads_joint
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("critic", *(c.q for c in critics), *(c.mixer for c in critics), lr=cfg.critic_lr)
        if self.learns_values:
            self.optimise("value", *(c.v for c in critics), lr=cfg.critic_lr)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """Policies are improved through their actions' gradients; the mixer makes one value for the team."""
        if any(action.discrete for action in spec.actions):
            return "it needs actions in a box; for discrete ones there is learner=fop"
        return None if spec.reward == "team" else "it needs one team reward"

    def update(self, replay: Replay, t_env: int) -> Metrics:
        """One step of the critics, one of the V_i, one of the policies."""
        batch, alpha = self.draw(replay).repeated(self.cfg.action_samples), self.cfg.alpha(t_env, replay.added)
        action, log_pi = self.controller.squashed(self.controller.unroll(batch)).rsample(self.rng)
        y = self.critic_target(batch, action.detach(), log_pi.detach(), alpha)
        metrics = self.descend("critic", self.critic_loss(batch, y))
        action, log_pi = action[:, :-1], log_pi[:, :-1]
        q = [critic.local(batch, action) for critic in self.critics]
        if self.learns_values:
            metrics |= self.descend("value", self.value_loss(batch, q, log_pi, alpha))
        metrics |= self.descend("policy", self.policy_loss(batch, q, log_pi, alpha))
        self.target.step(self.new_episodes(replay))
        return metrics | {
            "alpha": torch.tensor(alpha),
            "policy_entropy": masked_mean(-log_pi.detach(), batch.mask),
            "target_mean": masked_mean(y, batch.mask),
        }

    @torch.no_grad()
    def critic_target(
        self,
        batch: EpisodeBatch,
        action: Float[Tensor, "b states n a"],
        log_pi: Float[Tensor, "b states n"],
        alpha: float,
    ) -> Float[Tensor, "b t"]:
        """y = r + γ [min_m Q_jt^m(s', u') - α Σ_i log π_i(u'_i)] of u' ~ π (algorithms.md 7), as TD(λ)."""
        q_jt = [slow.joint(batch, action)[0] for slow in self.target.slow]
        return self.cfg.soft_target(batch, torch.minimum(*q_jt), log_pi, alpha)

    def critic_loss(self, batch: EpisodeBatch, y: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
        """Σ_m (Q_jt^m(s, u) - y)² of the actions taken (algorithms.md 6.4), plus the mixers' regularisers."""
        both = [critic.joint(batch, batch.action) for critic in self.critics]
        return masked_mean(sum((q_jt - y).square() + regulariser for q_jt, regulariser in both), batch.mask)

    def value_loss(
        self, batch: EpisodeBatch, q: list[Float[Tensor, "b t n"]], log_pi: Float[Tensor, "b t n"], alpha: float
    ) -> Float[Tensor, ""]:
        """Σ_m (V_i^m - E_π[Q_i^m(u_i) - α log π_i(u_i)])² (the paper's equation 10), of V_i only; mean over agents."""
        soft = [(q_i - alpha * log_pi).detach() for q_i in q]
        errors = [critic.value(batch, x.shape[1]) - x for critic, x in zip(self.critics, soft, strict=True)]
        return masked_mean(sum(error.square() for error in errors), batch.mask)

    @staticmethod
    def policy_loss(
        batch: EpisodeBatch, q: list[Float[Tensor, "b t n"]], log_pi: Float[Tensor, "b t n"], alpha: float
    ) -> Float[Tensor, ""]:
        """E[α log π_i(u_i) - min_m Q_i^m(u_i)] (algorithms.md 7) through u_i, mean over agents; critics stay put."""
        return masked_mean(alpha * log_pi - torch.minimum(*q), batch.mask)
