"""Critics that tell policies what each agent's own action is worth."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from core.specs import Uniforms


class PolicyCritic(nn.Module, ABC):
    """Q_tot(s, a), its expectation under a factorised policy, and the agents' advantages.

    ``state`` and ``obs`` are of t states; ``pi`` is every agent's probabilities there, 0 where unavailable.
    """

    @abstractmethod
    def q_tot(
        self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"], action: Int[Tensor, "b t n"]
    ) -> Float[Tensor, "b t"]:
        """The value of a joint action."""

    @abstractmethod
    def expected(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        pi: Float[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> Float[Tensor, "b t"]:
        """E_π[Q_tot(s, ·)]."""

    def both(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        action: Int[Tensor, "b t n"],
        pi: Float[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> tuple[Float[Tensor, "b t"], Float[Tensor, "b t"]]:
        """``q_tot`` and ``expected`` of the same states."""
        return self.q_tot(state, obs, action), self.expected(state, obs, pi, rng)

    @abstractmethod
    def advantage(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        action: Int[Tensor, "b t n"],
        pi: Float[Tensor, "b t n a"],
        avail: Bool[Tensor, "b t n a"],
        rng: Uniforms,
    ) -> Float[Tensor, "b t n"]:
        """What multiplies ∇log π_i(a_i) in the policy's gradient; a constant."""


class LocalPolicyCritic(PolicyCritic):
    """A Q_tot that is made of a local value for every own action of every agent."""

    @abstractmethod
    def local(self, state: Float[Tensor, "b t s"], obs: Float[Tensor, "b t n o"]) -> Float[Tensor, "b t n a"]:
        """Q_i(s, ·) of every agent."""


class CounterfactualCritic(nn.Module, ABC):
    """The value of every own action of every agent, given what the others did."""

    @abstractmethod
    def forward(
        self,
        state: Float[Tensor, "b t s"],
        obs: Float[Tensor, "b t n o"],
        joint: Float[Tensor, "b t n a"],
        last: Float[Tensor, "b t n a"],
    ) -> Float[Tensor, "b t n a"]:
        """Q(s, (·, a_-i)) of every agent, for the actions ``joint`` (one-hots) after the actions ``last``."""
