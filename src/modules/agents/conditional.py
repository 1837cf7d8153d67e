"""Outputs that may lean on the actions of the agents before (MACPF)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import elu, one_hot

from core.specs import EnvSpec
from modules.agents.base import Agent


class ConditionalHead(nn.Module):
    r"""f_i(τ_i) alone, and f_i(τ_i, a_{<i}); serves as MACPF's policy and as its critic (algorithms.md 8.1).

    Wang, Ye & Lu, "More Centralized Training, Still Decentralized Execution" (ICLR 2023):

    .. math::
        d_i = \frac{1}{N} \sum_{j<i} vis_{ij}\, ELU(W_d [id_j, onehot(a_j)]), \qquad
        f_i^{dep} = sg[f_i^{ind}] + W_2\, ELU(W_1 [sg[h_i], d_i])

    The correction reads the trunk's features without training them (T-29), and only ever the actions of agents with
    smaller numbers (T-30). The parameters are shared by the agents, whose numbers are in the inputs (T-34).
    """

    earlier: Tensor

    def __init__(self, spec: EnvSpec, agent: Agent, dependent: bool = True) -> None:
        """Wraps any registered agent.

        Args:
            spec: sizes.
            agent: its encoder gives h_i, its head the independent output.
            dependent: False builds no correction, so that only the independent output exists (MACPF_CONTROL).
        """
        super().__init__()
        h = agent.hidden_dim
        self.n_agents, self.hidden_dim, self.agent = spec.n_agents, h, agent
        if dependent:
            self.embed = nn.Linear(spec.n_agents + spec.n_actions, h)
            self.correct = nn.Sequential(nn.Linear(2 * h, h), nn.ELU(), nn.Linear(h, spec.n_actions))
        earlier = torch.ones(spec.n_agents, spec.n_agents, dtype=torch.bool).tril(-1)
        self.register_buffer("earlier", earlier, persistent=False)

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """The agent's."""
        return self.agent.initial_hidden(b)

    def encode(
        self,
        obs: Float[Tensor, "b t n o"],
        last: Float[Tensor, "b t n a"],
        hidden: Float[Tensor, "b n h"] | None = None,
        length: Int[Tensor, " b"] | None = None,
    ) -> tuple[Float[Tensor, "b t n h"], Float[Tensor, "b n h"]]:
        """The agent's features h_i and recurrent state."""
        return self.agent.encode(obs, last, hidden, length)

    def independent(self, h: Float[Tensor, "b t n h"]) -> Float[Tensor, "b t n a"]:
        """f_i^ind: reads nobody's action."""
        return self.agent.head(h)

    def dependent(
        self,
        h: Float[Tensor, "b t n h"],
        joint: Float[Tensor, "b t n a"],
        visible: Bool[Tensor, "b t n n"] | None = None,
    ) -> Float[Tensor, "b t n a"]:
        """f_i^dep of all agents at once.

        Args:
            h: features of ``encode``.
            joint: every agent's action, one-hot; agent i reads rows j < i only.
            visible: [.., i, j]: agent i sees agent j; None: everybody sees everybody.
        """
        ids = torch.eye(self.n_agents, dtype=joint.dtype, device=joint.device).expand(*joint.shape[:2], -1, -1)
        messages = self._messages(ids, joint)
        reads = self.earlier if visible is None else self.earlier & visible
        return self._corrected(h, reads.to(h.dtype) @ messages / self.n_agents)

    def message(self, action: Float[Tensor, "b t a"], j: int) -> Float[Tensor, "b t h"]:
        """ELU(W_d [id_j, onehot(a_j)]), which agent j tells those behind it; d_i is 1/N times the sum of these."""
        number = one_hot(torch.tensor(j, device=action.device), self.n_agents).to(action.dtype)
        return self._messages(number.expand(*action.shape[:2], -1), action)

    def dependent_of(
        self,
        i: int,  # noqa: ARG002 - the parameters are shared, so the number is already in h_i
        h_i: Float[Tensor, "b t h"],
        d_i: Float[Tensor, "b t h"],
    ) -> Float[Tensor, "b t a"]:
        """f_i^dep of agent ``i`` alone, from its features and d_i (1/N times the sum of the messages it reads).

        With ``message`` it makes acting in turn linear in N: after agent j has acted, its message is added to the
        sums of the agents behind it that see it. Equals row i of ``dependent``.
        """
        return self._corrected(h_i, d_i)

    def _messages(self, ids: Tensor, actions: Tensor) -> Tensor:
        return elu(self.embed(torch.cat([ids, actions], dim=-1)))

    def _corrected(self, h: Tensor, d: Tensor) -> Tensor:
        trunk = h.detach()
        return self.agent.head(trunk).detach() + self.correct(torch.cat([trunk, d], dim=-1))
