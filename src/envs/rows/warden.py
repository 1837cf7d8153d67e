"""The parent of one worker: when that ends, or the main process is gone, it ends all that the worker started.

Started as ``python -m envs.rows.warden LIFELINE PIPE MEMORY DUMP`` with four inherited file descriptors; forks the
worker before anything large is imported. The kernel hands it whatever the worker's children leave behind (it is their
"subreaper"), so that nothing escapes by leaving the process group, and nothing stays as a zombie where no init reaps.
"""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
"""Of Linux's prctl."""
PATIENCE = 5.0
"""Seconds after which processes that even SIGKILL does not end (in a driver, say) are left to the system."""


def main(lifeline: int, pipe: int, memory: int, dump: int) -> None:
    """Forks the worker and waits for its end or that of the main process; then exits as the worker did."""
    _prctl(_SET_CHILD_SUBREAPER, 1)
    # A cluster's manager signals every process of a job, but only the main one decides what follows. A handler (unlike
    # SIG_IGN) is not inherited by the programs that a worker starts.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    scratch, parent = _scratch_folder(), _sentinel(os.getppid())
    warden, worker = os.getpid(), os.fork()
    if worker == 0:
        os.close(lifeline)
        _work(warden, pipe, memory, dump)
        return
    with suppress(OSError):
        os.setpgid(worker, worker)  # here and there, as nobody knows who comes first
    for fd in (pipe, memory, dump):
        os.close(fd)
    signal.signal(signal.SIGUSR1, lambda *_: os.kill(worker, signal.SIGUSR1))
    _watch(worker, [lifeline, *parent])
    status = _end_all(worker)
    _remove(scratch)
    _leave_as(status)


def _scratch_folder() -> str:
    """Where the worker's temporary files go, so that those of killed programs are not left behind."""
    folder = os.path.join(os.environ.get("TMPDIR") or "/tmp", f"cofactor-{os.getpid()}-{os.urandom(4).hex()}")
    os.mkdir(folder, 0o700)
    os.environ["TMPDIR"] = folder
    return folder


def _remove(folder: str) -> None:
    import shutil  # as late as possible: every warden would carry it

    shutil.rmtree(folder, ignore_errors=True)


def _work(warden: int, pipe: int, memory: int, dump: int) -> None:
    """The worker's life, in a process group of its own."""
    os.setpgid(0, 0)
    _prctl(_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == warden:  # else that died before its death was a signal
        from envs.rows import process  # imports numpy, which the warden does without

        process.main(pipe, memory, dump)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _sentinel(pid: int) -> list[int]:
    """A file descriptor that becomes readable when that process ends, where the system has such."""
    try:
        return [os.pidfd_open(pid)]
    except (AttributeError, OSError):
        return []


def _watch(worker: int, lifelines: list[int]) -> None:
    """Returns when the worker has ended (its status is still unread), or a lifeline says that the main process is gone.

    There are two, since a process that the main one has forked may hold the other end of the first open.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while not _ended(worker):
        ready, _, _ = select.select([*lifelines, woken], [], [])
        if ready != [woken]:
            return
        os.read(woken, 4096)


def _ended(worker: int) -> bool:
    """Whether the worker has ended; buries all others that have."""
    while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if found.si_pid == worker:
            return True
        os.waitpid(found.si_pid, 0)
    return False


def _end_all(worker: int) -> int:
    """Ends the worker, its process group and all of their descendants; returns the worker's wait status."""
    status, deadline = 0, time.monotonic() + PATIENCE
    # Until its status is read, the worker's number can be given neither to another process nor to another group.
    with suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)
    while time.monotonic() < deadline:
        for child in _children():
            os.kill(child, signal.SIGKILL)  # its own children become ours, and are found in the next round
        try:
            pid, now = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            break
        if pid == worker:
            status = now
        elif pid == 0:
            time.sleep(0.002)
    return status


def _children() -> list[int]:
    try:
        with open(f"/proc/self/task/{os.getpid()}/children") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:  # no such file without CONFIG_PROC_CHILDREN: the process group has to do
        return []


def _leave_as(status: int) -> None:
    """Exits as a process with that wait status did, by the same signal where it was one."""
    if os.WIFSIGNALED(status):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.WEXITSTATUS(status))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
