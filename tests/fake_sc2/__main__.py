"""The game's process: ``SC2_x64 -listen 127.0.0.1 -port 5000 -dataDir ... -tempDir ...``.

Like the real game it serves one client after the other until it is told to quit or killed: it does not mind that a
client, or the process that started it, is gone.
"""

from __future__ import annotations

import ctypes
import socket
import sys
import threading
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from s2clientprotocol import sc2api_pb2 as api

from fake_sc2.faults import Fault, Faults, count_start, happen
from fake_sc2.game import Game
from fake_sc2.wire import Closed, Wire, frame

IDLE = 1800.0
"""Seconds without any client or request after which it ends all the same, lest broken tests leave games for ever."""


def options(argv: list[str]) -> dict[str, str]:
    """Values by option; switches have none."""
    pairs = zip(argv, [*argv[1:], "-"], strict=True)
    return {name[1:]: "" if value.startswith("-") else value for name, value in pairs if name.startswith("-")}


def serve(wire: Wire, game: Game, faults: Faults) -> None:
    """Answers one client until it leaves; ends the process when it says so."""
    while True:
        request = api.Request.FromString(wire.receive())
        name = request.WhichOneof("request") or "nothing"
        fault = faults.due(name)
        if fault is not None and fault.kind not in ("stall", "error"):
            happen(fault, wire.connection)
        response = game.answer(request)
        if fault is not None and fault.kind == "error":
            response = api.Response(id=request.id, status=game.status, error=["told to fail"])
        answer = response.SerializeToString()
        if fault is not None and fault.kind == "stall":
            happen(fault, wire.connection, frame(answer))
        if name == "quit":
            faults.note("quit")
            with suppress(OSError):  # pysc2 does not wait for the answer
                wire.send(answer)
            raise SystemExit(0)
        wire.send(answer)


def take_name(name: str) -> None:
    """Is listed among the processes as the game is."""
    ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)  # PR_SET_NAME


def main(argv: list[str]) -> None:
    """Listens, then loads what takes longer, then serves."""
    take_name("SC2_x64")
    given = options(argv)
    folder, port = Path(given["dataDir"]), int(given["port"])
    faults = Faults(folder, port, count_start(folder))
    faults.note("start")
    fault: Fault | None = faults.due("start")
    if fault is not None:
        happen(fault)
    with socket.create_server((given.get("listen", "127.0.0.1"), port)) as server:
        server.settimeout(IDLE)
        threading.Thread(
            target=import_module, args=("fake_sc2.arena",), daemon=True
        ).start()  # while the client connects
        game = Game(folder)
        while True:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                faults.note("idle")
                return
            with connection:
                connection.settimeout(IDLE)
                _attend(connection, game, faults)


def _attend(connection: socket.socket, game: Game, faults: Faults) -> None:
    """Serves a client, whatever becomes of it."""
    try:
        serve(Wire(connection), game, faults)
    except (Closed, ConnectionError):
        return


if __name__ == "__main__":
    main(sys.argv[1:])
