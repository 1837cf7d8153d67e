"""What an environment promises, and the tensors that environments, controllers and learners exchange.

One alphabet of axes everywhere: b batch (episodes, or environments side by side), t time (steps; ``t+1`` or ``states``
where the state after the last step is counted too), n agents, a actions,
o observation, s state, h hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from core.device import sent

Extras = dict[str, Tensor]
Uniforms = torch.Generator | Callable[[torch.Size], Tensor]
"""Where random numbers between 0 and 1 come from: a generator, or what makes them, of a shape."""
_PER_ACTION = ("action", "reward", "terminated", "mask")


@dataclass(frozen=True)
class ActionSpec:
    """One agent's actions: ``n`` numbered ones, or a box of ``n`` dimensions when ``low`` and ``high`` are given."""

    n: int
    low: float | None = None
    high: float | None = None

    @property
    def discrete(self) -> bool:
        """True for numbered actions (with availability masks), False for a box."""
        return self.low is None


@dataclass(frozen=True)
class EnvSpec:
    """The sizes that every network and every buffer is built from; nothing else decides them."""

    actions: tuple[ActionSpec, ...]
    """One per agent; their number is the number of agents."""
    obs_dims: tuple[int, ...]
    """Length of each agent's observation; shorter ones are padded to the longest, with zeros (see ``Trim``)."""
    state_dim: int
    """Length of the global state."""
    episode_limit: int
    """Steps after which an episode is truncated at the latest."""
    reward: Literal["team", "individual"] = "team"
    """One reward for all agents [b], or one for each [b, n]."""
    extras: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Further tensors of every ``TimeStep`` by name, with their shape without the batch axis; booleans."""
    metrics: tuple[str, ...] = ()
    """Names of the ``Outcome.info`` entries, whose values at an episode's last step are logged."""
    unit_dim: int | None = None
    """Where the state begins with one equally long block per agent: the length of one block (Qatten's units)."""

    @property
    def n_agents(self) -> int:
        """N."""
        return len(self.actions)

    @property
    def n_actions(self) -> int:
        """A: the largest number of actions (or of action dimensions) of any agent."""
        return max(action.n for action in self.actions)

    @property
    def obs_dim(self) -> int:
        """O: the length of the longest observation."""
        return max(self.obs_dims)

    @property
    def discrete(self) -> bool:
        """True where every agent chooses among numbered actions."""
        return all(action.discrete for action in self.actions)

    @cached_property
    def obs_mask(self) -> Bool[Tensor, "n o"]:
        """True where an agent's observation has an entry of its own, False on padding; in host memory."""
        return torch.arange(self.obs_dim) < torch.tensor(self.obs_dims)[:, None]

    @cached_property
    def action_mask(self) -> Bool[Tensor, "n a"]:
        """True for the actions (or dimensions of its box) that an agent has, whether or not it may take them now."""
        return torch.arange(self.n_actions) < torch.tensor([action.n for action in self.actions])[:, None]

    def joint_obs(self, obs: Float[Tensor, "*rest n o"]) -> Float[Tensor, "*rest j"]:
        """All agents' observations one after the other without their padding: j is the sum of ``obs_dims``."""
        joint = obs.flatten(-2)
        if len(set(self.obs_dims)) == 1:
            return joint
        return joint.index_select(-1, _own_entries(self.obs_dims, obs.device))


@lru_cache(maxsize=64)
def _own_entries(obs_dims: tuple[int, ...], device: torch.device) -> Int[Tensor, " j"]:
    """Where the agents' own entries are among all observations in a row; kept, as a copy to a device is a wait."""
    longest = max(obs_dims)
    return torch.cat([i * longest + torch.arange(d) for i, d in enumerate(obs_dims)]).to(device)


@dataclass(frozen=True)
class TimeStep:
    """What b environments show before the agents act. Tensors are the receiver's own: never views of live memory."""

    obs: Float[Tensor, "b n o"]
    state: Float[Tensor, "b s"]
    avail: Bool[Tensor, "b n a"]
    """Available actions; at least one per agent, also for the dead (all True in a box)."""
    extras: Extras = field(default_factory=dict)


class Trim:
    """Lets through of a ``TimeStep`` only what its spec declares, so that nobody can read what stands in padding.

    Beyond an agent's own entries observations become 0, and beyond its own numbered actions nothing is available.
    Where all agents have equal sizes there is no padding, and steps pass as they are.
    """

    def __init__(self, spec: EnvSpec, device: torch.device | str) -> None:
        """``device``: where the steps will be."""
        self._padding = None if spec.obs_mask.all() else ~spec.obs_mask.to(device)
        self._own = spec.action_mask.to(device) if spec.discrete and not spec.action_mask.all() else None

    def __call__(self, step: TimeStep) -> TimeStep:
        """``step`` itself, or a copy of it without what stands in padding."""
        if self._padding is not None:
            step = replace(step, obs=step.obs.masked_fill(self._padding, 0))
        return step if self._own is None else replace(step, avail=step.avail & self._own)


@dataclass(frozen=True)
class Outcome:
    """What one joint action brought to b environments."""

    next: TimeStep
    reward: Float[Tensor, "b *n"]
    terminated: Bool[Tensor, " b"]
    """The episode reached a true end: nothing is bootstrapped."""
    truncated: Bool[Tensor, " b"]
    """The episode was cut by a time limit: its last state is bootstrapped through. Never together with terminated."""
    info: Extras = field(default_factory=dict)
    """``spec.metrics`` by name, each [b]; read where the episode ends."""
    lost: Bool[Tensor, " b"] | None = None
    """The row's simulator failed in this step (None: nobody's did). Its episode is over without an end and must not be
    learnt from; the row neither terminated nor was truncated, and can be reset."""


@dataclass(frozen=True)
class EpisodeBatch:
    """b episodes padded with zeros to one length; ``mask`` is 1 on the steps that were really taken.

    Observations, states, action masks and the environment's extras have t+1 entries, the last one after the last
    action; what belongs to an action has t. So no learner slices to align them.
    """

    action: Int[Tensor, "b t n"] | Float[Tensor, "b t n d"]
    reward: Float[Tensor, "b t *n"]
    terminated: Bool[Tensor, "b t"]
    mask: Float[Tensor, "b t"]
    length: Int[Tensor, " b"]
    """Steps taken, always in host memory: the host decides shapes by it without waiting for the device."""
    obs: Float[Tensor, "b t+1 n o"]
    state: Float[Tensor, "b t+1 s"]
    avail: Bool[Tensor, "b t+1 n a"]
    """After an episode's end all actions that an agent has are available: no distribution over nothing ever arises."""
    extras: Extras = field(default_factory=dict)

    def __len__(self) -> int:
        """The number of episodes."""
        return self.mask.shape[0]

    def completed(
        self, drawn: Int[Tensor, "b states n"] | Float[Tensor, "b states n d"]
    ) -> Int[Tensor, "b states n"] | Float[Tensor, "b states n d"]:
        """The actions taken, and those of ``drawn`` from each episode's last state on, where nobody acted."""
        steps = torch.arange(drawn.shape[1], device=drawn.device)
        acted = (steps < sent(self.length, drawn.device)[:, None]).view(*drawn.shape[:2], *[1] * (drawn.dim() - 2))
        return torch.where(acted, torch.cat([self.action, drawn[:, -1:]], 1), drawn)

    def repeated(self, times: int) -> EpisodeBatch:
        """All episodes, and then again all of them, ``times`` in all."""
        if times == 1:
            return self

        def again(x: Tensor) -> Tensor:
            return x.repeat(times, *[1] * (x.dim() - 1))

        values: dict[str, Any] = {f.name: again(getattr(self, f.name)) for f in fields(self) if f.name != "extras"}
        return replace(self, **values, extras={name: again(x) for name, x in self.extras.items()})

    def steps(self, x: Shaped[Tensor, "b states *rest"]) -> Shaped[Tensor, "b t *rest"]:
        """What belongs to states in which somebody acted: all but each row's last one."""
        return x[:, :-1]

    def over_time(
        self, fn: Callable[[EpisodeBatch, Tensor], Tensor], x: Float[Tensor, "b states *rest"]
    ) -> Float[Tensor, "b t ..."]:
        """What ``fn`` makes, step by step, of these episodes and of x at every state."""
        return fn(self, x)

    def later(self, fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """What ``fn`` makes of ``inputs`` at every state but the first ones; 0 there."""
        made = fn(*(x[:, 1:] for x in inputs))
        return torch.cat([torch.zeros_like(made[:, :1]), made], 1)

    def uniforms(
        self,
        rng: torch.Generator,
        dtype: torch.dtype = torch.double,  # noqa: ARG002 - who draws says so himself
        steps: bool = False,  # noqa: ARG002
    ) -> Uniforms:
        """Where numbers for every state are drawn from, or for those in which somebody acted (``steps``)."""
        return rng

    def samples(self, rng: torch.Generator) -> Uniforms:
        """Where numbers of several draws for every state are from, [k, b, states, n]."""
        return rng

    def packed(self) -> States:
        """The states that were visited, without padding."""
        rows, alive, _ = in_turn(self.length + 1, self.obs.shape[1])
        return States.of(self, sent(rows, self.obs.device), alive)

    def map(self, fn: Callable[[Tensor], Tensor]) -> EpisodeBatch:
        """A copy with ``fn`` applied to every tensor but ``length``."""
        values: dict[str, Any] = {
            f.name: fn(getattr(self, f.name)) for f in fields(self) if f.name not in ("length", "extras")
        }
        return replace(self, **values, extras={name: fn(x) for name, x in self.extras.items()})

    def to(self, device: torch.device | str) -> EpisodeBatch:
        """A copy on ``device``; ``length`` stays in host memory."""
        return self.map(lambda x: sent(x, device))


@dataclass(frozen=True)
class States(EpisodeBatch):
    """The same episodes without padding: all m states that they visited, one below the other.

    First come the first states of all episodes, then the second ones, and so on; among those of one time the longest
    episode's comes first, so that one who walks through time only ever loses the last rows. Everything has an axis of
    time of length 1, so that networks and losses take the states for m short episodes. What belongs to an action is 0
    where nobody acted, at each episode's last state; ``mask`` tells.
    """

    action: Int[Tensor, "m 1 n"] | Float[Tensor, "m 1 n d"]
    reward: Float[Tensor, "m 1 *n"]
    terminated: Bool[Tensor, "m 1"]
    mask: Float[Tensor, "m 1"]
    length: Int[Tensor, " b"]
    """Steps taken in each episode, in the order of ``whole``."""
    obs: Float[Tensor, "m 1 n o"]
    state: Float[Tensor, "m 1 s"]
    avail: Bool[Tensor, "m 1 n a"]
    whole: EpisodeBatch = field(kw_only=True)
    """The episodes."""
    rows: Int[Tensor, " m"] = field(kw_only=True)
    """Where each state is among the b * (t+1) of the episodes."""
    alive: list[int] = field(kw_only=True)
    """How many episodes have a state at each time."""

    @classmethod
    def of(cls, whole: EpisodeBatch, rows: Int[Tensor, " m"], alive: list[int]) -> States:
        """Takes the states ``rows``; extras of the environment, too, but not those of actions."""
        idle = whole.mask == 0
        made = {name: getattr(whole, name) for name in _PER_ACTION}
        made = {k: x.masked_fill(idle.view(*idle.shape, *[1] * (x.dim() - 2)), 0) for k, x in made.items()}
        made = {name: _picked(_to_states(x), rows) for name, x in made.items()}
        made |= {name: _picked(getattr(whole, name), rows) for name in ("obs", "state", "avail")}
        states = whole.obs.shape[1]
        extras = {name: _picked(x, rows) for name, x in whole.extras.items() if x.shape[1] == states}
        return cls(**made, length=whole.length, extras=extras, whole=whole, rows=rows, alive=alive)

    def steps(self, x: Shaped[Tensor, "m 1 *rest"]) -> Shaped[Tensor, "m 1 *rest"]:
        """All of them: ``mask`` leaves out those in which nobody acted."""
        return x

    def over_time(
        self, fn: Callable[[EpisodeBatch, Tensor], Tensor], x: Float[Tensor, "m 1 *rest"]
    ) -> Float[Tensor, "m 1 ..."]:
        """See ``EpisodeBatch.over_time``; x is spread out for ``fn``, and what it makes is collected again."""
        return _picked(_to_states(fn(self.whole, self.spread(x))), self.rows)

    def later(self, fn: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """See ``EpisodeBatch.later``."""
        first = self.alive[0]
        made = fn(*(x[first:] for x in inputs))
        return torch.cat([made.new_zeros(first, *made.shape[1:]), made])

    def uniforms(self, rng: torch.Generator, dtype: torch.dtype = torch.double, steps: bool = False) -> Uniforms:
        """Numbers are drawn for padding, too, so that packing changes nobody's."""
        b, states = self.whole.obs.shape[:2]

        def drawn(shape: torch.Size) -> Tensor:
            padded = torch.rand(b, states - steps, *shape[2:], generator=rng, device=rng.device, dtype=dtype)
            return self.pack(_to_states(padded) if steps else padded)

        return drawn

    def samples(self, rng: torch.Generator) -> Uniforms:
        """Numbers for the visited states only, one episode after the other."""
        order = self.rows.argsort().argsort()

        def drawn(shape: torch.Size) -> Tensor:
            return torch.rand(shape, generator=rng, device=rng.device, dtype=torch.double).index_select(-3, order)

        return drawn

    def pack(self, x: Shaped[Tensor, "b states *rest"]) -> Shaped[Tensor, "m 1 *rest"]:
        """Of what there is at every state of the padded episodes, the visited ones."""
        return _picked(x, self.rows)

    def completed(
        self, drawn: Int[Tensor, "m 1 n"] | Float[Tensor, "m 1 n d"]
    ) -> Int[Tensor, "m 1 n"] | Float[Tensor, "m 1 n d"]:
        """The actions taken, and those of ``drawn`` where nobody acted."""
        return torch.where((self.mask > 0).view(-1, *[1] * (drawn.dim() - 1)), self.action, drawn)

    def acting(self) -> list[slice]:
        """The rows of each time in which somebody acted: the first ones, those of episodes with a later state."""
        starts = accumulate(self.alive, initial=0)
        return [slice(start, start + k) for start, k in zip(starts, self.alive[1:], strict=False)]

    def repeated(self, times: int) -> States:
        """The states of all episodes ``times`` times."""
        return self if times == 1 else self.whole.repeated(times).packed()

    def map(self, fn: Callable[[Tensor], Tensor]) -> States:
        """The states of the episodes whose every tensor went through ``fn``, which keeps their axes."""
        return self.whole.map(fn).packed()

    def last_action(self, none: int) -> Int[Tensor, "m 1 n"]:
        """The number of each agent's last action, ``none`` at the first state."""
        taken = self.whole.action
        return self.pack(torch.cat([torch.full_like(taken[:, :1], none), taken], 1))

    def spread(self, x: Float[Tensor, "m 1 *rest"]) -> Float[Tensor, "b states *rest"]:
        """The inverse of ``pack``, with zeros on padding."""
        b, states = self.whole.obs.shape[:2]
        empty = x.new_zeros(b * states, *x.shape[2:])
        return empty.index_copy(0, self.rows, x.squeeze(1)).unflatten(0, (b, states))


def _to_states(x: Tensor) -> Tensor:
    """One more entry, 0, for the state after the last step."""
    return torch.cat([x, torch.zeros_like(x[:, :1])], 1)


def _picked(x: Tensor, rows: Tensor) -> Tensor:
    return x.flatten(0, 1).index_select(0, rows).unsqueeze(1)


def joined(batches: Sequence[EpisodeBatch], spec: EnvSpec) -> EpisodeBatch:
    """All episodes of several batches of one environment, in their order, padded to the longest; one device."""
    longest = max(batch.mask.shape[1] for batch in batches)
    grown = [lengthened(batch, longest, spec) for batch in batches]

    def cat(name: str) -> Tensor:
        return torch.cat([getattr(batch, name) for batch in grown])

    values: dict[str, Any] = {f.name: cat(f.name) for f in fields(EpisodeBatch) if f.name != "extras"}
    extras = {name: torch.cat([batch.extras[name] for batch in grown]) for name in grown[0].extras}
    return EpisodeBatch(**values, extras=extras)


def lengthened(batch: EpisodeBatch, steps: int, spec: EnvSpec) -> EpisodeBatch:
    """The same episodes with more padding behind them, as it would have been from the start."""
    more = steps - batch.mask.shape[1]
    if not more:
        return batch

    def pad(x: Tensor) -> Tensor:
        return torch.cat([x, x.new_zeros(x.shape[0], more, *x.shape[2:])], 1)

    longer = batch.map(pad)
    avail = longer.avail.clone()
    avail[:, -more:] = sent(spec.action_mask, avail.device)
    return replace(longer, avail=avail)


def valid_mask(length: Int[Tensor, " b"], steps: int, device: torch.device | str = "cpu") -> Float[Tensor, "b t"]:
    """1 where t < length, the one definition of a real step (T-01)."""
    return sent((torch.arange(steps, device=length.device) < length[:, None]).float(), device)


def in_turn(length: Int[Tensor, " b"], steps: int) -> tuple[Int[Tensor, " m"], list[int], Int[Tensor, " b"]]:
    """The real ones of b * ``steps`` steps, one below the other: first every row's first one, then the second ones.

    Among those of one time the longest row's comes first, so that one who walks through time only ever loses the last
    rows. All in host memory.

    Returns:
        Where each is among the b * ``steps``, how many there are at each time, and the rows from longest to shortest.
    """
    order = length.argsort(descending=True, stable=True)
    valid = valid_mask(length[order], steps).bool().T
    rows = (order.expand(steps, -1) * steps + torch.arange(steps)[:, None])[valid]
    return rows, [k for k in valid.sum(1).tolist() if k], order
