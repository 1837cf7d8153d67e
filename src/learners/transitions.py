"""What learners share that may draw single steps from the replay, instead of whole episodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from core.config import ConfigError
from core.specs import EpisodeBatch
from learners.base import Learner
from memory.replay import Replay


class TransitionLearner(Learner):
    """Off-policy learning from single steps, a batch of one-step episodes, or from whole episodes."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Learner.Config):
        """Keys of drawing from the replay."""

        sample: Literal["transitions", "episodes"] = "transitions"
        """What batch_size counts: single steps, for agents without memory, or whole episodes."""

        def __post_init__(self) -> None:
            """Raises ValueError for values with which no update would ever happen."""
            if self.sample == "episodes":
                super().__post_init__()
            elif self.batch_size < 1:
                raise ValueError(f"batch_size must be at least 1, not {self.batch_size}")
            elif self.buffer_steps is not None and self.batch_size > self.buffer_steps:
                raise ValueError(
                    f"batch_size={self.batch_size} must be at most buffer_steps={self.buffer_steps}: "
                    "an update waits until the replay holds that many steps"
                )

    def ready(self, replay: Replay) -> bool:
        """Whether there are enough steps, or episodes."""
        stored = replay.steps if self.cfg.sample == "transitions" else len(replay)
        return stored >= self.cfg.batch_size and replay.added >= self.cfg.burn_in

    def draw(self, replay: Replay) -> EpisodeBatch:
        """What an update learns from; episodes are padded to one length."""
        if self.cfg.sample == "transitions":
            return replay.transitions(self.cfg.batch_size)
        return replay.uniform(self.cfg.batch_size)

    def refuse_memory(self) -> None:
        """Refuses agents that remember where only single steps are seen, and replays that never hold a batch of them.

        Raises:
            ConfigError: with the remedy.
        """
        most = self.cfg.buffer_size * self.spec.episode_limit
        if self.cfg.sample == "transitions" and most < self.cfg.batch_size:
            raise ConfigError(
                [
                    f"buffer_size={self.cfg.buffer_size} episodes have at most {most} steps here, fewer than "
                    f"batch_size={self.cfg.batch_size}: raise buffer_size"
                ]
            )
        if self.cfg.sample == "transitions" and not self.controller.agent.memoryless:
            raise ConfigError(
                [
                    "sample=transitions shows single steps, but the agents see more than the present: choose agent=mlp "
                    "last_action=False, or sample=episodes"
                ]
            )
