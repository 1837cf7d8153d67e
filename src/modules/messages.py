"""Noisy messages of every agent to every agent, and what they tell about the receivers' best actions (NDQ)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from modules.layers import mlp


class Messages(nn.Module):
    r"""Wang et al., "Learning Nearly Decomposable Value Functions Via Communication Minimization", ICLR 2020.

    .. math:: m_{i \to j} \sim N(\mu_j(x_i), 1), \qquad q_\xi(a_j \mid x_j, m_{\cdot \to j})

    The encoder μ has one output of M numbers per receiver, the sender's own place included; σ is 1. Every agent uses
    the same parameters; its number is part of its input x_i. q_ξ guesses the receiver's best action, so that messages
    which help it are worth their noise; it serves training only.
    """

    def __init__(self, n_agents: int, input_dim: int, n_actions: int, message_dim: int, hidden_dim: int) -> None:
        """``message_dim`` is M, ``hidden_dim`` the width of the encoder's two hidden layers."""
        super().__init__()
        heard = n_agents * message_dim
        self.n_agents = n_agents
        self.encoder = mlp(input_dim, hidden_dim, hidden_dim, heard)
        self.posterior = mlp(input_dim + heard, 4 * heard, 4 * heard, n_actions)

    def mean(self, x: Float[Tensor, "b t n i"]) -> Float[Tensor, "b t n n m"]:
        """μ of every sender (first n) for every receiver (second n)."""
        return self.encoder(x).unflatten(-1, (self.n_agents, -1))

    def log_posterior(self, x: Float[Tensor, "b t n i"], heard: Float[Tensor, "b t n k"]) -> Float[Tensor, "b t n a"]:
        """log q_ξ of every action, from the receivers' inputs and what ``delivered`` gave them."""
        return self.posterior(torch.cat([x, heard], -1)).log_softmax(-1)


def delivered(message: Float[Tensor, "b t n n m"]) -> Float[Tensor, "b t n k"]:
    """What every receiver hears, k = N * M numbers: the messages to it in the order of their senders."""
    return message.transpose(2, 3).flatten(-2)


def kl_to_standard_normal(mean: Float[Tensor, "b t n n m"]) -> Float[Tensor, "b t n"]:
    r""":math:`\sum_i KL(N(\mu_{i \to j}, 1) \| N(0, 1)) = \frac12 \sum_i |\mu_{i \to j}|^2` of every receiver j."""
    return 0.5 * delivered(mean).square().sum(-1)
