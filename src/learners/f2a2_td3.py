"""F2A2-TD3 and F2A2-DDPG: fully decentralised deterministic policy gradients."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.device import sent
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.primal_dual import PrimalDual, PrimalDualConfig, Scene, with_own
from modules.critics.peers import RelaxedCritic
from rl.distributions import Categorical
from rl.masked import taken


@LEARNERS.register
class F2A2TD3(PrimalDual):
    r"""F2A2 (Li et al.), propositions 4 and 5, with Gumbel-softmax for numbered actions (algorithms.md 10.3).

    .. math::
        \nabla\psi_i: &\; [(\alpha_1 - 2\alpha_2\delta_1 CIM) \nabla_{a_i} Q_1
            - 2\alpha_2\delta_2 CIM\,\nabla_{a_i} Q_2] \nabla\pi_i, \qquad CIM = CIM(\pi_0; \pi) \\
        \nabla\phi_i: &\; E_{\pi_0}[(2\alpha_2\delta_1 - \alpha_1 CIM(\pi; \pi_0)) \nabla Q_1]
            + E_\pi[(2\alpha_2\delta_1 CIM - \alpha_1) \nabla Q_1], \quad Q_2 \text{ without } \alpha_1

    Ascent for actors, descent for critics. DDPG is the same with ``twin=False``, no smoothing and no delay. Targets
    look ahead at actions of the slow policies with normal noise on their logits; each agent has a delay of its own
    (T-50).
    """

    kind = RelaxedCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(PrimalDualConfig):
        """Keys of F2A2-TD3 and F2A2-DDPG."""

        critic: str = "whole"
        """The critics of every agent."""
        twin: bool = True
        """Two critics, whose minimum is the target; False: one."""
        smoothing: float = 0.2
        """Deviation of the noise on the slow policies' logits."""
        smoothing_clip: float = 0.5
        """Its largest size."""
        policy_delays: list[int] = field(default_factory=lambda: [2, 3])
        """Updates for one step of an actor; agent i has entry i modulo their number."""

        def __post_init__(self) -> None:
            """Raises ValueError for values that cannot be meant."""
            super().__post_init__()
            if not self.policy_delays or min(self.policy_delays) < 1:
                raise ValueError(f"policy_delays={self.policy_delays} must be numbers from 1")

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics=2 if cfg.twin else 1)
        self.delays = torch.tensor([cfg.policy_delays[i % len(cfg.policy_delays)] for i in range(spec.n_agents)])
        self.updates = 0

    def ahead(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """min Q'(a'), a' drawn from the slow policies with noise on their logits."""
        pi = self.slow_policy(batch)
        if self.cfg.smoothing:
            noise = torch.randn(pi.logits.shape, generator=self.rng, device=pi.logits.device) * self.cfg.smoothing
            pi = Categorical(pi.logits + noise.clamp(-self.cfg.smoothing_clip, self.cfg.smoothing_clip), pi.avail)
        return torch.stack(self.slow_q(batch, pi.sample(self.rng))).amin(0)

    def value(self, q: Float[Tensor, "b t n"], action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:  # noqa: ARG002
        """What the critic says of the joint action that it read."""
        return q

    def step_policies(self, scene: Scene, pi: Categorical) -> Metrics:
        """A step of the actors whose turn it is."""
        self.updates += 1
        due = self.updates % self.delays == 0
        if not due.any():
            return {}
        loss = self.policy_loss(scene, pi) + self.size_loss(scene, pi)
        return self.descend_stacked("policy", loss, self.consensus.pull, sent(due, scene.mask.device))

    def policy_loss(self, scene: Scene, pi: Categorical) -> Float[Tensor, ""]:
        """- (α1 - 2 α2 δ CIM) Q(o, (μ_i, a_-i)), the bracket constant; α1 for the first critic only."""
        mu = pi.deterministic(self.rng)
        category = mu.argmax(-1)
        cim = self.ratio(scene.was(category), taken(pi.log_pi.detach(), category).exp())
        joint = with_own(scene.believed, mu)
        objective = torch.zeros_like(cim)
        for k, critic in enumerate(self.critics):
            q = critic(scene.obs, joint).q
            delta = self.cfg.cut(q.detach() - scene.y)
            objective = objective + ((self.cfg.alpha1 if k == 0 else 0.0) - 2 * self.cfg.alpha2 * delta * cim) * q
        return -self.total(objective, scene.mask)

    def get_extra_state(self) -> dict[str, Any]:
        """See ``Learner.get_extra_state``."""
        return super().get_extra_state() | {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        super().set_extra_state(state)
        self.updates = state["updates"]
