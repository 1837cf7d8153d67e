"""Networks and inputs that agents, critics and mixers share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import linear, one_hot

from core.device import sent
from core.specs import EnvSpec, EpisodeBatch, States, in_turn, valid_mask
from modules.gru import Weights, packed_gru


def mlp(*dims: int, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Linear layers from ``dims[0]`` to ``dims[-1]`` with ``activation`` between them, and none after the last."""
    layers: list[nn.Module] = []
    for i, o in pairwise(dims):
        layers += [nn.Linear(i, o), activation()]
    return nn.Sequential(*layers[:-1])


def input_dim(spec: EnvSpec, last_action: bool = True) -> int:
    """Width of ``agent_inputs``: O + A + N, or of ``numbered``: O + N."""
    return spec.obs_dim + spec.n_actions * last_action + spec.n_agents


def agent_inputs(obs: Float[Tensor, "b t n o"], last: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n i"]:
    """What an agent sees: its observation, its last action (zeros at the start) and its one-hot number."""
    return numbered(torch.cat([obs, last], dim=-1))


def numbered(x: Float[Tensor, "b t n o"]) -> Float[Tensor, "b t n i"]:
    """Every agent's vector and its one-hot number."""
    b, t, n, _ = x.shape
    return torch.cat([x, torch.eye(n, dtype=x.dtype, device=x.device).expand(b, t, n, n)], dim=-1)


def with_numbers(state: Float[Tensor, "b t s"], n: int) -> Float[Tensor, "b t n i"]:
    """The state once for every agent, each with the agent's one-hot number."""
    return numbered(state[:, :, None].expand(-1, -1, n, -1))


def clipped(obs: Float[Tensor, "*rest o"], limit: float | None) -> Float[Tensor, "*rest o"]:
    """Observations within ± ``limit``, where there is one: one at -999 is only far away then (T-56)."""
    return obs if limit is None else obs.clamp(-limit, limit)


def action_vectors(
    action: Int[Tensor, "*rest n"] | Float[Tensor, "*rest n a"], n_actions: int
) -> Float[Tensor, "*rest n a"]:
    """Numbered actions as one-hots; those of a box as they are."""
    return action if action.is_floating_point() else one_hot(action.long(), n_actions).float()


def last_actions(action: Int[Tensor, "b t n"] | Float[Tensor, "b t n a"], n_actions: int) -> Float[Tensor, "b t+1 n a"]:
    """The action before each state, as a vector; zeros before the first state."""
    taken = action_vectors(action, n_actions)
    return torch.cat([torch.zeros_like(taken[:, :1]), taken], dim=1)


def last_of(batch: EpisodeBatch, n_actions: int) -> Float[Tensor, "b states n a"]:
    """The action before each state of a batch, padded or packed, as a vector; zeros before the first state."""
    if isinstance(batch, States):
        return batch.pack(last_actions(batch.whole.action, n_actions))
    return last_actions(batch.action, n_actions)


class RecurrentEncoder(nn.Module):
    """Linear-ReLU-GRU over each agent's own history; the parameters are shared by the agents (algorithms.md 1.13)."""

    fused = True
    """False: the cell is written out, because ``torch.vmap`` has no rule for the fused one."""

    def __init__(self, input_dim: int, hidden_dim: int, embed: nn.Module | None = None) -> None:
        """``embed`` maps one step's input to ``hidden_dim`` features; None: Linear-ReLU."""
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(input_dim, hidden_dim), nn.ReLU()) if embed is None else embed
        self.rnn = nn.GRU(hidden_dim, hidden_dim)

    def forward(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The features at every step and the recurrent state after each episode's last one.

        Args:
            x: inputs in order of time.
            hidden: the recurrent state before the first step; None: zeros.
            length: number of valid steps per episode, at least 1, in host memory; None: all are valid. What lies
                beyond is never read (it may be NaN), and the features are 0 there.
        """
        if hidden is None:
            hidden = x.new_zeros(x.shape[0], x.shape[2], self.rnn.hidden_size)
        if length is None:
            return self._dense(x, hidden)
        features = self._ragged(x, hidden, length) if x.device.type == "cpu" else self._padded(x, hidden, length)
        return features, at_end(features, length)

    def walk(
        self, y: Float[Tensor, "m n h"], alive: list[int], start: Float[Tensor, "b n h"] | None = None
    ) -> Float[Tensor, "m n h"]:
        """The features at the steps of ``core.specs.in_turn`` from what was embedded of them.

        ``start``: the recurrent states before the first steps, in the order of these; None: zeros.
        """
        n, y = y.shape[1], self.exact(y)
        state = y.new_zeros(n * alive[0], self.rnn.hidden_size) if start is None else start.flatten(0, 1)
        return self.shrinking(y.flatten(0, 1), state, [n * k for k in alive]).unflatten(0, (-1, n))

    def unroll(self, x: Float[Tensor, "m n i"], alive: list[int], start: Float[Tensor, "b n h"]) -> Tensor:
        """As ``walk``, from inputs that are embedded first."""
        return self.walk(self.embed(x), alive, start)

    def _dense(self, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All steps of all episodes in one call."""
        b, t, n, _ = x.shape
        y = self.embed(x).transpose(0, 1).flatten(1, 2)
        state = hidden.flatten(0, 1)
        if t == 1:  # acting: a single cell has less overhead than a sequence of one
            y = last = self._cell()(y[0], state)
        elif self.fused:
            y, last = self.rnn(y, state[None].contiguous())
        else:
            cell = self._cell()
            y = torch.stack([state := cell(x_t, state) for x_t in y])
            last = y[-1]
        return self.exact(y).reshape(t, b, n, -1).transpose(0, 1), self.exact(last).reshape(b, n, -1)

    def _padded(self, x: Tensor, hidden: Tensor, length: Tensor) -> Tensor:
        """All steps in one call, with zeros in and out on padding: no loop on the host, no waiting for the device."""
        valid = valid_mask(length, x.shape[1], x.device).bool()[..., None, None]
        return torch.where(valid, self._dense(torch.where(valid, x, 0.0), hidden)[0], 0.0)

    def _ragged(self, x: Tensor, hidden: Tensor, length: Tensor) -> Tensor:
        """The valid steps only: episodes sorted by length, and the batch shrinks as they end (speed.md, D)."""
        b, t = x.shape[:2]
        rows, alive, order = in_turn(length, t)
        return unpack(self.unroll(x.flatten(0, 1).index_select(0, rows), alive, hidden[order]), rows, b, t)

    def exact(self, y: Tensor) -> Tensor:
        """As parameters are: what is remembered is not rounded from call to call."""
        weight: Tensor = self.rnn.weight_hh_l0  # type: ignore[assignment]
        return y.to(weight.dtype)

    def shrinking(self, y: Tensor, state: Tensor, alive: list[int]) -> Tensor:
        """The state after every step; ``alive`` rows of y [m, h] belong to each."""
        if self.fused:
            return packed_gru(y[None], state[None], Weights(*(p[None] for p in self.rnn.parameters())), alive)[0]
        cell, states = self._cell(), []
        for y_t in y.split(alive):
            state = cell(y_t, state if len(y_t) == len(state) else state[: len(y_t)])
            states.append(state)
        return torch.cat(states)

    def _cell(self) -> Callable[[Tensor, Tensor], Tensor]:
        """One step: (input, state) -> state."""
        rnn: Any = self.rnn  # parameters() walks through the module, which takes longer than the cell of a few rows
        weights = [rnn.weight_ih_l0, rnn.weight_hh_l0, rnn.bias_ih_l0, rnn.bias_hh_l0]
        if self.fused:
            return lambda x, state: torch.gru_cell(x, state, *weights)
        return lambda x, state: _gru_cell(x, state, *weights)


def walk_together(
    encoders: Sequence[RecurrentEncoder], embedded: Sequence[Float[Tensor, "m n h"]], alive: list[int]
) -> list[Float[Tensor, "m n h"]]:
    """Several encoders' features at the states of ``core.specs.States``, from what each embedded of them.

    Memories are empty at the start.
    """
    n, k = embedded[0].shape[1], encoders[0].rnn.hidden_size
    rows, y = [n * m for m in alive], [encoders[0].exact(x).flatten(0, 1) for x in embedded]
    if not all(encoder.fused for encoder in encoders):
        pairs = zip(encoders, y, strict=True)
        return [e.shrinking(x, x.new_zeros(rows[0], k), rows).unflatten(0, (-1, n)) for e, x in pairs]
    weights = Weights(*(torch.stack(ws) for ws in zip(*(e.rnn.parameters() for e in encoders), strict=True)))
    walked = packed_gru(torch.stack(y), y[0].new_zeros(len(y), rows[0], k), weights, rows)
    return [features.unflatten(0, (-1, n)) for features in walked]


def _gru_cell(x: Tensor, state: Tensor, w_x: Tensor, w_h: Tensor, b_x: Tensor, b_h: Tensor) -> Tensor:
    """``torch.gru_cell``, written out (Cho et al. 2014)."""
    reset_x, update_x, new_x = linear(x, w_x, b_x).chunk(3, -1)
    reset_h, update_h, new_h = linear(state, w_h, b_h).chunk(3, -1)
    new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
    return new + torch.sigmoid(update_x + update_h) * (state - new)


class FeedForwardEncoder(nn.Module):
    """``layers`` times Linear-ReLU on the current step only; the recurrent state passes through unchanged."""

    def __init__(self, input_dim: int, hidden_dim: int, layers: int = 1, net: nn.Module | None = None) -> None:
        """``net`` takes the place of the layers."""
        super().__init__()
        self.hidden_dim = hidden_dim
        self.net = nn.Sequential(mlp(input_dim, *[hidden_dim] * layers), nn.ReLU()) if net is None else net

    def forward(
        self,
        x: Float[Tensor, "b t n i"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """As ``RecurrentEncoder.forward``."""
        b, t, n, _ = x.shape
        if hidden is None:
            hidden = x.new_zeros(b, n, self.hidden_dim)
        if length is None:
            return self.net(x), hidden
        if length.device.type != "cpu":  # within a recording: nothing may depend on lengths but what is hidden
            valid = valid_mask(length, t, x.device).bool()[..., None, None]
            return torch.where(valid, self.net(torch.where(valid, x, 0.0)), 0.0), hidden
        rows = sent(valid_mask(length, t).flatten().nonzero().squeeze(-1), x.device)
        return unpack(self.net(x.flatten(0, 1).index_select(0, rows)), rows, b, t), hidden

    def unroll(
        self,
        x: Float[Tensor, "m n i"],
        alive: list[int],  # noqa: ARG002 - nothing is remembered
        start: Float[Tensor, "b n h"],  # noqa: ARG002
    ) -> Float[Tensor, "m n h"]:
        """As ``RecurrentEncoder.unroll``."""
        return self.net(x)


def unpack(packed: Float[Tensor, "m n h"], rows: Int[Tensor, " m"], b: int, t: int) -> Float[Tensor, "b t n h"]:
    """Row k of ``packed`` goes to step ``rows[k]`` of the b * t steps; zeros elsewhere."""
    empty = packed.new_zeros(b * t, *packed.shape[1:])
    return empty.index_copy(0, rows, packed).unflatten(0, (b, t))


def at_end(features: Float[Tensor, "b t n h"], length: Int[Tensor, " b"]) -> Float[Tensor, "b n h"]:
    """The features at each episode's last valid step."""
    last = sent(length - 1, features.device)
    return features[torch.arange(len(last), device=features.device), last]


class StateValue(nn.Module):
    """V(s): one hidden layer with ReLU (the V_jt of MACPF's advantage form, T-35)."""

    def __init__(self, state_dim: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.net = mlp(state_dim, hidden_dim, 1)

    def forward(self, state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """One value per state."""
        return self.net(state).squeeze(-1)


class GroupLinear(nn.Module):
    """``groups`` independent linear layers in one batched product; each is initialised as ``nn.Linear``."""

    def __init__(self, groups: int, i: int, o: int, bias: bool = True) -> None:
        super().__init__()
        layers = [nn.Linear(i, o, bias=bias) for _ in range(groups)]
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().T for layer in layers]))
        self.bias = nn.Parameter(torch.stack([layer.bias.detach() for layer in layers])) if bias else None

    def forward(self, x: Float[Tensor, "*rest g i"]) -> Float[Tensor, "*rest g o"]:
        """Group k of the last axis but one goes through layer k."""
        return in_groups(x, self.weight, self.bias)


def in_groups(
    x: Float[Tensor, "*rest g i"], weight: Float[Tensor, "g i o"], bias: Float[Tensor, "g o"] | None = None
) -> Float[Tensor, "*rest g o"]:
    """Group k of x by ``weight[k]``: narrow outputs of all groups in one product with zeros beside them, which is
    faster than many narrow products."""
    g, _, o = weight.shape
    if o <= NARROW:
        y = linear(x.flatten(-2), torch.block_diag(*weight).t(), None if bias is None else bias.flatten())
        return y.unflatten(-1, (g, o))
    rows = x.reshape(-1, *x.shape[-2:]).transpose(0, 1)
    y = torch.bmm(rows, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), rows, weight)
    return y.transpose(0, 1).reshape(*x.shape[:-1], o)


NARROW = 16
"""Columns up to which a product is narrow (measured with 4 groups of 64 inputs)."""


def heads(n: int, i: int, o: int, *, layers: int, hidden_dim: int = 64, bias: bool = True) -> nn.Sequential:
    """``n`` independent MLPs with ReLU on one input, [*, i] -> [*, n, o]; ``bias`` is the last layer's."""
    if layers == 1:
        return nn.Sequential(nn.Linear(i, n * o, bias=bias), nn.Unflatten(-1, (n, o)))
    first = [nn.Linear(i, n * hidden_dim), nn.ReLU(), nn.Unflatten(-1, (n, hidden_dim))]
    middle = [m for _ in range(layers - 2) for m in (GroupLinear(n, hidden_dim, hidden_dim), nn.ReLU())]
    return nn.Sequential(*first, *middle, GroupLinear(n, hidden_dim, o, bias))


class JointWeights(nn.Module):
    r"""QPLEX's positive weights of the agents' advantages, made of state and joint action (algorithms.md 1.9-5).

    .. math:: \lambda_i(s, u) = \sum_h (|key_h(s)| + 10^{-10})\,\sigma(agents_h(s))_i\,\sigma(actions_h(s, u))_i

    With one layer the logits of ``actions`` are additive in the agents' actions (T-26).
    """

    def __init__(self, spec: EnvSpec, n_head: int, layers: int, hidden_dim: int) -> None:
        """``n_head`` summands, each of three networks of ``layers`` linear layers."""
        super().__init__()
        s, n = spec.state_dim, spec.n_agents
        extract = partial(heads, n_head, layers=layers, hidden_dim=hidden_dim)
        self.key, self.agents = extract(s, 1), extract(s, n)
        self.actions = extract(s + n * spec.n_actions, n)

    def forward(self, state: Float[Tensor, "b t s"], joint: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n"]:
        """λ_i(s, u); ``joint`` is u as one-hots, or the vectors themselves in a box."""
        key = self.key(state).abs() + 1e-10
        actions = self.actions(torch.cat([state, joint.flatten(-2)], dim=-1))
        return (key * self.agents(state).sigmoid() * actions.sigmoid()).sum(-2)


def hypernet(state_dim: int, o: int, layers: int, hidden_dim: int) -> nn.Sequential:
    """What makes a mixer's weights from the state: ``layers`` linear layers (algorithms.md 1.9-2).

    Torch's own initialisation: an output that starts at 0 would have no gradient through its absolute value (T-14).
    """
    return mlp(state_dim, *[hidden_dim] * (layers - 1), o)
