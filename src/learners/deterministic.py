"""What deterministic policy gradients share: keys, slow copies, the critic's loss, and the order of the steps."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from controllers.actor import ActorController
from controllers.base import Controller
from controllers.deterministic_mac import DeterministicMAC
from controllers.policy_mac import PolicyMAC
from core.config import ConfigError, Settings
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics, lambda_returns
from learners.transitions import TransitionLearner
from memory.replay import Replay
from modules.critics.action import ActionCritic, LocalCritic
from modules.critics.base import build_critic
from modules.critics.mixed import MixedCritic
from modules.layers import action_vectors
from modules.target import Target
from rl.distributions import Policy
from rl.masked import masked_mean


class DeterministicLearner(TransitionLearner):
    r"""A critic of actions as vectors, and policies that climb it.

    .. math::
        L_Q = E_D[(Q(s, a) - y)^2], \qquad y = r + \gamma\, Q'(s', \mu'(\tau')), \qquad
        \nabla J = E_D[\nabla_\theta \mu(\tau)\, \nabla_a Q(s, a)|_{a = \mu(\tau)}]

    μ is the policy's action in a box; numbered actions are one-hots, and μ a straight-through Gumbel-softmax of the
    logits (algorithms.md 1.3). ' marks slow copies of policies and critic. What the subclasses decide is the critic's
    form, and which actions of the joint one are μ's while a policy climbs.
    """

    controller: ActorController
    critic: ActionCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(TransitionLearner.Config):
        """Keys of deterministic policy gradients."""

        critic_lr: float = 5e-4
        """Learning rate of the critic."""
        td_lambda: float = 0.0
        """λ of the targets, without correction for old actions; above 0 it needs sample=episodes."""
        target_action: Literal["greedy", "sampled"] = "greedy"
        """Numbered actions at which targets look ahead: the slow policies' likeliest ones, or drawn ones."""
        mu_noise: bool = True
        """Whether μ of numbered actions is drawn with Gumbel noise, or is the likeliest action."""
        regulariser: float = 0.0
        """Weight of the mean square of logits, or of actions as shares of the box, in the policies' loss."""
        policy_delay: int = 1
        """Updates of the critic for one of the policies and of the slow copies."""
        tau: float | None = None
        """How far the slow copies follow each time; null: they are copied whole, see target_update_interval."""
        target_update_interval: int = 200
        """Updates of the critic between two copies into its slow one, where tau is null."""

        def __post_init__(self) -> None:
            """Raises ValueError for values that cannot be meant."""
            super().__post_init__()
            if self.sample == "transitions" and self.td_lambda > 0:
                raise ValueError(
                    f"td_lambda={self.td_lambda} needs sample=episodes: a single step has no longer return; "
                    "or give td_lambda=0"
                )
            if self.policy_delay < 1:
                raise ValueError(f"policy_delay must be at least 1, not {self.policy_delay}")

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        if not isinstance(controller, PolicyMAC | DeterministicMAC):
            raise ConfigError(
                [
                    f"mac '{settings['mac']}' has no actions that a critic's gradient could improve: choose policy_mac "
                    "for numbered actions, deterministic_mac for a box"
                ]
            )
        self.refuse_memory()
        self.critic = self.build_critic()
        period = cfg.target_update_interval if cfg.tau is None else None
        self.target: Target[Any] = Target(nn.ModuleList([controller, self.critic]), period, cfg.tau)
        self.updates = 0
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("critic", self.critic, lr=cfg.critic_lr)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """Actions may be numbered or of a box: the controller says which it takes."""
        return None if spec.reward == "team" else "it needs one team reward"

    @abstractmethod
    def build_critic(self) -> ActionCritic:
        """Q, which may be of the team or of every agent."""

    @abstractmethod
    def climbed(self, batch: EpisodeBatch, mu: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t *n"]:
        """What the policies climb at the batch's steps by their actions ``mu``."""

    def draw(self, replay: Replay) -> EpisodeBatch:
        """Steps, or episodes without padding."""
        batch = super().draw(replay)
        return batch if self.cfg.sample == "transitions" else batch.packed()

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed here
        """A step of the critic; with every ``policy_delay``-th one a step of the policies and of the slow copies."""
        batch = self.draw(replay)
        loss, metrics = self.critic_loss(batch)
        metrics |= self.descend("critic", loss)
        self.updates += 1
        if self.updates % self.cfg.policy_delay == 0:
            metrics |= self.descend("policy", self.policy_loss(batch))
            self.target.step(self.cfg.policy_delay)
        return metrics

    def critic_loss(self, batch: EpisodeBatch) -> tuple[Float[Tensor, ""], Metrics]:
        """mean (Q(s, a) - y)² at the actions taken."""
        y = self.targets(batch)
        action = action_vectors(batch.action, self.spec.n_actions)
        q = self.critic(batch.steps(batch.state), batch.steps(batch.obs), action)
        metrics = {"q_taken_mean": masked_mean(q.detach(), batch.mask), "target_mean": masked_mean(y, batch.mask)}
        return masked_mean((q - y).square(), batch.mask), metrics

    @torch.no_grad()
    def targets(self, batch: EpisodeBatch) -> Float[Tensor, "b t *n"]:
        """y: one-step targets or TD(λ) of Q'(s, μ'(τ)); 0 ahead of true ends only (T-22, T-57)."""
        controller, critic = self.target.slow
        pi = controller.policy(controller.unroll(batch), batch.avail)
        noise = batch.uniforms(self.rng, torch.float) if self.cfg.target_action == "sampled" else None
        value = batch.later(critic, batch.state, batch.obs, pi.deterministic(noise))
        return lambda_returns(batch, value, self.cfg.gamma, self.cfg.td_lambda)

    def policy_loss(self, batch: EpisodeBatch) -> Float[Tensor, ""]:
        """- mean of what the policies climb + c mean z²; no step of the critic follows from it."""
        pi = self.policy(batch)
        noise = batch.uniforms(self.rng, torch.float, steps=True) if self.cfg.mu_noise else None
        q = self.climbed(batch, pi.deterministic(noise))
        loss = -masked_mean(q, batch.mask)
        if self.cfg.regulariser:
            loss = loss + self.cfg.regulariser * masked_mean(pi.size(), batch.mask)
        return loss

    def policy(self, batch: EpisodeBatch) -> Policy:
        """π at the states in which somebody acted."""
        return self.controller.policy(batch.steps(self.controller.unroll(batch)), batch.steps(batch.avail))

    def get_extra_state(self) -> dict[str, Any]:
        """See ``Learner.get_extra_state``."""
        return super().get_extra_state() | {"updates": self.updates}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        super().set_extra_state(state)
        self.updates = state["updates"]


def build_mixed(settings: Settings, spec: EnvSpec) -> MixedCritic:
    """The selected local critic under the selected mixer.

    Raises:
        ConfigError: they do not go together.
    """
    local, mixer = build_critic(settings, LocalCritic, spec), settings.build("mixer", spec)
    if mixer.reads_joint:
        problem = f"mixer '{settings['mixer']}' needs values of policies and numbered joint actions"
        raise ConfigError([f"{problem}: choose qmix, vdn, dop or linear"])
    return MixedCritic(local, mixer)
