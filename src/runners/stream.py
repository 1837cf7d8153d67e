"""Episodes from rows that start the next one at once."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, takewhile
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from controllers.base import Controller
from core.config import ConfigError, Settings
from core.registry import RUNNERS
from envs.base import BatchedEnv
from runners.episode import Rollout, look_every, returns
from runners.play import Fields, Play, batch_of


@dataclass(frozen=True)
class Played:
    """An episode that has ended: its tensors without padding, and the environment's metrics at its last step."""

    fields: Fields
    metrics: dict[str, float]


@RUNNERS.register
class StreamRunner:
    """Rows start another episode as soon as one has ended, so that none idles until the longest one ends.

    A collection is ``episodes_per_collect`` whole episodes, always those that were *started* next: episodes are
    numbered as they start (those that start together by their rows), and each is delivered once, in that order. One
    that ended early therefore waits until all that were started before it have ended. Delivered as they end, short
    episodes would come first and be over-represented, which tells a learner that everything ends soon. In order of
    their starts, what has been delivered is at any time what any runner would have collected first.

    An episode may have been begun with the weights of some updates ago, and goes on with the newest: for off-policy
    learners only. Tests play whole episodes of all rows side by side (``EpisodeRunner``), in which no episode can be
    cut off by the end of the test.

    Steps count when their episode is delivered, once. Where a simulator is lost, its episode is discarded and its
    number passed over. On a GPU the host looks only at every ``LOOK_EVERY``-th step who has ended; these rows start
    then. With simulators in processes, all rows wait for the one that is reset.

    Episodes under way are part of the state, step by step, and so are those that wait for delivery: a resumed run
    equals an uninterrupted one. Simulators in processes cannot be saved; there, what was under way is given up.
    """

    remote = False
    """The session has every row itself."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of collecting without a pause."""

        episodes_per_collect: int | None = None
        """Episodes that are collected between two rounds of updates; null: batch_size_run."""

        def __post_init__(self) -> None:
            """Raises ConfigError for less than one episode."""
            if self.episodes_per_collect is not None and self.episodes_per_collect < 1:
                what = f"at least 1, or null, not {self.episodes_per_collect!r}"
                raise ConfigError([f"'episodes_per_collect' must be {what}"])

    def __init__(
        self, env: BatchedEnv, controller: Controller, cfg: Config, settings: Settings, rng: torch.Generator
    ) -> None:
        """``rng`` draws the actions.

        Raises:
            ConfigError: the learner needs episodes of its newest policy only.
        """
        if settings.components()["learner"].on_policy:
            learner = settings["learner"]
            why = f"{learner} learns on-policy: episodes would be of several policies"
            raise ConfigError([f"'runner' is 'stream', but {why}. Choose runner=episode, or an off-policy learner"])
        self.env, self.controller, self.rng = env, controller, rng
        self._wanted = cfg.episodes_per_collect or env.n_envs
        self._play, self._every = Play(env, controller), look_every(env)
        self._number: list[int] = []
        """Of the episode under way in each row; empty before the first collection."""
        self._started = self._next = 0
        """Episodes ever started; the first number that has not been delivered or passed over."""
        self._ended: dict[int, Played | None] = {}
        """What waits for delivery; None where the simulator was lost."""
        self._over = self._slots = self._reported = 0
        """Steps of the episodes that have ended; since the last report: rows stepped, and steps before it."""

    @torch.no_grad()
    def collect(self, *, t_env: int, mode: str) -> Rollout:
        """The ``episodes_per_collect`` episodes that were started next, in the order of their starts.

        Args:
            t_env: environment steps collected so far, for the controller's schedules.
            mode: the controller's ``explore_mode``.

        Raises:
            ValueError: another mode, in which the episodes under way were not begun.
        """
        if mode != self.controller.explore_mode:
            raise ValueError(f"a stream is of experience: mode '{mode}' is played by EpisodeRunner")
        if not self._number:
            self._play.begin()
            self._number = [self._start() for _ in range(self.env.n_envs)]
        discarded = 0
        while len(numbers := self._deliverable()) < self._wanted:
            for _ in range(self._every):
                self._play.advance(t_env=t_env, mode=mode, rng=self.rng)
            self._slots += self._every * self.env.n_envs
            discarded += self._harvest()
        return self._deliver(numbers, discarded)

    def _start(self) -> int:
        """The number of the next episode."""
        self._started += 1
        return self._started - 1

    def _deliverable(self) -> list[int]:
        """The next episodes, no more than are wanted, as far as none before them is still under way."""
        ended = takewhile(self._ended.__contains__, count(self._next))
        return [number for number in ended if self._ended[number] is not None][: self._wanted]

    def _harvest(self) -> int:
        """Takes what has ended, and starts other episodes there; how many were lost."""
        play = self._play
        over = ~play.running
        rows = over.nonzero()[:, 0]
        if not len(rows):
            return 0
        lost = [False] * len(rows) if play.lost is None else play.lost[rows].tolist()
        length = play.t[rows].cpu()
        self._over += int(length.sum())
        for row, gone, played in zip(rows.tolist(), lost, self._taken(rows, length), strict=True):
            self._ended[self._number[row]] = None if gone else played
            self._number[row] = self._start()
        play.begin(over)
        return sum(lost)

    def _taken(self, rows: Int[Tensor, " k"], length: Int[Tensor, " k"]) -> list[Played]:
        """The episodes of ``rows``, one by one."""
        found, steps = self._play.taken(length, rows), int(length.max())
        metrics = {name: x[rows].tolist() for name, x in self._play.metrics.items()}
        return [
            Played(
                {name: x[k, : own + x.shape[1] - steps] for name, x in found.items()},
                {name: values[k] for name, values in metrics.items()},
            )
            for k, own in enumerate(length.tolist())
        ]

    def _deliver(self, numbers: list[int], discarded: int) -> Rollout:
        """The episodes ``numbers`` as a batch; nothing before them is waited for any more."""
        played = [episode for number in numbers if (episode := self._ended[number]) is not None]
        for number in range(self._next, numbers[-1] + 1):
            del self._ended[number]
        self._next = numbers[-1] + 1
        length = torch.tensor([len(episode.fields["action"]) for episode in played])
        found = {name: pad_sequence([e.fields[name] for e in played], batch_first=True) for name in played[0].fields}
        episodes = batch_of(found, length, self.env.spec)
        stats = {name: x.cpu() for name, x in returns(episodes.reward).items()} | {"ep_length": length.float()}
        stats |= {name: torch.tensor([e.metrics[name] for e in played]) for name in played[0].metrics}
        return Rollout(episodes, stats, discarded)

    def counters(self) -> dict[str, float]:
        """The share of rows that were at work, of all that were stepped since the last call."""
        taken, slots = self._over + int(self._play.t.sum()), self._slots
        used, self._reported, self._slots = taken - self._reported, taken, 0
        return {"slot_use": used / slots} if slots else {}

    def close(self) -> None:
        """Nothing to free: the environment is the session's."""

    def state_dict(self) -> dict[str, Any]:
        """The environment, the acting generator, and the episodes under way and waiting."""
        saved = self.env.native and self._number
        return {
            "env": self.env.state_dict(),
            "rng": self.rng.get_state(),
            "play": self._play.state_dict() if saved else None,
            "number": list(self._number),
            "started": self._started,
            "next": self._next,
            "ended": {number: played and vars(played) for number, played in self._ended.items()},
            "steps": (self._over, self._slots, self._reported),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``; what cannot be gone on with is given up."""
        self.env.load_state_dict(state["env"])
        self.rng.set_state(state["rng"].cpu())
        self._started, self._next = state["started"], state["next"]
        self._ended = {number: played and self._own(played) for number, played in state["ended"].items()}
        self._over, self._slots, self._reported = state["steps"]
        if state["play"] is None:
            self._number = []
            self._ended |= dict.fromkeys(state["number"])
        else:
            self._number = list(state["number"])
            self._play.load_state_dict(state["play"])

    def _own(self, played: dict[str, Any]) -> Played:
        """A saved episode, where the others are."""
        return Played({name: x.to(self.env.device) for name, x in played["fields"].items()}, played["metrics"])
