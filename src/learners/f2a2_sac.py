"""F2A2-SAC and F2A2-ISAC: fully decentralised soft actor-critic."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.primal_dual import PrimalDual, PrimalDualConfig, Scene
from modules.critics.peers import OwnActionCritic
from rl.distributions import Categorical
from rl.masked import taken
from rl.policy_gradient import counterfactual_advantage


@LEARNERS.register
class F2A2SAC(PrimalDual):
    r"""F2A2 (Li et al.), proposition 6, with twin critics Q1, Q2 of every agent (algorithms.md 10.3).

    .. math::
        \nabla\psi_i: &\; E_{\pi_0}[\alpha_1 CIM(\pi; \pi_0) \nabla\log\pi_i\, A_i]
            + E_\pi[(\alpha_1 A_i - \alpha_2 CIM(\pi_0; \pi) (\delta_1^2 + \delta_2^2)) \nabla\log\pi_i] \\
        \nabla\phi_i: &\; E_{\pi_0}[(2\alpha_2\delta_1 - \alpha_1 CIM(\pi; \pi_0)) \nabla Q_1]
            + E_\pi[(2\alpha_2\delta_1 CIM(\pi_0; \pi) - \alpha_1) \nabla Q_1], \quad Q_2 \text{ without } \alpha_1 \\
        A_i = &\; Q_1 - \alpha\log\pi_i - \sum_a \pi_i(a) (Q_1(a) - \alpha\log\pi_i(a)), \qquad
            y_i = r_i + \gamma (\min(Q_1', Q_2') - \alpha\log\pi_i'(a_i'))

    Ascent for actors, descent for critics. π0 is the policy that collected, and a_-i under π what agent i believes of
    the others. F2A2-SAC shares the attention of its critics; F2A2-ISAC shares everything, actors too, and its critics
    see the agent's own observation only (``critic=own_obs share_actor=True``).

    Only Q1 is pushed up by α1, and y takes the minimum: Q2 is unbiased, Q1 lies α1 / (2 α2) above it (T-46).
    """

    kind = OwnActionCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(PrimalDualConfig):
        """Keys of F2A2-SAC."""

        critic: str = "attention"
        """The critics of every agent."""
        alpha: float = 0.01
        """α: the temperature."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics=2)

    def ahead(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """min Q'(a') - α log π'(a'), a' drawn from the slow policies; the entropy is discounted with it (T-52)."""
        pi = self.slow_policy(batch)
        drawn = pi.sample(self.rng)
        first, second = (taken(q, drawn) for q in self.slow_q(batch, drawn))
        return torch.minimum(first, second) - self.cfg.alpha * pi.log_prob(drawn)

    def value(self, q: Float[Tensor, "b t n a"], action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """Of an agent's own action."""
        return taken(q, action)

    def policy_loss(self, scene: Scene, pi: Categorical) -> Float[Tensor, ""]:
        """Minus the ascent direction's surrogate; the constants are those of the critics after their step."""
        cfg, log_pi = self.cfg, pi.log_pi.detach()
        with torch.no_grad():
            replayed = self.critics[0](scene.obs, scene.joint).q
            first, second = (critic(scene.obs, scene.believed).q for critic in self.critics)
        forth = self.ratio(taken(log_pi, scene.action).exp(), scene.was(scene.action))
        back = self.ratio(scene.was(scene.drawn), taken(log_pi, scene.drawn).exp())
        error = sum(cfg.cut(taken(q, scene.drawn) - scene.y).square() for q in (first, second))
        old = cfg.alpha1 * forth * self.advantage(replayed, pi, scene.action)
        new = cfg.alpha1 * self.advantage(first, pi, scene.drawn) - cfg.alpha2 * back * error
        return -self.total(old * pi.log_prob(scene.action) + new * pi.log_prob(scene.drawn), scene.mask)

    def advantage(
        self, q: Float[Tensor, "b t n a"], pi: Categorical, action: Int[Tensor, "b t n"]
    ) -> Float[Tensor, "b t n"]:
        """A_i of ``action``: soft values over their mean under the policy."""
        log_pi = pi.log_pi.detach()
        return counterfactual_advantage(q - self.cfg.alpha * log_pi, log_pi.exp(), pi.avail, action)
