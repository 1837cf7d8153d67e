"""Networks by which agents predict each other's actions (algorithms.md 10.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.specs import EnvSpec
from modules.layers import RecurrentEncoder, action_vectors, agent_inputs, input_dim, mlp, numbered
from modules.stacked import Stacked


class OtherAgents(nn.Module):
    r"""What c observers believe that each of n agents does, all in batched operations.

    The scheme is that of Rabinowitz et al., "Machine Theory of Mind" (ICML 2018), as F2A2 uses it. For agent j:

    .. math::
        c_j = \frac{1}{K} \sum_k GRU(\text{trajectory k of } j), \quad m_j = GRU(\text{the last steps of } j), \quad
        \hat\pi_j = softmax(natural(o_j, c_j, m_j) + impromptu(o_j))

    A network reads the number of the agent that it models, so one serves for agents that differ. There is one for all
    observers, c = 1, or one for each, c = n.
    """

    def __init__(self, spec: EnvSpec, hidden_dim: int, share: bool) -> None:
        """The codes have ``hidden_dim`` features; ``share`` makes one network for all observers."""
        super().__init__()
        self.n_actions, self.observers = spec.n_actions, 1 if share else spec.n_agents
        see, known = input_dim(spec, last_action=False), input_dim(spec)
        self.character_net = _Copies(lambda: _History(known, hidden_dim, fused=share), self.observers, share)
        self.mental_net = _Copies(lambda: _History(known, hidden_dim, fused=share), self.observers, share)
        dims = (2 * hidden_dim, spec.n_actions)
        self.natural_net = _Copies(lambda: mlp(see + 2 * hidden_dim, *dims), self.observers, share)
        self.impromptu_net = _Copies(lambda: mlp(see, *dims), self.observers, share)

    def character(
        self, obs: Float[Tensor, "b t n o"], action: Int[Tensor, "b t n"], length: Int[Tensor, " b"]
    ) -> Float[Tensor, "c n h"]:
        """c_j: the mean of the codes of b whole trajectories, of ``length`` steps each (in host memory)."""
        x = agent_inputs(obs, action_vectors(action, self.n_actions))
        return self.character_net(common=(x, length)).mean(1)

    def mental(
        self,
        obs: Float[Tensor, "b states k n o"],
        action: Int[Tensor, "b states k n"],
        real: Bool[Tensor, "b states k"],
    ) -> Float[Tensor, "c b states n h"]:
        """m_j of the k steps before each state, oldest first; what was before the episode enters as zeros."""
        x = agent_inputs(obs.flatten(0, 1), action_vectors(action.flatten(0, 1), self.n_actions))
        x = torch.where(real.flatten(0, 1)[..., None, None], x, 0.0)
        return self.mental_net(common=(x, None)).unflatten(1, real.shape[:2])

    def natural(
        self, obs: Float[Tensor, "b t n o"], mental: Float[Tensor, "c b t n h"], character: Float[Tensor, "c n h"]
    ) -> Float[Tensor, "c b t n a"]:
        """Logits from what an agent sees, has just done, and is like."""
        see = numbered(obs).expand(self.observers, *[-1] * obs.dim())
        like = character[:, None, None].expand_as(mental)
        return self.natural_net(torch.cat([see, like, mental], dim=-1))

    def impromptu(self, obs: Float[Tensor, "b t n o"]) -> Float[Tensor, "c b t n a"]:
        """Logits from what an agent sees alone."""
        return self.impromptu_net(common=(numbered(obs),))


class _Copies(nn.Module):
    """One network, or c of them in one batched operation; the axis of the networks is the first one, c >= 1."""

    def __init__(self, make: Callable[[], nn.Module], c: int, share: bool) -> None:
        super().__init__()
        self.share = share
        self.net: nn.Module = make() if share else Stacked(make, c, axis=0)

    def forward(self, *inputs: Tensor, common: tuple[Any, ...] = ()) -> Tensor:
        """Network k on slice k of every input; ``common`` are the same for all of them."""
        if self.share:
            return self.net(*[x[0] for x in inputs], *common)[None]
        return self.net(*inputs, common=common)


class _History(nn.Module):
    """Two recurrent layers over each agent's steps, of which the state after the last one is kept."""

    def __init__(self, input_dim: int, hidden_dim: int, fused: bool) -> None:
        super().__init__()
        self.first = RecurrentEncoder(input_dim, hidden_dim)
        self.second = RecurrentEncoder(hidden_dim, hidden_dim, nn.Identity())
        self.first.fused = self.second.fused = fused

    def forward(self, x: Float[Tensor, "b t n i"], length: Int[Tensor, " b"] | None) -> Float[Tensor, "b n h"]:
        return self.second(self.first(x, None, length)[0], None, length)[1]
