"""Battle steps per CPU second beside JaxMARL's SMAX: the maps that both have, environment only, one thread each.

    python -m venv /tmp/smax && /tmp/smax/bin/pip install jaxmarl      # once; JAX need not be beside torch
    python benchmarks/versus_smax.py --smax-python /tmp/smax/bin/python
    python benchmarks/versus_smax.py --maps 3m,2s3z --windows 9
    python benchmarks/versus_smax.py --report                          # page and picture from the CSV alone

Either side lives in a process of its own, and both are bound to the same core. On every map each side is tried with
several numbers of battles; with its best one it then plays ``--windows`` windows, in turn with the other side, so that
a busy machine slows both. A step is what a learner needs of it: actions drawn among the available ones, the battles,
observations, state, masks, rewards and ends, and new battles for those that ended. Replaces the measured maps' rows of
``versus_smax.csv`` and writes ``versus_smax.md`` and ``versus_smax.png``.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__)
CSV, REPORT, PICTURE = (HERE.with_suffix(ending) for ending in (".csv", ".md", ".png"))
BEGIN, END = "<!-- written by versus_smax.py -->", "<!-- end of what versus_smax.py writes -->"
OURS, PEER = "skirmish", "SMAX"
SHARED = (
    "3m", "8m", "25m", "5m_vs_6m", "10m_vs_11m", "27m_vs_30m", "2s3z", "3s5z", "3s5z_vs_3s6z", "3s_vs_5z", "6h_vs_8z",
)  # fmt: skip
BATTLES = {OURS: (64, 256, 1024), PEER: (32, 128)}
"""Tried on every map. Fewer and more battles have been slower with SMAX on a CPU."""
TARGET = 2.0
MISSING = (
    "SMAX is not measured: {python} has no {module}; make a virtual environment, `pip install jaxmarl` in it, and name \
its Python by --smax-python"
)
COLUMNS = (
    "map", "side", "battles", "window", "steps", "cpu_seconds", "wall_seconds", "date", "load", "machine", "versions",
)  # fmt: skip
Row = dict[str, Any]
Run = Callable[[], int]
"""Plays on for a while and returns how many battle steps that were."""


# ---------------------------------------------------------------- the two sides, each in its own process


def skirmish_program(name: str, battles: int) -> Run:
    """Our environment as a runner uses it, begun in the middle of battles, so that all their phases weigh."""
    import skirmish
    import torch

    from rl.masked import draw

    torch.set_num_threads(1)
    play = skirmish.Play(skirmish.Cell(name, "cpu", 1, battles, 1))

    def run() -> int:
        for _ in range(16):
            play.step(draw(play.env.battle.live["avail"].float(), play.rng))
        return 16 * battles

    return run


def smax_program(name: str, battles: int) -> Run:
    """``HeuristicEnemySMAX`` as its own ``speed.py`` runs it, but with actions among the available ones.

    Everything is one compiled scan. What a learner would read is carried along, lest the compiler leaves it out.
    Actions are drawn as ours: one uniform number each, of which the cumulative distribution is inverted; that is no
    slower than JAX's ``categorical``.
    """
    import jax
    import jax.numpy as jnp
    from jaxmarl import make
    from jaxmarl.environments.smax import map_name_to_scenario

    env = make("HeuristicEnemySMAX", scenario=map_name_to_scenario(name))
    length = max(8, 4096 // battles)

    def masks(state: Any) -> Any:
        avail = jax.vmap(env.get_avail_actions)(state)
        return jnp.stack([avail[agent] for agent in env.agents]).astype(bool)

    def step(carry: Any, _: None) -> Any:
        key, state, avail, _ = carry
        key, for_actions, for_steps = jax.random.split(key, 3)
        cumulative = jnp.cumsum(avail.astype(jnp.float32), -1)
        u = jax.random.uniform(for_actions, avail.shape[:-1]) * cumulative[..., -1]
        action = jnp.sum(cumulative <= u[..., None], -1)
        actions = {agent: action[k] for k, agent in enumerate(env.agents)}
        keys = jax.random.split(for_steps, battles)
        obs, state, reward, done, _ = jax.vmap(env.step)(keys, state, actions)
        return (key, state, masks(state), (obs, reward, done)), None

    @jax.jit
    def first(key: Any) -> Any:
        obs, state = jax.vmap(env.reset)(jax.random.split(key, battles))
        none = jnp.zeros(battles)
        done = {agent: none.astype(bool) for agent in [*env.agents, "__all__"]}
        return key, state, masks(state), (obs, dict.fromkeys(env.agents, none), done)

    scan = jax.jit(lambda carry: jax.lax.scan(step, carry, None, length)[0])
    carry = jax.block_until_ready(scan(scan(first(jax.random.PRNGKey(0)))))  # compiles twice: for fresh and own results

    def run() -> int:
        nonlocal carry
        carry = jax.block_until_ready(scan(carry))
        return length * battles

    return run


PROGRAMS = {
    OURS: (skirmish_program, ("torch", "warp-lang", "numpy")),
    PEER: (smax_program, ("jaxmarl", "jax", "jaxlib")),
}


def known_version(package: str) -> str:
    """Its name and version, as far as it is installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} ?"


def work(side: str) -> None:
    """Answers requests, one JSON line each: to play on for some CPU seconds with a number of battles on a map."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print, Python's and others, is no answer
    program, packages = PROGRAMS[side]
    runs: dict[tuple[str, int], Run] = {}
    for line in sys.stdin:
        request = json.loads(line)
        key = request["map"], request["battles"]
        if key not in runs:
            runs = {known: run for known, run in runs.items() if known[0] == key[0]}  # one map's programs at a time
            runs[key] = program(*key)
            window(runs[key], request["seconds"])  # plays until the battles' phases have mixed
        answer = window(runs[key], request["seconds"]) | {"versions": ", ".join(map(known_version, packages))}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def window(run: Run, seconds: float) -> Row:
    """Steps, CPU and wall seconds of about so many CPU seconds."""
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while steps == 0 or time.process_time() - cpu < seconds:
        steps += run()
    return {"steps": steps, "cpu_seconds": time.process_time() - cpu, "wall_seconds": time.perf_counter() - wall}


class Side:
    """A process that plays when asked."""

    def __init__(self, name: str, python: str) -> None:
        """Starts it, with one thread and on one core."""
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false",
        }
        self.name = name
        self.process = subprocess.Popen(
            [python, str(HERE), "--work", name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(self.process.pid, {min(os.sched_getaffinity(0))})

    def play(self, map_name: str, battles: int, seconds: float) -> Row:
        """A window.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"map": map_name, "battles": battles, "seconds": seconds}) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process of {self.name} has ended on {map_name} with {battles} battles")
        return {"map": map_name, "side": self.name, "battles": battles, **json.loads(answer)}

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


# ---------------------------------------------------------------- measuring


def speed(row: Row) -> float:
    """Battle steps per CPU second."""
    return float(row["steps"]) / float(row["cpu_seconds"])


def measure(map_name: str, sides: Sequence[Side], windows: int, seconds: float) -> list[Row]:
    """The windows of one map; number 0 are those that sought the best number of battles."""
    import skirmish

    def played(side: Side, battles: int, number: int) -> Row:
        return skirmish.surroundings() | side.play(map_name, battles, seconds) | {"window": number}

    tried = [played(side, battles, 0) for side in sides for battles in BATTLES[side.name]]
    best = {side.name: max((row for row in tried if row["side"] == side.name), key=speed)["battles"] for side in sides}
    return tried + [played(side, best[side.name], number) for number in range(1, windows + 1) for side in sides]


def missing(python: str) -> str:
    """What ``python`` lacks to run SMAX; empty if nothing."""
    if python == sys.executable:
        return "" if find_spec("jaxmarl") else "jaxmarl"
    asked = [python, "-c", "import importlib.util as u; print('' if u.find_spec('jaxmarl') else 'jaxmarl')"]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def read() -> list[Row]:
    """What the CSV holds."""
    if not CSV.exists():
        return []
    with CSV.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write(rows: Sequence[Row]) -> None:
    """The CSV, in the order of the maps."""
    with CSV.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerows(sorted(rows, key=lambda row: SHARED.index(row["map"])))


# ---------------------------------------------------------------- telling


def of(rows: Sequence[Row], map_name: str, side: str) -> list[Row]:
    """The windows that count, in order."""
    chosen = [row for row in rows if (row["map"], row["side"]) == (map_name, side) and int(row["window"]) > 0]
    return sorted(chosen, key=lambda row: int(row["window"]))


def told(rows: Sequence[Row]) -> list[str]:
    """Number of battles, median, and the lowest and highest window."""
    if not rows:
        return ["", "", ""]
    speeds = sorted(map(speed, rows))
    return [str(rows[0]["battles"]), f"{median(speeds):,.0f}", f"{speeds[0]:,.0f} to {speeds[-1]:,.0f}"]


def ratios(rows: Sequence[Row], map_name: str) -> list[float]:
    """Of every pair of windows, ours over theirs."""
    pairs = zip(of(rows, map_name, OURS), of(rows, map_name, PEER), strict=False)
    return [speed(ours) / speed(theirs) for ours, theirs in pairs]


def line(rows: Sequence[Row], map_name: str) -> list[str]:
    """One map's cells."""
    pairs = sorted(ratios(rows, map_name))
    ratio = [f"{median(pairs):.2f}", f"{pairs[0]:.2f} to {pairs[-1]:.2f}"] if pairs else ["", ""]
    return [map_name, *told(of(rows, map_name, OURS)), *told(of(rows, map_name, PEER)), *ratio]


def page(rows: Sequence[Row]) -> str:
    """The table."""
    maps = [name for name in SHARED if of(rows, name, OURS)]
    head = ["map", *(f"{side}: {what}" for side in (OURS, PEER) for what in ("battles", "steps per CPU-s", "windows"))]
    table = [[*head, "ratio", "of the pairs"], ["---"] * 9, *(line(rows, name) for name in maps)]
    facts = [f"- {key}: {'; '.join(sorted({row[key] for row in rows}))}" for key in ("machine", "versions", "date")]
    both = [median(found) for name in maps if (found := ratios(rows, name))]
    verdict = f"Target {TARGET:g} times SMAX: reached on {sum(ratio >= TARGET for ratio in both)} of {len(both)} maps."
    told_of = [*facts, "", *("| " + " | ".join(cells) + " |" for cells in table)]
    return "\n".join([*told_of, "", verdict] if both else told_of)


def publish(rows: Sequence[Row]) -> None:
    """Replaces the page's table and leaves its other words; draws the picture."""
    text = REPORT.read_text(encoding="utf-8") if REPORT.exists() else f"# skirmish beside SMAX\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    REPORT.write_text(f"{before}{BEGIN}\n\n{page(rows)}\n\n{END}{rest.partition(END)[2]}", encoding="utf-8")
    if not any(row["side"] == PEER for row in rows):
        return
    from matplotlib.figure import Figure

    maps = [name for name in SHARED if ratios(rows, name)]
    figure = Figure(figsize=(9, 4), layout="constrained")
    axis = figure.subplots()
    for shift, side in ((-0.2, OURS), (0.2, PEER)):
        found = [sorted(map(speed, of(rows, name, side))) for name in maps]
        middle = [median(speeds) for speeds in found]
        spread = [
            [m - s[0] for m, s in zip(middle, found, strict=True)],
            [s[-1] - m for m, s in zip(middle, found, strict=True)],
        ]
        axis.bar([k + shift for k in range(len(maps))], middle, 0.4, yerr=spread, label=side)
    axis.set_xticks(range(len(maps)), maps, rotation=30, ha="right")
    axis.set(yscale="log", ylabel="battle steps per CPU second", title="Environment only, random actions, one thread")
    axis.legend()
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measures, or only tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", default=",".join(SHARED))
    parser.add_argument("--smax-python", default=sys.executable, help="the Python that has jaxmarl")
    parser.add_argument("--seconds", type=float, default=1.0, help="CPU seconds of a window")
    parser.add_argument("--windows", type=int, default=5)
    parser.add_argument("--report", action="store_true", help="page and picture from the CSV alone")
    parser.add_argument("--work", choices=tuple(PROGRAMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    if shutil.which(options.smax_python) is None:
        parser.error(f"--smax-python: there is no {options.smax_python}")
    if unknown := set(options.maps.split(",")) - set(SHARED):
        parser.error(f"--maps: {', '.join(sorted(unknown))} is not among the maps that both have: {', '.join(SHARED)}")
    if not options.report:
        compare(options)
    publish(read())


def compare(options: argparse.Namespace) -> None:
    """Measures the maps asked for."""
    sides = [Side(OURS, sys.executable)]
    if module := missing(options.smax_python):
        print(MISSING.format(python=options.smax_python, module=module))
    else:
        sides.append(Side(PEER, options.smax_python))
    for name in options.maps.split(","):
        rows = measure(name, sides, options.windows, options.seconds)
        write([row for row in read() if row["map"] != name] + rows)
        print(*line(rows, name), sep="\t", flush=True)
    for side in sides:
        side.close()


if __name__ == "__main__":
    main()
