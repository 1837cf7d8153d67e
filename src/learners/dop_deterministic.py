"""DOP: decomposed off-policy policy gradients, deterministic policies."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from core.config import ConfigError
from core.registry import LEARNERS
from core.specs import EpisodeBatch
from learners.deterministic import DeterministicLearner, build_mixed
from modules.critics.mixed import MixedCritic


@LEARNERS.register
class DOPDeterministic(DeterministicLearner):
    r"""Wang et al., "DOP: Off-Policy Multi-Agent Decomposed Policy Gradients", ICLR 2021, the deterministic form.

    .. math:: \nabla J = E_D[\textstyle\sum_i k_i(s)\, \nabla_\theta \mu_i(\tau_i)\,
        \nabla_{a_i} Q_i(s, a_i)|_{a_i = \mu_i(\tau_i)}], \qquad Q_{tot} = \textstyle\sum_i k_i(s) Q_i(s, a_i) + b(s)

    Policies and slow copies take a step with every second one of the critic, as in TD3, whose target smoothing is not
    used. There is no released code; what the paper leaves open is listed in the documentation (A6).
    """

    critic: MixedCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(DeterministicLearner.Config):
        """Keys of deterministic DOP."""

        critic: str = "local"
        """Q_i."""
        mixer: str = "dop"
        """A linear mixer, which tells its weights k(s)."""

    def build_critic(self) -> MixedCritic:
        """Q_tot.

        Raises:
            ConfigError: the mixer is not linear.
        """
        critic = build_mixed(self.settings, self.spec)
        if not hasattr(critic.mixer, "weights"):
            name = self.settings["mixer"]
            raise ConfigError([f"mixer '{name}' is not linear, so it has no weights k(s): choose dop or linear"])
        return critic

    def climbed(self, batch: EpisodeBatch, mu: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t"]:
        """Σ_i k_i(s) Q_i(s, μ_i); with normalised k each agent's gradient is about 1/N of MADDPG's (T-23)."""
        state = batch.steps(batch.state)
        k, _ = self.critic.mixer.weights(state)
        return (k * self.critic.local(state, batch.steps(batch.obs), mu)).sum(-1)
