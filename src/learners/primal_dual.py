"""What the F2A2 family shares: the order of the steps, what is drawn for the joint gradients, and the agreement."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from controllers.base import Controller
from controllers.policy_mac import BEHAVIOUR
from core.config import ConfigError, Settings
from core.specs import EnvSpec, EpisodeBatch
from learners.base import Metrics
from learners.modelling import Modelling, ModellingConfig
from learners.peers import PeerConfig, PeerLearner
from memory.replay import Replay
from modules.consensus import Consensus, ConsensusConfig
from modules.critics.attention import AttentionCritic
from modules.stacked import StackedAdam
from rl.distributions import Categorical
from rl.masked import masked_mean, sample, taken

LEAST_PROBABILITY = 1e-8
"""In the denominator of importance ratios (T-49)."""


@dataclass(frozen=True, kw_only=True)
class PrimalDualConfig(ModellingConfig, PeerConfig, ConsensusConfig):
    """Keys of the family."""

    alpha1: float = 1.0
    """α1: weight of the return in the joint objective."""
    alpha2: float = 0.5
    """α2: weight of the critics' error in it."""
    alpha1_critic: float | None = None
    """α1 where it pushes the critics up, which gives them a constant bias (T-46); null: alpha1, as written."""
    joint: bool = True
    """False: critics and actors learn separately (block coordinate descent), without the cross terms."""
    ratio_clip: float = 1.0
    """ε_CIM: importance ratios are cut at it."""
    delta_clip: float | None = 1.0
    """Errors are cut to this size where they weigh a policy's gradient (T-47); null: they are not, as written."""
    share_actor: bool = False
    """Whether the agents agree on their actors, too (F2A2-ISAC)."""

    def __post_init__(self) -> None:
        """Raises ValueError for values that cannot be meant."""
        super().__post_init__()
        self.check_consensus()

    @property
    def push(self) -> float:
        """α1 in the critics' losses; 0 where these are separate."""
        own = self.alpha1 if self.alpha1_critic is None else self.alpha1_critic
        return own if self.joint else 0.0

    def cut(self, delta: Tensor) -> Tensor:
        """δ as it weighs a policy's gradient; 0 where critics and actors learn separately."""
        if not self.joint:
            return torch.zeros_like(delta)
        return delta if self.delta_clip is None else delta.clamp(-self.delta_clip, self.delta_clip)


@dataclass(frozen=True)
class Scene:
    """What the losses of one update are made of, at the steps of the batch; all of it is constant."""

    mask: Float[Tensor, "b t"]
    obs: Float[Tensor, "b t n o"]
    y: Float[Tensor, "b t n"]
    """The critics' targets, of the replay's rewards and next states."""
    action: Int[Tensor, "b t n"]
    """The replay's."""
    joint: Float[Tensor, "b t 1 n a"]
    """The same as one-hots."""
    drawn: Int[Tensor, "b t n"]
    """An action of each agent's policy as it is now."""
    believed: Float[Tensor, "b t i n a"]
    """Joint actions of those, and of what each agent believes that the others do now."""
    old: Float[Tensor, "b t n a"]
    """π0, with which the replay's actions were drawn."""

    def was(self, action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """π0(a)."""
        return taken(self.old, action)


def with_own(joint: Float[Tensor, "b t i n a"], own: Float[Tensor, "b t n a"]) -> Float[Tensor, "b t n n a"]:
    """What every agent believes, with its own action in its own place."""
    oneself = torch.eye(own.shape[2], dtype=torch.bool, device=own.device)[..., None]
    return torch.where(oneself, own.unsqueeze(2), joint)


class PrimalDual(PeerLearner):
    r"""Fully decentralised actor-critic by primal-dual hybrid gradient (F2A2), for all of its instances.

    .. math::
        \min \alpha_1 \sum_i J_{actor}^i + \alpha_2 \sum_i J_{critic}^i + R
        - \sum_i \langle \lambda_i, w - \tilde w_i \rangle + \tfrac{\beta}{2} \sum_i \|w - \tilde w_i\|^2

    Each update (Algorithm 1; algorithms.md 10.2): the critics' step, the actors' step with the critics that follow from
    it, the exchange, and a step of the models of the others. Signs are those of rewards: the papers' costs with the
    sign turned, twin critics by their minimum and entropy as a reward (T-45).

    δ = Q - y of a redrawn action uses the replay's y, the only one there is (T-48).
    """

    def __init__(
        self,
        spec: EnvSpec,
        controller: Controller,
        cfg: PrimalDualConfig,
        settings: Settings,
        rng: torch.Generator,
        critics: int,
    ) -> None:
        super().__init__(spec, controller, cfg, settings, rng, critics)
        if not controller.cfg.store_behaviour:
            raise ConfigError(
                [f"learner '{settings['learner']}' needs store_behaviour=True: its ratios read π0 (T-49)"]
            )
        shared = [p for critic in self.critics for p in self._shared_of(critic)]
        if cfg.share_actor:
            shared += list(self.controller.agent.networks.parameters())
        self.consensus = Consensus(shared, cfg, rng)
        self.target.slow.load_state_dict(nn.ModuleList([controller, self.critics]).state_dict())
        self._optimisers["critic"] = StackedAdam(self.critics.parameters(), cfg.critic_lr, cfg.adam_eps)
        self.reads_actions = self.critics[0].reads_actions
        self.modelling = Modelling(spec, cfg, self.host_rng) if self.reads_actions and cfg.moa == "on" else None
        if self.modelling is not None:
            self.optimise("moa", self.modelling, lr=cfg.lr if cfg.moa_lr is None else cfg.moa_lr)

    @abstractmethod
    def value(self, q: Float[Tensor, "b t n *a"], action: Int[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        """What a critic says of agents' own actions ``action``."""

    def critic_loss(self, scene: Scene, pi: Categorical) -> tuple[Float[Tensor, ""], Metrics]:
        r"""The sum of the agents' losses; ``pi`` is constant.

        .. math::
            E_{\pi_0}[\alpha_2\delta_k^2 - \alpha_1 CIM(\pi; \pi_0) Q_k]
            + E_\pi[\alpha_2 CIM(\pi_0; \pi) \delta_k^2 - \alpha_1 Q_k]

        with α1 for the first critic only, and the first δ² alone where critics and actors learn separately.
        """
        cfg, losses, metrics = self.cfg, [], {}
        forth = self.ratio(pi.log_prob(scene.action).exp(), scene.was(scene.action))
        back = self.ratio(scene.was(scene.drawn), pi.log_prob(scene.drawn).exp())
        for k, critic in enumerate(self.critics):
            push = cfg.push if k == 0 else 0.0
            worth = critic(scene.obs, scene.joint)
            q = self.value(worth.q, scene.action)
            losses.append(cfg.alpha2 * (q - scene.y).square() - push * forth * q)
            if worth.cost is not None:
                losses.append(worth.cost)
            if cfg.joint:
                redrawn = self.value(critic(scene.obs, scene.believed).q, scene.drawn)
                losses.append(cfg.alpha2 * back * (redrawn - scene.y).square() - push * redrawn)
            metrics[f"delta_{k + 1}_mean"] = masked_mean((q - scene.y).detach(), scene.mask)
        metrics["ratio_mean"] = masked_mean(forth, scene.mask)
        return self.total(torch.stack(losses).sum(0), scene.mask), metrics

    @abstractmethod
    def policy_loss(self, scene: Scene, pi: Categorical) -> Float[Tensor, ""]:
        """The sum of the agents' losses; ``pi`` has a gradient."""

    @abstractmethod
    def ahead(self, batch: EpisodeBatch) -> Float[Tensor, "b t n"]:
        """The slow values of the states after the batch's steps, of actions of the slow policies."""

    def update(self, replay: Replay, t_env: int) -> Metrics:  # noqa: ARG002 - nothing is annealed here
        """One round of the agents (see the class)."""
        batch = self.draw(replay)
        pi = self.now(batch)
        scene = self.scene(batch, Categorical(pi.logits.detach(), pi.avail))
        loss, metrics = self.critic_loss(scene, Categorical(pi.logits.detach(), pi.avail))
        metrics |= self.descend_stacked("critic", loss, self.consensus.pull)
        metrics |= self.step_policies(scene, pi)
        metrics |= self.consensus.exchange()
        if self.modelling is not None:
            metrics |= self.modelling.learn(replay, self.descend)
        self.target.step()
        entropy = masked_mean(pi.entropy().detach(), batch.mask)
        return metrics | {"policy_entropy": entropy, "target_mean": masked_mean(scene.y, batch.mask)}

    def step_policies(self, scene: Scene, pi: Categorical) -> Metrics:
        """A step of every actor."""
        return self.descend_stacked(
            "policy", self.policy_loss(scene, pi) + self.size_loss(scene, pi), self.consensus.pull
        )

    def size_loss(self, scene: Scene, pi: Categorical) -> Float[Tensor, ""]:
        """What keeps logits small."""
        return self.cfg.regulariser * self.total(pi.size(), scene.mask)

    def pick(self, replay: Replay) -> EpisodeBatch:
        """As ``PeerLearner.pick``; single steps with what the models of the others look back on."""
        if self.modelling is not None and self.cfg.sample == "transitions" and not self.on_policy:
            return replay.transitions(self.cfg.batch_size, past=self.cfg.moa_past)
        return super().pick(replay)

    @torch.no_grad()
    def scene(self, batch: EpisodeBatch, pi: Categorical) -> Scene:
        """Everything that is constant in this update."""
        drawn = pi.sample(self.rng)
        return Scene(
            mask=batch.mask,
            obs=batch.obs[:, :-1],
            y=self.bootstrapped(batch, self.ahead(batch)),
            action=batch.action,
            joint=self.vectors(batch.action).unsqueeze(2),
            drawn=drawn,
            believed=self.believed(batch, drawn, slice(0, -1)),
            old=batch.extras[BEHAVIOUR],
        )

    def believed(self, batch: EpisodeBatch, own: Int[Tensor, "b t n"], states: slice) -> Float[Tensor, "b t i n a"]:
        """Joint actions of ``own`` and of what each agent believes that the others do at ``states``, as one-hots.

        With the others' true policies all believe the same, which is ``own``. What the others did is known of the
        batch's steps only; at the states after them their policies are used (algorithms.md 10.4).
        """
        if self.modelling is not None:
            others = self.vectors(sample(self.modelling.predict(batch, states), self.rng))
        elif self.reads_actions and self.cfg.moa == "replay" and states.start == 0:
            others = self.vectors(batch.action).unsqueeze(2)
        else:
            return self.vectors(own).unsqueeze(2)
        return with_own(others, self.vectors(own))

    def slow_q(self, batch: EpisodeBatch, drawn: Int[Tensor, "b t n"]) -> list[Float[Tensor, "b t n *a"]]:
        """What the slow critics say of the states after the batch's steps, and of actions ``drawn`` there."""
        joint = self.believed(batch, drawn, slice(1, None))
        return [critic(batch.obs[:, 1:], joint).q for critic in self.target.slow[1]]

    def ratio(self, above: Float[Tensor, "b t n"], below: Float[Tensor, "b t n"]) -> Float[Tensor, "b t n"]:
        r"""CIM(x; y) = :math:`\min(\epsilon, x / y)`, constant (F2A2, section 4; T-49)."""
        return (above / below.clamp(min=LEAST_PROBABILITY)).clamp(max=self.cfg.ratio_clip).detach()

    def _shared_of(self, critic: Any) -> list[nn.Parameter]:
        """What agents agree on; refuses critics that they have in common, with which there is nothing to agree on."""
        if isinstance(critic, AttentionCritic) and not critic.cfg.attention_copies:
            raise ConfigError([f"learner '{self.settings['learner']}' needs attention_copies=True"])
        return critic.shared()
