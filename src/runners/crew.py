"""The actors of a run on a Ray cluster: started, given something to do, and replaced when they are lost."""

from __future__ import annotations

import contextlib
import math
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config import ConfigError, Settings
from core.seeding import Streams
from runners.actor import Actor

STARTING, IDLE, PLAYING, TESTING, AWAY = "starting", "idle", "playing", "testing", "away"
"""States of a seat: its actor is placed and built; it waits; it works; none has been sent for yet."""
_SOURCES = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.5
_LONGEST_PAUSE = 60.0
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What is asked of a cluster: keys of the runner."""

    ray_address: str = "local"
    """The cluster: host:port of its head, auto for the one this host belongs to; local starts Ray here."""
    n_actors: int = 2
    """Actors; the rows of batch_size_run are divided among them."""
    actor_cpus: float = 1.0
    """Processor cores that Ray keeps for each actor; 0 for no reservation."""
    actor_timeout: float = 600.0
    """Seconds without an answer after which an actor is given up, and without any actor after which the run is."""


@dataclass
class Seat:
    """The place of one actor, which is filled again when the actor is lost."""

    number: int
    rows: int
    lives: int = 0
    """Actors that have sat here before: a part of the seeds, so that no stream is played twice."""
    state: str = AWAY
    handle: Any = None
    since: float = 0.0
    """When it got into its state; of ``AWAY``: when it is to be filled."""
    losses: int = 0
    """Actors lost in a row, without an episode between them."""
    part: int = 0
    """Which part of a test it plays."""


class Crew:
    """Seats for actors, and what they are at. Ray decides on which host an actor is."""

    def __init__(self, terms: Terms, settings: Settings) -> None:
        """Joins the cluster, or starts one on this host.

        Raises:
            ConfigError: there is no such cluster.
        """
        self.terms, self.settings, self.streams = terms, settings, Streams(settings["seed"])
        share, rest = divmod(settings["batch_size_run"], terms.n_actors)
        self.seats = [Seat(number, share + (number < rest)) for number in range(terms.n_actors)]
        self.actors_lost = self.episodes_lost = 0
        self._tasks: dict[Any, Seat] = {}
        """Oldest first, so that no answer is passed over for long."""
        self._heard: float | None = None
        """When there was last an actor."""
        self._trouble = ""
        self.ray = _joined(terms)

    def at(self, *states: str) -> list[Seat]:
        """The seats in one of these states."""
        return [seat for seat in self.seats if seat.state in states]

    def coming(self) -> bool:
        """Whether an actor is awaited that was never lost, and not for too long: the run has only just begun."""
        latest = time.monotonic() - self.terms.actor_timeout
        return any(not seat.losses and seat.since > latest for seat in self.at(STARTING))

    def send(self, seat: Seat, state: str, method: str, *arguments: Any) -> None:
        """Gives an actor something to do."""
        self._tasks[getattr(seat.handle, method).remote(*arguments)] = seat
        seat.state, seat.since = state, time.monotonic()

    def answers(self) -> list[tuple[Seat, Any]]:
        """What has arrived, waited for half a second at most; meanwhile empty seats are filled.

        Raises:
            RuntimeError: there has been no actor for ``actor_timeout`` seconds.
            Exception: what an actor raised while it played, or when the first ones started.
        """
        self.fill()
        if not self._tasks:
            time.sleep(_POLL_SECONDS)
        ready = self.ray.wait(list(self._tasks), timeout=_POLL_SECONDS)[0] if self._tasks else []
        found = [pair for task in ready for pair in self._opened(task)]
        self._give_up_silent()
        self._insist()
        return found

    def fill(self) -> None:
        """Sends for actors where seats are empty."""
        for seat in self.at(AWAY):
            if seat.since > time.monotonic():
                continue
            cls = self.ray.remote(num_cpus=self.terms.actor_cpus, scheduling_strategy="SPREAD")(Actor)
            seat.handle = cls.remote(self.settings, seat.rows)
            seeds = [self.streams.seed(name, seat.number, seat.lives) for name in ("env", "act")]
            self.send(seat, STARTING, "start", *seeds)

    def state_dict(self) -> dict[str, Any]:
        """What was counted, and how many actors every seat has had."""
        counts = {"actors_lost": self.actors_lost, "episodes_lost": self.episodes_lost}
        return {**counts, "lives": [seat.lives for seat in self.seats]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``; the actors to come are further ones, with streams of their own."""
        self.actors_lost, self.episodes_lost = state["actors_lost"], state["episodes_lost"]
        for seat, lives in zip(self.seats, state["lives"], strict=True):
            seat.lives = lives + 1

    def close(self) -> None:
        """Ends the actors and leaves the cluster; safe to call twice."""
        self.ray.shutdown()

    def _opened(self, task: Any) -> Iterator[tuple[Seat, Any]]:
        """The seat and result of a task that has ended; nothing where it was a start, or was lost."""
        seat, errors = self._tasks.pop(task), self.ray.exceptions
        try:
            result = self.ray.get(task)
        except errors.RayTaskError as error:
            if seat.state != STARTING or not seat.losses:
                raise
            self._lose(seat, error)  # a host on which nothing starts must not end a run that goes on elsewhere
            return
        except errors.RayError as error:
            self._lose(seat, error)
            return
        before, seat.state, seat.since = seat.state, IDLE, time.monotonic()
        if before != STARTING:
            seat.losses = 0
            yield seat, result

    def _lose(self, seat: Seat, error: Exception) -> None:
        """Counts an actor as lost; another one is sent for, after a pause where that has just been tried."""
        self.actors_lost += 1
        self.episodes_lost += seat.rows if seat.state == PLAYING else 0
        self._tasks = {task: other for task, other in self._tasks.items() if other is not seat}
        with contextlib.suppress(self.ray.exceptions.RayError):
            self.ray.kill(seat.handle)
        pause = min(2.0**seat.losses, _LONGEST_PAUSE) if seat.losses else 0.0
        seat.losses += 1
        seat.lives += 1
        seat.state, seat.since, seat.handle = AWAY, time.monotonic() + pause, None
        self._trouble = f"{type(error).__name__}: {error}".strip().splitlines()[0]

    def _give_up_silent(self) -> None:
        """Takes those for lost that have worked for too long, and whose answer does not wait to be read."""
        latest = time.monotonic() - self.terms.actor_timeout
        late = {task: seat for task, seat in self._tasks.items() if seat.state != STARTING and seat.since < latest}
        for task, seat in late.items():
            if not self.ray.wait([task], timeout=0)[0]:
                self._lose(seat, TimeoutError(f"actor {seat.number} gave no answer for {self.terms.actor_timeout:g} s"))

    def _insist(self) -> None:
        """Ends the run when there has been no actor for too long."""
        now = time.monotonic()
        if self._heard is None or self.at(IDLE, PLAYING, TESTING):
            self._heard = now
        if now - self._heard > self.terms.actor_timeout:
            needs = f"{self.terms.n_actors} actors of {self.terms.actor_cpus:g} CPUs each"
            has = self.ray.cluster_resources().get("CPU", 0)
            raise RuntimeError(
                f"no rollout actor for {self.terms.actor_timeout:g} s: {needs} are asked for, the cluster has {has:g} "
                f"CPUs ('ray status' shows who uses them). The last loss: {self._trouble or 'none'}. Add "
                "hosts, or give fewer n_actors or actor_cpus, and resume the run"
            )


def refuse_unreachable(address: str) -> None:
    """Raises ConfigError where nobody listens at host:port, which Ray itself takes minutes to find out."""
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        return  # auto, or an address that only Ray understands
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        remedy = "start one with 'ray start --head', and 'ray start --address=HOST:PORT' on further hosts"
        raise ConfigError([f"no Ray cluster answers at {address!r} ({error}): {remedy}"]) from error


def _joined(terms: Terms) -> Any:
    """Ray, connected; our sources are sent to every host, which needs the Python packages only."""
    import ray

    common: dict[str, Any] = {
        "logging_level": "WARNING",
        "runtime_env": {"working_dir": str(_SOURCES), "excludes": ["**/__pycache__"]},
    }
    try:
        if terms.ray_address == "local":
            cores = max(1, math.ceil(terms.n_actors * terms.actor_cpus))
            ray.init(address="local", num_cpus=cores, include_dashboard=False, **common)
        else:
            refuse_unreachable(terms.ray_address)
            ray.init(address=terms.ray_address, **common)
    except ConnectionError as error:
        remedy = "start one with 'ray start --head', and 'ray start --address=HOST:PORT' on further hosts"
        raise ConfigError([f"'ray_address' is {terms.ray_address!r}, but no Ray cluster is there: {remedy}"]) from error
    return ray
