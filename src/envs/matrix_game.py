"""Matrix games: a payoff for every joint action, for any number of agents and actions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.registry import ENVS, did_you_mean
from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows.native import Clock, refuse_unavailable

# Rows are agent 1's actions, columns agent 2's.
PRESETS: dict[str, list[list[float]]] = {
    # QTRAN (Son et al. 2019) and FOP (Zhang et al. 2021), Table 1: a sub-optimal plateau of 0 beside the optimum.
    "qtran33": [[8, -12, -12], [-12, 0, 0], [-12, 0, 0]],
    # QPLEX (Wang et al. 2021): matrix_game_1 and matrix_game_3 of its code.
    "qplex33a": [[10.4, 0, 10], [0, 10, 10], [10, 10, 10]],
    "qplex33b": [[8, -12, -12], [-12, 6, 0], [-12, 0, 6]],
    # Ours, in place of MACPF's Figure 4a, whose numbers are not public: two optima; one of them slightly worse.
    "four": [[8, -12, -12, -12], [-12, 0, 0, -12], [-12, 0, 0, -12], [-12, -12, -12, 8]],
    "four7": [[8, -12, -12, -12], [-12, 0, 0, -12], [-12, 0, 0, -12], [-12, -12, -12, 7]],
    # Ours: only a joint policy can use both optima and lose nothing.
    "xor": [[1, 0], [0, 1]],
    # Claus and Boutilier (1998).
    "climbing": [[11, -30, 0], [-30, 7, 6], [0, 0, 5]],
}
NONE = -1
"""No action yet."""
GENERATED = ("dop14", "penalty")


def dop14() -> Float[Tensor, "14 14 14"]:
    """DOP's didactic game (Wang et al. 2021, section 5.1): 10 for the joint action (1, 5, 9) from 0 on, else -10."""
    payoff = torch.full((14, 14, 14), -10.0)
    payoff[1, 5, 9] = 10
    return payoff


def penalty_game(k: float) -> Float[Tensor, "3 3"]:
    """The penalty game (Claus and Boutilier 1998): missing the partner at one of the optima costs ``k``."""
    return torch.tensor([[10.0, 0, k], [0, 2, 0], [k, 0, 10]])


def shape_of(payoff: Any, at: str = "payoff") -> tuple[int, ...]:
    """The shape of nested lists.

    Raises:
        ValueError: they are not rectangular, or hold something else than finite numbers; names the place.
    """
    if not isinstance(payoff, list | tuple):
        if isinstance(payoff, bool) or not isinstance(payoff, int | float) or not math.isfinite(payoff):
            raise ValueError(f"{at} must be a finite number, not {payoff!r}")
        return ()
    if not payoff:
        raise ValueError(f"{at} is an empty list: every agent needs at least one action")
    shapes = [shape_of(x, f"{at}[{i}]") for i, x in enumerate(payoff)]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(f"payoff is not rectangular: {at}[{i}] has shape {shape}, {at}[0] has {shapes[0]}")
    return (len(payoff), *shapes[0])


@ENVS.register
class MatrixGame(BatchedEnv):
    """All agents get ``payoff[a_1, ..., a_N]``. There is nothing to observe but, if wanted, who one is."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Either a preset or a payoff."""

        preset: str | None = None
        """A game by name: qtran33, qplex33a, qplex33b, four, four7, xor, climbing, penalty (2 agents), dop14 (3)."""
        payoff: list[Any] | None = None
        """Nested lists, one level per agent: payoff[a_1][a_2]... is the team reward."""
        penalty: float = -100.0
        """k, the payoff of the preset ``penalty`` where the agents aim at different optima."""
        observe_id: bool = False
        """An agent observes its number (one-hot) instead of the constant 1."""
        episode_length: int = 1
        """How often the game is repeated in an episode."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        super().__init__(cfg, n_envs, device, seed)
        payoff = self.payoff_of(cfg).to(self.device)
        n = payoff.dim()
        sizes = torch.tensor(payoff.shape, device=self.device)
        self.spec = EnvSpec(
            actions=tuple(ActionSpec(size) for size in payoff.shape),
            obs_dims=(n if cfg.observe_id else 1,) * n,
            state_dim=1,
            episode_limit=cfg.episode_length,
            metrics=("optimal",),
        )
        self._payoff, self._best = payoff.flatten(), payoff.max()
        self._strides = torch.tensor(payoff.stride(), device=self.device)
        self._avail = torch.arange(self.spec.n_actions, device=self.device) < sizes[:, None]
        self._obs = torch.eye(n, device=self.device) if cfg.observe_id else torch.ones(n, 1, device=self.device)
        self._clock = Clock(cfg.episode_length, n_envs, self.device)
        self._chosen = torch.full((n_envs, n), NONE, device=self.device)  # the last joint action, for pictures only

    @classmethod
    def payoff_of(cls, cfg: Any) -> Float[Tensor, "*a"]:
        """The payoff tensor with one axis per agent.

        Raises:
            ValueError: no such preset; not exactly one of preset and payoff; a payoff that is no tensor.
        """
        if (cfg.preset is None) == (cfg.payoff is None):
            given = "both are given (set the other one to null)" if cfg.preset is not None else "neither is given"
            raise ValueError(f"matrix_game needs either env_args.preset or env_args.payoff, but {given}")
        if cfg.payoff is not None:
            if not shape_of(cfg.payoff):
                raise ValueError("payoff must be a nested list with one level per agent")
            return torch.tensor(cfg.payoff, dtype=torch.float32)
        if cfg.preset == "dop14":
            return dop14()
        if cfg.preset == "penalty":
            return penalty_game(cfg.penalty)
        if cfg.preset not in PRESETS:
            names = (*PRESETS, *GENERATED)
            raise ValueError(f"unknown preset '{cfg.preset}'.{did_you_mean(cfg.preset, names)}")
        return torch.tensor(PRESETS[cfg.preset], dtype=torch.float32)

    @classmethod
    def settle(cls, cfg: Any) -> Any:
        """Checks the payoff before a run begins."""
        cls.payoff_of(cfg)
        if cfg.episode_length < 1:
            raise ValueError(f"episode_length must be at least 1, not {cfg.episode_length}")
        return cfg

    def label(self) -> str:
        """The game's name, or ``custom``."""
        return f"matrix_game/{self.cfg.preset or 'custom'}"

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Starts the rows of ``which`` (None: all)."""
        which = self._clock.start(which)
        self._chosen = self._chosen.masked_fill(which[:, None], NONE)
        return self._show()

    def step(self, action: Int[Tensor, "b n"]) -> Outcome:
        """The payoff of the joint action; the last repetition is a true end, not a time limit (trap T-54)."""
        running = self._clock.running
        action = refuse_unavailable(action, self._avail.expand(self.n_envs, -1, -1), running)
        self._chosen = torch.where(running[:, None], action, self._chosen)
        payoff = self._payoff[(action * self._strides).sum(-1)]
        terminated, truncated = self._clock.tick(self._clock.t + 1 >= self.cfg.episode_length)
        optimal = ((payoff == self._best) & running).float()
        return Outcome(self._show(), torch.where(running, payoff, 0), terminated, truncated, {"optimal": optimal})

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """The payoffs of two agents as a table: the first one chooses the row, the second one the column.

        Raises:
            NotImplementedError: a game of another number of agents, which has no table.
        """
        agents = [Entity.of_agent(i, radius=0.3) for i in range(2)]
        rows, columns = self._table_shape()
        cells = [
            Entity(name=f"payoff of {divmod(k, columns)}", kind="payoff", mark=f"{payoff:g}", radius=0.42)
            for k, payoff in enumerate(self._payoff.tolist())
        ]
        return Stage(
            title=self.label(),
            teams=("agents",),
            entities=(*agents, *cells),
            low=(-1.6, 0.4 - rows),
            high=(columns - 0.4, 1.6),
        )

    def frame(self, row: int) -> Frame:
        """The agents at the row and the column that they chose, after the payoff that both lead to."""
        rows, columns = self._table_shape()
        chosen = self._chosen[row].tolist()
        first, second = chosen if NONE not in chosen else ((rows - 1) / 2, (columns - 1) / 2)
        cells = [(float(k % columns), -float(k // columns)) for k in range(rows * columns)]
        target = np.full(2 + len(cells), -1)
        if NONE not in chosen:
            target[:2] = 2 + columns * first + second
        return Frame.of(np.array([(-1.0, -first), (second, 1.0), *cells], dtype=np.float32), target=target)

    def seed_rows(self, seed: int) -> None:
        """Nothing here is random."""
        self.seed = seed

    def state_dict(self) -> dict[str, Any]:
        """How far each row is."""
        return self._clock.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``. What was chosen last is not shown any more."""
        self._chosen = torch.full_like(self._chosen, NONE)
        self._clock.load_state_dict(state)

    def _table_shape(self) -> tuple[int, int]:
        sizes = [action.n for action in self.spec.actions]
        if len(sizes) != 2:
            raise NotImplementedError(f"only two agents have a table of payoffs, and there are {len(sizes)}")
        return sizes[0], sizes[1]

    def _show(self) -> TimeStep:
        b = self.n_envs
        state = torch.ones(b, 1, device=self.device)
        return TimeStep(self._obs.repeat(b, 1, 1), state, self._avail.repeat(b, 1, 1))
