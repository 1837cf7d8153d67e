"""OW-QMIX and CW-QMIX: a monotone projection of an unrestricted joint value that favours good joint actions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from controllers.base import Controller, unroll_agent
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics
from learners.value import ValueConfig, mix_utilities, require_values
from memory.replay import Replay
from modules.critics.base import build_critic
from modules.mixers.base import Mixer
from modules.target import Target
from rl.exploration import greedy
from rl.masked import masked_mean, taken


class CentralValue(nn.Module):
    """Q̂*(s, τ, u): utilities of agents of its own, mixed without restriction."""

    def __init__(self, spec: EnvSpec, settings: Settings) -> None:
        super().__init__()
        self.agent = settings.build("agent", spec)
        self.mixer = build_critic(settings, Mixer, spec)
        self.n_actions = spec.n_actions

    def forward(self, batch: EpisodeBatch, action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t"]:
        """Q̂* of a joint action at the first t states."""
        steps = action.shape[1]
        q = unroll_agent(self.agent, batch, self.n_actions)[:, :steps]
        return self.mixer(taken(q, action), batch.state[:, :steps])


@LEARNERS.register
class WeightedQMIX(Learner):
    """Rashid et al., "Weighted QMIX: Expanding Monotonic Value Function Factorisation", NeurIPS 2020.

    Symbols: Q_tot monotone mixture of the utilities Q_i, on which the agents act; û their greedy joint action; Q̂*
    unrestricted joint value with agents of its own, Q̂*' its slow copy; w weight (the paper's α) of a joint action
    that is unlikely to be the best.

    Difference from the released code: episodes cut by a time limit are bootstrapped through, and their last state is
    no transition (algorithms.md T-01).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(ValueConfig):
        """Keys of weighted QMIX."""

        mixer: str = "qmix"
        """The monotone mixture Q_tot."""
        critic: str = "central"
        """The mixer of Q̂*."""
        weighting: Literal["optimistic", "central"] = "optimistic"
        """Which joint actions have weight 1: OW-QMIX's or CW-QMIX's."""
        w: float = 0.1
        """The weight of all others."""

        def __post_init__(self) -> None:
            """Raises ValueError for a weight that is none."""
            super().__post_init__()
            if not 0 < self.w <= 1:
                raise ValueError(f"w={self.w} must lie above 0, and at 1 (plain QMIX's weight) or below")

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        require_values(controller, settings)
        super().__init__(spec, controller, cfg, settings, rng)
        self.mixer = settings.build("mixer", spec)
        self.central = CentralValue(spec, settings)
        self.target = Target(self.central, cfg.target_update_interval)
        self.optimise("q", controller, self.mixer, self.central, lr=cfg.lr)

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed in the losses
        """One gradient step on both losses, which share no parameter."""
        terms = self.losses(self.draw(replay))
        metrics = self.descend("q", terms["qmix_loss"] + terms["central_loss"])
        self.target.step(self.new_episodes(replay))
        return metrics | {name: term.detach() for name, term in terms.items()}

    def losses(self, batch: EpisodeBatch) -> Metrics:
        """Both losses and the mean weight by name, from one evaluation of every network."""
        q = self.controller.unroll(batch)
        best = greedy(q.detach(), batch.avail)
        best_value = self.target(batch, best)
        y = self.cfg.returns(batch, best_value)
        q_tot, regulariser = mix_utilities(self.mixer, batch, batch.steps(q), batch.action)
        is_best = (batch.action == batch.steps(best)).all(-1)
        weight = self.weights(q_tot.detach(), y, is_best, batch.steps(best_value))
        return {
            "qmix_loss": self.qmix_loss(batch, q_tot, y, weight) + masked_mean(regulariser, batch.mask),
            "central_loss": self.central_loss(batch, y),
            "weight_mean": masked_mean(weight, batch.mask),
        }

    def weights(
        self,
        q_tot: Float[Tensor, "b t"],
        y: Float[Tensor, "b t"],
        is_best: Bool[Tensor, "b t"],
        best_value: Float[Tensor, "b t"],
    ) -> Float[Tensor, "b t"]:
        """1 for joint actions that may be the best, ``w`` for the others (algorithms.md 11.4).

        Optimistic weighting trusts those that Q_tot underestimates, Q_tot < y. Central weighting trusts û itself
        (``is_best``) and those whose target exceeds Q̂*'(s, τ, û) (``best_value``).
        """
        trusted = q_tot < y if self.cfg.weighting == "optimistic" else is_best | (y > best_value)
        return torch.where(trusted, 1.0, self.cfg.w)

    @staticmethod
    def qmix_loss(
        batch: EpisodeBatch, q_tot: Float[Tensor, "b t"], y: Float[Tensor, "b t"], weight: Float[Tensor, "b t"]
    ) -> Float[Tensor, ""]:
        """w(s, u) (Q_tot(s, τ, u) - y)², mean over real steps: weights are not normalised (algorithms.md 11.4)."""
        return masked_mean(weight * (q_tot - y).square(), batch.mask)

    def central_loss(self, batch: EpisodeBatch, y: Float[Tensor, "b t"]) -> Float[Tensor, ""]:
        """(Q̂*(s, τ, u) - y)², unweighted."""
        return masked_mean((self.central(batch, batch.action) - y).square(), batch.mask)
