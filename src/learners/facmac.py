"""FACMAC: the gradient of a factored central critic with respect to all agents' actions at once."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from core.registry import LEARNERS
from core.specs import EpisodeBatch
from learners.deterministic import DeterministicLearner, build_mixed
from modules.critics.mixed import MixedCritic


@LEARNERS.register
class FACMAC(DeterministicLearner):
    r"""Peng et al., "FACMAC: Factored Multi-Agent Centralised Policy Gradients", NeurIPS 2021.

    .. math:: \nabla_\theta J = E_D[\nabla_\theta \mu\, \nabla_\mu Q_{tot}(s, \mu_1(\tau_1), …, \mu_N(\tau_N))],
        \qquad Q_{tot} = M(Q_1(o_1, a_1), …, Q_N(o_N, a_N); s)

    All agents' actions are those of their present policies, where MADDPG leaves the others' as they are in the replay.

    Differences (algorithms.md 11.7): the policies' loss counts real steps only, in boxes, too; local critics read
    observations, not histories; no weight decay, which the release configures and does not apply (T-58).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(DeterministicLearner.Config):
        """Keys of FACMAC."""

        critic: str = "local"
        """Q_i."""
        mixer: str = "qmix"
        """M."""

    def build_critic(self) -> MixedCritic:
        """Q_tot."""
        return build_mixed(self.settings, self.spec)

    def climbed(self, batch: EpisodeBatch, mu: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t"]:
        """Q_tot(s, μ_1, …, μ_N)."""
        return self.critic(batch.steps(batch.state), batch.steps(batch.obs), mu)
