"""How the stand-in for StarCraft II is made to misbehave.

Faults are told by the file ``faults.json`` in the installation's folder (``write``), which every game reads when it
starts and again when it has changed; or by the environment variable ``FAKE_SC2_FAULTS`` with the same JSON, which goes
before it:

    {"seed": 3, "faults": [{"kind": "crash", "at": 120}, {"kind": "hang", "probability": 0.001}]}

Every game notes in ``journal.jsonl`` that it starts, each fault before it happens, and that it quits.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

CONTROL = "faults.json"
JOURNAL = "journal.jsonl"
VARIABLE = "FAKE_SC2_FAULTS"
FOREVER = 86400.0
"""Seconds; nobody waits that long."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong, at a chosen request of the SC2 API or at random ones."""

    kind: Literal["crash", "exit", "hang", "stall", "slow", "drop", "error"]
    """``crash``: killed by SIGKILL; ``exit``: ends with ``code``; ``hang``: never answers again; ``stall``: sends half
    of the answer, then nothing; ``slow``: answers after ``seconds``; ``drop``: resets the connection; ``error``:
    answers with an error."""
    request: str = "step"
    """Before which request: a field of the SC2 API's ``Request``; or ``start``, before the game listens. ``exit`` there
    is a game that refuses to start, ``slow`` one that starts late."""
    at: int | None = None
    """At which of these requests to the process, counted from 0 ..."""
    probability: float = 0.0
    """... or at each of them with this probability."""
    starts: tuple[int, ...] | None = None
    """Only games with these numbers, which count the starts of the installation from 0."""
    seconds: float = 1.0
    code: int = 1
    stubborn: bool = False
    """A game that hangs ignores SIGTERM, too."""


def write(folder: Path, faults: Iterable[Fault], seed: int = 0) -> None:
    """Tells the games of the installation in ``folder``, running ones too, what goes wrong from now on."""
    spare = folder / f".{CONTROL}.{os.getpid()}"
    spare.write_text(json.dumps({"seed": seed, "faults": [asdict(fault) for fault in faults]}))
    os.replace(spare, folder / CONTROL)


class Faults:
    """What goes wrong in this process."""

    def __init__(self, folder: Path, port: int, number: int) -> None:
        """``number`` is that of the start, from ``count_start``."""
        self.folder, self.number, self.port = folder, number, port
        self.counts: Counter[str] = Counter()
        self.stamp: tuple[int, int] | None = None
        self.faults: list[Fault] = []
        self.draw = random.Random()
        self._read(first=True)

    def _read(self, first: bool = False) -> None:
        """The faults as they are told now."""
        text = os.environ.get(VARIABLE)
        if text is None:
            try:
                state = os.stat(self.folder / CONTROL)
            except FileNotFoundError:
                return
            stamp = (state.st_mtime_ns, state.st_ino)
            if stamp == self.stamp:
                return
            self.stamp = stamp
            text = (self.folder / CONTROL).read_text()
        elif not first:
            return
        told = json.loads(text)
        self.faults = [Fault(**fault) for fault in told["faults"]]
        if first:
            self.draw.seed(f"{told.get('seed', 0)}/{self.number}")

    def due(self, request: str) -> Fault | None:
        """The fault that comes with this request, if any; it is noted."""
        self._read()
        count = self.counts[request]
        self.counts[request] += 1
        for fault in self.faults:
            if fault.request == request and (fault.starts is None or self.number in fault.starts):
                hit = fault.at == count if fault.at is not None else self.draw.random() < fault.probability
                if hit:
                    self.note("fault", kind=fault.kind, request=request, count=count)
                    return fault
        return None

    def note(self, event: str, **more: Any) -> None:
        """One line in the installation's journal."""
        about = {"event": event, "pid": os.getpid(), "number": self.number, "port": self.port, "time": time.time()}
        descriptor = os.open(self.folder / JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        os.write(descriptor, (json.dumps(about | more) + "\n").encode())  # in one piece, since others write too
        os.close(descriptor)


def happen(fault: Fault, connection: socket.socket | None = None, answer: bytes = b"") -> None:
    """Lets ``fault`` happen; returns only where the game goes on (``slow``)."""
    if fault.kind == "crash":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "exit":
        os._exit(fault.code)
    elif fault.kind == "drop" and connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # RST instead of FIN
        connection.close()
        raise ConnectionResetError("dropped on purpose")
    elif fault.kind == "slow":
        time.sleep(fault.seconds)
    elif fault.kind in ("hang", "stall"):
        if fault.kind == "stall" and connection is not None:
            connection.sendall(answer[: len(answer) // 2])
        if fault.stubborn:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(FOREVER)


def count_start(folder: Path) -> int:
    """The number of this start: the first that no other process has taken."""
    starts = folder / "Starts"
    number = len(os.listdir(starts))
    while True:
        try:
            os.mkdir(starts / str(number))
        except FileExistsError:
            number += 1
        else:
            return number
