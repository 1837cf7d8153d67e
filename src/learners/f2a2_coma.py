"""F2A2-COMA: fully decentralised counterfactual policy gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.primal_dual import PrimalDual, PrimalDualConfig, Scene
from modules.critics.peers import OwnActionCritic
from rl.distributions import Categorical
from rl.masked import masked_mean, taken
from rl.policy_gradient import counterfactual_advantage


@LEARNERS.register
class F2A2COMA(PrimalDual):
    r"""F2A2 (Li et al.), proposition 3 (algorithms.md 10.3): on-policy, with one whole critic of every agent.

    .. math::
        \nabla\psi_i: \nabla\log\pi_i(a_i) [\alpha_1 (Q - B_i) - \alpha_2\delta^2], \qquad
        \nabla\phi_i: (2\alpha_2\delta - \alpha_1) \nabla Q, \qquad B_i = \sum_a \pi_i(a)\, Q(o, (a, a_{-i}))

    Ascent for actors, descent for critics. With ``alpha1_critic`` above 0 the critic's fixed point lies
    α1 / (2 α2 (1 - γ)) above the truth (T-46): a constant, which the baseline takes off again.

    Difference: an update learns from the newest ``batch_size`` episodes, not from the newest 1024 steps.
    """

    on_policy = True
    kind = OwnActionCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(PrimalDualConfig):
        """Keys of F2A2-COMA."""

        sample: Literal["episodes"] = "episodes"
        """On-policy: whole new episodes."""
        critic: str = "whole_own"
        """The critic of every agent."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics=1)

    def ahead(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """Q'(a'), a' drawn from the slow policies."""
        drawn = self.slow_policy(batch).sample(self.rng)
        return taken(self.slow_q(batch, drawn)[0], drawn)

    def value(self, q: Float[Tensor, "b t n a"], action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """Of an agent's own action."""
        return taken(q, action)

    def critic_loss(self, scene: Scene, pi: Categorical) -> tuple[Float[Tensor, ""], Metrics]:  # noqa: ARG002
        """α2 δ² - α1 Q at the actions taken."""
        q = taken(self.critics[0](scene.obs, scene.joint).q, scene.action)
        delta = q - scene.y
        loss = self.total(self.cfg.alpha2 * delta.square() - self.cfg.push * q, scene.mask)
        return loss, {"delta_1_mean": masked_mean(delta.detach(), scene.mask)}

    def policy_loss(self, scene: Scene, pi: Categorical) -> Float[Tensor, ""]:
        """Minus the ascent direction's surrogate, with the critic after its step."""
        cfg, log_pi = self.cfg, pi.log_pi.detach()
        with torch.no_grad():
            q = self.critics[0](scene.obs, scene.joint).q
        error = cfg.cut(taken(q, scene.action) - scene.y).square()
        advantage = counterfactual_advantage(q, log_pi.exp(), pi.avail, scene.action)
        weight = cfg.alpha1 * advantage - cfg.alpha2 * error
        return -self.total(weight * pi.log_prob(scene.action), scene.mask)
