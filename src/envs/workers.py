"""Simulators in processes of their own as one ``BatchedEnv``: shared memory, deadlines, and no silent loss of a worker."""

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
from multiprocessing.connection import Connection, Pipe
from typing import IO, Any, Literal, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.specs import ActionSpec, EnvSpec, Outcome, TimeStep
from envs.base import BatchedEnv
from envs.rows import process
from envs.rows.board import About, Board, Source
from envs.rows.native import refuse_unavailable

GRACE = 2.0
"""Seconds that workers get to close their simulators before they are killed."""


class WorkerError(RuntimeError):
    """A worker that died, hung or raised. Its episode is lost; nothing is made up in its place."""

    def __init__(self, rows: list[int], reasons: list[str]) -> None:
        """``rows``: the workers that are gone, with one reason each."""
        super().__init__("\n".join(reasons))
        self.rows = rows


def row_seeds(seed: int, n_rows: int) -> list[int]:
    """A different seed of 31 bits for each worker: what every environment accepts."""
    children = np.random.SeedSequence(seed).spawn(n_rows)
    return [int(child.generate_state(1)[0] >> 1) for child in children]


class Worker:
    """The main process's end of one worker."""

    def __init__(self, row: int, memory: int, lifeline: int) -> None:
        """Starts the process for row ``row``; ``memory`` and ``lifeline`` are file descriptors that all workers share."""
        self.row, self.doing, self.gone = row, "starting", False
        self._dump: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # No sibling inherits these ends (close_fds), so the pipe breaks as soon as the worker is dead.
        self.pipe, theirs = Pipe()
        fds = (theirs.fileno(), memory, lifeline, self._dump.fileno())
        single = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-m", process.__name__, *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            env=os.environ | single | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
            process_group=0,  # Ctrl-C reaches the main process only, and what a simulator starts ends with it
        )
        theirs.close()

    def send(self, doing: str, message: bytes) -> None:
        """Sends a command; a broken pipe is noticed where the reply is awaited."""
        self.doing = doing
        try:
            cast(Connection, self.pipe).send_bytes(message)
        except OSError:
            self.doing = f"{doing} (it was dead already)"

    def reply(self) -> bytes:
        """What came back.

        Raises:
            WorkerError: an error message came, or nothing, because the worker is dead.
        """
        try:
            message = self.pipe.recv_bytes()
        except (EOFError, OSError):
            message = b""
        if message[:1] == process.DONE:
            return message[1:]
        if not message:
            self.process.poll()
            raise self.failed(f"died ({self.exit_code()})")
        raise self.failed("raised", message[1:].decode())

    def hung(self, timeout: float) -> WorkerError:
        """The error for a worker that does not answer, with the place where it is stuck."""
        os.killpg(self.process.pid, signal.SIGUSR1) if False else self.process.send_signal(signal.SIGUSR1)
        time.sleep(0.2)
        return self.failed(f"has not answered for {timeout:g} s")

    def failed(self, what: str, trace: str = "") -> WorkerError:
        """Kills what is left of the worker and says what happened."""
        self._dump.seek(0)
        trace = trace or self._dump.read().decode(errors="replace")
        code = self.stop(0 if "raised" not in what else GRACE)
        return WorkerError([self.row], [f"worker {self.row} {what}{code} while {self.doing}\n{trace.rstrip()}"])
