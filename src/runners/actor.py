"""What plays on another host: an environment, a copy of the controller, and a runner of whole episodes."""

from __future__ import annotations

from typing import Any

import torch

from core.config import Settings
from core.registry import ENVS
from core.specs import EnvSpec
from runners.episode import EpisodeRunner, Rollout

Weights = tuple[int, dict[str, Any]]
"""A version number and the controller's ``state_dict`` in host memory."""
MOST_ROWS = 128
"""Most rows of a native environment for tests; more episodes are played in several rounds."""


class Actor:
    """Plays episodes with the weights that it is sent. Everything is on the CPU."""

    def __init__(self, settings: Settings, rows: int) -> None:
        """``rows`` environments side by side; nothing is built before ``start``, whose errors the trainer sees."""
        self.settings, self.rows = Settings({**settings, "device": "cpu"}), rows
        self._version = -1
        self._test_env: Any = None

    def start(self, env_seed: int, act_seed: int) -> None:
        """Builds everything."""
        torch.set_num_threads(self.settings["torch_threads"])
        self._runner = self._make(self._env(self.rows, env_seed), act_seed, None)

    def play(self, weights: Weights, t_env: int, mode: str) -> tuple[int, Rollout]:
        """One episode of every row, and the version of the policy that played it."""
        self._take(weights)
        return self._version, self._runner.collect(t_env=t_env, mode=mode)

    def test(
        self, weights: Weights, t_env: int, mode: str, episodes: int, seed: int, act_seed: int
    ) -> dict[str, torch.Tensor]:
        """One value of every metric for each of ``episodes`` test episodes, on an environment of their own."""
        self._take(weights)
        native = self._runner.env.native
        rows = min(episodes, MOST_ROWS) if native else self.rows
        if self._test_env is None or self._test_env.n_envs != rows:
            if self._test_env is not None:
                self._test_env.close()
            self._test_env = self._env(rows, seed)
        if native:
            self._test_env.seed_rows(seed)
        runner = self._make(self._test_env, act_seed, self._runner.controller)
        rounds = [runner.collect(t_env=t_env, mode=mode).stats for _ in range(-(-episodes // rows))]
        return {name: torch.cat([stats[name] for stats in rounds])[:episodes] for name in rounds[0]}

    def _env(self, rows: int, seed: int) -> Any:
        cls = ENVS[self.settings["env"]]
        return cls.build(self.settings.of(cls), rows, torch.device("cpu"), seed)

    def _make(self, env: Any, act_seed: int, controller: Any) -> EpisodeRunner:
        """A runner of ``env``, with a new controller where none is given."""
        spec: EnvSpec = env.spec
        controller = controller or self.settings.build("mac", spec)
        rng = torch.Generator().manual_seed(act_seed)
        return EpisodeRunner(env, controller, EpisodeRunner.Config(), self.settings, rng)

    def _take(self, weights: Weights) -> None:
        version, state = weights
        if version != self._version:
            self._runner.controller.load_state_dict(state)
            self._version = version
