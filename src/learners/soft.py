"""What maximum-entropy learners share: keys, temperature, targets and the improvement of policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from core.schedule import Geometric, Linear, Scalar
from core.specs import EpisodeBatch
from learners.base import Learner, lambda_returns
from rl.masked import masked_mean
from rl.soft import soft_policy_loss


@dataclass(frozen=True, kw_only=True)
class SoftConfig(Learner.Config):
    """Keys of soft policy iteration."""

    burn_in: int = 100
    """Episodes collected before the first update (at least batch_size)."""
    critic_lr: float = 5e-4
    """Learning rate of the critics and their mixers."""
    td_lambda: float = 0.8
    """0: one-step targets (the papers); towards 1: longer returns (the releases)."""
    alpha_start: float = 0.5
    """Temperature at the start."""
    alpha_finish: float = 0.05
    """Temperature at the end."""
    alpha_schedule: Literal["linear", "geometric"] = "linear"
    """How it falls: linearly over alpha_anneal_time, or by alpha_rate with every episode."""
    alpha_anneal_time: int = 200_000
    """Environment steps over which the temperature falls linearly."""
    alpha_rate: float = 0.999
    """Factor per collected episode of the geometric schedule."""
    entropy_reduction: Literal["sum", "mean"] = "sum"
    """Over agents; ``mean`` for the temperatures of the released codes."""
    target_update_interval: int = 200
    """Episodes collected between two copies into the target networks."""

    def alpha(self, t_env: int, episodes: int) -> Scalar:
        """The temperature after ``t_env`` steps in ``episodes`` episodes."""
        if self.alpha_schedule == "geometric":
            return Geometric(self.alpha_start, self.alpha_finish, self.alpha_rate)(episodes)
        return Linear(self.alpha_start, self.alpha_finish, self.alpha_anneal_time)(t_env)

    def soft_target(
        self, batch: EpisodeBatch, q_jt: Float[Tensor, "b states"], log_prob: Float[Tensor, "b states n"], alpha: Scalar
    ) -> Float[Tensor, "b t"]:
        """TD(λ) of the soft values X_t = Q_jt(s_t, u'_t) - α Σ_i log π_i(u'_{t,i}) (algorithms.md 6.4).

        The entropy belongs to the next state: it is discounted, and absent after a terminal step (T-27).
        """
        entropy = -(log_prob.sum(-1) if self.entropy_reduction == "sum" else log_prob.mean(-1))
        return lambda_returns(batch, q_jt + alpha * entropy, self.gamma, self.td_lambda)


def policy_improvement(
    batch: EpisodeBatch, log_pi: Float[Tensor, "b states n a"], q: Float[Tensor, "b states n a"], alpha: Scalar
) -> Float[Tensor, ""]:
    """Σ_a π_i(a) [α log π_i(a) - Q_i(a)] over available actions, mean over real steps and agents; Q is constant."""
    return masked_mean(batch.steps(soft_policy_loss(log_pi, q, batch.avail, alpha)), batch.mask)
