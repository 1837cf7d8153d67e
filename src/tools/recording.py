"""Episodes of a policy with everything that there is to see, and their compact form for a page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.config import ConfigError
from core.picture import NOBODY, Entity, Frame, Stage, colour, emblem
from core.specs import Outcome, TimeStep
from envs.base import BatchedEnv
from run import LARGEST_TEST, Session, make_env
from runners.episode import EpisodeRunner, Rollout

WINS = ("battle_won", "success")
"""Metrics that tell whether an episode was won, where an environment has one of them."""
COLUMNS = ("health", "shield", "energy", "cooldown")
"""Fields of entities (at most) and frames (now) alike."""
VOCABULARY = ("actions", "aims", "pushes")
"""Fields of entities that are about their agents' actions."""
FINE, FINEST = 3, 6
"""Numbers are kept to this share of the largest one, in powers of ten: what is looked at, and what is summed up."""


@dataclass(frozen=True)
class Recording:
    """One episode of T steps."""

    stage: Stage
    frames: list[Frame]
    """T + 1: before every step, and at the end."""
    action: np.ndarray
    """[T, n] numbers of actions, or [T, n, d] where they are boxes."""
    choices: np.ndarray
    """[T, n] how many actions were available."""
    reward: np.ndarray
    """[T], summed over the agents where each has its own."""
    result: str
    """won, lost, undecided (cut by the time limit), or over, where nothing tells whether it was won."""
    metrics: dict[str, float]
    """The environment's, at the last step."""


class Recorder(BatchedEnv):
    """An environment that keeps what it looks like while somebody else plays on it."""

    def __init__(self, env: BatchedEnv) -> None:
        """``env`` has a ``stage``, or resetting raises NotImplementedError."""
        super().__init__(env.cfg, env.n_envs, env.device, env.seed)
        self.env, self.spec, self.native = env, env.spec, env.native
        self.stages: list[Stage] = []
        self.frames: list[list[Frame]] = []
        self._running = torch.zeros(env.n_envs, dtype=torch.bool)

    def reset(self, which: Tensor | None = None) -> TimeStep:
        """New episodes in all rows (``which`` is None), and a fresh record of them."""
        if which is not None:
            raise ValueError("a recorder starts all rows together: reset() without rows")
        shown = self.env.reset()
        self.stages = [self.env.stage(row) for row in range(self.n_envs)]
        self.frames = [[self.env.frame(row)] for row in range(self.n_envs)]
        self._running[:] = True
        return shown

    def step(self, action: Tensor) -> Outcome:
        """Keeps a frame of every row whose episode was still running."""
        outcome = self.env.step(action)
        for row in self._running.nonzero().flatten().tolist():
            self.frames[row].append(self.env.frame(row))
        self._running &= ~(outcome.terminated | outcome.truncated).cpu()
        return outcome


def record(session: Session, episodes: int, *, sample: bool) -> list[Recording]:
    """Plays the episodes that an evaluation of the run begins with.

    Args:
        session: with the policy.
        episodes: how many.
        sample: explore as while collecting, instead of acting as tested.

    Raises:
        ConfigError: the environment has nothing to show.
    """
    settings, streams, at = session.settings, session.streams, session.progress.t_env
    rows = min(episodes, LARGEST_TEST) if session.env.native else settings["batch_size_run"]
    recorder = Recorder(make_env(settings, rows, streams.seed("eval")))
    mode = session.controller.explore_mode if sample else session.controller.test_modes[0]
    try:
        if recorder.native:
            recorder.env.seed_rows(streams.seed("eval", at))
        rng = streams.generator("eval", recorder.device, at)
        runner = EpisodeRunner(recorder, session.controller, EpisodeRunner.Config(), settings, rng)
        played: list[Recording] = []
        while len(played) < episodes:
            rollout = runner.collect(t_env=at, mode=mode)
            played += [_recording(recorder, rollout, row) for row in range(rows)]
    except NotImplementedError as error:
        raise ConfigError([f"{session.env.label()} cannot be replayed: {error}"]) from error
    finally:
        recorder.env.close()
    return played[:episodes]


def _recording(recorder: Recorder, rollout: Rollout, row: int) -> Recording:
    """One row's episode."""
    batch, steps = rollout.episodes, int(rollout.episodes.length[row])
    metrics = {name: float(rollout.stats[name][row]) for name in recorder.spec.metrics}
    return Recording(
        stage=recorder.stages[row],
        frames=recorder.frames[row],
        action=batch.action[row, :steps].cpu().numpy(),
        choices=batch.avail[row, :steps].sum(-1).cpu().numpy(),
        reward=batch.reward[row, :steps].reshape(steps, -1).sum(-1).cpu().numpy(),
        result=result_of(metrics, ended=bool(batch.terminated[row, steps - 1])),
        metrics=metrics,
    )


def result_of(metrics: dict[str, float], *, ended: bool) -> str:
    """How an episode came out. ``ended``: truly, not by its time limit."""
    wins = [metrics[name] for name in WINS if name in metrics]
    if not wins:
        return "over"
    if any(wins):
        return "won"
    return "lost" if ended else "undecided"


# --- the compact form -------------------------------------------------------------------------------------------------


def compact(recordings: list[Recording]) -> dict[str, Any]:
    """Stages and episodes as lists of rounded numbers; what is 0 throughout (of targets: -1) is left out."""
    stages: dict[str, dict[str, Any]] = {}
    episodes = []
    for recording in recordings:
        stage = _stage(recording.stage)
        key = json.dumps(stage)
        stages.setdefault(key, stage)
        episodes.append({"stage": [*stages].index(key)} | _episode(recording))
    return {"stages": list(stages.values()), "episodes": episodes}


def _stage(stage: Stage) -> dict[str, Any]:
    vocabularies = list(dict.fromkeys(_vocabulary(entity) for entity in stage.entities))
    cells = None
    if stage.ground is not None:
        columns, rows = stage.ground.shape
        text = "".join(str(cell) for cell in stage.ground.T.flatten().tolist())  # row by row, from below
        cells = {"columns": columns, "rows": rows, "cells": text}
    return {
        "title": stage.title,
        "note": stage.note,
        "teams": [{"name": name, "colour": vars(colour(i))} for i, name in enumerate(stage.teams)],
        "nobody": vars(NOBODY),
        "kinds": [{"name": kind, "emblem": emblem(i)} for i, kind in enumerate(stage.kinds)],
        "vocabularies": [dict(zip(VOCABULARY, words, strict=True)) for words in vocabularies],
        "low": stage.low,
        "high": stage.high,
        "ground": cells,
        "entities": [_entity(stage, entity, vocabularies) for entity in stage.entities],
    }


def _vocabulary(entity: Entity) -> tuple[Any, ...]:
    """What there is to say of its agent's actions, which others may share."""
    return tuple(getattr(entity, name) for name in VOCABULARY)


def _entity(stage: Stage, entity: Entity, vocabularies: list[tuple[Any, ...]]) -> dict[str, Any]:
    vocabulary = vocabularies.index(_vocabulary(entity))
    fields = vars(entity) | {"kind": stage.kinds.index(entity.kind), "vocabulary": vocabulary}
    for name in VOCABULARY:
        del fields[name]
    has = {name: getattr(entity, name) for name in ("sight", "reach", *COLUMNS)}
    return {name: value for name, value in fields.items() if value is not None and has.get(name, 1.0) > 0}


def _episode(recording: Recording) -> dict[str, Any]:
    frames = recording.frames
    words = list(dict.fromkeys(order for frame in frames for order in frame.order))
    columns = {
        "x": _rounded([frame.position[:, 0] for frame in frames]),
        "y": _rounded([frame.position[:, 1] for frame in frames]),
        "alive": ["".join("01"[lives] for lives in frame.alive.tolist()) for frame in frames],
        "target": [frame.target.tolist() for frame in frames],
        "order": [[words.index(order) for order in frame.order] for frame in frames],
    }
    columns |= {name: _rounded([getattr(frame, name) for frame in frames]) for name in COLUMNS}
    return {
        "result": recording.result,
        "metrics": recording.metrics,
        "reward": _rounded(recording.reward, FINEST),
        "actions": _rounded(recording.action),
        "choices": recording.choices.tolist(),
        "words": words,
        "frames": {name: column for name, column in columns.items() if _says_something(name, column)},
    }


def _says_something(name: str, column: list[Any]) -> bool:
    nothing = -1 if name == "target" else 0
    return any(value != nothing for row in column for value in row)


def _rounded(numbers: np.ndarray | list[np.ndarray], fine: int = FINE) -> list[Any]:
    """Nested lists of numbers without needless digits."""
    values = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a recording holds numbers that are not finite")
    largest = float(np.abs(values).max(initial=0.0))
    places = max(0, fine - math.floor(math.log10(largest))) if largest > 0 else 0
    return _tidy(np.round(values, places).tolist())


def _tidy(value: Any) -> Any:
    """2.0 as 2, which is shorter, throughout nested lists."""
    if isinstance(value, list):
        return [_tidy(v) for v in value]
    return int(value) if value == int(value) else value
