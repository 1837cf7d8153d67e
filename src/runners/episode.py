"""Whole episodes from every environment at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from core.config import Settings
from core.registry import RUNNERS
from core.specs import EpisodeBatch
from envs.base import BatchedEnv
from runners.play import Play, batch_of

MOST_AGENTS = 16
"""So many agents' own returns are reported one by one."""
AGENT_RETURN = "agent_return_"
"""How their names begin."""
LOOK_EVERY = 8
"""Steps between two looks at which rows still run, where a look is a wait for the device."""


@dataclass(frozen=True)
class Rollout:
    """Finished episodes and what is reported of each."""

    episodes: EpisodeBatch
    stats: dict[str, Float[Tensor, " b"]]
    """``returns``, ``ep_length`` and the environment's metrics at the last step, in host memory."""
    discarded: int = 0
    """Episodes whose simulator failed before they ended; they are not among ``episodes``."""


def returns(reward: Float[Tensor, "b t *n"]) -> dict[str, Float[Tensor, " b"]]:
    """What is reported of rewards: their sum over steps and agents, and more where agents have rewards of their own.

    Then there are also the mean over agents (``return_per_agent``, the scale of MAAC and F2A2) and every agent's own
    (``agent_return_0`` and so on); of more than ``MOST_AGENTS`` only the smallest and the largest.
    """
    stats = {"return": reward.flatten(1).sum(1)}
    if reward.dim() == 2:
        return stats
    each = reward.sum(1)
    stats["return_per_agent"] = each.mean(1)
    if each.shape[1] > MOST_AGENTS:
        low, high = each.aminmax(dim=1)
        return stats | {f"{AGENT_RETURN}min": low, f"{AGENT_RETURN}max": high}
    return stats | {f"{AGENT_RETURN}{i}": own for i, own in enumerate(each.unbind(1))}


def look_every(env: BatchedEnv) -> int:
    """After how many steps the host looks at which rows still run: where it has them itself, after each."""
    return 1 if env.device.type == "cpu" or not env.native else LOOK_EVERY


@RUNNERS.register
class EpisodeRunner:
    """One episode per row and call, in lock-step until the longest one ends.

    An episode whose simulator is lost is discarded, and the row plays another one when the others have ended: what is
    returned is always one whole episode of every row. Lost steps are not counted by anybody.

    On a GPU the host looks only at every ``LOOK_EVERY``-th step whether all rows have ended, and does not wait in
    between. What is then drawn too much is put back, so results do not depend on how often it looks.
    """

    remote = False
    """The session has every row itself."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No keys of its own."""

    def __init__(
        self,
        env: BatchedEnv,
        controller: Controller,
        cfg: Config,  # noqa: ARG002 - every runner is built alike
        settings: Settings,  # noqa: ARG002
        rng: torch.Generator,
    ) -> None:
        """``rng`` draws the actions."""
        self.env, self.controller, self.rng = env, controller, rng
        self._play, self._every = Play(env, controller), look_every(env)

    @torch.no_grad()
    def collect(self, *, t_env: int, mode: str) -> Rollout:
        """One whole episode of every row.

        Args:
            t_env: environment steps collected so far, for the controller's schedules.
            mode: how to act: the controller's ``explore_mode`` or one of its ``test_modes``.
        """
        play = self._play
        play.begin()
        self._finish(t_env, mode)
        discarded = 0
        while play.lost is not None and (n := int(play.lost.sum())):
            discarded += n
            play.begin(play.lost)
            self._finish(t_env, mode)
        length = play.t.cpu()
        episodes = batch_of(play.taken(length), length, self.env.spec)
        stats = returns(episodes.reward) | {"ep_length": length.float(), **play.metrics}
        return Rollout(episodes, {name: x.cpu() for name, x in stats.items()}, discarded)

    def _finish(self, t_env: int, mode: str) -> None:
        """Acts until no row is running."""
        play, start = self._play, self._play.t.clone()
        before = []
        for t in range(1, self.env.spec.episode_limit + 1):
            if self._every > 1:
                before.append(self.rng.get_state())
            play.advance(t_env=t_env, mode=mode, rng=self.rng)
            if t % self._every == 0 and not play.running.any():
                break
        if self._every > 1 and (needed := int((play.t - start).max())) < len(before):
            self.rng.set_state(before[needed])

    def counters(self) -> dict[str, float]:
        """What is reported of collecting itself: nothing."""
        return {}

    def close(self) -> None:
        """Nothing to free: the environment is the session's."""

    def state_dict(self) -> dict[str, Any]:
        """The environment and the acting generator; between two calls nothing else is alive."""
        return {"env": self.env.state_dict(), "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self.env.load_state_dict(state["env"])
        self.rng.set_state(state["rng"].cpu())
