"""Simulators in processes of their own as one ``BatchedEnv``; a crash costs an episode, not the run."""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.fleet import Care, Fleet
from envs.rows import process
from envs.rows.board import Source
from envs.rows.native import Box, refuse_unavailable


class WorkerEnv(BatchedEnv):
    """One worker process per row around a simulator that knows nothing of tensors.

    A simulator that crashes, hangs or raises is replaced. ``Outcome.lost`` tells whose episode is gone with it.
    """

    native = False

    def __init__(
        self, cfg: Any, n_envs: int, device: torch.device | str, seed: int, *, source: Source, care: Care | None = None
    ) -> None:
        """Starts the workers.

        Args:
            source: what each worker runs.
            care: how the workers are looked after; None: ``cfg`` says.

        Raises:
            WorkerError: a simulator could not be made; with the worker's traceback.
        """
        super().__init__(cfg, n_envs, device, seed)
        self._fleet = Fleet(source, seed, n_envs, care or cfg)
        assert self._fleet.board is not None and self._fleet.about is not None, "all have started"
        self._board, about = self._fleet.board, self._fleet.about
        self._board.avail[:] = True  # rows that have not been reset yet show no empty mask
        self._running = torch.zeros(n_envs, dtype=torch.bool)
        bounds = about.bounds or (None,) * len(about.n_actions)
        self.spec = EnvSpec(
            actions=tuple(ActionSpec(n, *(b or ())) for n, b in zip(about.n_actions, bounds, strict=True)),
            obs_dims=about.obs_dims,
            state_dim=about.state_dim,
            episode_limit=about.episode_limit,
            reward=cast(Any, about.reward),
            extras=dict(about.extras),
            metrics=about.metrics,
            unit_dim=about.unit_dim,
        )
        self._box = None if self.spec.discrete else Box(self.spec.actions, "cpu")

    def replaced(self) -> tuple[int, int]:
        """Workers that were replaced: after a failure, and against leaks."""
        return self._fleet.restarts, self._fleet.recycled

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Starts new episodes in the rows of ``which`` (None: all), side by side.

        A simulator that fails here is replaced here: no episode is lost that had begun.

        Raises:
            WorkerError: one cannot be replaced.
        """
        which = torch.ones_like(self._running) if which is None else which.cpu()
        self._running = self._running & ~which
        rows = _numbers(which)
        self._fleet.recycle(rows)
        while rows:
            self._fleet.make_ready(rows)
            replies = self._fleet.ask("resetting", dict.fromkeys(rows, process.RESET))
            for row, told in replies.items():
                self._fleet.places[row].memory = int.from_bytes(told, "little")
            rows = [row for row in rows if row not in replies]
        self._running = self._running | which
        return self._show()

    def step(self, action: Int[Tensor, "b n"] | Float[Tensor, "b n d"]) -> Outcome:
        """One joint action in every running row, side by side."""
        board, running = self._board, self._running
        action = action.cpu()
        if self._box is None:
            action = refuse_unavailable(action, torch.from_numpy(board.avail), running)
        else:
            action = self._box.admit(action, running)
        board.action[:] = action.numpy()
        board.reward[:], board.ended[:], board.info[:] = 0, False, 0
        lost = self._obeyed("stepping", running)
        terminated, truncated = self._own(board.ended).unbind(-1)
        ended = (terminated | truncated).cpu()
        for row in _numbers(ended):
            self._fleet.finished(row)
        self._running = running & ~ended if lost is None else running & ~ended & ~lost
        info = dict(zip(self.spec.metrics, self._own(board.info).T, strict=True))
        lost = lost if lost is None else lost.to(self.device)
        return Outcome(self._show(), self._own(board.reward), terminated, truncated, info, lost)

    def _obeyed(self, doing: str, running: Bool[Tensor, " b"]) -> Bool[Tensor, " b"] | None:
        """Steps all running rows; tells whose simulators failed, None where nobody's did."""
        rows = _numbers(running)
        replies = self._fleet.ask(doing, dict.fromkeys(rows, process.STEP))
        failed = [row for row in rows if row not in replies]
        for row in failed:
            self._board.clear(row)
        return torch.zeros_like(running).index_fill(0, torch.tensor(failed), True) if failed else None

    def seed_rows(self, seed: int) -> None:
        """Seeds every simulator anew; they have to be reset."""
        self.seed = seed
        self._running = torch.zeros_like(self._running)
        self._fleet.reseed(seed)

    def close(self) -> None:
        """Ends the workers."""
        self._fleet.close()

    def _own(self, array: Any) -> Tensor:
        """A copy on the device: the shared memory is overwritten by the next step."""
        return torch.from_numpy(array).to(self.device, copy=True)

    def _show(self) -> TimeStep:
        board = self._board
        extras = {name: self._own(array) for name, array in board.extras.items()}
        return TimeStep(self._own(board.obs), self._own(board.state), self._own(board.avail), extras)


def _numbers(rows: Bool[Tensor, " b"]) -> list[int]:
    """Which rows are marked."""
    return [int(row) for row in rows.nonzero()[:, 0].tolist()]
