"""A line to a server that breaks: at random places in the middle of messages, and for as long as it is told to."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from typing import Any

_RESET = struct.pack("ii", 1, 0)
"""SO_LINGER that makes close() tear a connection down, as the death of a machine does."""


class Line:
    """Listens on a port of its own and passes on to ``port``, until a connection has used up its random allowance."""

    def __init__(self, port: int, seed: int, mean_bytes: float) -> None:
        """``mean_bytes``: what a connection passes on, on average, before it breaks."""
        self._target, self._mean, self._rng = port, mean_bytes, random.Random(seed)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self.broken, self.carried = 0, 0
        """Connections that broke in the middle; bytes that arrived."""

    def up(self) -> None:
        """Takes connections."""
        listener = socket.create_server(("127.0.0.1", self.port))
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def down(self) -> None:
        """Breaks every connection and refuses new ones."""
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        for end in list(self._open):
            self._break(end)

    def repair(self) -> None:
        """From now on connections that are made last for ever."""
        self._mean = float("inf")

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                allowance = float("inf") if self._mean == float("inf") else self._rng.expovariate(1 / self._mean)
                threading.Thread(target=self._pass_on, args=(source, sink, allowance), daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket, allowance: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if len(data) > allowance:
                    sink.sendall(data[: int(allowance)])
                    self.broken += 1
                    break
                allowance -= len(data)
                sink.sendall(data)
                self.carried += len(data)
        self._break(source)
        self._break(sink)

    def _break(self, end: Any) -> None:
        self._open.discard(end)
        with contextlib.suppress(OSError):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            end.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(OSError):
            end.close()
