"""IQL, VDN, QMIX and QPLEX: value factorisation with one-step or TD(λ) targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics
from learners.value import ValueConfig, mix_utilities, require_values
from memory.replay import Replay
from modules.target import Target
from rl.exploration import greedy
from rl.masked import masked_mean


@LEARNERS.register
class QLearner(Learner):
    """Minimises (M(Q_1(τ_1,a_1), …, Q_N(τ_N,a_N); s) - y)² for a mixer M.

    IQL (Tan 1993): M is the identity, every agent has a target of its own. VDN (Sunehag et al. 2018): M is the sum.
    QMIX (Rashid et al. 2018): M is monotone in every Q_i. QPLEX (Wang et al. 2021): M also reads the joint action and
    every agent's largest value. Targets y = r + γ M'(Q'_i(s', argmax_a Q_i(s', a)); s') are double-Q (van Hasselt et
    al. 2016) and, with ``td_lambda`` > 0, TD(λ). The largest values that QPLEX's M' reads are those of Q', so double
    Q leaves it advantages of at most 0 (algorithms.md 11.2).

    Difference from the released PyMARL code: episodes cut by a time limit are bootstrapped through, and their last
    state is no transition (algorithms.md T-01).
    """

    recordable = True
    batches_seeds = True

    @dataclass(frozen=True, kw_only=True)
    class Config(ValueConfig):
        """Keys of IQL, VDN, QMIX and QPLEX."""

        mixer: str | None = "qmix"
        """How the agents' values are combined; null for independent learners (IQL)."""
        double_q: bool = True
        """The online network chooses the target's actions."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        require_values(controller, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        self.mixer = settings.build("mixer", spec)
        self.target: Target[Any] = Target(
            torch.nn.ModuleList([controller, self.mixer] if self.mixer else [controller]), cfg.target_update_interval
        )
        self.optimise("q", controller, *([self.mixer] if self.mixer else []), lr=cfg.lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed in the losses
        """One gradient step on a batch of episodes."""
        metrics = self.descend_by("q", self.td_loss, self.draw(replay))
        self.target.step(self.new_episodes(replay))
        return metrics

    def td_loss(self, batch: EpisodeBatch) -> Float[Tensor, ""]:
        """Mean squared TD error over real steps (QMIX Eq. 6), plus the mixer's regulariser."""
        q = self.controller.unroll(batch)
        chosen, regulariser = mix_utilities(self.mixer, batch, batch.steps(q), batch.action)
        return masked_mean((chosen - self.targets(batch, q.detach())).square() + regulariser, batch.mask)

    @torch.no_grad()
    def targets(self, batch: EpisodeBatch, q: Float[Tensor, "b states n a"]) -> Float[Tensor, "b t *n"]:
        """y_t, one for the team, or one for each agent without a mixer."""
        slow_controller, *slow_mixer = self.target.slow
        slow_q = slow_controller.unroll(batch)
        best = greedy(q if self.cfg.double_q else slow_q, batch.avail)
        return self.cfg.returns(batch, mix_utilities(slow_mixer[0] if slow_mixer else None, batch, slow_q, best)[0])
