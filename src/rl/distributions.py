"""Policies of agents over numbered actions, or over a space of real vectors: distributions, or single actions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import Uniforms
from rl.exploration import greedy
from rl.gaussian import boxed, gaussian_entropy, gaussian_log_prob, gaussian_sample, squashed_log_prob
from rl.gumbel import gumbel_softmax
from rl.masked import entropy, expectation, masked_log_softmax, sample, taken, usable


class Policy(ABC):
    """One policy per agent, with any axes before that of the actions."""

    @abstractmethod
    def mode(self) -> Tensor:
        """The likeliest actions, as the environment takes them."""

    @abstractmethod
    def deterministic(self, rng: Uniforms | None) -> Float[Tensor, "*rest a"]:
        """μ_i: actions as vectors that have a gradient with respect to the parameters (algorithms.md 9.2).

        ``rng`` is a source of noise for policies that need some; None: no noise, and nothing is drawn.
        """

    @abstractmethod
    def size(self) -> Float[Tensor, "*rest"]:
        """Each agent's mean square of what a regulariser keeps from saturating: logits, or actions."""


class Distribution(Policy):
    """A policy that draws, with known probabilities or densities."""

    @abstractmethod
    def sample(self, rng: torch.Generator) -> Tensor:
        """Actions drawn, without gradient."""

    @abstractmethod
    def log_prob(self, action: Tensor) -> Float[Tensor, "*rest"]:
        """The logarithm of each agent's probability, or density, of its action."""

    @abstractmethod
    def entropy(self) -> Float[Tensor, "*rest"]:
        """Of each agent."""


@dataclass(frozen=True)
class Categorical(Distribution):
    """π(a) over the available ones of numbered actions; unavailable ones have probability 0."""

    logits: Float[Tensor, "*rest a"]
    avail: Bool[Tensor, "*rest a"]

    @cached_property
    def log_pi(self) -> Float[Tensor, "*rest a"]:
        """log π of every action; about -1e10 where unavailable."""
        return masked_log_softmax(self.logits, self.avail)

    def mode(self) -> Int[Tensor, "*rest"]:
        """The available actions of the largest logits."""
        return greedy(self.logits, self.avail)

    def sample(self, rng: torch.Generator) -> Int[Tensor, "*rest"]:
        """Available actions."""
        return sample(self.log_pi, rng)

    def log_prob(self, action: Int[Tensor, "*rest"]) -> Float[Tensor, "*rest"]:
        """log π(a)."""
        return taken(self.log_pi, action)

    def entropy(self) -> Float[Tensor, "*rest"]:
        """Over the available actions."""
        return entropy(self.log_pi, self.avail)

    def deterministic(self, rng: Uniforms | None) -> Float[Tensor, "*rest a"]:
        """One-hots with the gradient of their relaxation (straight-through Gumbel-softmax)."""
        return gumbel_softmax(self.logits, self.avail, rng)

    def size(self) -> Float[Tensor, "*rest"]:
        """Of the logits of available actions."""
        seen = usable(self.avail).to(self.logits.dtype)
        return expectation(seen / seen.sum(-1, keepdim=True), self.logits.square(), self.avail)


@dataclass(frozen=True)
class Gaussian(Distribution):
    """Independent normal distributions in every dimension, unbounded (algorithms.md 1.4)."""

    mean: Float[Tensor, "*rest d"]
    log_std: Float[Tensor, "*rest d"]

    def mode(self) -> Float[Tensor, "*rest d"]:
        """μ."""
        return self.mean

    @torch.no_grad()
    def sample(self, rng: torch.Generator) -> Float[Tensor, "*rest d"]:
        """μ + σ ξ."""
        return gaussian_sample(self.mean, self.log_std, rng)

    def log_prob(self, action: Float[Tensor, "*rest d"]) -> Float[Tensor, "*rest"]:
        """Over all dimensions together."""
        return gaussian_log_prob(action, self.mean, self.log_std)

    def entropy(self) -> Float[Tensor, "*rest"]:
        """Differential entropy over all dimensions."""
        return gaussian_entropy(self.log_std)

    def deterministic(self, rng: Uniforms | None) -> Float[Tensor, "*rest d"]:  # noqa: ARG002 - needs no noise
        """μ."""
        return self.mean

    def size(self) -> Float[Tensor, "*rest"]:
        """Of the means."""
        return self.mean.square().mean(-1)


@dataclass(frozen=True)
class Squashed(Policy):
    """One action inside of a box: tanh of the network's output, stretched to the box."""

    out: Float[Tensor, "*rest d"]
    low: Float[Tensor, "*#rest #d"]
    high: Float[Tensor, "*#rest #d"]

    def mode(self) -> Float[Tensor, "*rest d"]:
        """The action."""
        return boxed(self.out, self.low, self.high)

    def deterministic(self, rng: Uniforms | None) -> Float[Tensor, "*rest d"]:  # noqa: ARG002 - needs no noise
        """The action."""
        return self.mode()

    def size(self) -> Float[Tensor, "*rest"]:
        """Of the actions, where the box reaches from -1 to 1."""
        return self.out.tanh().square().mean(-1)


@dataclass(frozen=True)
class SquashedGaussian:
    """Normal draws squashed into a box, with densities over the box (algorithms.md 1.4).

    No ``Distribution``: its entropy has no closed form, and densities are exact only together with what was squashed.
    """

    mean: Float[Tensor, "*rest d"]
    log_std: Float[Tensor, "*rest d"]
    low: Float[Tensor, "*#rest #d"]
    high: Float[Tensor, "*#rest #d"]

    def rsample(self, rng: torch.Generator) -> tuple[Float[Tensor, "*rest d"], Float[Tensor, "*rest"]]:
        """Actions drawn and the logarithms of their densities, differentiable in the parameters."""
        x = gaussian_sample(self.mean, self.log_std, rng)
        log_prob = squashed_log_prob(x, self.mean, self.log_std, (self.high - self.low) / 2)
        return boxed(x, self.low, self.high), log_prob
