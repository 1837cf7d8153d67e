"""Battle steps per second of the skirmish engine under random play, and what a battle needs of memory.

    python benchmarks/skirmish.py                     # every map, 1 to 8,192 battles, one thread and all; and CUDA
    python benchmarks/skirmish.py --maps 3m,corridor --battles 1024 --again

Measures what ``skirmish.csv`` does not hold yet (with ``--again`` all that is asked for, anew) and rewrites the tables
of ``skirmish.md``. A cell of the tables is the median of some windows. Agents draw actions that are available; battles
that end are begun anew at once; the first rows are copies out of the middle of battles, so that all phases of a battle
weigh as they do in the long run.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import gc
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in a run: torch's threads must not spin on the battles' cores

import numpy
import psutil
import torch
import warp
from rich.progress import Progress
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "src"))

from envs.sc2 import StarCraft2  # noqa: E402
from envs.skirmish.maps import MAPS  # noqa: E402

CSV, REPORT = Path(__file__).with_suffix(".csv"), Path(__file__).with_suffix(".md")
WINDOWS = 5
TARGETS = {"3m": 200_000, "2s3z": 100_000, "3s5z": 50_000, "MMM2": 30_000, "27m_vs_30m": 6_000, "2c_vs_64zg": 3_000}
"""Battle steps per second asked of two CPU cores with 1,024 battles, observations included."""
BEGIN, END = "<!-- written by skirmish.py -->", "<!-- end of what skirmish.py writes -->"


@dataclass(frozen=True)
class Cell:
    """What is measured at once."""

    map: str
    device: str
    threads: int
    battles: int
    observed: int
    """1: the whole ``step`` of the environment; 0: the battles and the masks of actions alone."""


# ---------------------------------------------------------------- the battles


def made(map_name: str, battles: int, device: str) -> StarCraft2:
    """An environment in which all battles have begun."""
    env = StarCraft2(StarCraft2.Config(map_name=map_name, engine="skirmish"), battles, device, 0)
    env.reset()
    return env


def drawn(avail: Tensor, rng: torch.Generator) -> Tensor:
    """A random available action of every agent."""
    flat = avail.flatten(0, 1).float()
    return torch.multinomial(flat, 1, generator=rng).view(avail.shape[:2])


@cache
def stock(map_name: str) -> dict[str, Tensor]:
    """States out of the middle of random battles: 64 rows played with resets, every fourth step kept."""
    env, rng, kept = made(map_name, 64, "cpu"), torch.Generator().manual_seed(1), []
    battle, live = env.battle, env.battle.live
    for t in range(2 * env.spec.episode_limit):
        battle.step(drawn(live["avail"], rng), observe=False)
        battle.reset((live["terminated"] | live["truncated"]).bool(), observe=False)
        if t >= env.spec.episode_limit and t % 4 == 0:
            kept.append(battle.state_dict())
    return {name: torch.cat([state[name] for state in kept]) for name in kept[0]}


class Play:
    """One cell's battles, and random agents."""

    def __init__(self, cell: Cell) -> None:
        """Rows drawn from the stock, with generators of their own."""
        self.env = made(cell.map, cell.battles, cell.device)
        self.rng, self.observed = torch.Generator(cell.device).manual_seed(0), bool(cell.observed)
        states, pick = stock(cell.map), torch.Generator().manual_seed(2)
        rows = torch.randint(len(states["time"]), (cell.battles,), generator=pick)
        self.env.load_state_dict({name: state[rows] for name, state in states.items()})
        self.env.seed_rows(0)
        self.wait: Callable[[], None] = torch.cuda.synchronize if cell.device == "cuda" else lambda: None

    def draw(self) -> Tensor:
        """Actions for all agents."""
        return drawn(self.env.battle.live["avail"], self.rng)

    def step(self, action: Tensor) -> None:
        """One step of all battles; those that end begin anew."""
        battle = self.env.battle
        if self.observed:
            outcome = self.env.step(action)
            over = outcome.terminated | outcome.truncated
            if bool(over.any()):
                self.env.reset(over)
        else:
            battle.step(action, observe=False)
            over = (battle.live["terminated"] | battle.live["truncated"]).bool()
            if bool(over.any()):
                battle.reset(over, observe=False)

    def window(self, seconds: float) -> dict[str, float]:
        """Steps, their wall and CPU seconds, and the wall seconds with the drawing of actions, in one window."""
        steps, wall, cpu, begin = 0, 0.0, 0.0, time.perf_counter()
        while steps == 0 or time.perf_counter() - begin < seconds:
            action = self.draw()
            self.wait()
            cpu_before, before = time.process_time(), time.perf_counter()
            self.step(action)
            self.wait()
            wall += time.perf_counter() - before
            cpu += time.process_time() - cpu_before
            steps += 1
        return {"steps": steps, "wall": wall, "cpu": cpu, "all": time.perf_counter() - begin}


# ---------------------------------------------------------------- one cell


def bytes_of_a_battle(map_name: str) -> int:
    """What the tensors of the engine take per battle."""
    live = made(map_name, 1, "cpu").battle.live
    return sum(tensor.numel() * tensor.element_size() for tensor in live.values())


def free_bytes(device: str) -> int:
    """Memory that can still be taken."""
    return int(torch.cuda.mem_get_info()[0]) if device == "cuda" else psutil.virtual_memory().available


def measure(cell: Cell, seconds: float) -> dict[str, Any]:
    """A row of the table, or why there is none."""
    gc.collect()
    torch.set_num_threads(cell.threads)
    size = bytes_of_a_battle(cell.map)
    if 4 * size * cell.battles > free_bytes(cell.device):
        return {"note": "too little memory"}
    stock(cell.map)
    before = psutil.Process().memory_info().rss
    play = Play(cell)
    play.window(0)
    first = play.window(0)["all"]
    if first > 2 * seconds:
        return {"note": f"a step takes {first:.1f} s"}
    grown = psutil.Process().memory_info().rss - before
    windows = [play.window(seconds / WINDOWS) for _ in range(WINDOWS)]
    speeds = sorted(cell.battles * w["steps"] / w["wall"] for w in windows)
    total = cell.battles * sum(w["steps"] for w in windows)
    return {
        "steps_per_s": round(median(speeds)),
        "lowest": round(speeds[0]),
        "highest": round(speeds[-1]),
        "with_drawing_per_s": round(median(cell.battles * w["steps"] / w["all"] for w in windows)),
        "wall_us_per_step": round(1e6 * sum(w["wall"] for w in windows) / total, 3),
        "cpu_us_per_step": round(1e6 * sum(w["cpu"] for w in windows) / total, 3),
        "bytes_per_battle": size,
        "grown_bytes_per_battle": round(grown / cell.battles) if cell.device == "cpu" and cell.battles >= 1024 else "",
    }


def processor() -> str:
    """The CPU's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def surroundings() -> dict[str, str]:
    """When, on what and beside what it was measured."""
    gpu = f"; {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return {
        "date": datetime.date.today().isoformat(),
        "load": f"{os.getloadavg()[0]:.1f}",
        "machine": f"{processor()}, {os.cpu_count()} cores{gpu}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, Warp {warp.__version__}, "
        f"numpy {numpy.__version__}",
    }


# ---------------------------------------------------------------- all cells


COLUMNS = [
    "map", "device", "threads", "battles", "observed", "steps_per_s", "lowest", "highest", "with_drawing_per_s",
    "wall_us_per_step", "cpu_us_per_step", "bytes_per_battle", "grown_bytes_per_battle", "note", "date", "load",
    "machine", "versions",
]  # fmt: skip
Row = dict[str, Any]


def read(path: Path) -> dict[Cell, Row]:
    """What has been measured so far."""
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {
        Cell(row["map"], row["device"], int(row["threads"]), int(row["battles"]), int(row["observed"])): row
        for row in rows
    }


def write(path: Path, rows: dict[Cell, Row]) -> None:
    """The CSV, in the order of maps, replaced whole."""
    order = list(MAPS)
    cells = sorted(rows, key=lambda c: (order.index(c.map), c.device, c.threads, c.battles, -c.observed))
    new = path.with_suffix(".new")
    with new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows[cell] for cell in cells)
    new.replace(path)


def cells(maps: list[str], battles: list[int], threads: list[int], devices: list[str]) -> Iterator[Cell]:
    """All that is asked for. How many threads there are makes no difference on CUDA."""
    for name in maps:
        for device in devices:
            for count in threads if device == "cpu" else threads[:1]:
                for number in battles:
                    yield from (Cell(name, device, count, number, observed) for observed in (1, 0))


# ---------------------------------------------------------------- the page


def table(head: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *body]
    return ["| " + " | ".join(line) + " |" for line in lines] + [""]


def speed(row: Row | None) -> str:
    """One cell as text."""
    if row is None:
        return ""
    return f"{int(row['steps_per_s']):,}" if row["steps_per_s"] else row["note"]


def against_targets(rows: dict[Cell, Row], threads: int) -> list[str]:
    """The targets, and what was reached on the CPU."""
    body = []
    for name, target in TARGETS.items():
        row = rows.get(Cell(name, "cpu", threads, 1024, 1))
        if row and row["steps_per_s"]:
            spread = f"{int(row['lowest']):,} to {int(row['highest']):,}"
            ratio = f"{int(row['steps_per_s']) / target:.1f}"
            body.append([name, f"{target:,}", speed(row), spread, ratio, row["cpu_us_per_step"], row["load"]])
    head = ["map", "target", "reached", "windows", "ratio", "CPU µs per battle step", "load before"]
    return [f"Targets: 1,024 battles, observations included; {threads} threads.", "", *table(head, body)]


def speeds(rows: dict[Cell, Row], device: str, threads: int, observed: int) -> list[str]:
    """Battle steps per second of every map and number of battles."""
    chosen = {c: r for c, r in rows.items() if (c.device, c.threads, c.observed) == (device, threads, observed)}
    numbers = sorted({c.battles for c in chosen})
    body = [
        [name, *(speed(chosen.get(Cell(name, device, threads, number, observed))) for number in numbers)]
        for name in MAPS
        if any(c.map == name for c in chosen)
    ]
    place = "CUDA" if device == "cuda" else f"CPU, {threads} thread{'s' * (threads > 1)}"
    what = "with observations" if observed else "without observations (battles and masks alone)"
    return [f"{place}, {what}:", "", *table(["battles", *(f"{number:,}" for number in numbers)], body)]


def memory(rows: dict[Cell, Row]) -> list[str]:
    """Bytes per battle."""
    body = []
    for name in MAPS:
        own = [row for cell, row in rows.items() if cell.map == name and row["bytes_per_battle"]]
        grown = [row["grown_bytes_per_battle"] for row in own if row["grown_bytes_per_battle"]]
        if own:
            body.append([name, own[0]["bytes_per_battle"], grown[-1] if grown else ""])
    return table(["map", "bytes of tensors per battle", "growth of the process per battle"], body)


def page(rows: dict[Cell, Row]) -> str:
    """The tables."""
    lines = []
    for key in ("machine", "versions", "date"):
        lines.append(f"- {key}: {'; '.join(sorted({row[key] for row in rows.values()}))}")
    kinds = sorted({(cell.device, cell.threads, cell.observed) for cell in rows}, key=lambda k: (k[0], k[1], -k[2]))
    lines += ["", *against_targets(rows, max((threads for device, threads, _ in kinds if device == "cpu"), default=1))]
    for kind in kinds:
        lines += speeds(rows, *kind)
    return "\n".join([*lines, "Memory:", "", *memory(rows)])


def publish(path: Path, rows: dict[Cell, Row]) -> None:
    """Replaces the tables of the page and leaves its other words."""
    text = path.read_text(encoding="utf-8") if path.exists() else f"# Speed of skirmish\n\n{BEGIN}\n{END}\n"
    before, _, rest = text.partition(BEGIN)
    path.write_text(f"{before}{BEGIN}\n\n{page(rows)}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Measures what is missing."""
    every = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--maps", default=",".join(MAPS))
    parser.add_argument("--battles", default="1,64,1024,8192")
    parser.add_argument("--threads", default=",".join(map(str, sorted({1, every}))))
    parser.add_argument("--devices", default="cpu,cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=3.0, help="of measuring per cell")
    parser.add_argument("--again", action="store_true", help="measure what has been measured, too")
    parser.add_argument("--out", type=Path, default=CSV, help="the CSV; the page stands beside it")
    options = parser.parse_args(arguments)
    battles, threads = ([int(n) for n in text.split(",")] for text in (options.battles, options.threads))
    rows = read(options.out)
    wanted = list(cells(options.maps.split(","), battles, threads, options.devices.split(",")))
    missing = [cell for cell in wanted if options.again or cell not in rows]
    with Progress() as progress:
        bar = progress.add_task("cells", total=len(missing))
        for cell in missing:
            progress.update(bar, description=" ".join(map(str, asdict(cell).values())))
            rows[cell] = asdict(cell) | surroundings() | measure(cell, options.seconds)
            write(options.out, rows)
            rows = read(options.out)
            progress.advance(bar)
    publish(options.out.with_suffix(".md"), rows)


if __name__ == "__main__":
    main()
