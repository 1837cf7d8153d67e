"""What a GPU makes of updates and whole runs, beside the figures that it is to reach.

    python benchmarks/gpu.py                     # everything; says why not where there is no GPU
    python benchmarks/gpu.py --parts update      # only updates
    python benchmarks/gpu.py --device cpu --updates 2 --length 6 --battles 4 --rounds 1   # the way, without the figures

Prints a table and appends its rows to ``gpu.json``, with date, commit, GPU and versions. The parts:

- ``update``: an update of 32 full episodes from a replay on the device and from one in host memory, in every precision
  and, where the learner can, recorded as a CUDA graph. Times are the GPU's own (events around each update, waited for
  at the end); beside them the host's time for handing the work out, and with ``--strict`` whatever makes the host wait
  is an error.
- ``run``: environment steps per second of collection and updates as in a run, by wall time, waited for at the end of
  every round; collecting alone beside it.

The first updates and rounds are left out: libraries choose their kernels there, and recordings are made.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from speed import Figure, conditions, drawn, figure, session, table  # the folder of this program is on the path

from core.config import ConfigError
from memory.replay import Replay
from run import Session

JSON = Path(__file__).with_suffix(".json")
PARTS = ("update", "run")
BATCH = 32
WARM = 5
"""Updates and rounds that are left out."""
TARGETS = {"qmix": 5.0, "macpf": 15.0}
"""Milliseconds per update of 32 episodes of 120 steps and 10 agents on an H200."""
TARGET_RATE = 200_000.0
"""Steps per second on an H200: QMIX, 3s5z, 1,024 battles, an update per 32 episodes."""


def finish(device: torch.device) -> None:
    """Waits until the device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(work: Callable[[], Any], times: int, device: torch.device, strict: bool) -> tuple[list[float], float]:
    """Milliseconds of each call by the device's clock, and the host's per call until it had handed the work out."""
    if device.type != "cuda":
        wall = [time.perf_counter()]
        for _ in range(times):
            work()
            wall.append(time.perf_counter())
        each = [1e3 * (end - start) for start, end in pairwise(wall)]
        return each, sum(each) / times
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(times + 1)]
    finish(device)
    torch.cuda.set_sync_debug_mode("error" if strict else "default")
    start = time.perf_counter()
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    handed_out = time.perf_counter() - start
    torch.cuda.set_sync_debug_mode("default")
    finish(device)
    return [a.elapsed_time(b) for a, b in pairwise(marks)], 1e3 * handed_out / times


# ---------------------------------------------------------------- updates


def variants(options: argparse.Namespace, algorithm: str) -> Iterator[dict[str, Any]]:
    """The keys that are compared."""
    for precision in options.precisions:
        yield {"precision": precision}
    yield {"precision": options.precisions[-1], "buffer_device": "cpu"}
    if options.device == "cuda" and algorithm in ("iql", "vdn", "qmix", "qplex"):
        for precision in options.precisions:
            yield {"precision": precision, "cuda_graphs": True}


def update(options: argparse.Namespace, algorithm: str, keys: dict[str, Any]) -> Figure:
    """Updates of one batch of full episodes."""
    made = session(algorithm, options.map, device=options.device, **keys)
    spec, device = made.env.spec, made.device
    kept = torch.device(keys.get("buffer_device", device))
    replay = Replay(spec, BATCH, 10**11, kept, torch.Generator().manual_seed(0), shown_on=device)
    replay.add(drawn(spec, torch.full((BATCH,), options.length)))
    for _ in range(WARM):
        made.learner.update(replay, 0)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    each, host = timed(lambda: made.learner.update(replay, 0), options.updates, device, options.strict)
    more = {"host_ms": host}
    if device.type == "cuda":
        more["peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    subject = f"{algorithm} {options.map} T={options.length}, " + ", ".join(f"{k}={v}" for k, v in keys.items())
    return figure("update", subject, "ms", each, reference=TARGETS.get(algorithm), more=more)


def updates(options: argparse.Namespace) -> Iterator[Figure]:
    """Every algorithm with all keys."""
    for algorithm in options.algs:
        for keys in variants(options, algorithm):
            yield update(options, algorithm, keys)


# ---------------------------------------------------------------- runs


def rates(made: Session, rounds: int) -> list[float]:
    """Steps per second of each round of the run's own loop; at least one is left out before."""
    ticks, found = made.train(), []
    while not made.learner.ready(made.replay):
        next(ticks)
    for number in range(WARM + rounds):
        finish(made.device)
        start, before = time.perf_counter(), made.progress.t_env
        next(ticks)
        finish(made.device)
        if number >= WARM:
            found.append((made.progress.t_env - before) / (time.perf_counter() - start))
    return found


def runs(options: argparse.Namespace) -> Iterator[Figure]:
    """QMIX with one update per 32 episodes, and its collecting alone."""
    each = max(1, options.battles // BATCH)
    keys = {"device": options.device, "t_max": 10**12, "log_interval": 10**12, "checkpoint_interval": 10**12}
    keys |= {"burn_in": BATCH, "buffer_size": max(5000, 2 * options.battles), "best_by": None}
    for precision in options.precisions:
        for graphs in (False, True) if options.device == "cuda" else (False,):
            more = keys | {"precision": precision, "cuda_graphs": graphs, "updates_per_collect": each}
            made = session("qmix", options.run_map, options.battles, **more)
            what = f"qmix {options.run_map} x{options.battles}, {each} updates a round, {precision}, graphs={graphs}"
            yield figure("run", what, "steps/s", rates(made, options.rounds), reference=TARGET_RATE)
            made.close()
    made = session("qmix", options.run_map, options.battles, **keys)
    found = []
    for _ in range(options.rounds + 1):
        finish(made.device)
        start = time.perf_counter()
        episodes = made.runner.collect(t_env=0, mode=made.controller.explore_mode).episodes
        finish(made.device)
        found.append(int(episodes.length.sum()) / (time.perf_counter() - start))
    yield figure("run", f"collecting {options.run_map} x{options.battles} alone", "steps/s", found[1:])
    made.close()


# ---------------------------------------------------------------- all of it


def measure(options: argparse.Namespace) -> list[Figure]:
    """All parts; what is refused is said, and left out."""
    about, figures = conditions() | {"device": options.device}, []
    if options.device == "cuda":
        about["device"] = torch.cuda.get_device_name()
    for part, work in zip(PARTS, (updates, runs), strict=True):
        for made in work(options) if part in options.parts else ():
            figures.append(made)
            with options.json.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(made) | about) + "\n")
            print(f"{made.subject}: {made.median:.4g} {made.unit} {made.more}", flush=True)
    return figures


def verdicts(figures: list[Figure]) -> list[str]:
    """Whether the best of each target's figures reaches it."""
    said = []
    for algorithm, most in TARGETS.items():
        found = [f.median for f in figures if f.part == "update" and f.subject.startswith(f"{algorithm} ")]
        if found:
            said.append(f"{algorithm}: {min(found):.3g} ms per update, target {most:g}: {_reached(min(found) < most)}")
    found = [f.median for f in figures if f.part == "run" and f.reference]
    if found:
        best = max(found)
        said.append(f"run: {best:,.0f} steps/s, target {TARGET_RATE:,.0f}: {_reached(best >= TARGET_RATE)}")
    return said


def _reached(so: bool) -> str:
    return "reached" if so else "missed"


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=names, default=list(PARTS))
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu only tries the program out")
    parser.add_argument("--algs", type=names, default=["qmix", "fop", "macpf"])
    parser.add_argument("--map", default="MMM2", help="whose shapes the updates have: 10 agents")
    parser.add_argument("--length", type=int, default=120, help="steps of every episode of an update")
    parser.add_argument("--updates", type=int, default=50, help="that are measured")
    parser.add_argument("--precisions", type=names, default=["float32", "tf32", "bfloat16"])
    parser.add_argument("--strict", action="store_true", help="to wait for the GPU in an update is an error")
    parser.add_argument("--run-map", default="3s5z")
    parser.add_argument("--battles", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=10, help="collections, each with its updates, that are measured")
    parser.add_argument("--json", type=Path, default=JSON)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Measures what is asked for."""
    options = parsed(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("nothing was measured: torch finds no usable GPU (--device cpu tries the program out)")
        return 0
    try:
        figures = measure(options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n" + table(figures))
    if options.device == "cuda":
        print("\n" + "\n".join(verdicts(figures)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
