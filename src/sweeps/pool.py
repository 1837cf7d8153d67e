"""Runs side by side on this machine, each a process of its own with the ordinary command line."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import psutil

from core.config import ConfigError
from sweeps.manifest import Resources
from sweeps.work import OPEN, State, Work

MAIN = Path(__file__).resolve().parents[1] / "main.py"
_POLL_SECONDS = 0.1
_BAD_INPUT = 2
_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM)
"""Exit statuses of runs that were asked to end; the last two, before they could listen."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)
Slot = dict[str, str]
"""What one of the places side by side adds to the environment of its run."""


@dataclass
class _Child:
    work: Work
    process: subprocess.Popen[bytes]
    slot: Slot
    told: int = 0
    """Signals that were passed on to it."""


@dataclass
class Pool:
    """Starts, resumes and retries runs as places become free, until all are done or it is told to stop."""

    works: Sequence[Work]
    slots: Sequence[Slot]
    retries: int
    results_dir: Path
    logs: Path
    """Folder of what runs print, one file each."""
    watch: Callable[[], None] = lambda: None
    """Called some times a second."""
    listens: bool = True
    """Whether SIGINT and SIGTERM stop it while it runs; False where somebody else handles signals."""
    _signals: int = 0
    _signum: int = 0
    _children: list[_Child] = field(default_factory=list)

    def run(self) -> int:
        """Works until nothing is left to do; the signal that stopped it, or 0."""
        pending = [work for work in self.works if work.state in OPEN]
        free = list(self.slots)
        self.logs.mkdir(parents=True, exist_ok=True)
        with self._listening():
            while self._children or (pending and not self._signum):
                while pending and free and not self._signum:
                    self._children.append(self._start(pending.pop(0), free.pop()))
                self._pass_on()  # what came while a run was being started
                time.sleep(_POLL_SECONDS)
                for child in self._ended():
                    free.append(child.slot)
                    pending += [child.work] * self._again(child.work, child.process.returncode)
                self.watch()
        return self._signum

    def stop(self, signum: int) -> None:
        """Starts nothing more, and asks the runs to save a checkpoint and end; the second time to end at once.

        From the third time on they are killed.
        """
        self._signals += 1
        self._signum = self._signum or signum
        self._pass_on()

    def wait(self) -> None:
        """Waits until every run has ended; also within a signal handler, hence without Popen's lock."""
        for child in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PID, child.process.pid, os.WEXITED | os.WNOWAIT)

    def _pass_on(self) -> None:
        """Tells every run of the signals that have come since it was last told."""
        send = {1: signal.SIGTERM, 2: signal.SIGINT}.get(self._signals, signal.SIGKILL)
        for child in self._children:
            if child.told < self._signals:
                child.told = self._signals
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child.process.pid, send)

    def _start(self, work: Work, slot: Slot) -> _Child:
        work.attempts += 1
        work.note = ""
        command = [sys.executable, str(MAIN), *work.words()]
        with log_of(self.logs, work).open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | slot,
                start_new_session=True,  # so that Ctrl-C reaches the sweep only, which passes it on once
                preexec_fn=_end_with_parent,
            )
        work.state = State.RUNNING
        return _Child(work, process, slot)

    def _ended(self) -> list[_Child]:
        """Runs whose process is over; they are no longer among the children."""
        over = [child for child in self._children if child.process.poll() is not None]
        self._children = [child for child in self._children if child not in over]
        return over

    def _again(self, work: Work, code: int) -> bool:
        """Notes how a run ended; whether it is to be tried again."""
        work.refresh(work.folder or work.find(self.results_dir))
        if code == 0 and work.state is State.DONE:
            return False
        if code in _STOPPED or (code < 0 and self._signum):
            work.state, work.note = State.STOPPED, "stopped by a signal"
            return False
        work.state = State.FAILED
        work.note = f"killed by signal {-code}" if code < 0 else f"exit status {code}"
        return code != _BAD_INPUT and work.attempts <= self.retries and not self._signum

    @contextlib.contextmanager
    def _listening(self) -> Iterator[None]:
        """SIGINT and SIGTERM stop the pool for as long as it runs, if it listens."""

        def note(signum: int, _frame: FrameType | None) -> None:
            self.stop(signum)

        signals = (signal.SIGINT, signal.SIGTERM) if self.listens else ()
        before = {signum: signal.signal(signum, note) for signum in signals}
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)


def log_of(logs: Path, work: Work) -> Path:
    """The file with everything that a run printed, over all attempts."""
    return logs / f"{work.cell.id}.log"


def slots(resources: Resources, jobs: int | None, device: str) -> list[Slot]:
    """The places side by side on this machine.

    As many as the cores, the memory and the GPUs allow, if ``jobs`` does not say how many. With ``gpus`` every run sees
    one GPU, which it shares with as many others as the share says. Without, runs are spread evenly over what GPUs there
    are.

    Args:
        resources: what one run is given.
        jobs: how many places; None: as many as fit.
        device: the runs' ``device``; with cpu they are given no GPU.

    Raises:
        ConfigError: a GPU is asked for, and there is none; or not one run fits into the memory.
    """
    gpus = [] if resources.gpus == 0 or device == "cpu" else visible_gpus()
    if resources.gpus and not gpus:
        raise ConfigError([f"'resources.gpus' is {resources.gpus}, but there is no usable GPU here: give gpus: 0"])
    fitting = _fitting(resources)
    if resources.gpus:
        places = [gpu for _ in range(resources.per_gpu) for gpu in gpus]
        number = min(jobs or fitting, len(places))
    else:
        number = jobs or fitting
        places = [gpus[place % len(gpus)] for place in range(number)] if gpus else [""] * number
    if device != "cpu" and resources.gpus is None and not gpus:
        return [{} for _ in range(number)]
    return [{"CUDA_VISIBLE_DEVICES": place} for place in reversed(places[:number])]


def visible_gpus() -> list[str]:
    """The GPUs that a process started here would see, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch  # takes seconds, which the tables and --help do without

    number = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return named.split(",")[:number] if named else [str(gpu) for gpu in range(number)]


def _fitting(resources: Resources) -> int:
    """How many runs fit side by side."""
    number = max(1, len(os.sched_getaffinity(0)) // resources.cpus)
    if resources.memory_gb is None:
        return number
    available = psutil.virtual_memory().available / 1e9
    if available < resources.memory_gb:
        raise ConfigError(
            [f"'resources.memory_gb' is {resources.memory_gb}, but only {available:.1f} GB are free: give less"]
        )
    return min(number, int(available / resources.memory_gb))


def _end_with_parent() -> None:
    """In the child: SIGTERM, and so a checkpoint, when the sweep itself is killed; deaf to Slurm's warning signals.

    Slurm sends these to every process of a job, and their default action is to end it.
    """
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
