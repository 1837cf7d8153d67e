"""MAPPO and IPPO: proximal policy optimisation with one policy for all agents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from controllers.stochastic import StochasticController
from core.config import Settings
from core.registry import LEARNERS
from core.specs import EnvSpec
from learners.base import Learner, Metrics, means
from learners.ppo import Experience, PPOConfig, ValueFunction, gather, policy, refuse_unfit, surrogate
from memory.replay import Replay


@LEARNERS.register
class MAPPO(Learner):
    """Yu et al., "The Surprising Effectiveness of PPO in Cooperative Multi-Agent Games", NeurIPS 2022.

    Symbols: π_i policy, V value of the state (IPPO, de Witt et al. 2020: of each agent's own history), Â generalised
    advantage, ρ_i = π_i(a_i | τ_i) over the same when a_i was taken.

    Differences from the released code (algorithms.md 9.5, 11.9): an update takes whole episodes, and time limits are
    bootstrapped through (T-02); chunks never straddle episodes and keep their agents together (T-39); ReLU (T-37); V
    reads the state, once for all agents, and is learnt at every step.
    """

    on_policy = True
    controller: StochasticController

    @dataclass(frozen=True, kw_only=True)
    class Config(PPOConfig):
        """Keys of MAPPO."""

        critic_input: Literal["state", "obs"] = "state"
        """What V reads: the state (MAPPO), or each agent's own observations (IPPO)."""

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng)
        refuse_unfit(settings, controller, cfg)
        self.value = ValueFunction(spec, settings, cfg, cfg.critic_input)
        self.optimise("policy", controller, lr=cfg.lr)
        self.optimise("value", self.value, lr=cfg.critic_lr)

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:  # noqa: ARG003 - the controller knows its actions
        """Nothing: actions may be numbered or of a box, and rewards the team's or each agent's own."""
        return None

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed
        """``epochs`` times through the newest episodes: a step of the policy, then one of the value, per part."""
        self.new_episodes(replay)
        data, _ = gather(replay.latest(self.cfg.batch_size), self.controller, self.value, self.cfg)
        metrics = self.value.begin(data)
        return metrics | means([self.learn(part) for part in data.parts(self.cfg, self.host_rng)])

    def learn(self, part: Experience) -> Metrics:
        """One step of each optimiser."""
        loss, metrics = self.policy_loss(part)
        return metrics | self.descend("policy", loss) | self.descend("value", self.value.loss(part))

    def policy_loss(self, part: Experience) -> tuple[Float[Tensor, ""], Metrics]:
        """-mean min(ρ Â, clip(ρ, 1±ε) Â) - c mean H(π_i), over real steps and active agents (Yu et al., equation 1)."""
        objective, entropy, metrics = surrogate(*policy(self.controller, self.controller.agent, part), self.cfg.clip)
        return -objective - self.cfg.entropy_coef * entropy, metrics
