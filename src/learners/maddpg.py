"""MADDPG: deterministic policy gradients with central critics."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from core.config import ConfigError
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.deterministic import DeterministicLearner
from modules.critics.base import build_critic
from modules.critics.joint_action import JointActionCritic
from modules.layers import action_vectors


@LEARNERS.register
class MADDPG(DeterministicLearner):
    r"""Lowe et al., "Multi-Agent Actor-Critic for Mixed Cooperative-Competitive Environments", NeurIPS 2017.

    .. math:: \nabla_{\theta_i} J = E_D[\nabla \mu_i(o_i)\, \nabla_{a_i} Q_i(s, a_1, …, a_N)|_{a_i = \mu_i(o_i)}]

    The others' actions are the replay's. With one reward for the team there is one critic Q for all agents, as in the
    FACMAC release; with rewards of their own every agent has a critic with weights of its own, as in the paper.

    Differences (algorithms.md 11.6): critics read the state instead of all observations; the policies' loss counts
    real steps only, and every real step, the last one included (T-57); targets look ahead at the slow policies'
    likeliest actions, where the original draws them (``target_action=sampled``).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(DeterministicLearner.Config):
        """Keys of MADDPG."""

        critic: str = "joint_action"
        """The central critic."""

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:  # noqa: ARG003 - rewards may be the team's or the agents' own
        """Nothing: the controller says which actions it takes."""
        return None

    def build_critic(self) -> JointActionCritic:
        """One Q for the team, or one for each agent.

        Raises:
            ConfigError: one Q for several rewards.
        """
        critic = build_critic(self.settings, JointActionCritic, self.spec)
        if self.spec.reward == "individual" and not critic.per_agent:
            raise ConfigError(
                ["critic_per_agent=False needs one team reward: leave it None where agents have their own"]
            )
        return critic

    def climbed(self, batch: EpisodeBatch, mu: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n"]:
        """Q_i(s, a_1, …, μ_i, …, a_N), for all i in one operation."""
        taken = action_vectors(batch.action, self.spec.n_actions)
        return self.critic.replaced(batch.steps(batch.state), taken, mu)
