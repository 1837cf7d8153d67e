"""Simulators in processes of their own as one ``BatchedEnv``: shared memory, deadlines, no silent loss of a worker."""

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
from multiprocessing.connection import Pipe
from typing import IO, Any, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows import process
from envs.rows.board import About, Board, Source
from envs.rows.native import Box, refuse_unavailable

GRACE = 2.0
"""Seconds that a worker gets to close its simulator before it is killed."""
STACK_DELAY = 0.2
"""Seconds that a hanging worker gets to write down where it hangs."""


class WorkerError(RuntimeError):
    """Workers that died, hung or raised. Their episodes are lost; nothing is made up in their place."""

    def __init__(self, failures: dict[int, str]) -> None:
        """``failures``: what happened, by row."""
        super().__init__("\n".join(failures.values()))
        self.failures = failures


def row_seeds(seed: int, n_rows: int) -> list[int]:
    """A different seed of 31 bits for each worker, which every environment accepts."""
    children = np.random.SeedSequence(seed).spawn(n_rows)
    return [int(child.generate_state(1)[0] >> 1) for child in children]


class Worker:
    """The main process's end of one worker."""

    def __init__(self, row: int, memory: int, lifeline: int) -> None:
        """Starts a process for ``row``; ``memory`` and ``lifeline`` are file descriptors that all workers inherit."""
        self.row, self.doing, self.alive = row, "starting", True
        self._dump, self._stack = _nameless_file(), ""
        # No sibling inherits these ends (close_fds), so the pipe breaks when the worker dies.
        self.pipe, theirs = Pipe()
        fds = (theirs.fileno(), memory, lifeline, self._dump.fileno())
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, "-m", process.__name__, *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            process_group=0,  # Ctrl-C reaches the main process only; what a simulator starts is ended with it
        )
        theirs.close()
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
            WorkerError: it is that the worker raised, or that it is dead.
        """
        message = b""
        try:
            if self.pipe.poll():
                message = self.pipe.recv_bytes()
        except (EOFError, OSError):
            pass  # dead: the empty message says so
        if message[:1] == process.DONE:
            return message[1:]
        ended = self.stop(GRACE)
        if message:
            raise self._error(f"raised ({ended})", message[1:].decode())
        raise self._error(f"died ({ended})", self._stack)

    def give_up(self, timeout: float) -> WorkerError:
        """Kills a worker that does not answer; the error says where it hung."""
        os.kill(self._process.pid, signal.SIGUSR1)
        time.sleep(STACK_DELAY)
        self.stop(0.0)
        return self._error(f"did not answer within {timeout:g} s and was killed", self._stack)

    def stop(self, grace: float) -> str:
        """Ends the worker and all that it started, by force after ``grace`` seconds; returns how it ended."""
        if not self.alive:
            return "it is gone"
        deadline = time.monotonic() + grace
        pid = self._process.pid
        # While its exit status is unread, its number cannot be given to another process (or group).
        while time.monotonic() < deadline and not os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            time.sleep(0.005)
        os.killpg(pid, signal.SIGKILL)
        code = self._process.wait()
        self._dump.seek(0)
        self._stack = self._dump.read().decode(errors="replace")
        self._dump.close()
        self.pipe.close()
        if self._sentinel is not None:
            os.close(self._sentinel)
        self.alive = False
        return f"exit code {code}" if code >= 0 else f"exit code {code}, {signal.Signals(-code).name}"

    def _error(self, what: str, trace: str) -> WorkerError:
        text = f"environment worker {self.row} {what} while {self.doing}"
        return WorkerError({self.row: f"{text}:\n{trace.rstrip()}" if trace else text})


def _sentinel(pid: int) -> int | None:
    """A file descriptor that becomes readable when the process ends, where the system has such."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


class Pool:
    """All workers, and the memory that they share with the main process."""

    def __init__(self, source: Source, seeds: list[int], timeout: float, start_timeout: float) -> None:
        """Starts one worker per seed, all at once, and waits until their simulators are there."""
        self.timeout, n = timeout, len(seeds)
        self._memory = _nameless_file()
        lifeline, our_end = os.pipe()  # closes when this process ends, however it ends
        self.workers: list[Worker] = []
        self.close = weakref.finalize(self, _shut_down, self.workers, our_end)
        self._selector = selectors.DefaultSelector()
        for row in range(n):
            self.workers.append(Worker(row, self._memory.fileno(), lifeline))
            for fd in self.workers[row].fds:
                self._selector.register(fd, selectors.EVENT_READ, row)
        os.close(lifeline)
        for worker, seed in zip(self.workers, seeds, strict=True):
            worker.send("starting", pickle.dumps((source, worker.row, seed)))
        abouts = self._await(set(range(n)), start_timeout)
        self.about: About = pickle.loads(abouts[0])
        self._memory.truncate(Board.size(self.about, n))
        self.board = Board(self.about, n, self._memory.fileno())
        for worker in self.workers:
            worker.send("starting", n.to_bytes(8, "little"))

    def ask(self, doing: str, messages: dict[int, bytes], timeout: float | None = None) -> None:
        """Sends messages to workers, by row, and waits until all have obeyed.

        Raises:
            WorkerError: some did not. All others have answered, so that a failed one could be replaced here.
        """
        gone = {row: f"environment worker {row} is gone" for row in messages if not self.workers[row].alive}
        if gone:
            raise WorkerError(gone)
        for row, message in messages.items():
            self.workers[row].send(doing, message)
        self._await(set(messages), self.timeout if timeout is None else timeout)

    def _await(self, pending: set[int], timeout: float) -> dict[int, bytes]:
        """The replies of ``pending``; any worker's death is noticed at once."""
        replies: dict[int, bytes] = {}
        failures: dict[int, str] = {}
        deadline = time.monotonic() + timeout
        while pending:
            ready = self._selector.select(max(0.0, deadline - time.monotonic()))
            rows = {key.data for key, _ in ready}
            late = set() if rows or time.monotonic() < deadline else set(pending)
            for row in sorted(rows | late):
                try:
                    replies[row] = self._reply(row, timeout if row in late else None)
                except WorkerError as error:
                    failures |= error.failures
            pending = pending - rows - late
        if failures:
            raise WorkerError(failures)
        return replies

    def _reply(self, row: int, late: float | None) -> bytes:
        worker = self.workers[row]
        try:
            if late is not None:
                raise worker.give_up(late)
            return worker.receive()
        except WorkerError:
            for fd in worker.fds:
                self._selector.unregister(fd)
            raise


def _nameless_file() -> IO[bytes]:
    """A file in memory where possible; it has no name, so nothing is left behind however the processes end."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("cofactor"), "w+b")
    return tempfile.TemporaryFile()


def _shut_down(workers: list[Worker], lifeline: int) -> None:
    """Asks all workers to quit, then makes them."""
    for worker in workers:
        worker.send("closing", process.QUIT)
    deadline = time.monotonic() + GRACE
    for worker in workers:
        worker.stop(max(0.0, deadline - time.monotonic()))
    os.close(lifeline)


class WorkerEnv(BatchedEnv):
    """One worker process per row around a simulator that knows nothing of tensors."""

    native = False

    def __init__(
        self,
        cfg: Any,
        n_envs: int,
        device: torch.device | str,
        seed: int,
        *,
        source: Source,
        timeout: float,
        start_timeout: float,
    ) -> None:
        """Starts the workers.

        Args:
            source: what each worker runs.
            timeout: seconds that a worker may take for a step or a reset.
            start_timeout: seconds that it may take to make its simulator.

        Raises:
            WorkerError: a simulator could not be made; with the worker's traceback.
        """
        super().__init__(cfg, n_envs, device, seed)
        self._start_timeout = start_timeout
        self._pool = Pool(source, row_seeds(seed, n_envs), timeout, start_timeout)
        self._board, about = self._pool.board, self._pool.about
        self._board.avail[:] = True  # rows that have not been reset yet show no empty mask
        self._running = torch.zeros(n_envs, dtype=torch.bool)
        bounds = about.bounds or (None,) * len(about.n_actions)
        self.spec = EnvSpec(
            actions=tuple(ActionSpec(n, *(b or ())) for n, b in zip(about.n_actions, bounds, strict=True)),
            obs_dims=about.obs_dims,
            state_dim=about.state_dim,
            episode_limit=about.episode_limit,
            reward=cast(Any, about.reward),
            metrics=about.metrics,
        )
        self._box = None if self.spec.discrete else Box(self.spec.actions, "cpu")

    def reset(self, which: Bool[Tensor, " b"] | None = None) -> TimeStep:
        """Starts new episodes in the rows of ``which`` (None: all), side by side."""
        which = torch.ones_like(self._running) if which is None else which.cpu()
        self._running = self._running & ~which
        self._tell("resetting", which, process.RESET)
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
        self._tell("stepping", running, process.STEP)
        terminated, truncated = self._own(board.ended).unbind(-1)
        self._running = running & ~(terminated | truncated).cpu()
        info = dict(zip(self.spec.metrics, self._own(board.info).T, strict=True))
        return Outcome(self._show(), self._own(board.reward), terminated, truncated, info)

    def seed_rows(self, seed: int) -> None:
        """Seeds every simulator anew; they have to be reset."""
        self.seed = seed
        self._running = torch.zeros_like(self._running)
        seeds = row_seeds(seed, self.n_envs)
        messages = {row: process.SEED + s.to_bytes(8, "little") for row, s in enumerate(seeds)}
        self._pool.ask("seeding", messages, self._start_timeout)

    def close(self) -> None:
        """Ends the workers."""
        self._pool.close()

    def _tell(self, doing: str, which: Bool[Tensor, " b"], command: bytes) -> None:
        rows: Iterable[int] = which.nonzero()[:, 0].tolist()
        self._pool.ask(doing, dict.fromkeys(rows, command))

    def _own(self, array: Any) -> Tensor:
        """A copy on the device: the shared memory is overwritten by the next step."""
        return torch.from_numpy(array).to(self.device, copy=True)

    def _show(self) -> TimeStep:
        return TimeStep(self._own(self._board.obs), self._own(self._board.state), self._own(self._board.avail))
