"""The two things that the training loop and tracking agree on; free of dependencies, so that ``run`` may import it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["train", "test", "perf"]

HEADLINES = ("test_battle_won_mean", "test_success_mean", "test_return_mean")
"""Metrics by which a run is judged: the first of these that its tests report."""


@dataclass(frozen=True)
class Record:
    """One line of a run's curves: plain floats by name, measured at ``t_env`` environment steps.

    ``train`` and ``test`` hold only what a second run with the same seed would reproduce; whatever depends on the
    clock is ``perf``.
    """

    kind: Kind
    t_env: int
    values: dict[str, float] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    """What only the journal keeps beside the values: of a test its mark and every episode's results."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and did so in good order, its checkpoint written.

    A ``KeyboardInterrupt``, so that no ``except Exception`` on the way takes it for a failure.
    """

    def __init__(self, signum: int = 2) -> None:
        """``signum`` is the signal that asked for it (2 SIGINT, 15 SIGTERM)."""
        super().__init__(f"stopped by signal {signum}")
        self.signum = signum
