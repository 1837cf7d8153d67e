"""How learners make agents predict each other: the data, the loss, and the predictions (algorithms.md 10.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from core.device import sent
from core.specs import EnvSpec, EpisodeBatch, valid_mask
from learners.base import Learner, Metrics
from memory.past import Past, past_of
from memory.replay import Replay
from modules.moa import OtherAgents
from rl.masked import masked_log_softmax, taken

_AT_ONCE = 512
"""Histories that a CPU predicts from in one go: what is computed of them stays in its cache (0.25 s, not 0.40 s)."""
_TRAJECTORIES_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class ModellingConfig(Learner.Config):
    """Keys of modelling other agents; among several bases it stands first, so that its values are checked, too."""

    moa: Literal["on", "oracle", "replay"] = "on"
    """What others are believed to do: what their models predict, what their policies say, or what they did."""
    moa_share: bool = True
    """One set of models for all observers, whose data are the same; False: each observer has its own."""
    moa_hidden: int = 64
    """Width of the recurrent layers and of the codes; that of the predicting layers is twice as much."""
    moa_past: int = 5
    """Steps of the running episode that a prediction is based on."""
    moa_trajectories: int = 1000
    """Episodes, the first ones ever collected, that say what an agent is like."""
    moa_subset: int = 16
    """How many of them a training step reads."""
    moa_refresh: int = 100
    """Training steps after which the code of all of them, by which predictions are made, is computed anew."""
    moa_pairs: int = 1200
    """Newest steps that the models are trained on."""
    moa_batch: int = 1600
    """Draws from these, with replacement, that the natural network learns from; the impromptu one learns from all."""
    moa_period: int = 1
    """Updates of the learner for one training step of the models."""
    moa_lr: float | None = None
    """Learning rate of the models; null: lr."""

    def __post_init__(self) -> None:
        """Raises ValueError for values that cannot be meant."""
        super().__post_init__()
        for key in ("hidden", "past", "trajectories", "subset", "refresh", "pairs", "batch", "period"):
            value = getattr(self, f"moa_{key}")
            if value < 1:
                raise ValueError(f"moa_{key} must be at least 1, not {value}")


class Trajectories:
    """The first episodes that were collected, in half precision: what their agents saw and did.

    They stay on the device where learning happens: to read them there the host would have to wait for it.
    """

    def __init__(self, spec: EnvSpec, most: int) -> None:
        """It is complete with ``most`` episodes."""
        self.most = most
        self._small = torch.uint8 if spec.n_actions <= 256 else torch.int16
        self._obs: list[Tensor] = []
        self._action: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._obs)

    def collect(self, replay: Replay, first: int) -> None:
        """Adds what is still missing of the replay's episodes before which at least ``first`` were ever added."""
        first = max(first, replay.added - len(replay))
        last = min(replay.added, first + self.most - len(self))
        for at in range(first, last, _TRAJECTORIES_AT_ONCE):
            batch = replay.numbered(at, min(_TRAJECTORIES_AT_ONCE, last - at))
            most = torch.finfo(torch.half).max
            obs, action = batch.obs.clamp(-most, most).half(), batch.action.to(self._small)
            for row, length in enumerate(batch.length.tolist()):
                self._obs.append(obs[row, :length].clone())
                self._action.append(action[row, :length].clone())

    def take(self, picks: list[int]) -> tuple[Float[Tensor, "b t n o"], Int[Tensor, "b t n"], Int[Tensor, " b"]]:
        """Observations and actions of the chosen ones, with zeros on padding, and their lengths (in host memory)."""
        obs, action = ([of[k] for k in picks] for of in (self._obs, self._action))
        length = torch.tensor([len(x) for x in obs])
        return (
            pad_sequence(obs, batch_first=True).float(),
            pad_sequence(action, batch_first=True).long(),
            length,
        )

    def state_dict(self) -> dict[str, Any]:
        """All steps in a row, and the episodes' lengths."""
        if not self._obs:
            return {"lengths": []}
        return {"obs": torch.cat(self._obs), "action": torch.cat(self._action), "lengths": [len(x) for x in self._obs]}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """The inverse of ``state_dict``; ``device`` is where learning happens."""
        lengths = state["lengths"]
        self._obs, self._action = (
            [x.clone() for x in state[name].to(device).split(lengths)] if lengths else [] for name in ("obs", "action")
        )


class Modelling(nn.Module):
    r"""Every agent's models of the others, which learn from what these did and predict what they would do.

    .. math:: L = E[CE(natural, a_j)] + E[CE(impromptu, a_j)] + E[CE(natural + impromptu, a_j)]

    over available actions. The learner that owns it has an optimiser ``moa`` of its parameters.
    """

    code: Tensor
    online: Tensor
    others: Tensor

    def __init__(self, spec: EnvSpec, cfg: ModellingConfig, rng: torch.Generator) -> None:
        """``rng`` draws steps and trajectories: the learner's generator in host memory."""
        super().__init__()
        self.cfg, self.n_agents, self.rng = cfg, spec.n_agents, rng
        self.models = OtherAgents(spec, cfg.moa_hidden, cfg.moa_share)
        self.trajectories = Trajectories(spec, cfg.moa_trajectories)
        self.register_buffer("code", torch.zeros(self.models.observers, spec.n_agents, cfg.moa_hidden))
        self.register_buffer("online", torch.zeros(3))
        others = torch.ones(1, spec.n_agents) if cfg.moa_share else 1 - torch.eye(spec.n_agents)
        self.register_buffer("others", others, persistent=False)
        self.calls = self.trained = self.seen = 0

    @torch.no_grad()
    def predict(self, batch: EpisodeBatch, states: slice = slice(None)) -> Float[Tensor, "b states n n a"]:
        """log π̃_ij(a): what agent i believes that agent j does, at the chosen ones of the batch's states.

        Of whole episodes, or of single steps drawn with ``past=moa_past``. i = j is there, but nothing is learned of
        it. With shared models the axis of i is expanded and takes no memory.
        """
        past, obs, avail = past_of(batch, self.cfg.moa_past), batch.obs[:, states], batch.avail[:, states]
        rows = max(1, len(obs) if obs.is_cuda else _AT_ONCE // (obs.shape[1] * obs.shape[2]))
        parts = zip(*(x.split(rows) for x in (obs, avail, *(x[:, states] for x in past))), strict=True)
        log_pi = [self._log_probs(o, v, Past(*steps)) for o, v, *steps in parts]
        return torch.cat(log_pi, 1).movedim(0, 2).expand(-1, -1, self.n_agents, -1, -1)

    def learn(self, replay: Replay, descend: Callable[[str, Tensor], Metrics]) -> Metrics:
        """One training step with every ``moa_period``-th call; ``descend`` is the learner's.

        Returns:
            ``moa_accuracy``, ``moa_ce`` and, of guessing, ``moa_ce_uniform``: of predictions of the newest steps
            before anything was learned from them, where an agent had a choice; the loss and the gradient's norm.
        """
        self.calls += 1
        if self.calls % self.cfg.moa_period:
            return {}
        self.trajectories.collect(replay, self.seen)
        loss = self._loss(replay)
        self.seen = replay.added
        metrics = descend("moa", loss)
        self.trained += 1
        if self._stale():
            self._refresh()
        accuracy, ce, uniform = self.online.clone()
        return metrics | {"moa_accuracy": accuracy, "moa_ce": ce, "moa_ce_uniform": uniform}

    def get_extra_state(self) -> dict[str, Any]:
        """Part of ``state_dict``: what is not a parameter or a buffer."""
        counts = {name: getattr(self, name) for name in ("calls", "trained", "seen")}
        return {"counts": counts, "trajectories": self.trajectories.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        vars(self).update(state["counts"])
        self.trajectories.load_state_dict(state["trajectories"], self.code.device)

    def _loss(self, replay: Replay) -> Float[Tensor, ""]:
        """Of the newest steps; what the predictions of them were worth is noted on the way."""
        steps = self._newest(replay)
        mental = self.models.mental(*steps.past)
        impromptu = self.models.impromptu(steps.obs)
        self._measure(steps, self.models.natural(steps.obs, mental, self.code) + impromptu)
        natural = self.models.natural(steps.obs, mental, self.models.character(*self._subset()))
        weight = self._weight(steps)
        drawn = weight * self._draws(len(steps.obs))
        return (
            _mean(steps.ce(natural), drawn)
            + _mean(steps.ce(impromptu), weight)
            + _mean(steps.ce(natural + impromptu), drawn)
        )

    def _newest(self, replay: Replay) -> _Steps:
        """The newest steps by themselves."""
        batch, device = replay.latest_steps(self.cfg.moa_pairs), self.code.device
        index = valid_mask(batch.length, batch.action.shape[1]).nonzero()[-self.cfg.moa_pairs :]
        fresh = index[:, 0] >= len(batch) - (replay.added - self.seen)
        episode, t = sent(index.T.contiguous(), device)

        def at(x: Tensor) -> Tensor:
            return x[episode, t][:, None]

        past = Past(*(at(x) for x in past_of(batch, self.cfg.moa_past)))
        return _Steps(at(batch.obs), at(batch.action), at(batch.avail), past, fresh)

    def _subset(self) -> tuple[Tensor, Tensor, Tensor]:
        """Some trajectories, each subset equally likely."""
        order = torch.randperm(len(self.trajectories), generator=self.rng)
        return self.trajectories.take(order[: self.cfg.moa_subset].tolist())

    def _draws(self, steps: int) -> Float[Tensor, "r 1 1"]:
        """How often each step is drawn: a loss weighted by it is that of the draws, and each is computed once."""
        picks = torch.randint(steps, (self.cfg.moa_batch,), generator=self.rng)
        return sent(picks.bincount(minlength=steps).float(), self.code.device)[:, None, None]

    def _weight(self, steps: _Steps) -> Float[Tensor, "c r 1 n"]:
        """1 where an observer models another agent that has a choice."""
        return (steps.avail.sum(-1) > 1).float() * self.others[:, None, None]

    @torch.no_grad()
    def _measure(self, steps: _Steps, logits: Float[Tensor, "c r 1 n a"]) -> None:
        """Accuracy and cross-entropies of the predictions of steps that nothing was learned from yet, if there are."""
        if not steps.fresh.any():
            return
        weight = self._weight(steps) * sent(steps.fresh.float(), logits.device)[:, None, None]
        log_pi = masked_log_softmax(logits, steps.avail.expand_as(logits))
        hit = (log_pi.argmax(-1) == steps.action).float()
        uniform = steps.avail.sum(-1).float().log().expand_as(weight)
        self.online.copy_(torch.stack([_mean(x, weight) for x in (hit, steps.ce(logits), uniform)]))

    def _stale(self) -> bool:
        """Every ``moa_refresh`` steps, and before that after 1, 2, 4, 8, ...: at first networks change fast."""
        doubled = self.trained & (self.trained - 1) == 0
        return self.trained % self.cfg.moa_refresh == 0 or (self.trained < self.cfg.moa_refresh and doubled)

    @torch.no_grad()
    def _refresh(self) -> None:
        """The code of all trajectories."""
        total = torch.zeros_like(self.code)
        every = range(len(self.trajectories))
        for at in every[::_TRAJECTORIES_AT_ONCE]:
            picks = every[at : at + _TRAJECTORIES_AT_ONCE]
            code = self.models.character(*self.trajectories.take(list(picks)))
            total += len(picks) / len(every) * code
        self.code.copy_(total)

    def _log_probs(
        self, obs: Float[Tensor, "b t n o"], avail: Bool[Tensor, "b t n a"], past: Past
    ) -> Float[Tensor, "c b t n a"]:
        """log π̃_j of every set of models."""
        logits = self.models.natural(obs, self.models.mental(*past), self.code) + self.models.impromptu(obs)
        return masked_log_softmax(logits, avail.expand_as(logits))


class _Steps(NamedTuple):
    """r single steps of all agents."""

    obs: Float[Tensor, "r 1 n o"]
    action: Int[Tensor, "r 1 n"]
    avail: Bool[Tensor, "r 1 n a"]
    past: Past
    fresh: Bool[Tensor, " r"]
    """Whether nothing was learned from a step yet; in host memory."""

    def ce(self, logits: Float[Tensor, "c r 1 n a"]) -> Float[Tensor, "c r 1 n"]:
        """- log π(a) of the actions taken, over the available ones."""
        log_pi = masked_log_softmax(logits, self.avail.expand_as(logits))
        return -taken(log_pi, self.action.expand(log_pi.shape[:-1]))


def _mean(x: Float[Tensor, "c r 1 n"], weight: Float[Tensor, "c r 1 n"]) -> Float[Tensor, ""]:
    """The weighted mean; weights are whole numbers, and the mean of nothing is 0."""
    return (x * weight).sum() / weight.sum().clamp(min=1)
