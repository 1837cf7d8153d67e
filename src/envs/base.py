"""The one interface to every environment: a batch of copies that step together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from core.picture import Frame, Stage
from core.specs import EnvSpec, Outcome, TimeStep


class BatchedEnv(ABC):
    """B independent copies of an environment. Rows never influence each other.

    A row that has ended stays as it is until ``reset`` is asked for it: stepping it changes nothing that the others
    see, and its outcome (reward 0, not terminated, not truncated) is ignored by the caller. So it is with a row whose
    simulator was lost (``Outcome.lost``).
    """

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """The legal ``env_args``."""

    cfg: Any
    spec: EnvSpec
    n_envs: int
    device: torch.device
    native = True
    """True for a tensor program, whose number of rows is cheap; False where a row is a process."""

    def __init__(self, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> None:
        """``cfg`` is the class's ``Config``. ``seed`` derives every row's generator.

        Two instances with one seed and the same calls are bit-identical.
        """
        self.cfg, self.n_envs, self.device, self.seed = cfg, n_envs, torch.device(device), seed

    @classmethod
    def build(cls, cfg: Any, n_envs: int, device: torch.device | str, seed: int) -> BatchedEnv:
        """The environment for a settled ``cfg``: this class, or another one that does its work here."""
        return cls(cfg, n_envs, device, seed)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """``cfg`` with everything decided that depends on this machine (an engine that is found or not).

        Called before a run is recorded, so that the record says what was used.

        Raises:
            ValueError: what is asked for is missing here, or its values do not go together; with the remedy.
        """
        return cfg

    def replaced(self) -> tuple[int, int]:
        """Processes that were replaced since this was built: after a failure, and against leaks."""
        return 0, 0

    @abstractmethod
    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Starts a new episode in the rows of ``which`` (None: all) and shows all rows."""

    @abstractmethod
    def step(self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"]) -> Outcome:
        """One joint action per row.

        Raises:
            ValueError: an unavailable action of a running row, or one outside its box, naming row and agent.
        """

    def seed_rows(self, seed: int) -> None:
        """Restarts every row's generator from ``seed``, as if newly built; used before each evaluation."""
        raise NotImplementedError(f"{type(self).__name__} cannot be re-seeded")

    def label(self) -> str:
        """What keeps results apart, for instance the engine and the map: part of the results' path."""
        return type(self).__module__.rpartition(".")[2]

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides what happens next: tensors, generators, counters. Empty where that is outside."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""

    def stage(self, row: int) -> Stage:
        """What stays as it is during the episode of one row, for pictures of it.

        Raises:
            NotImplementedError: there is nothing to see.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to show")

    def frame(self, row: int) -> Frame:
        """What one row looks like now; the entities of its ``stage``, in that order.

        Raises:
            NotImplementedError: there is nothing to see.
        """
        raise NotImplementedError(f"{type(self).__name__} has nothing to show")

    def render(
        self, row: int, *, width: int = 800, ranges: Collection[int] = ()
    ) -> UInt8[np.ndarray, "height width 3"]:
        """A picture of one row.

        Args:
            row: which.
            width: of the picture, in pixels.
            ranges: entities (places in the stage) whose sight and weapon's range are shown.

        Raises:
            NotImplementedError: there is nothing to see.
        """
        from core.drawing import draw  # imports Pillow, which training does without

        return draw(self.stage(row), self.frame(row), width=width, ranges=ranges)

    def close(self) -> None:
        """Frees processes and memory; safe to call twice."""
