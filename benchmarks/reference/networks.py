"""Networks of the released codes, over padded batches, with the parameters of our modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import elu, linear, one_hot

from core.specs import EpisodeBatch
from modules.agents.base import Agent
from modules.agents.conditional import ConditionalHead
from modules.layers import JointWeights, last_actions


class Padded:
    """A padded batch with what PyMARL's replay holds beside it: the actions as one-hots."""

    def __init__(self, batch: EpisodeBatch, n_actions: int) -> None:
        """Makes the one-hots once, as they come ready from PyMARL's replay."""
        self.batch, self.b, (self.t, self.n) = batch, len(batch), batch.obs.shape[1:3]
        self.taken = one_hot(batch.action, n_actions).float()
        self.last = last_actions(batch.action, n_actions)
        self.ids = torch.eye(self.n)

    def step_inputs(self, t: int) -> Tensor:
        """Every agent's input at step ``t``, [b n, i]."""
        ids = self.ids.expand(self.b, -1, -1)
        return torch.cat([self.batch.obs[:, t], self.last[:, t], ids], -1).flatten(0, 1)

    def inputs(self) -> Tensor:
        """Every agent's input at every step, [b, t, n, i]."""
        return torch.cat([self.batch.obs, self.last, self.ids.expand(self.b, self.t, -1, -1)], -1)

    def mean(self, x: Tensor) -> Tensor:
        """Mean over real steps of x [b, t, *]; rows of padding are multiplied by 0."""
        mask = self.batch.mask.reshape(*self.batch.mask.shape, *[1] * (x.dim() - 2)).expand_as(x)
        return (x * mask).sum() / mask.sum()


def by_steps(agent: Agent, padded: Padded) -> Tensor:
    """PyMARL's ``mac.forward`` at one step after the other: inputs, one GRU cell, outputs; [b, t, n, a]."""
    weights = list(agent.encoder.rnn.parameters())
    hidden, out = torch.zeros(padded.b * padded.n, agent.hidden_dim), []
    for t in range(padded.t):
        hidden = torch.gru_cell(agent.encoder.embed(padded.step_inputs(t)), hidden, *weights)
        out.append(agent.head(hidden).unflatten(0, (padded.b, padded.n)))
    return torch.stack(out, 1)


def at_once(agent: Agent, x: Tensor) -> Tensor:
    """Features [b, t, n, h] of the releases' critics: one GRU call over all rows of x [b, t, n, i]."""
    b, t, n, _ = x.shape
    y = agent.encoder.embed(x).permute(1, 0, 2, 3).reshape(t, b * n, -1)
    return agent.encoder.rnn(y)[0].unflatten(1, (b, n)).permute(1, 0, 2, 3)


def in_turn(
    head: ConditionalHead, padded: Padded, dependent: bool, choose: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """MACPF's ``optimize_actions``: one agent after the other, each with a GRU call of its own.

    The messages of all earlier agents are embedded again for every agent, in both modes. Returns logits [b, t, n, a],
    actions [b, t, n] and numbered one-hots of the actions.
    """
    x, visible = padded.inputs(), padded.batch.extras["visible"]
    logits: list[Tensor] = []
    chosen: list[Tensor] = []
    said: list[Tensor] = []
    for i in range(padded.n):
        h = at_once(head.agent, x[:, :, i : i + 1])[:, :, 0]
        heard = torch.zeros_like(h)
        if said:
            messages = elu(head.embed(torch.stack(said, 2)))
            heard = (messages * visible[:, :, i, :i, None]).sum(2) / padded.n
        out = head.agent.head(h)
        if dependent:
            out = out.detach() + head.correct(torch.cat([h.detach(), heard], -1))
        logits.append(out)
        chosen.append(choose(out.detach(), padded.batch.avail[:, :, i]))
        action = one_hot(chosen[-1], out.shape[-1]).float()
        said.append(torch.cat([padded.ids[i].expand(*action.shape[:2], -1), action], -1))
    return torch.stack(logits, 2), torch.stack(chosen, 2), torch.stack(said, 2)


def dependent_values(head: ConditionalHead, h: Tensor, said: Tensor, visible: Tensor, dependent: bool) -> Tensor:
    """MACPF's critic above its GRU: messages and corrections of all agents at once, the messages in both modes."""
    earlier = torch.ones(h.shape[2], h.shape[2]).tril(-1)
    heard = (visible.float() * earlier) @ elu(head.embed(said)) / h.shape[2]
    q = head.agent.head(h)
    return q.detach() + head.correct(torch.cat([h.detach(), heard], -1)) if dependent else q


def monotone(mixer: Any, q: Tensor, state: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    """QMIX's mixer with ``activation`` elu; MACPF's with the identity. Batched products of [1, n] by [n, e]."""
    b, t, n = q.shape
    s = state.reshape(b * t, -1)
    w1, b1 = mixer.w1(s).abs().view(b * t, n, -1), mixer.b1(s).unsqueeze(1)
    hidden = activation(torch.bmm(q.reshape(b * t, 1, n), w1) + b1)
    w2 = mixer.w2(s).abs().unsqueeze(-1)
    return (torch.bmm(hidden, w2).squeeze(-1) + mixer.v(s)).view(b, t)


def _head(net: nn.Sequential, k: int, x: Tensor) -> Tensor:
    """Head ``k`` of our ``modules.layers.heads``, computed by itself."""
    first, last = net[0], net[-1]
    if len(net) == 2:
        o = net[1].unflattened_size[1]
        return linear(
            x, first.weight[k * o : (k + 1) * o], None if first.bias is None else first.bias[k * o : (k + 1) * o]
        )
    width = net[2].unflattened_size[1]
    x = linear(x, first.weight[k * width : (k + 1) * width], first.bias[k * width : (k + 1) * width]).relu()
    y = x @ last.weight[k]
    return y if last.bias is None else y + last.bias[k]


def _lambdas(net: JointWeights, n_head: int, s: Tensor, joint: Tensor) -> Tensor:
    """λ of the joint action, head by head."""
    both, parts = torch.cat([s, joint], -1), []
    for k in range(n_head):
        key = _head(net.key, k, s).abs() + 1e-10
        parts.append(key * _head(net.agents, k, s).sigmoid() * _head(net.actions, k, both).sigmoid())
    return torch.stack(parts, 1).sum(1)


def fop_mixer(mixer: Any, q: Tensor, v: Tensor, state: Tensor, joint: Tensor, obs: Tensor) -> tuple[Tensor, Tensor]:
    """FOP's mixer, head by head: Q_jt [b, t] and the regulariser at every step."""
    b, t, n = q.shape
    s, k = state.reshape(b * t, -1), mixer.cfg.n_head
    units = obs if mixer.unit_dim is None else state[..., : n * mixer.unit_dim].reshape(b, t, n, -1)
    units, weights, regulariser = units.reshape(b * t, n, -1), [], []
    for h in range(k):
        logits = _head(mixer.key, h, units) @ _head(mixer.query, h, s).unsqueeze(-1)
        weights.append((logits.squeeze(-1) / mixer.cfg.mixing_embed_dim**0.5).softmax(-1))
        regulariser.append(logits.squeeze(-1).square().mean(-1))
    w = torch.stack(weights, 1).sum(1) + 1e-10
    q, v = q.reshape(b * t, n), v.reshape(b * t, n)
    advantage = (w * (q - v)).detach()
    lambdas = _lambdas(mixer.lambdas, k, s, joint.reshape(b * t, -1))
    total = (w * q).sum(-1) + mixer.c(s).squeeze(-1) + (advantage * (lambdas - 1)).sum(-1)
    return total.view(b, t), 1e-3 * torch.stack(regulariser).sum(0).view(b, t)


def td_lambda(padded: Padded, value: Tensor, gamma: float, lam: float) -> Tensor:
    """TD(λ) targets [b, t] of the bootstrap values [b, t+1], backwards one step at a time."""
    batch = padded.batch
    goes_on = torch.cat([batch.mask[:, 1:], torch.zeros_like(batch.mask[:, :1])], 1)
    later, out = torch.zeros(padded.b), torch.zeros_like(batch.reward)
    for t in reversed(range(batch.reward.shape[1])):
        ahead = goes_on[:, t] * ((1 - lam) * value[:, t + 1] + lam * later) + (1 - goes_on[:, t]) * value[:, t + 1]
        later = batch.mask[:, t] * (batch.reward[:, t] + gamma * (1 - batch.terminated[:, t].float()) * ahead)
        out[:, t] = later
    return out
