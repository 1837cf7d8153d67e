"""DOP with communication: policies and local critics hear messages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.comm_mac import CommMAC
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.dop import DOP
from modules.critics.policy import LocalPolicyCritic
from modules.messages import kl_to_standard_normal
from rl.exploration import greedy
from rl.masked import masked_mean, taken


@LEARNERS.register
class DOPComm(DOP):
    """DOP (Wang et al. 2021, appendix F) with the messages of NDQ (Wang et al., ICLR 2020); algorithms.md section 5.

    Symbols: m_ij message of agent i to agent j, x_j input of j without messages, a*_j its best action by the slow local
    critic Q'_j, q_ξ(a | x_j, m_·j) a guess of it. Both π_j and Q_j read the messages to j. The policies' loss trains
    the encoder end to end; a regulariser makes messages informative (cross-entropy of q_ξ) and short (KL to N(0, 1)).

    The paper says in one sentence that NDQ's technique is used; weights are those of NDQ's hallway (A9). Differences
    from NDQ's released code: the noise is stored, so that losses hear what was heard when the episode was played; the
    critic's loss reaches the encoder only where ``comm_grad`` says so; the regulariser is a mean over agents, as the
    policies' loss is.
    """

    acts = CommMAC
    criticises = LocalPolicyCritic
    learns_messages = True

    @dataclass(frozen=True, kw_only=True)
    class Config(DOP.Config):
        """Keys of DOP with communication."""

        message_loss: float = 0.1
        """c: weight of the whole regulariser."""
        message_kl: float = 0.01
        """β_1: weight of the KL in it."""
        message_entropy: float = 0.0
        """β_2: weight of -log N(m; 0, 1) in it."""
        comm_grad: Literal["actor", "critic", "both"] = "actor"
        """Whose loss trains the encoder through the messages heard, beside the regulariser."""

    controller: CommMAC

    def observed(self, spec: EnvSpec) -> EnvSpec:
        """Observations end with the messages heard."""
        return self.controller.hearing(spec)

    def read(self, batch: EpisodeBatch) -> EpisodeBatch:
        """With the messages heard, which are constants for the critic."""
        return self.controller.hear(batch, self.rng)

    def learn_policy(self, batch: EpisodeBatch, t_env: int) -> Metrics:
        """One step of policies, encoder and q_ξ on the policies' loss and the regulariser."""
        cross_entropy, kl, entropy = self.message_losses(batch)
        cfg = self.cfg
        regulariser = cross_entropy + cfg.message_kl * kl + cfg.message_entropy * entropy
        loss = self.policy_loss(batch, t_env) + cfg.message_loss * regulariser
        if cfg.comm_grad != "actor":
            loss = loss + self.hearing_loss(batch, t_env)
        metrics = self.descend("policy", loss)
        return metrics | {"message_cross_entropy": cross_entropy.detach(), "message_kl": kl.detach()}

    def logits(self, batch: EpisodeBatch) -> Float[Tensor, "b states n a"]:
        """The policies' loss reaches the encoder, unless the critic's alone is to."""
        return self.controller.unroll(batch, through=self.cfg.comm_grad != "critic")

    def hearing_loss(self, batch: EpisodeBatch, t_env: int) -> Float[Tensor, ""]:
        """E_on[(Q_tot - y^On)²], of which the encoder has the gradient; ``descend`` drops that of the critic."""
        y, steps = self.on_policy_target(batch, t_env), batch.steps
        q_tot = self.critic.q_tot(steps(batch.state), steps(self.controller.heard(batch)), batch.action)
        return masked_mean((q_tot - y).square(), batch.mask)

    def message_losses(self, batch: EpisodeBatch) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, ""]]:
        """-log q_ξ(a*_j | x_j, m_·j), Σ_i KL(N(μ_ij, 1) || N(0, 1)) and -Σ_i log N(m_ij; 0, 1); means over agents j."""
        said, steps, mask = self.controller.exchange(batch), batch.steps, batch.mask
        heard = steps(said.heard)
        with torch.no_grad():
            best = greedy(self.target.slow.local(steps(batch.state), steps(batch.obs)), steps(batch.avail))
        log_q = self.controller.messages.log_posterior(steps(said.x), heard)
        density = 0.5 * (heard.square() + math.log(2 * math.pi)).sum(-1)
        kl = kl_to_standard_normal(steps(said.mean))
        return masked_mean(-taken(log_q, best), mask), masked_mean(kl, mask), masked_mean(density, mask)
