"""Whole episodes from every environment at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from controllers.base import Controller
from core.config import Settings
from core.registry import RUNNERS
from core.specs import EnvSpec, EpisodeBatch, Outcome, TimeStep, Trim, valid_mask
from envs.base import BatchedEnv

MOST_AGENTS = 16
"""So many agents' own returns are reported one by one."""
AGENT_RETURN = "agent_return_"
"""How their names begin."""


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


@RUNNERS.register
class EpisodeRunner:
    """One episode per row and call, in lock-step until the longest one ends.

    An episode whose simulator is lost is discarded, and the row plays another one when the others have ended: what is
    returned is always one whole episode of every row. Lost steps are not counted by anybody.

    What environments show enters here, and is trimmed here: neither controllers nor learners ever see padding.
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
        self._trim, self._own = Trim(env.spec, env.device), env.spec.action_mask.to(env.device)

    @torch.no_grad()
    def collect(self, *, t_env: int, mode: str) -> Rollout:
        """One whole episode of every row.

        Args:
            t_env: environment steps collected so far, for the controller's schedules.
            mode: how to act: the controller's ``explore_mode`` or one of its ``test_modes``.
        """
        env = self.env
        play = _Play(env.spec, self._trim(env.reset()))
        self._finish(play, t_env, mode)
        discarded = 0
        while play.lost.any():
            discarded += int(play.lost.sum())
            play.begin_again(self._trim(env.reset(play.lost)))
            self._finish(play, t_env, mode)
        episodes = play.record.finish(play.length.cpu(), self._own)
        stats = returns(episodes.reward) | {"ep_length": play.length.float(), **play.metrics}
        return Rollout(episodes, {name: x.cpu() for name, x in stats.items()}, discarded)

    def _finish(self, play: _Play, t_env: int, mode: str) -> None:
        """Acts until no row is running."""
        spec, record, n_envs = self.env.spec, play.record, self.env.n_envs
        hidden = self.controller.initial_hidden(n_envs)
        last = torch.zeros(n_envs, spec.n_agents, spec.n_actions, device=self.env.device)
        for t in range(spec.episode_limit):
            acted = self.controller.act(record.step, last, hidden, t_env=t_env, mode=mode, rng=self.rng)
            outcome = self.env.step(acted.action)
            record.add(t, acted.action, replace(outcome, next=self._trim(outcome.next)), acted.extras, play.running)
            play.count(outcome)
            hidden = acted.hidden
            last = one_hot(acted.action, spec.n_actions).float() if spec.discrete else acted.action
            if not play.running.any():
                break

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


class _Play:
    """How far the episodes under way are."""

    def __init__(self, spec: EnvSpec, first: TimeStep) -> None:
        self.record = _Record(spec, first)
        n_envs, device = len(first.state), first.state.device
        self.running = torch.ones(n_envs, dtype=torch.bool, device=device)
        self.lost = torch.zeros_like(self.running)
        self.length = torch.zeros(n_envs, dtype=torch.long, device=device)
        self.metrics = {name: torch.zeros(n_envs, device=device) for name in spec.metrics}

    def count(self, outcome: Outcome) -> None:
        """Takes in one step of the running rows."""
        self.length += self.running
        for name, value in self.metrics.items():
            value.copy_(torch.where(self.running, outcome.info[name].float(), value))
        if outcome.lost is not None:
            self.lost = self.lost | outcome.lost
            self.running = self.running & ~outcome.lost
        self.running = self.running & ~(outcome.terminated | outcome.truncated)

    def begin_again(self, first: TimeStep) -> None:
        """New episodes in the rows that were lost, and only there."""
        self.length = torch.where(self.lost, 0, self.length)
        self.record.begin_again(first, self.lost)
        self.running, self.lost = self.lost, torch.zeros_like(self.lost)


class _Record:
    """The tensors of the episodes under way, allocated once at the episode limit and cut at the end."""

    def __init__(self, spec: EnvSpec, first: TimeStep) -> None:
        self.spec, self.step = spec, first
        self._states = {name: self._room(x, spec.episode_limit + 1) for name, x in self._shown(first).items()}
        self._steps: dict[str, Tensor] = {}
        self._write(self._states, 0, self._shown(first), torch.ones(len(first.state), dtype=torch.bool))

    @staticmethod
    def _shown(step: TimeStep) -> dict[str, Tensor]:
        return {"obs": step.obs, "state": step.state, "avail": step.avail} | {
            f"extras.{k}": x for k, x in step.extras.items()
        }

    @staticmethod
    def _room(x: Tensor, steps: int) -> Tensor:
        return x.new_zeros(x.shape[0], steps, *x.shape[1:])

    @staticmethod
    def _write(store: dict[str, Tensor], t: int, values: dict[str, Tensor], running: Tensor) -> None:
        for name, x in values.items():
            keep = running.to(x.device).view(-1, *[1] * (x.dim() - 1))
            store[name][:, t] = torch.where(keep, x, store[name][:, t])

    def begin_again(self, first: TimeStep, rows: Tensor) -> None:
        """Forgets the episodes of ``rows``; new ones begin with ``first``."""
        for x in (self._states | self._steps).values():
            x[rows.to(x.device)] = 0
        self._write(self._states, 0, self._shown(first), rows)
        self.step = first

    def add(self, t: int, action: Tensor, outcome: Outcome, extras: dict[str, Tensor], running: Tensor) -> None:
        """Step ``t`` of the rows that are still running, and the state after it."""
        values = {"action": action, "reward": outcome.reward, "terminated": outcome.terminated}
        values |= {f"extras.{k}": x for k, x in extras.items()}
        if not self._steps:
            self._steps = {name: self._room(x, self.spec.episode_limit) for name, x in values.items()}
        self._write(self._steps, t, values, running)
        self._write(self._states, t + 1, self._shown(outcome.next), running)
        self.step = outcome.next

    def finish(self, length: Tensor, own: Tensor) -> EpisodeBatch:
        """The episodes, cut to the longest; ``own`` is the spec's mask of actions."""
        steps = int(length.max())
        device = self._states["obs"].device
        beyond = (torch.arange(steps + 1) > length[:, None]).to(device)
        states = {name: x[:, : steps + 1] for name, x in self._states.items()}
        parts = {name: x[:, :steps] for name, x in self._steps.items()}
        extras = {name.partition(".")[2]: x for name, x in (states | parts).items() if name.startswith("extras.")}
        return EpisodeBatch(
            action=parts["action"],
            reward=parts["reward"],
            terminated=parts["terminated"],
            mask=valid_mask(length, steps, device),
            length=length,
            obs=states["obs"],
            state=states["state"],
            avail=states["avail"] | (beyond[:, :, None, None] & own),
            extras=extras,
        )
