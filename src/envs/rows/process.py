"""A worker: one simulator in a process of its own, obeying one-byte commands.

Started as ``python -m envs.rows.process PIPE MEMORY LIFELINE DUMP`` with four inherited file descriptors. It imports
neither torch nor the main program.
"""

from __future__ import annotations

import faulthandler
import os
import pickle
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Connection

from envs.rows.board import Board, FactoryError
from envs.rows.simulators import Simulator, make, write, write_result

RESET, STEP, SEED, QUIT = b"r", b"s", b"d", b"q"
DONE, FAILED = b"k", b"e"


def die_with_parent(lifeline: int) -> None:
    """Ends this process and its children when the main process is gone, however it went."""

    def watch() -> None:
        os.read(lifeline, 1)  # nothing is ever written: it returns when the other end is closed
        os.killpg(os.getpgid(0), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def serve(pipe: Connection, simulator: Simulator, board: Board, row: int) -> None:
    """Obeys until told to quit."""
    while (command := pipe.recv_bytes())[:1] != QUIT:
        if command[:1] == STEP:
            write_result(board, row, simulator.step(board.action[row]), simulator.about.metrics)
        elif command[:1] == RESET:
            write(board, row, simulator.reset())
        else:
            simulator.seed(int.from_bytes(command[1:], "little"))
        pipe.send_bytes(DONE)


def main(pipe_fd: int, memory_fd: int, lifeline_fd: int, dump_fd: int) -> None:
    """Builds the simulator, reports its sizes, receives the number of rows, serves."""
    for fd in (pipe_fd, memory_fd, lifeline_fd, dump_fd):
        os.set_inheritable(fd, False)
    faulthandler.enable(dump_fd)
    faulthandler.register(signal.SIGUSR1, dump_fd, all_threads=False)
    die_with_parent(lifeline_fd)
    pipe = Connection(pipe_fd)
    try:
        source, row, seed = pickle.loads(pipe.recv_bytes())
        simulator = make(source, seed)
        pipe.send_bytes(DONE + pickle.dumps(simulator.about))
        n_rows = int.from_bytes(pipe.recv_bytes(), "little")
        if n_rows:
            serve(pipe, simulator, Board(simulator.about, n_rows, memory_fd), row)
        simulator.close()
    except EOFError:
        return  # the main process is gone
    except FactoryError as error:
        pipe.send_bytes(FAILED + str(error).encode())
        sys.exit(1)
    except BaseException:  # noqa: BLE001 (told to the main process, which raises it)
        pipe.send_bytes(FAILED + traceback.format_exc().encode())
        sys.exit(1)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
