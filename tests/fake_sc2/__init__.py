"""A stand-in for StarCraft II: an installation whose game is our skirmish engine behind the SC2 API.

``install(folder)`` lays it out as Blizzard's Linux package does; with ``SC2PATH`` set to the folder, pysc2, smac and
smacv2 start, step and close it as they do the real one. See ``faults`` for how it is told to misbehave.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fake_sc2.faults import JOURNAL, Fault, write

__all__ = ["BUILD", "Fault", "install", "journal"]

BUILD = 75689
"""StarCraft II 4.10."""
_TESTS = Path(__file__).resolve().parents[1]
_LAUNCHER = """#!/bin/sh
# Our stand-in for StarCraft II. The process keeps its number through exec, as pysc2 and its callers expect.
PYTHONPATH={path} OMP_NUM_THREADS=1 exec {python} -m fake_sc2 "$@"
"""


def install(folder: Path, faults: Iterable[Fault] = (), seed: int = 0, build: int = BUILD) -> Path:
    """Lays the installation out in ``folder``, which becomes ``SC2PATH``, and returns it.

    ``faults`` can be changed later by ``faults.write``; ``seed`` is for those that come at random.
    """
    from envs.skirmish.maps import MAPS  # here, so that the game can be found where nothing else is
    from fake_sc2.catalogue import FLAT

    binary = folder / "Versions" / f"Base{build}" / "SC2_x64"
    maps = folder / "Maps" / "SMAC_Maps"
    for place in (binary.parent, maps, folder / "Libs", folder / "Replays", folder / "Starts"):
        place.mkdir(parents=True, exist_ok=True)
    path = f"{_TESTS}:{_TESTS.parent / 'src'}"
    binary.write_text(_LAUNCHER.format(path=shlex.quote(path), python=shlex.quote(sys.executable)))
    binary.chmod(0o755)
    (folder / ".build.info").write_text(f"Version!STRING:0\n4.10.0.{build}\n")
    for name in (*(name for name in MAPS if not name.endswith("_myopic")), FLAT.name):
        (maps / f"{name}.SC2Map").write_bytes(b"MPQ\x1a place-holder for " + name.encode())
    write(folder, faults, seed)
    return folder


def journal(folder: Path) -> list[dict[str, Any]]:
    """What the games of this installation have noted: starts, faults, ends; in the order of time."""
    path = folder / JOURNAL
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
