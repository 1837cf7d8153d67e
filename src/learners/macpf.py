"""MACPF: multi-agent conditional policy factorisation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from controllers.base import Controller, encode_agent, encode_agents
from controllers.conditional_mac import ConditionalMAC
from core.config import ConfigError, Settings
from core.registry import LEARNERS
from core.schedule import Scalar
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics
from learners.soft import SoftConfig, policy_improvement
from memory.replay import Replay
from modules.agents.conditional import ConditionalHead
from modules.layers import StateValue
from modules.mixers.base import Mixing, mix_locals
from modules.target import Target
from rl.masked import entropy, masked_log_softmax, masked_mean, sample, taken
from rl.soft import soft_value


class SoftCritics(nn.Module):
    """Q_i^ind(τ_i, ·), Q_i^dep(τ_i, a_{<i}, ·) = sg[Q_i^ind] + c_i, and the one mixer Θ of both."""

    def __init__(self, spec: EnvSpec, settings: Settings, modes: tuple[str, ...], form: str) -> None:
        super().__init__()
        self.head = ConditionalHead(spec, settings.build("agent", spec), "dep" in modes)
        self.mixer = settings.build("mixer", spec)
        self.n_actions = spec.n_actions
        self.v_jt = nn.ModuleDict({m: StateValue(spec.state_dim) for m in modes}) if form == "adv" else None

    def encode(self, batch: EpisodeBatch) -> Float[Tensor, "b states n h"]:
        """The features of every history, from an empty memory."""
        return encode_agent(self.head, batch, self.n_actions)

    def mixing(self, batch: EpisodeBatch) -> Mixing:
        """Θ at the batch's states, for both modes."""
        return self.mixer.given(batch.state)

    def local(
        self, mode: str, batch: EpisodeBatch, h: Float[Tensor, "b states n h"], action: Int[Tensor, "b t n"]
    ) -> Float[Tensor, "b t n a"]:
        """Q_i^ind, or Q_i^dep given the earlier agents' part of ``action``, at the first t states."""
        return local_values(self.head, mode, batch, h[:, : action.shape[1]], action)

    def joint(
        self,
        mode: str,
        batch: EpisodeBatch,
        q: Float[Tensor, "b t n a"],
        action: Int[Tensor, "b t n"],
        alpha: Scalar,
        mix: Mixing | None = None,
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """Θ([Q_i]) (the release), or Θ([Q_i - V_i]) + V_jt (Eq. 6), at the first t states, and Θ's regulariser."""
        if self.v_jt is None:
            return mix_locals(self.mixer, batch, q, action, partial(soft_value, alpha=alpha), mix)
        steps = action.shape[1]
        advantage = q - soft_value(q, batch.avail[:, :steps], alpha).unsqueeze(-1)
        none = torch.zeros_like(advantage[..., 0])
        q_jt, regulariser = mix_locals(self.mixer, batch, advantage, action, lambda *_: none, mix)
        return q_jt + self.v_jt[mode](batch.state[:, :steps]), regulariser


def local_values(
    head: ConditionalHead, mode: str, batch: EpisodeBatch, h: Float[Tensor, "b t n h"], action: Int[Tensor, "b t n"]
) -> Float[Tensor, "b t n a"]:
    """The independent output, or the one given earlier, visible agents' actions (Eq. 10, which means logits)."""
    if mode == "ind":
        return head.independent(h)
    visible = batch.extras.get("visible")
    return head.dependent(h, action, None if visible is None else visible[:, : h.shape[1]])


@LEARNERS.register
class MACPF(Learner):
    """Wang, Ye & Lu, "More Centralized Training, Still Decentralized Execution", ICLR 2023.

    Symbols: π_i^ind(a_i|τ_i) is executed; π_i^dep(a_i|τ_i, a_{<i}) = softmax(sg[z_i^ind] + b_i) explores;
    Q_i^dep = sg[Q_i^ind] + c_i; Θ mixes either into Q_jt; α temperature. Mode ``dep`` teaches the corrections b and c,
    mode ``ind`` all the rest, from the same replay.

    Differences from the released code (algorithms.md section 8): one mixer, as its second one is dead; the temperature
    is a schedule (T-32); no ε beside sampling (T-31); corrections do not train the trunk (T-29) and read the actions of
    earlier, visible agents only (T-30); entropies are discounted and accumulated (T-27). Every network
    is evaluated once per update; the losses of both modes share no parameter but Θ's and are descended together.
    """

    batches_seeds = True

    @dataclass(frozen=True, kw_only=True)
    class Config(SoftConfig):
        """Keys of MACPF."""

        mixer: str = "linear"
        """Θ: ``linear``, or the ablations ``qmix`` (macpf_nonlinear) and ``fop`` (macpf_attention)."""
        mixer_form: Literal["ref", "adv"] = "ref"
        """What Θ mixes: Q_i (the release), or Q_i - V_i beside a value of the state (the paper's Eq. 6; T-35)."""

    controller: ConditionalMAC

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        if not isinstance(controller, ConditionalMAC):
            raise ConfigError([f"'mac' is '{settings['mac']}', but macpf needs a pair of policies: conditional_mac"])
        super().__init__(spec, controller, cfg, settings, rng)
        self.modes = ("ind", "dep") if controller.cfg.dependent else ("ind",)
        self.critics = SoftCritics(spec, settings, self.modes, cfg.mixer_form)
        self.target = Target(self.critics, cfg.target_update_interval)
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("critic", self.critics, lr=cfg.critic_lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:
        """One step of the critics and one of the policies, independent and dependent ones together."""
        batch, alpha = self.draw(replay), self.cfg.alpha(t_env, replay.added)
        h_pi, h_q = encode_agents([self.controller.agent.agent, self.critics.head.agent], batch, self.spec.n_actions)
        h_slow = self.target.slow.encode(batch)
        mix, slow_mix = self.critics.mixing(batch), self.target.slow.mixing(batch)
        metrics: Metrics = {"alpha": torch.as_tensor(alpha)}
        critic_losses, policy_losses = [], []
        for mode in self.modes:
            action, log_pi = self.decide(mode, batch, h_pi)
            y = self.critic_target(mode, batch, h_slow, action, taken(log_pi, action).detach(), alpha, slow_mix)
            critic_losses.append(self.critic_loss(mode, batch, h_q, y, alpha, mix))
            policy_losses.append(self.policy_loss(mode, batch, h_q, action, log_pi, alpha))
            spread = entropy(log_pi.detach(), batch.avail)
            metrics[f"{mode}_policy_entropy"] = masked_mean(batch.steps(spread), batch.mask)
            metrics[f"{mode}_target_mean"] = masked_mean(y, batch.mask)
        losses = {"critic": torch.stack(critic_losses).sum(), "policy": torch.stack(policy_losses).sum()}
        metrics |= self.descend_together(losses)
        self.target.step(self.new_episodes(replay))
        return metrics

    def decide(
        self, mode: str, batch: EpisodeBatch, h: Float[Tensor, "b states n h"]
    ) -> tuple[Int[Tensor, "b states n"], Float[Tensor, "b states n a"]]:
        """A joint action u' ~ π^mode at every state, and log π_i^mode(· | τ_i[, u'_{<i}]) with gradient (Eq. 10)."""
        if mode == "ind":
            log_pi = masked_log_softmax(self.controller.agent.independent(h), batch.avail)
            return sample(log_pi.detach(), batch.uniforms(self.rng)), log_pi
        visible = batch.extras.get("visible")
        action = self.controller.decide_in_turn(h, batch.avail, visible, batch.uniforms(self.rng))
        return action, masked_log_softmax(local_values(self.controller.agent, mode, batch, h, action), batch.avail)

    @torch.no_grad()
    def critic_target(
        self,
        mode: str,
        batch: EpisodeBatch,
        h: Float[Tensor, "b states n h"],
        action: Int[Tensor, "b states n"],
        log_prob: Float[Tensor, "b states n"],
        alpha: Scalar,
        mix: Mixing | None = None,
    ) -> Float[Tensor, "b t"]:
        """TD(λ) of r + γ [Q_jt(s', u') - α Σ_i log π_i(u'_i)] of target critics, u' ~ π^mode (algorithms.md 8.2)."""
        q = self.target.slow.local(mode, batch, h, action)
        q_jt, _ = self.target.slow.joint(mode, batch, q, action, alpha, mix)
        return self.cfg.soft_target(batch, q_jt, log_prob, alpha)

    def critic_loss(
        self,
        mode: str,
        batch: EpisodeBatch,
        h: Float[Tensor, "b states n h"],
        y: Float[Tensor, "b t"],
        alpha: Scalar,
        mix: Mixing | None = None,
    ) -> Float[Tensor, ""]:
        """(Q_jt^mode(s, u) - y)² of the actions taken (algorithms.md 8.2), plus the mixer's regulariser."""
        q = self.critics.local(mode, batch, h, batch.action)
        q_jt, regulariser = self.critics.joint(mode, batch, q, batch.action, alpha, mix)
        return masked_mean((q_jt - y).square() + regulariser, batch.mask)

    def policy_loss(
        self,
        mode: str,
        batch: EpisodeBatch,
        h: Float[Tensor, "b states n h"],
        action: Int[Tensor, "b states n"],
        log_pi: Float[Tensor, "b states n a"],
        alpha: Scalar,
    ) -> Float[Tensor, ""]:
        """Σ_a π_i(a) [α log π_i(a) - Q_i(a)], both given the same u'_{<i} (algorithms.md 8.2)."""
        q = self.critics.local(mode, batch, h.detach(), action).detach()
        return policy_improvement(batch, log_pi, q, alpha)
