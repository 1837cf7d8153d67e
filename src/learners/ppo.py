"""What the PPO family shares: keys, experience cut into chunks, the clipped losses, the value function."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from controllers.stochastic import StochasticController
from core.config import ConfigError, Settings
from core.device import sent
from core.specs import EnvSpec, EpisodeBatch, Uniforms
from learners.base import Learner, Metrics
from modules.agents.base import Agent
from modules.chunks import Chunks, Recurrent, Trail, recall
from modules.critics.base import build_critic
from modules.critics.history import HistoryCritic
from modules.layers import agent_inputs, input_dim, last_actions, with_numbers
from modules.normaliser import PopArt, Unnormalised, ValueNorm
from rl.distributions import Distribution
from rl.policy_gradient import clipped_surrogate, clipped_value_loss, mean_over, residual_variance, standardised
from rl.returns import gae

E = TypeVar("E", bound="Experience")


@dataclass(frozen=True, kw_only=True)
class PPOConfig(Learner.Config):
    """Keys of proximal policy optimisation; the defaults are MAPPO's on SMAC."""

    optimiser: Literal["rmsprop", "adam"] = "adam"
    """Of policies and values."""
    adam_eps: float = 1e-5
    """Adam's epsilon."""
    critic_lr: float = 5e-4
    """Learning rate of the values."""
    batch_size: int = 8
    """Episodes per update, a multiple of batch_size_run; each is used in one update only."""
    buffer_size: int = 8
    """Episodes that the replay keeps; more than batch_size are never read."""
    epochs: int = 5
    """Times that an update goes through its episodes."""
    num_mini_batch: int = 1
    """Parts that each epoch is divided into, by chunks, at random; one gradient step each."""
    chunk_length: int = 10
    """Steps that gradients flow back through a memory; 1000 or so for whole episodes."""
    clip: float = 0.2
    """ε: how far from 1 the ratio of probabilities is followed, and how far a value may move."""
    gae_lambda: float = 0.95
    """λ of the generalised advantages."""
    entropy_coef: float = 0.01
    """Weight of the policies' entropy."""
    huber_delta: float = 10.0
    """Error of a value beyond which its loss is linear."""
    value_clip: bool = True
    """Whether a value's movement is clipped."""
    value_norm: Literal["valuenorm", "popart", "none"] = "valuenorm"
    """How values are brought to one scale; popart also rescales the critic's last layer."""
    valuenorm_once: bool = False
    """Whether its statistics see an update's returns once, instead of once per gradient step (T-17)."""
    death_masking: bool = True
    """Whether agents that can only take action 0, as the dead in SMAC, are left out of means over agents."""
    critic: str = "ppo"
    """The network under the values."""

    def __post_init__(self) -> None:
        """Raises ValueError for values with which nothing would be learnt."""
        super().__post_init__()
        for name in ("epochs", "num_mini_batch", "chunk_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Experience:
    """What an update learns from, constant throughout it: chunks c of l steps (see ``Chunks``), zeros on padding.

    ``m`` counts values per step: one of the team, or one of each agent.
    """

    length: Int[Tensor, " c"]
    """Real steps of each chunk, in host memory."""
    mask: Float[Tensor, "c l"]
    active: Float[Tensor, "c l n"]
    """1 at real steps of agents that are to be counted."""
    obs: Float[Tensor, "c l n o"]
    last: Float[Tensor, "c l n a"]
    state: Float[Tensor, "c l s"]
    avail: Bool[Tensor, "c l n a"]
    action: Int[Tensor, "c l n"] | Float[Tensor, "c l n d"]
    """As it was drawn."""
    log_prob: Float[Tensor, "c l n"]
    """Of the action, when it was taken."""
    advantage: Float[Tensor, "c l n"]
    """Â, standardised."""
    value: Float[Tensor, "c l m"]
    """V before the update, as the critic's scale keeps it."""
    returns: Float[Tensor, "c l m"]
    """Â + V, on the rewards' scale."""
    policy_memory: Float[Tensor, "c n h"]
    value_memory: Float[Tensor, "c m k"]

    @cached_property
    def acts(self) -> Acts:
        """What counts of it for policies that numbered actions are drawn from."""
        trail = Trail.of(self.active > 0)
        fields = {
            name: trail.pick(getattr(self, name)) for name in ("active", "avail", "action", "log_prob", "advantage")
        }
        return Acts(trail=trail, others=self.avail.to(self.mask.dtype), **fields)

    def uniforms(self, rng: torch.Generator) -> Uniforms:
        """Where numbers for every agent and action are drawn from."""
        return rng

    def everywhere(self, mu: Float[Tensor, "c l n a"]) -> Float[Tensor, "c l n a"]:
        """The actions μ of all agents."""
        return mu

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self.mask)

    def chosen(self: E, index: Int[Tensor, " d"]) -> E:
        """Some of the chunks; ``index`` is in host memory."""
        rows = sent(index, self.mask.device)
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return type(self)(**{name: x[index if name == "length" else rows] for name, x in own.items()})

    def agent(self, i: int) -> Experience:
        """All chunks as agent i alone has them; values stay the team's."""
        each = ("active", "obs", "last", "avail", "action", "log_prob", "advantage")
        own = {f.name: getattr(self, f.name) for f in fields(Experience)}
        own |= {name: own[name][:, :, i : i + 1] for name in each}
        return Experience(**own | {"policy_memory": self.policy_memory[:, i : i + 1]})

    def parts(self: E, cfg: PPOConfig, rng: torch.Generator) -> Iterator[E]:
        """One part per gradient step, ``epochs`` times all of them.

        Draws, from a generator in host memory, only where there is more than one part.
        """
        for _ in range(cfg.epochs):
            if cfg.num_mini_batch == 1:
                yield self
                continue
            order = torch.randperm(len(self), generator=rng)
            yield from (self.chosen(index) for index in order.tensor_split(cfg.num_mini_batch) if len(index))


@dataclass(frozen=True, kw_only=True)
class Acts:
    """Of an ``Experience``: every agent's steps up to its last one that counts, as [m, 1, ...] without padding.

    After it the agent is dead: it has one possible action, so its policy has no gradient, and its network need not be
    asked. In battles that is half of all steps.
    """

    trail: Trail
    active: Float[Tensor, "m 1"]
    avail: Bool[Tensor, "m 1 a"]
    action: Int[Tensor, "m 1"]
    log_prob: Float[Tensor, "m 1"]
    advantage: Float[Tensor, "m 1"]
    others: Float[Tensor, "c l n a"]
    """At the other steps, each agent's one possible action as a one-hot."""

    def uniforms(self, rng: torch.Generator) -> Uniforms:
        """Numbers are drawn for the other steps, too, so that leaving them out changes nobody's."""

        def drawn(shape: torch.Size) -> Tensor:
            everywhere = torch.rand(*self.trail.shape, shape[-1], generator=rng, device=rng.device)
            return self.trail.pick(everywhere)

        return drawn

    def everywhere(self, mu: Float[Tensor, "m 1 a"]) -> Float[Tensor, "c l n a"]:
        """The actions μ of all agents."""
        return self.trail.spread(mu, self.others)


class ValueFunction(nn.Module):
    """V(s) of the team, or V(τ_i) of each agent; the critic's outputs are on a normalised scale."""

    def __init__(self, spec: EnvSpec, settings: Settings, cfg: PPOConfig, reads: Literal["state", "obs"]) -> None:
        """``reads``: what the values are of. Rewards of each agent's own also make values of each agent's own."""
        super().__init__()
        self.cfg, self.reads = cfg, reads
        self.n_agents, self.n_actions = spec.n_agents, spec.n_actions
        self.each = reads == "obs" or spec.reward == "individual"
        dim = input_dim(spec) if reads == "obs" else spec.state_dim + (spec.n_agents if self.each else 0)
        self.critic = build_critic(settings, HistoryCritic, dim, 1, 0)
        scales = {"valuenorm": ValueNorm, "popart": lambda: PopArt(self.critic.head), "none": Unnormalised}
        self.scale = scales[cfg.value_norm]()

    def inputs(
        self, obs: Float[Tensor, "b t n o"], last: Float[Tensor, "b t n a"], state: Float[Tensor, "b t s"]
    ) -> Float[Tensor, "b t m i"]:
        """What the critic reads: the state, with the agents' numbers, or what the agents themselves read."""
        if self.reads == "obs":
            return agent_inputs(obs, last)
        return with_numbers(state, self.n_agents) if self.each else state[:, :, None]

    def recall(self, batch: EpisodeBatch) -> tuple[Float[Tensor, "b s m"], Float[Tensor, "b k m h"]]:
        """Values on the normalised scale at every state, and the critic's memories before every chunk."""
        x = self.inputs(batch.obs, last_actions(batch.action, self.n_actions), batch.state)
        start = self.critic.initial_hidden(len(batch), x.shape[2])
        out, memory = recall(self.critic, [x], start, batch.length + 1, self.cfg.chunk_length)
        return out.squeeze(-1), memory

    def begin(self, data: Experience) -> Metrics:
        """To be called before an update's first step; what of the returns' variance was foreseen, as a metric."""
        foreseen = self.scale.denormalise(self.scale.kept(data.value))
        metrics = {"value_explained": 1 - residual_variance(data.returns, foreseen, data.mask)}
        if self.cfg.valuenorm_once:
            self.scale.update(data.returns, self.counted(data))
        return metrics

    def counted(self, part: Experience) -> Float[Tensor, "c l m"]:
        """1 where a value is to be learnt."""
        return part.active if self.each else part.mask[..., None]

    def loss(self, part: Experience) -> Float[Tensor, ""]:
        """Mean of the larger one of the Huber losses with and without clipping (Yu et al. 2022, equation 2)."""
        mask = self.counted(part)
        if not self.cfg.valuenorm_once:
            self.scale.update(part.returns, mask)
        x = self.inputs(part.obs, part.last, part.state)
        value = self.critic(x, part.value_memory, part.length)[0].squeeze(-1)
        old, target = self.scale.kept(part.value), self.scale.normalise(part.returns)
        clip = self.cfg.clip if self.cfg.value_clip else None
        return mean_over(clipped_value_loss(value, old, target, clip, self.cfg.huber_delta), mask)


def active(batch: EpisodeBatch, cfg: PPOConfig, discrete: bool) -> Float[Tensor, "b t n"]:
    """1 at real steps of agents that have another action than 0, which is all that the dead have in SMAC."""
    real = batch.mask[..., None].expand(batch.avail[:, :-1].shape[:3])
    return real * batch.avail[:, :-1, :, 1:].any(-1) if cfg.death_masking and discrete else real


def gather(
    batch: EpisodeBatch, controller: StochasticController, value: ValueFunction, cfg: PPOConfig
) -> tuple[Experience, Float[Tensor, "b s n p"]]:
    """Everything that stays as it is during an update, and the policies' parameters at every state.

    Probabilities, values and memories are computed here instead of being stored while collecting: the parameters are
    still the same, since every episode is used in the first update after it was collected, and in no other.
    """
    device = batch.mask.device
    chunks = Chunks.of(batch.length, cfg.chunk_length, device)
    last, action = last_actions(batch.action, controller.spec.n_actions), controller.drawn(batch)
    start = controller.initial_hidden(len(batch))
    out, policy_memory = recall(controller.agent, [batch.obs, last], start, batch.length + 1, cfg.chunk_length)
    v, value_memory = value.recall(batch)
    log_prob = controller.policy(out[:, :-1], batch.avail[:, :-1]).log_prob(action)
    raw = value.scale.denormalise(v)
    advantage = gae(batch.reward, batch.terminated, batch.mask, raw, cfg.gamma, cfg.gae_lambda)
    counted = active(batch, cfg, controller.spec.discrete)
    cut = chunks.cut
    data = Experience(
        length=chunks.length,
        mask=chunks.mask(),
        active=cut(counted),
        obs=cut(batch.obs),
        last=cut(last),
        state=cut(batch.state),
        avail=cut(batch.avail),
        action=cut(action),
        log_prob=cut(log_prob),
        advantage=cut(standardised(advantage.expand_as(counted), counted)),
        value=cut(value.scale.keep(v)),
        returns=cut(advantage + raw[:, :-1]),
        policy_memory=chunks.first(policy_memory),
        value_memory=chunks.first(value_memory),
    )
    return data, out


def policy(
    controller: StochasticController, network: Recurrent, part: Experience
) -> tuple[Distribution, Experience | Acts]:
    """The agents' policies with gradient, and what they are of: on a CPU, if the network can, what counts only."""
    if not isinstance(network, Agent) or part.mask.device.type != "cpu":
        return controller.policy(network(part.obs, part.last, part.policy_memory, part.length)[0], part.avail), part
    acts, trail = part.acts, part.acts.trail
    x = trail.pick(network.inputs(part.obs, part.last))
    return controller.policy(network.walk(x, trail.alive, trail.begin(part.policy_memory)), acts.avail), acts


def surrogate(
    pi: Distribution, part: Experience | Acts, clip: float
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Metrics]:
    """Mean over steps and agents of PPO's clipped objective and of the entropy, both to be maximised; and metrics."""
    log_ratio = torch.where(part.active > 0, pi.log_prob(part.action) - part.log_prob, 0.0)
    ratio = log_ratio.exp()
    objective = mean_over(clipped_surrogate(ratio, part.advantage, clip), part.active)
    entropy = mean_over(pi.entropy(), part.active)
    with torch.no_grad():
        metrics = {
            "policy_entropy": entropy.detach(),
            "clip_fraction": mean_over(((ratio - 1).abs() > clip).float(), part.active),
            "approx_kl": mean_over(ratio - 1 - log_ratio, part.active),
        }
    return objective, entropy, metrics


def refuse_unfit(settings: Settings, controller: Any, cfg: PPOConfig) -> None:
    """What keeps an on-policy learner from learning from its own, newest episodes.

    Raises:
        ConfigError: with all mistakes.
    """
    problems = []
    rows = settings["batch_size_run"]
    if not isinstance(controller, StochasticController):
        problems.append(f"mac '{settings['mac']}' does not sample from policies: choose policy_mac or gaussian_mac")
    if cfg.batch_size % rows:
        problems.append(
            f"batch_size={cfg.batch_size} must be a multiple of batch_size_run={rows}, or episodes would be collected "
            f"and never learnt from: give batch_size={-(-cfg.batch_size // rows) * rows} and a buffer_size to hold it"
        )
    if settings["updates_per_collect"] != 1 or settings["updates_per_step"] is not None:
        problems.append("updates_per_collect must be 1, and nothing else: an on-policy update is repeated by epochs")
    if any(getattr(controller.cfg, key, 0) for key in ("epsilon_start", "epsilon_finish", "random_steps")):
        problems.append(
            "epsilon_start and epsilon_finish must be 0, and so must random_steps: agents act by the policies that are "
            "improved"
        )
    if problems:
        raise ConfigError(problems)
