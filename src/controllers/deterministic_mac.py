"""Agents that choose one point of a box, and try others near it while they collect."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from controllers.actor import ActorController
from controllers.box import bounds, centred, unmet_box
from core.config import Settings
from core.registry import CONTROLLERS
from core.schedule import Linear
from core.specs import EnvSpec
from rl.distributions import Squashed


@CONTROLLERS.register
class DeterministicMAC(ActorController):
    """μ_i(τ_i): tanh of the network's outputs, stretched to each agent's box, whose centre it is at the start.

    While collecting, normal noise is added and the sum clipped into the box; tests take μ_i itself. What is stored is
    what was executed.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ActorController.Config):
        """Keys of exploration."""

        noise_start: float = 0.1
        """Standard deviation of the noise, as a share of half the box's width, at the start."""
        noise_finish: float = 0.1
        """The same after the annealing."""
        noise_anneal_time: int = 50_000
        """Environment steps over which it changes, linearly."""

    low: Tensor
    high: Tensor

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        self.noise = Linear(cfg.noise_start, cfg.noise_finish, cfg.noise_anneal_time)
        for name, bound in zip(("low", "high"), bounds(spec), strict=True):
            self.register_buffer(name, bound, persistent=False)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """See ``Controller.unmet``."""
        return unmet_box(spec)

    def network(self, spec: EnvSpec) -> nn.Module:
        """The agents' network, which begins at 0."""
        return centred(self.settings.build("agent", spec))

    def policy(
        self,
        out: Float[Tensor, "*rest n p"],
        avail: Bool[Tensor, "*rest n a"],  # noqa: ARG002 - a box has no mask
    ) -> Squashed:
        """μ, inside of the box."""
        return Squashed(out, self.low, self.high)

    def explore(
        self, out: Float[Tensor, "b n p"], avail: Bool[Tensor, "b n a"], t_env: int, rng: torch.Generator
    ) -> Float[Tensor, "b n p"]:
        """μ + N(0, σ), clipped."""
        mu = self.policy(out, avail).mode()
        noise = torch.randn(mu.shape, generator=rng, device=mu.device)
        half = (self.high - self.low) / 2
        return (mu + self.noise(t_env) * half * noise).clamp(self.low, self.high)
