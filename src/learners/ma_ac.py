"""MA-AC: actor-critic of networked agents, which average their critics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.device import sent
from core.precision import full_precision
from core.registry import LEARNERS
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.peers import PeerConfig, PeerLearner
from memory.replay import Replay
from modules.consensus import FLOAT_BYTES, Graph, GraphConfig
from modules.critics.whole import WholeCritic
from modules.stacked import StackedAdam
from rl.consensus import metropolis
from rl.distributions import Categorical
from rl.masked import masked_mean
from rl.policy_gradient import counterfactual_advantage


@LEARNERS.register
class NetworkedActorCritic(PeerLearner):
    r"""Zhang et al., "Fully Decentralized Multi-Agent Reinforcement Learning with Networked Agents", ICML 2018, Alg. 1.

    .. math::
        \tilde\omega_i = \omega_i + \beta_\omega \delta_i \nabla Q(o, a; \omega_i), \qquad
        \delta_i = r_i + \gamma\, Q(o', a'; \omega_i') - Q(o, a; \omega_i), \qquad
        \omega_i = \sum_j C_{ij} \tilde\omega_j \\
        \nabla J_i = E[\nabla\log\pi_i(a_i)\,(Q(o, a; \omega_i) - \sum_{a'} \pi_i(a')\, Q(o, (a', a_{-i}); \omega_i))]

    Every agent estimates the value of the *team's mean* reward; C has Metropolis weights on the communication graph.

    Differences: discounted instead of average rewards (so no μ_i); whole batches of the newest episodes with Adam, and
    slow copies in the target, as in the comparison of F2A2 (algorithms.md 11.10).
    """

    on_policy = True
    kind = WholeCritic

    @dataclass(frozen=True, kw_only=True)
    class Config(PeerConfig, GraphConfig):
        """Keys of MA-AC."""

        sample: Literal["episodes"] = "episodes"
        """On-policy: whole new episodes."""
        critic: str = "whole"
        """The critic of every agent."""
        critic_agent_id: Literal[False] = False
        """A critic must not know whose it is: all estimate the same value."""
        undirected: Literal[True] = True
        """Metropolis weights need edges that go both ways."""

        def __post_init__(self) -> None:
            """Raises ValueError for values that cannot be meant."""
            super().__post_init__()
            self.check_graph()

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics=1)
        self.graph = Graph(spec.n_agents, cfg, rng)
        self._optimisers["critic"] = StackedAdam(self.critics.parameters(), cfg.critic_lr, cfg.adam_eps)

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed
        """A step of every critic and actor, the critics' averaging, and a step of the slow copies."""
        batch = self.draw(replay)
        pi = self.policy(batch)
        action = batch.completed(pi.sample(self.rng))
        pi = Categorical(pi.logits[:, :-1], pi.avail[:, :-1])
        policy_loss = self.policy_loss(batch, pi)
        loss, metrics = self.critic_loss(batch, action)
        metrics |= self.descend_stacked("critic", loss)
        metrics |= self.descend_stacked("policy", policy_loss)
        metrics |= self.average()
        self.target.step()
        return metrics | {"policy_entropy": masked_mean(pi.entropy().detach(), batch.mask)}

    def critic_loss(self, batch: EpisodeBatch, action: Int[Tensor, "b states n"]) -> tuple[Float[Tensor, ""], Metrics]:
        """Σ_i ½ δ_i², whose gradient is -δ_i ∇Q."""
        joint = self.vectors(action).unsqueeze(2)
        y = self.bootstrapped(batch, self.target.slow[1][0](batch.obs[:, 1:], joint[:, 1:]).q)
        delta = y - self.critics[0](batch.obs[:, :-1], joint[:, :-1]).q
        return self.total(0.5 * delta.square(), batch.mask), {"delta_1_mean": masked_mean(-delta.detach(), batch.mask)}

    def policy_loss(self, batch: EpisodeBatch, pi: Categorical) -> Float[Tensor, ""]:
        """-A_i log π_i(a_i), and mean z²."""
        q = self.own_values(batch.obs[:, :-1], self.vectors(batch.action))
        advantage = counterfactual_advantage(q, pi.log_pi.detach().exp(), pi.avail, batch.action)
        losses = self.cfg.regulariser * pi.size() - advantage * pi.log_prob(batch.action)
        return self.total(losses, batch.mask)

    @torch.no_grad()
    def own_values(self, obs: Float[Tensor, "b t n o"], taken: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n a"]:
        """Q(o, (·, a_-i); ω_i): every own action in turn in place of the one taken, all of them in one call."""
        n, a = taken.shape[2:]
        own = torch.eye(n, dtype=torch.bool, device=obs.device)[..., None]
        each = torch.eye(a, device=obs.device).view(a, 1, 1, 1, 1, a)
        joint = torch.where(own, each, taken.unsqueeze(2)).flatten(0, 1)
        return self.critics[0](obs.repeat(a, 1, 1, 1), joint).q.unflatten(0, (a, -1)).movedim(0, -1)

    @torch.no_grad()
    @full_precision()
    def average(self) -> Metrics:
        """ω_i = Σ_j C_ij ω̃_j for all critics."""
        heard = self.graph.draw()
        params = list(self.critics.parameters())
        weight = sent(metropolis(heard), params[0].device)
        copies = torch.cat([p.flatten(1) for p in params], 1)
        for p in params:
            p.copy_(torch.einsum("ij,j...->i...", weight, p))
        return {
            "exchanged_bytes": torch.tensor(float(FLOAT_BYTES * copies.shape[1] * int(heard.sum()))),
            "copies_spread": (copies - copies.mean(0)).norm(dim=1).mean(),
        }

    def get_extra_state(self) -> dict[str, Any]:
        """See ``Learner.get_extra_state``."""
        return super().get_extra_state() | {"graph": self.graph.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        super().set_extra_state(state)
        self.graph.load_state_dict(state["graph"])
