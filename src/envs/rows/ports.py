"""Network ports for games: no two programs on a host get the same one, whoever runs them and however they end.

Imported by worker processes: the standard library only.
"""

from __future__ import annotations

import os
import random
import socket

RANGE = range(15_000, 25_000)
"""Below the ports that systems hand out by themselves (from 32768 on Linux), and where pysc2's portpicker looks too."""
HOST = "127.0.0.1"
_TRIES = 2_000


class Ports:
    """Ports of this process, each reserved by a lock that the system takes back when the process ends.

    The lock on TCP port p is UDP port p: binding it is atomic, is seen by all users and containers that share the
    network (unlike a file), and needs no cleaning up after a crash. Programs that look for a free port with portpicker
    test both protocols, so they respect it without knowing.
    """

    def __init__(self) -> None:
        self._locks: dict[int, socket.socket] = {}
        self._rng = random.Random(os.urandom(16))  # which port it is decides nothing in a run

    def pick_unused_port(self, *_: object, **__: object) -> int:
        """A port where nobody listens, and that nobody else is given until it is returned.

        Raises:
            OSError: none was found.
        """
        for _try in range(_TRIES):
            port = self._rng.choice(RANGE)
            lock = _bound(port, socket.SOCK_DGRAM)
            if lock is None:
                continue
            listener = _bound(port, socket.SOCK_STREAM)
            if listener is not None:
                listener.close()
                self._locks[port] = lock
                return port
            lock.close()
        raise OSError(f"no free port from {RANGE.start} to {RANGE.stop - 1}")

    def return_port(self, port: int) -> None:
        """Gives a port back."""
        lock = self._locks.pop(port, None)
        if lock is not None:
            lock.close()


def _bound(port: int, kind: int) -> socket.socket | None:
    """A socket at ``port``; None where another one is there."""
    found = socket.socket(socket.AF_INET, kind)
    try:
        found.bind((HOST, port))
    except OSError:
        found.close()
        return None
    return found
