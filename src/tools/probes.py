"""What only loading a library can tell. Each probe runs in a process of its own, since a broken library may end it.

``python -m tools.probes NAME`` prints one JSON object, or fails with the library's own exception.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).resolve().parents[1]
DEADLINE = 60.0
"""Seconds that all probes together may take. Loading torch from a cold network disk needs many of them."""

_EXCEPTION = re.compile(r"[\w.]+(Error|Exception|Exit|Interrupt)\b")


class ProbeError(Exception):
    """A probe did not come to its end; the message is its exception."""


class Probes:
    """All probes, started at once; ``result`` waits for one of them."""

    def __init__(self, names: Iterable[str] | None = None, deadline: float = DEADLINE) -> None:
        """``names``: some of ``PROBES`` (None: all)."""
        places = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(places), "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
        self._ends = time.monotonic() + deadline
        self._results: dict[str, Any] = {}
        self._running = {
            name: subprocess.Popen(
                [sys.executable, "-m", "tools.probes", name],
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
            for name in (PROBES if names is None else names)
        }

    def result(self, name: str) -> Any:
        """What the probe found.

        Raises:
            ProbeError: it failed, was killed, or took too long.
        """
        if name not in self._results:
            self._results[name] = self._finish(self._running[name])
        if isinstance(self._results[name], ProbeError):
            raise self._results[name]
        return self._results[name]

    def close(self) -> None:
        """Ends what still runs."""
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
                process.communicate()

    def _finish(self, process: subprocess.Popen[str]) -> Any:
        try:
            out, err = process.communicate(timeout=max(self._ends - time.monotonic(), 0.0))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            return ProbeError("took too long to load")
        if process.returncode < 0:
            return ProbeError(f"killed by signal {-process.returncode} while it was loaded")
        if process.returncode:
            return ProbeError(_reason(err))
        try:
            return json.loads(out.splitlines()[-1])  # above it, libraries print greetings
        except (IndexError, ValueError):
            return ProbeError("gave no answer")


def _reason(traceback: str) -> str:
    """The exception of a traceback, without the further lines of its message; else the last line."""
    lines = [line.strip() for line in traceback.splitlines() if line.strip()] or ["no reason given"]
    return next((line for line in reversed(lines) if _EXCEPTION.match(line)), lines[-1])


def torch_() -> dict[str, Any]:
    """Torch, what it was built for, and every GPU that it can use, tried with one addition."""
    import torch

    facts: dict[str, Any] = {
        "version": torch.__version__,
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
    }
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        facts["available"] = torch.cuda.is_available()
    facts["warnings"] = [str(warning.message).strip().splitlines()[0] for warning in caught]
    facts["architectures"] = torch.cuda.get_arch_list() if facts["available"] else []
    facts["gpus"] = [_gpu(i) for i in range(torch.cuda.device_count())] if facts["available"] else []
    return facts


def _gpu(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    found = {"name": properties.name, "gib": round(properties.total_memory / 2**30, 1), "error": None}
    try:
        torch.ones(2, device=f"cuda:{index}").add(1).sum().item()
    except RuntimeError as error:
        found["error"] = str(error).strip().splitlines()[0]
    return found


def warp_() -> dict[str, Any]:
    """Warp, which compiles the skirmish engine, and the folder where it keeps what it has compiled."""
    import warp

    warp.init()
    cache = str(warp.config.kernel_cache_dir)
    return {"version": warp.config.version, "cache": cache, "writable": os.access(cache, os.W_OK)}


def protobuf_() -> dict[str, Any]:
    """Protobuf's backend, and which packages have brought StarCraft II's messages."""
    import google.protobuf
    from google.protobuf.internal import api_implementation

    return {
        "version": google.protobuf.__version__,
        "backend": api_implementation.Type(),
        "messages": [name for name in ("s2clientprotocol", "pys2clientprotocol") if _version(name)],
    }


def pysc2_() -> dict[str, Any]:
    """pysc2, as far as it starts games and talks to them, and the messages that it sends."""
    if importlib.util.find_spec("pysc2") is None:
        return {"version": None}
    for module in ("s2clientprotocol.sc2api_pb2", "pysc2.run_configs", "pysc2.lib.remote_controller"):
        importlib.import_module(module)
    return {"version": _version("pysc2") or "without a version"}


def smac_() -> dict[str, Any]:
    """Oxford's package smac, or another project of that name."""
    return _simulator("smac")


def smacv2_() -> dict[str, Any]:
    """The package smacv2."""
    return _simulator("smacv2")


def _simulator(package: str) -> dict[str, Any]:
    spec = importlib.util.find_spec(package)
    if spec is None:
        return {"version": None}
    right = any((Path(place) / "env" / "starcraft2").is_dir() for place in spec.submodule_search_locations or ())
    if right:
        importlib.import_module(f"{package}.env")
    return {"version": _version(package) or "without a version", "right": right}


def maps_() -> dict[str, list[str]]:
    """The files of maps that the environments on StarCraft II ask for, by environment."""
    from core.registry import ENVS

    return {name: list(ENVS[name].map_files()) for name in ("sc2", "smacv2")}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


PROBES: dict[str, Callable[[], Any]] = {
    "torch": torch_,
    "warp": warp_,
    "protobuf": protobuf_,
    "pysc2": pysc2_,
    "smac": smac_,
    "smacv2": smacv2_,
    "maps": maps_,
}

if __name__ == "__main__":
    print(json.dumps(PROBES[sys.argv[1]]()))
