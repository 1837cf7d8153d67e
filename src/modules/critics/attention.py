"""Attention critics: one for a team that trains together (MAAC), or a copy for every agent (F2A2-SAC)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.peers import OwnActionCritic, Worth
from modules.layers import GroupLinear, clipped


@CRITICS.register
class AttentionCritic(OwnActionCritic):
    r"""Iqbal & Sha, "Actor-Attention-Critic for Multi-Agent Reinforcement Learning", ICML 2019 (algorithms.md 1.10).

    .. math::
        Q_i(o, (·, a_{-i})) = f_i(g_i(o_i), x_i), \qquad
        x_i = concat_h \sum_{j \ne i} softmax_j((W_q g_i)^T W_k e_j / \sqrt d)\, \mathrm{LeakyReLU}(W_v e_j)

    e_j encodes agent j's observation and action. In MAAC each agent has an encoder e, and all share W_q, W_k, W_v. With
    ``attention_copies`` every agent has copies of these three, which are what is exchanged, and one encoder of its own
    for all others, which reads their numbers: nobody could train another agent's encoder without its gradients.

    Difference from the release: observations may be cut to ``obs_clip`` where the release has batch normalisation, so
    there is no statistic that depends on the batch or on the mode (T-15).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of attention critics."""

        critic_dim: int = 128
        """Width of encoders and head."""
        attention_heads: int = 4
        """Heads, among which critic_dim is divided."""
        attention_copies: bool = False
        """Whether every agent has queries, keys and values of its own."""
        attention_regulariser: float = 1e-3
        """Weight of the mean square of the attention's logits, summed over heads, in each agent's loss."""
        obs_clip: float | None = None
        """Observations are cut to this size; null: they are not."""

        def __post_init__(self) -> None:
            """Raises ValueError for widths that cannot be divided."""
            if self.critic_dim % self.attention_heads:
                raise ValueError(
                    f"critic_dim={self.critic_dim} is not a multiple of attention_heads={self.attention_heads}"
                )

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        n, h, self.cfg = spec.n_agents, cfg.critic_dim, cfg
        copies = n if cfg.attention_copies else 1
        other = spec.obs_dim + spec.n_actions + n * cfg.attention_copies
        self.own, self.other = GroupLinear(n, spec.obs_dim, h), GroupLinear(n, other, h)
        self.query, self.key = GroupLinear(copies, h, h, bias=False), GroupLinear(copies, h, h, bias=False)
        self.value = GroupLinear(copies, h, h)
        self.first, self.head = GroupLinear(n, 2 * h, h), GroupLinear(n, h, spec.n_actions)

    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Worth:
        """See ``PeerCritic.forward``."""
        obs = clipped(obs, self.cfg.obs_clip)
        own, others = leaky_relu(self.own(obs)), leaky_relu(self.encode_others(obs, joint))
        context, cost = self.attend(own, others)
        x = leaky_relu(self.first(torch.cat([own, context], -1)))
        return Worth(self.head(x), cost)

    def shared(self) -> list[nn.Parameter]:
        """Queries, keys and values; observations of other sizes make the rest unlike from agent to agent."""
        return [*self.query.parameters(), *self.key.parameters(), *self.value.parameters()]

    def encode_others(
        self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]
    ) -> Float[Tensor, "b t n g h"]:
        """e of every agent j, [b, t, j, 1, h]; with copies as every agent i encodes it, [b, t, j, i, h]."""
        if not self.cfg.attention_copies:
            return self.other(torch.cat([obs, joint[:, :, 0]], -1)).unsqueeze(3)
        by_obs, by_action, by_number = self.other.weight.split([obs.shape[-1], joint.shape[-1], obs.shape[2]], 1)
        seen = torch.einsum("btjo,ioh->btjih", obs, by_obs) + by_number.transpose(0, 1) + self.other.bias
        if joint.shape[2] == 1:
            return seen + torch.einsum("btja,iah->btjih", joint[:, :, 0], by_action)
        return seen + torch.einsum("btija,iah->btjih", joint, by_action)

    def attend(
        self, own: Float[Tensor, "b t n h"], others: Float[Tensor, "b t n g h"]
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b t n"]]:
        """x_i, and what the loss pays for the size of its logits."""
        n, heads, per_head = own.shape[2], self.cfg.attention_heads, own.shape[-1] // self.cfg.attention_heads
        if n == 1:
            return torch.zeros_like(own), own.new_zeros(own.shape[:3])
        query = self.query(own) if self.cfg.attention_copies else self.query(own.unsqueeze(3)).squeeze(3)
        query = query.unflatten(-1, (heads, per_head))
        key, value = self.key(others).unflatten(-1, (heads, per_head)), self.value(others)
        key, value = (
            x.expand(-1, -1, -1, n, -1, -1) for x in (key, leaky_relu(value).unflatten(-1, (heads, per_head)))
        )
        logits = torch.einsum("btnhd,btjnhd->btnhj", query, key)
        oneself = torch.eye(n, dtype=torch.bool, device=own.device).unsqueeze(1)
        weight = torch.softmax((logits / per_head**0.5).masked_fill(oneself, -torch.inf), -1)
        cost = logits.masked_fill(oneself, 0).square().sum((-1, -2)) / (n - 1)
        context = torch.einsum("btnhj,btjnhd->btnhd", weight, value).flatten(3)
        return context, self.cfg.attention_regulariser * cost
