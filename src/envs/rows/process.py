"""A worker: one simulator in a process of its own, obeying one-byte commands.

``envs.rows.warden`` starts it. It imports neither torch nor the main program.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import traceback
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from envs.rows.board import Board, FactoryError, SimulatorLostError
from envs.rows.simulators import Simulator, make, write, write_result

RESET, STEP, SEED, QUIT = b"r", b"s", b"d", b"q"
DONE = b"k"
"""A command was obeyed; after a reset follow the bytes of memory in use."""
RAISED, LOST, REFUSED = b"e", b"l", b"f"
"""The simulator raised; its own process is gone; it cannot be used here at all. What happened follows as text."""


def serve(pipe: Connection, simulator: Simulator, board: Board, row: int) -> None:
    """Obeys until told to quit."""
    while (command := pipe.recv_bytes())[:1] != QUIT:
        told = b""
        if command[:1] == STEP:
            write_result(board, row, simulator.step(board.action[row]), simulator.about.metrics)
        elif command[:1] == RESET:
            write(board, row, simulator.reset())
            told = memory_in_use().to_bytes(8, "little")
        else:
            simulator.seed(int.from_bytes(command[1:], "little"))
        pipe.send_bytes(DONE + told)


def memory_in_use() -> int:
    """Bytes of memory that this process and its descendants occupy; 0 where the system does not tell."""
    pages, waiting = 0, [os.getpid()]
    while waiting:
        process = Path(f"/proc/{waiting.pop()}")
        try:
            pages += int((process / "statm").read_text().split()[1])
            for children in process.glob("task/*/children"):
                waiting += map(int, children.read_text().split())
        except OSError:  # it has just ended
            continue
    return pages * os.sysconf("SC_PAGE_SIZE")


def main(pipe_fd: int, memory_fd: int, dump_fd: int) -> None:
    """Builds the simulator, reports its sizes, receives the number of rows, serves."""
    for fd in (pipe_fd, memory_fd, dump_fd):
        os.set_inheritable(fd, False)
    faulthandler.enable(dump_fd)
    faulthandler.register(signal.SIGUSR1, dump_fd, all_threads=False)
    pipe = Connection(pipe_fd)
    try:
        _live(pipe, memory_fd)
    except EOFError:
        return  # the main process is gone
    except SimulatorLostError as error:
        _leave(pipe, LOST, str(error))
    except FactoryError as error:
        _leave(pipe, REFUSED, str(error))
    except BaseException:  # noqa: BLE001 (told to the main process)
        _leave(pipe, RAISED, traceback.format_exc())


def _live(pipe: Connection, memory_fd: int) -> None:
    source, row, seed = pickle.loads(pipe.recv_bytes())
    simulator = make(source, seed)
    pipe.send_bytes(DONE + pickle.dumps(simulator.about))
    n_rows = int.from_bytes(pipe.recv_bytes(), "little")
    if n_rows:
        serve(pipe, simulator, Board(simulator.about, n_rows, memory_fd), row)
    simulator.close()


def _leave(pipe: Connection, how: bytes, text: str) -> None:
    with suppress(OSError):  # it may be the main process that is gone
        pipe.send_bytes(how + text.encode())
    sys.exit(1)
