"""The main process's side of simulators in processes: starts, watches, replaces and ends them."""

from __future__ import annotations

import os
import pickle
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from multiprocessing.connection import Pipe
from typing import IO, Any

import numpy as np

from envs.rows import process, warden
from envs.rows.board import About, Board, Source

GRACE = 2.0
"""Seconds that a worker gets to close its simulator before it is killed."""
STACK_DELAY = 0.2
"""Seconds that a hanging worker gets to write down where it hangs."""
BACK_OFF, LONGEST_BACK_OFF = 1.0, 60.0
"""Seconds between the second failure in a row of a row's simulator and its next start, doubled with each further one,
and the most. After the first one it is started again at once."""


class WorkerError(RuntimeError):
    """Simulators that cannot be kept running. Their episodes are lost; nothing is made up in their place."""

    def __init__(self, failures: dict[int, str]) -> None:
        """``failures``: what happened, by row."""
        super().__init__("\n".join(failures.values()))
        self.failures = failures


class LostWorkerError(Exception):
    """One failure of one worker, and whether another one could do better."""

    def __init__(self, text: str, *, final: bool, raised: bool = False) -> None:
        """``final``: the simulator says that it cannot be used here; ``raised``: it is the simulator's own error."""
        super().__init__(text)
        self.final, self.raised = final, raised


@dataclass(frozen=True, kw_only=True)
class Care:
    """How a fleet looks after its workers; the ``env_args`` of every environment whose rows are processes."""

    timeout: float = 60.0
    """Seconds that a simulator may take for a step or a reset before it counts as hanging."""
    start_timeout: float = 180.0
    """Seconds that it may take to start."""
    max_failures: int = 5
    """Failures of one row's simulators without a finished episode in between that are answered by a new start; one
    more ends the run."""
    max_starting: int = 4
    """Simulators that start at the same time; the others wait."""
    recycle_episodes: int | None = None
    """Episodes after which a simulator is replaced by a new one, against leaks; null: never."""
    recycle_gib: float | None = None
    """GiB of memory (resident, with everything that it started) at which it is replaced; null: never."""

    def care_problems(self) -> list[str]:
        """What is wrong with these values."""
        names = ("timeout", "start_timeout", "max_starting", "recycle_episodes", "recycle_gib")
        values = {name: getattr(self, name) for name in names}
        found = [f"{name} must be positive, not {x}" for name, x in values.items() if x is not None and x <= 0]
        if self.max_failures < 0:
            found.append(f"max_failures must not be negative, not {self.max_failures}")
        return found


def row_seeds(seed: int, n_rows: int) -> list[int]:
    """A different seed of 31 bits for each worker, which every environment accepts."""
    return [row_seed(seed, row) for row in range(n_rows)]


def row_seed(seed: int, row: int, life: int = 0) -> int:
    """The seed of a row's simulator; every replacement (``life`` 1, 2, ...) gets another one.

    With the same one it could run into the same crash again, and would play the same episodes once more.
    """
    key = (row, life) if life else (row,)
    return int(np.random.SeedSequence(seed, spawn_key=key).generate_state(1)[0] >> 1)


class Worker:
    """The main process's end of one worker."""

    def __init__(self, row: int, memory: int) -> None:
        """Starts a process for ``row``; ``memory`` is a file descriptor that all workers inherit."""
        self.row, self.doing, self.alive = row, "starting", True
        self._dump, self._stack = nameless_file(), ""
        # No sibling inherits these ends (close_fds): the pipe breaks when the worker dies, the lifeline when we do.
        self.pipe, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        fds = (lifeline, theirs.fileno(), memory, self._dump.fileno())
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", warden.__name__, *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            process_group=0,  # Ctrl-C reaches the main process only
        )
        theirs.close()
        os.close(lifeline)
        self._sentinel = _sentinel(self._process.pid)
        self.fds = [self.pipe.fileno()] + ([] if self._sentinel is None else [self._sentinel])

    def send(self, doing: str, message: bytes) -> None:
        """Sends a command. Where the worker is dead, this is noticed when its reply is awaited."""
        self.doing = doing
        try:
            self.pipe.send_bytes(message)
        except OSError:
            self.doing = f"{doing} (it had died before)"

    def receive(self) -> bytes:
        """The reply, once the pipe or the sentinel says that there is something.

        Raises:
            LostWorkerError: it is that the worker raised, or that it is dead.
        """
        message = b""
        try:
            if self.pipe.poll():
                message = self.pipe.recv_bytes()
        except (EOFError, OSError):
            pass  # dead: the empty message says so
        kind, text = message[:1], message[1:]
        if kind == process.DONE:
            return text
        ended = self.stop(GRACE)
        if not message:
            raise self._failure(f"died ({ended})", self._stack)
        what = "lost its simulator" if kind == process.LOST else "raised"
        flags = {"final": kind == process.REFUSED, "raised": kind == process.RAISED}
        raise self._failure(f"{what} ({ended})", text.decode(), **flags)

    def give_up(self, timeout: float) -> LostWorkerError:
        """Kills a worker that does not answer; the failure says where it hung."""
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(STACK_DELAY)
        self.stop(0.0)
        return self._failure(f"did not answer within {timeout:g} s and was killed", self._stack)

    def stop(self, grace: float) -> str:
        """Ends the worker and all that it started, by force after ``grace`` seconds; returns how it ended."""
        if not self.alive:
            return "it is gone"
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        os.close(self._lifeline)  # what the warden kills for, if there is anything left
        code = self._wait()
        self._dump.seek(0)
        self._stack = self._dump.read().decode(errors="replace")
        self._dump.close()
        self.pipe.close()
        if self._sentinel is not None:
            os.close(self._sentinel)
        self.alive = False
        return f"exit code {code}" if code >= 0 else f"exit code {code}, {signal.Signals(-code).name}"

    def _wait(self) -> int:
        """The exit code, once everything is gone."""
        try:
            return self._process.wait(warden.PATIENCE + GRACE)
        except subprocess.TimeoutExpired:  # somebody has stopped the warden
            self._process.kill()
            return self._process.wait()

    def _failure(self, what: str, trace: str, *, final: bool = False, raised: bool = False) -> LostWorkerError:
        text = f"environment worker {self.row} {what} while {self.doing}"
        return LostWorkerError(f"{text}:\n{trace.rstrip()}" if trace else text, final=final, raised=raised)


def _sentinel(pid: int) -> int | None:
    """A file descriptor that becomes readable when the process ends, where the system has such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


class State(Enum):
    """What is going on in a row's place."""

    WAITING = "to be started, when it is due and others leave room"
    STARTING = "until its first reply"
    IDLE = "ready for a command"
    BUSY = "until its reply"


@dataclass
class Place:
    """A row's worker, its predecessors' failures, and what is next."""

    row: int
    state: State = State.WAITING
    worker: Worker | None = None
    due: float = 0.0
    """When it is to be started (WAITING), or to have answered (STARTING, BUSY)."""
    patience: float = 0.0
    """Seconds that it was given for that answer."""
    life: int = 0
    """Workers that this place has had."""
    episodes: int = 0
    """Finished by this worker."""
    memory: int = 0
    """Bytes, at its last reset."""
    failures: list[str] = field(default_factory=list)
    """In a row, without a finished episode in between."""


class Fleet:
    """A worker for every row, and the memory that they share with the main process."""

    def __init__(self, source: Source, seed: int, n_rows: int, care: Care) -> None:
        """Starts the workers, and waits until their simulators are there."""
        self.source, self.seed, self.care = source, seed, care
        self.restarts = self.recycled = 0
        """Workers that were replaced: after a failure, and against leaks."""
        self.about: About | None = None
        self.board: Board | None = None
        self._memory = nameless_file()
        self._selector = selectors.DefaultSelector()
        self.places = [Place(row) for row in range(n_rows)]
        self._absent = set(range(n_rows))
        """Rows whose worker is waiting or starting: mostly none, and then a turn is cheap."""
        self._deadline = 0.0
        """When the latest command is to be obeyed."""
        self.close = weakref.finalize(self, _shut_down, self.places)
        self.make_ready(range(n_rows))

    def make_ready(self, rows: Iterable[int]) -> None:
        """Waits until all of ``rows`` have a worker that is ready for a command.

        Raises:
            WorkerError: one cannot be had.
        """
        wanted = [self.places[row] for row in rows]
        while any(place.state is not State.IDLE for place in wanted):
            self._turn()

    def ask(self, doing: str, messages: dict[int, bytes], timeout: float | None = None) -> dict[int, bytes]:
        """Sends messages to workers, by row, and waits until all have obeyed or failed.

        Returns:
            The replies of those who obeyed. The others are being replaced.

        Raises:
            WorkerError: one failed, and cannot be replaced.
        """
        patience = self.care.timeout if timeout is None else timeout
        asked = [place for row in messages if (place := self.places[row]).state is State.IDLE]
        for place in asked:
            assert place.worker is not None
            place.worker.send(doing, messages[place.row])
            self._expect(place, State.BUSY, patience)
        self._deadline = time.monotonic() + patience
        replies: dict[int, bytes] = {}
        while len(replies) < len(asked) and any(place.state is State.BUSY for place in asked):
            replies |= self._turn()
        return replies

    def reseed(self, seed: int) -> None:
        """Seeds every simulator anew."""
        self.seed = seed
        rows = range(len(self.places))
        self.make_ready(rows)
        messages = {row: process.SEED + row_seed(seed, row).to_bytes(8, "little") for row in rows}
        self.ask("seeding", messages, self.care.start_timeout)

    def finished(self, row: int) -> None:
        """An episode of ``row`` was played to its end."""
        self.places[row].episodes += 1
        self.places[row].failures.clear()

    def recycle(self, rows: Iterable[int]) -> None:
        """Replaces those of ``rows`` that have played long enough or have grown too large."""
        old = [place for row in rows if self._is_worn(place := self.places[row])]
        for place in old:
            assert place.worker is not None
            place.worker.send("closing", process.QUIT)
        deadline = time.monotonic() + GRACE
        for place in old:
            self._dismiss(place, max(0.0, deadline - time.monotonic()), time.monotonic())
        self.recycled += len(old)

    def _is_worn(self, place: Place) -> bool:
        care = self.care
        if place.state is not State.IDLE:
            return False
        large = care.recycle_gib is not None and place.memory >= care.recycle_gib * 2**30
        if care.recycle_episodes is None or large:
            return large
        # The first ones are replaced earlier, each at its own time, so that never all start anew together.
        early = care.recycle_episodes * place.row // (2 * len(self.places)) if place.life == 1 else 0
        return place.episodes >= max(1, care.recycle_episodes - early)

    def _turn(self) -> dict[int, bytes]:
        """Starts who is due, waits for the next thing to happen, and deals with it; replies to commands by row."""
        if self._absent:
            self._start_waiting()
        due, now = self._next_due(), time.monotonic()
        events = self._selector.select(max(0.0, due - now))
        ready = {key.data for key, _ in events}
        late = self._late(now) - ready if due <= now else set()
        replies: dict[int, bytes] = {}
        failures: dict[int, LostWorkerError] = {}
        for row in sorted(ready | late):
            try:
                self._hear(self.places[row], row in late, replies)
            except LostWorkerError as failure:
                failures[row] = failure
        self._replace(failures)
        return replies

    def _late(self, now: float) -> set[int]:
        """Rows that should have answered by ``now``."""
        owing = (State.STARTING, State.BUSY)
        return {place.row for place in self.places if place.state in owing and place.due <= now}

    def _hear(self, place: Place, late: bool, replies: dict[int, bytes]) -> None:
        """Takes what a worker has to say."""
        worker = place.worker
        assert worker is not None
        if late:
            raise worker.give_up(place.patience)
        text = worker.receive()
        if place.state is State.BUSY:
            replies[place.row] = text
        else:
            self._introduce(worker, pickle.loads(text))
            self._absent.discard(place.row)
        place.state = State.IDLE

    def _introduce(self, worker: Worker, about: About) -> None:
        """Gives a started worker its row of the memory, which the first one's sizes decide."""
        if self.about is None:
            self.about = about
            self._memory.truncate(Board.size(about, len(self.places)))
            self.board = Board(about, len(self.places), self._memory.fileno())
        elif about != self.about:
            raise WorkerError({worker.row: f"environment worker {worker.row} has other sizes than the first: {about}"})
        worker.send("starting", len(self.places).to_bytes(8, "little"))

    def _replace(self, failures: dict[int, LostWorkerError]) -> None:
        """Plans another worker after each failure.

        Raises:
            WorkerError: of one there were too many, or no other worker could do better.
        """
        over: dict[int, str] = {}
        for row, failure in failures.items():
            place, most = self.places[row], self.care.max_failures
            place.failures.append(str(failure))
            count = len(place.failures)
            pause = min(LONGEST_BACK_OFF, BACK_OFF * 2 ** (count - 2)) if count > 1 else 0.0
            self._dismiss(place, 0.0, time.monotonic() + pause)
            never_worked = self.about is None and failure.raised
            if failure.final or never_worked or count > most:
                over[row] = f"{failure}{f' (failure {count} in a row; max_failures={most})' if count > 1 else ''}"
                continue
            self.restarts += 1
            when = f"in {pause:g} s" if pause else "now"
            next_one = f"It is started anew {when} (failure {count} in a row of at most {most})."
            sys.stderr.write(f"warning: {failure}\n{next_one}\n")
        if over:
            raise WorkerError(over)

    def _dismiss(self, place: Place, grace: float, due: float) -> None:
        """Ends a place's worker; another one is due at ``due``."""
        worker = place.worker
        assert worker is not None
        for fd in worker.fds:
            self._selector.unregister(fd)
        worker.stop(grace)
        place.worker, place.state, place.due = None, State.WAITING, due
        self._absent.add(place.row)

    def _start_waiting(self) -> None:
        starting = sum(place.state is State.STARTING for place in self.places)
        now = time.monotonic()
        due = [place for place in self.places if place.state is State.WAITING and place.due <= now]
        for place in due[: max(0, self.care.max_starting - starting)]:
            self._start(place)

    def _start(self, place: Place) -> None:
        worker = place.worker = Worker(place.row, self._memory.fileno())
        for fd in worker.fds:
            self._selector.register(fd, selectors.EVENT_READ, place.row)
        seed = row_seed(self.seed, place.row, place.life)
        place.life, place.episodes, place.memory = place.life + 1, 0, 0
        worker.send("starting", pickle.dumps((self.source, place.row, seed)))
        self._expect(place, State.STARTING, self.care.start_timeout)

    @staticmethod
    def _expect(place: Place, state: State, patience: float) -> None:
        place.state, place.patience, place.due = state, patience, time.monotonic() + patience

    def _next_due(self) -> float:
        """When something is to be done although nothing has happened."""
        if not self._absent:
            return self._deadline
        starting = sum(place.state is State.STARTING for place in self.places)
        room = starting < self.care.max_starting
        return min(
            place.due
            for place in self.places
            if place.state in (State.STARTING, State.BUSY) or (place.state is State.WAITING and room)
        )


def nameless_file() -> IO[bytes]:
    """A file in memory where possible; it has no name, so nothing is left behind however the processes end."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("cofactor"), "w+b")
    return tempfile.TemporaryFile()


def _shut_down(places: list[Place]) -> None:
    """Asks all workers to quit, then makes them."""
    workers: list[Any] = [place.worker for place in places if place.worker is not None]
    for worker in workers:
        worker.send("closing", process.QUIT)
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.stop(max(0.0, deadline - time.monotonic()))
