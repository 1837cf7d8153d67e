"""MAIPG: MAPPO's policy gradient interpolated with that of a factorised action value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from controllers.base import Controller
from controllers.stochastic import StochasticController
from core.config import ConfigError, Settings
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Learner, Metrics, means
from learners.ppo import (
    Experience,
    PPOConfig,
    ValueFunction,
    gather,
    policy,
    refuse_unfit,
    surrogate,
)
from memory.replay import Replay
from modules.chunks import Chunks, recall
from modules.critics.base import build_critic
from modules.critics.history import HistoryCritic
from modules.layers import action_vectors
from modules.target import Target
from rl.distributions import Distribution
from rl.masked import masked_mean
from rl.policy_gradient import residual_variance
from rl.returns import td_lambda


class JointValue(nn.Module):
    """Q̂_tot(s, a) = M(Q_1(s, a_1), …, Q_N(s, a_N); s): one recurrent network for every agent's Q_i, and a mixer M."""

    def __init__(self, spec: EnvSpec, settings: Settings) -> None:
        super().__init__()
        self.n_agents, self.discrete, a = spec.n_agents, spec.discrete, spec.n_actions
        outputs, action_dim = (a, 0) if self.discrete else (1, a)
        self.critic = build_critic(settings, HistoryCritic, spec.state_dim + spec.n_agents, outputs, action_dim)
        self.mixer = settings.build("mixer", spec)

    def initial_hidden(self, b: int) -> Float[Tensor, "b n h"]:
        """Zeros, where the parameters live."""
        return self.critic.initial_hidden(b, self.n_agents)

    def forward(
        self,
        state: Float[Tensor, "b t s"],
        hidden: Float[Tensor, "b n h"],
        length: Int[Tensor, " b"],
    ) -> tuple[Float[Tensor, "b t n f"], Float[Tensor, "b n h"]]:
        """What ``total`` needs of every history of states: Q_i of all actions, or features in a box; and the memory."""
        features, hidden = self.critic.encode_numbered(state, self.n_agents, hidden, length)
        return self.critic.head(features) if self.discrete else features, hidden

    def total(
        self, features: Float[Tensor, "b t n f"], action: Float[Tensor, "b t n a"], state: Float[Tensor, "b t s"]
    ) -> Float[Tensor, "b t"]:
        """Q̂_tot of actions as vectors; linear in the one-hots of numbered actions, so that it has a gradient there."""
        if self.discrete:
            return self.mixer((features * action).sum(-1), state)
        return self.mixer(self.critic.head(torch.cat([features, action], -1)).squeeze(-1), state)


@dataclass(frozen=True)
class Interpolated(Experience):
    """What MAIPG needs besides."""

    q_memory: Float[Tensor, "c n q"]
    q_target: Float[Tensor, "c l"]
    """M̂."""


@LEARNERS.register
class MAIPG(Learner):
    r"""Multi-agent interpolated policy gradient (algorithms.md section 9).

    .. math::
        (1-\nu)\, E_\pi[\nabla \log \pi(a|s)\, \hat A] + \nu\, \nabla_\theta \mu(s)\, \nabla_{a'} \hat Q_{tot}(s, a'),
        \quad a' = \mu(s)

    The first term is MAPPO's, clipped. μ_i is the policy's mean in a box, and a straight-through Gumbel-softmax of its
    logits for numbered actions. The second term has less variance and the bias of Q̂; ν weighs the two, and 0 is
    MAPPO to the last bit. There is no released code; what the paper leaves open is listed in the documentation.
    """

    on_policy = True
    controller: StochasticController

    @dataclass(frozen=True, kw_only=True)
    class Config(PPOConfig):
        """Keys of MAIPG."""

        nu: float = 0.3
        """ν: the weight of the action value's gradient, from 0 to 1."""
        mixer: str = "qmix"
        """M."""
        td_lambda: float = 0.8
        """λ of the action value's targets."""
        tau: float = 0.005
        """How far the target networks follow at every gradient step."""
        bootstrap: Literal["greedy", "sampled"] = "greedy"
        """Actions at which targets look ahead: the policies' likeliest ones, or those that were taken."""
        mu_noise: bool = True
        """Whether μ of numbered actions is drawn with Gumbel noise, or is the likeliest action."""
        rvar_samples: int = 0
        """Joint actions drawn per state to centre Q̂ for the metric rvar; 0: it is not measured."""

        def __post_init__(self) -> None:
            """Raises ValueError for a weight that interpolates nothing."""
            super().__post_init__()
            if not 0 <= self.nu <= 1:
                raise ValueError(f"nu must lie between 0 and 1, not {self.nu}")

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        refuse_unfit(settings, controller, cfg)
        self.value = ValueFunction(spec, settings, cfg, "state")
        self.q = JointValue(spec, settings)
        if self.q.mixer.reads_joint:
            raise ConfigError([f"mixer '{cfg.mixer}' needs soft values and joint actions: choose qmix, vdn or linear"])
        self.target = Target(self.q, tau=cfg.tau)
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("value", self.value, lr=cfg.critic_lr)
        self.optimise("q", self.q, lr=cfg.critic_lr)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """The mixer makes one value for the team; actions may be numbered or of a box."""
        return None if spec.reward == "team" else "it needs one team reward"

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed
        """``epochs`` times through the newest episodes: a step of policy, V and Q̂ per part."""
        self.new_episodes(replay)
        data, metrics = self.gather(replay.latest(self.cfg.batch_size))
        metrics |= self.value.begin(data)
        return metrics | means([self.learn(part) for part in data.parts(self.cfg, self.host_rng)])

    def learn(self, part: Interpolated) -> Metrics:
        """One step of each optimiser, and of the target networks."""
        features, _ = self.q(part.state, part.q_memory, part.length)
        loss, metrics = self.policy_loss(part, features.detach())
        metrics |= self.descend("policy", loss)
        metrics |= self.descend("value", self.value.loss(part))
        metrics |= self.descend("q", self.q_loss(part, features))
        self.target.step()
        return metrics

    def policy_loss(self, part: Interpolated, features: Float[Tensor, "c l n f"]) -> tuple[Float[Tensor, ""], Metrics]:
        """-(1-ν) mean min(ρ Â, clip(ρ) Â) - ν mean Q̂_tot(s, μ(s)) - c mean H(π_i) (algorithms.md 9.1).

        With ν = 0 nothing is drawn for μ, so the random numbers stay MAPPO's, too (T-09).
        """
        cfg = self.cfg
        pi, acts = policy(self.controller, self.controller.agent, part)
        objective, entropy, metrics = surrogate(pi, acts, cfg.clip)
        loss = -(1 - cfg.nu) * objective - cfg.entropy_coef * entropy
        if cfg.nu > 0:
            mu = acts.everywhere(pi.deterministic(acts.uniforms(self.rng) if cfg.mu_noise else None))
            q = masked_mean(self.q.total(features, mu, part.state), part.mask)
            loss, metrics = loss - cfg.nu * q, metrics | {"q_mu": q.detach()}
        return loss, metrics

    def q_loss(self, part: Interpolated, features: Float[Tensor, "c l n f"]) -> Float[Tensor, ""]:
        """mean (Q̂_tot(s, a) - M̂)² at the actions taken (the paper's equation 14), on the rewards' scale (T-40)."""
        q = self.q.total(features, action_vectors(part.action, self.spec.n_actions), part.state)
        return masked_mean((q - part.q_target).square(), part.mask)

    def gather(self, batch: EpisodeBatch) -> tuple[Interpolated, Metrics]:
        """Everything that stays as it is during the update."""
        data, out = gather(batch, self.controller, self.value, self.cfg)
        chunks = Chunks.of(batch.length, self.cfg.chunk_length, batch.mask.device)
        start = self.q.initial_hidden(len(batch))
        features, memory = recall(self.q, [batch.state], start, batch.length + 1, self.cfg.chunk_length)
        pi = self.controller.policy(out, batch.avail)
        target = self.q_targets(batch, pi)
        metrics = {"q_target_mean": masked_mean(target, batch.mask)}
        if self.cfg.rvar_samples:
            metrics["rvar"] = self.rvar(data, self.controller.policy(chunks.cut(out), data.avail), chunks.cut(features))
        return Interpolated(**vars(data), q_memory=chunks.first(memory), q_target=chunks.cut(target)), metrics

    @torch.no_grad()
    def q_targets(self, batch: EpisodeBatch, pi: Distribution) -> Float[Tensor, "b t"]:
        """M̂: TD(λ) of X_t = Q̂'_tot(s_t, μ(s_t)), with the likeliest actions for μ (algorithms.md 9.3)."""
        action = pi.mode() if self.cfg.bootstrap == "greedy" else self.taken(batch, pi)
        slow = self.target.slow
        features, _ = slow(batch.state, slow.initial_hidden(len(batch)), batch.length + 1)
        value = slow.total(features, action_vectors(action, self.spec.n_actions), batch.state)
        return td_lambda(batch.reward, batch.terminated, batch.mask, value, self.cfg.gamma, self.cfg.td_lambda)

    def taken(self, batch: EpisodeBatch, pi: Distribution) -> Tensor:
        """The actions taken, and drawn ones where none was: in the last state of an episode that was cut."""
        return replace(batch, action=self.controller.drawn(batch)).completed(pi.sample(self.rng))

    @torch.no_grad()
    def rvar(self, data: Experience, pi: Distribution, features: Float[Tensor, "c l n f"]) -> Float[Tensor, ""]:
        """Var(Â - Q̃) / Var(Â), where Q̃ is Q̂ less its mean over actions drawn from the policies (algorithms.md 9.6)."""
        rng = torch.Generator(self.rng.device).set_state(self.rng.get_state())  # a copy: training must not notice

        def total(action: Tensor) -> Tensor:
            return self.q.total(features, action_vectors(action, self.spec.n_actions), data.state)

        mean = torch.stack([total(pi.sample(rng)) for _ in range(self.cfg.rvar_samples)]).mean(0)
        advantage = data.returns - self.value.scale.denormalise(self.value.scale.kept(data.value))
        return residual_variance(advantage.squeeze(-1), total(data.action) - mean, data.mask)
