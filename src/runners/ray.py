"""Whole episodes from many hosts, by Ray."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from controllers.base import Controller
from core.config import ConfigError, Settings
from core.registry import RUNNERS
from core.specs import joined
from envs.base import BatchedEnv
from runners.actor import Weights
from runners.crew import IDLE, PLAYING, TESTING, Crew, Seat, Terms
from runners.episode import Rollout


@RUNNERS.register
class RayRunner:
    """``n_actors`` Ray actors, on whatever hosts have room, play ``batch_size_run`` episodes at a time between them.

    The learner stays here. Actors are sent the newest weights, with a version number that grows whenever the learner
    has changed them, and send back one episode of each of their rows. With ``max_staleness`` above 0 they go on playing
    while the learner learns; what too old a policy has played is discarded. With 0 all play with the same weights, and
    wait.

    An actor that is lost with its host, or gives no answer, is replaced wherever there is room, and its episodes are
    counted as lost. Meanwhile the others go on; a collection may then have fewer episodes. Random numbers are derived
    from the run's seed, one stream for each actor and each of its replacements. As it depends on the clock whose
    episodes come first, runs are not repeatable bit for bit, and resuming one starts further streams. With
    ``max_staleness`` 0, and as long as no actor is lost, two new runs are equal.
    """

    remote = True
    """Environments are elsewhere: the session keeps one row, to know its spec."""

    @dataclass(frozen=True, kw_only=True)
    class Config(Terms):
        """Keys of rollouts on many hosts."""

        max_staleness: int | None = None
        """Episodes of a policy that is more versions behind are discarded; null: 1, for on-policy learners 0."""

        def __post_init__(self) -> None:
            """Raises ConfigError for values that no cluster can serve, or where Ray is missing."""
            rules = (
                ("n_actors", "at least 1", self.n_actors >= 1),
                ("actor_cpus", "at least 0", self.actor_cpus >= 0),
                ("max_staleness", "at least 0, or null", (self.max_staleness or 0) >= 0),
                ("actor_timeout", "positive", self.actor_timeout > 0),
            )
            problems = [f"'{key}' must be {what}, not {getattr(self, key)!r}" for key, what, good in rules if not good]
            if importlib.util.find_spec("ray") is None:
                problems.append("'runner' is ray, which needs the package ray: pip install -r requirements-cluster.txt")
            if problems:
                raise ConfigError(problems)

    def __init__(
        self,
        env: BatchedEnv,
        controller: Controller,
        cfg: Config,
        settings: Settings,
        rng: torch.Generator,  # noqa: ARG002 - every runner is built alike; actors have generators of their own
    ) -> None:
        """Joins the cluster; actors start with the first collection.

        Raises:
            ConfigError: there is no such cluster, or there are more actors than rows.
        """
        rows = settings["batch_size_run"]
        if cfg.n_actors > rows:
            remedy = f"give n_actors={rows} or batch_size_run={cfg.n_actors}"
            raise ConfigError([f"'n_actors' is {cfg.n_actors}, but 'batch_size_run' is only {rows}: {remedy}"])
        self.env, self.controller, self.wanted = env, controller, rows
        on_policy = settings.components()["learner"].on_policy
        self.max_staleness = int(not on_policy) if cfg.max_staleness is None else cfg.max_staleness
        self._early: list[tuple[Seat, tuple[int, Rollout]]] = []
        """What was played for training and arrived during a test."""
        self._weights: tuple[Any, Weights] | None = None
        """Where Ray has them, and themselves."""
        self._version = self._episodes_stale = 0
        self._staleness: list[Tensor] = []
        self._crew = Crew(cfg, settings)

    @torch.no_grad()
    def collect(self, *, t_env: int, mode: str) -> Rollout:
        """``batch_size_run`` episodes, or a few more; fewer where actors were lost.

        Args:
            t_env: environment steps collected so far, for the controller's schedules.
            mode: how to act.

        Raises:
            RuntimeError: no actor could be had for ``actor_timeout`` seconds.
        """
        weights, crew = self._publish(), self._crew
        kept: list[tuple[int, Rollout]] = []
        served: set[int] = set()
        arrived, self._early = self._early, []
        while True:
            kept += [(seat.number, rollout) for seat, (version, rollout) in arrived if self._fresh(version, rollout)]
            for seat in crew.at(IDLE):
                if self.max_staleness or seat.number not in served:
                    crew.send(seat, PLAYING, "play", weights, t_env, mode)
                    served.add(seat.number)
            enough = sum(len(rollout.episodes) for _, rollout in kept) >= self.wanted
            if kept and (enough or not (crew.at(PLAYING) or crew.coming())):
                break
            arrived = crew.answers()
        return self._merged([rollout for _, rollout in sorted(kept, key=lambda pair: pair[0])])

    def evaluate(self, *, t_env: int, mode: str, episodes: int, afresh: bool = False) -> dict[str, Float[Tensor, " b"]]:
        """One value of every metric for each of ``episodes`` test episodes, played by all actors between them.

        What is played depends on the run's seed, ``t_env`` and ``n_actors``, not on which actor plays it (where the
        environment is native; simulators cannot be seeded anew). ``afresh`` asks for other episodes than those.

        Raises:
            RuntimeError: no actor could be had for ``actor_timeout`` seconds.
        """
        weights, crew = self._publish(), self._crew
        share, rest = divmod(episodes, len(crew.seats))
        sizes = [share + (part < rest) for part in range(min(len(crew.seats), episodes))]
        results: dict[int, dict[str, Tensor]] = {}
        while len(results) < len(sizes):
            given = {*results, *(seat.part for seat in crew.at(TESTING))}
            waiting = [part for part in range(len(sizes)) if part not in given]
            for seat, part in zip(crew.at(IDLE), waiting, strict=False):
                seat.part = part
                seeds = [crew.streams.seed("eval", t_env, part, kind) for kind in (2 * afresh, 2 * afresh + 1)]
                crew.send(seat, TESTING, "test", weights, t_env, mode, sizes[part], *seeds)
            for seat, result in crew.answers():
                if isinstance(result, dict):
                    results[seat.part] = result
                else:
                    self._early.append((seat, result))
        return {name: torch.cat([results[part][name] for part in range(len(sizes))]) for name in results[0]}

    def counters(self) -> dict[str, float]:
        """Actors at work, losses since the run began, and the mean staleness of the episodes since the last call."""
        ages, self._staleness = self._staleness, []
        crew = self._crew
        return {
            "actors": float(len(crew.at(IDLE, PLAYING, TESTING))),
            "actors_lost": float(crew.actors_lost),
            "episodes_lost": float(crew.episodes_lost),
            "episodes_stale": float(self._episodes_stale),
            **({"policy_staleness": float(torch.cat(ages).mean())} if ages else {}),
        }

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and how many actors there have been; environments are elsewhere and start anew."""
        return {"version": self._version, "episodes_stale": self._episodes_stale, "crew": self._crew.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        self._version, self._episodes_stale = state["version"], state["episodes_stale"]
        self._crew.load_state_dict(state["crew"])

    def close(self) -> None:
        """Ends the actors and leaves the cluster; safe to call twice."""
        self._crew.close()

    def _publish(self) -> Any:
        """Where actors find the controller's weights: a new version if they have changed since the last call."""
        state = {
            name: x.to("cpu", copy=True) if isinstance(x, Tensor) else x
            for name, x in self.controller.state_dict().items()
        }
        if self._weights is None or not _equal(self._weights[1][1], state):
            self._version += 1
            weights = (self._version, state)
            self._weights = self._crew.ray.put(weights), weights
        return self._weights[0]

    def _fresh(self, version: int, rollout: Rollout) -> bool:
        """Counts how old episodes are; whether they are young enough."""
        age, n = self._version - version, len(rollout.episodes)
        if age > self.max_staleness:
            self._episodes_stale += n
            return False
        self._staleness.append(torch.full((n,), float(age)))
        return True

    def _merged(self, rollouts: list[Rollout]) -> Rollout:
        """Several rollouts as one, where the environments' device is."""
        episodes = joined([rollout.episodes for rollout in rollouts], self.env.spec).to(self.env.device)
        stats = {name: torch.cat([rollout.stats[name] for rollout in rollouts]) for name in rollouts[0].stats}
        return Rollout(episodes, stats, sum(rollout.discarded for rollout in rollouts))


def _equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two states of a controller are the same."""
    return all(torch.equal(x, other[name]) if isinstance(x, Tensor) else x == other[name] for name, x in one.items())
