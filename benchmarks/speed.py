"""How fast Cofactor is on this machine: environments alone, learners alone, whole runs, and what the replay takes.

    python benchmarks/speed.py                                        # everything, a few minutes
    python benchmarks/speed.py --parts learner --algs macpf --maps MMM2 --lengths half
    python benchmarks/speed.py --plot                                 # only draws the history anew

Prints a table, appends its rows to ``speed.json`` (one line each, with date, commit, machine and versions) and draws
all that was ever kept as ``speed.png``. The parts:

- ``env``: skirmish's and the particle worlds' own programs (``skirmish.py``, ``particle_speed.py``);
- ``learner``: one update on a batch of drawn episodes, ours and the ``reference`` of PyMARL's kind in turn, so that a
  busy machine slows both; the ratio is taken of each pair;
- ``run``: collecting alone, and collecting with updates as in a run, for both runners, several numbers of environments,
  replay ratios and ways to use two cores (on a busy machine leave ``torch_threads=2`` out: it takes minutes there);
- ``memory``: bytes of stored episodes of the untrained policy, and what 5,000 of their length take.

CPU seconds are the process's, on one thread; on a machine that does other work they vary less than wall time, which
stands beside them, and are still longer than on an idle one: caches and memory are shared.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, astuple, dataclass, field
from datetime import date
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "benchmarks")]

import particle_speed  # noqa: E402
import skirmish  # noqa: E402
import torch  # noqa: E402
from reference.updates import REFERENCES  # noqa: E402
from sessions import new_session  # noqa: E402

from core.specs import EnvSpec, EpisodeBatch, joined, valid_mask  # noqa: E402
from memory.replay import Format, Replay  # noqa: E402
from run import Session  # noqa: E402

JSON, PICTURE = Path(__file__).with_suffix(".json"), Path(__file__).with_suffix(".png")
PARTS = ("env", "learner", "run", "memory")
BATCH, LIMIT, MEAN = 32, 120, 0.45
"""Episodes and longest length of a drawn batch; the mean length of ``half`` as a share of it (in real runs of 2s3z
48 of 113)."""
STORED = 5000
"""Episodes that the replay's size is given for."""
STORED_FIRST = 256
"""Episodes in the replay before a run is timed."""


@dataclass(frozen=True)
class Figure:
    """One line of the table: the median of some repetitions, with the smallest and largest."""

    part: str
    subject: str
    unit: str
    median: float
    low: float
    high: float
    wall: float | None = None
    """The same by wall time."""
    reference: float | None = None
    """The same of the plain implementation."""
    ratio: float | None = None
    """How many times as fast as that one: the median of the pairs."""
    more: dict[str, float] = field(default_factory=dict)


def conditions() -> dict[str, Any]:
    """When, on what and beside what it was measured."""
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "date": date.today().isoformat(),
        "commit": commit,
        "machine": f"{skirmish.processor()}, {os.cpu_count()} cores",
        "device": device,
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
        "load": round(os.getloadavg()[0], 1),
    }


def figure(part: str, subject: str, unit: str, values: list[float], **more: Any) -> Figure:
    """Of several repetitions."""
    return Figure(part, subject, unit, median(values), min(values), max(values), **more)


def timed(work: Callable[[], Any]) -> tuple[float, float]:
    """CPU and wall seconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


# ---------------------------------------------------------------- environments


def environments(options: argparse.Namespace) -> Iterator[Figure]:
    """Battles of every map, and the particle worlds, with random actions."""
    for name in options.maps:
        made = skirmish.measure(skirmish.Cell(name, "cpu", 1, options.battles, 1), options.seconds)
        if "note" in made:
            print(f"skirmish {name}: {made['note']}")
            continue
        per_cpu, per_wall = 1e6 / made["cpu_us_per_step"], made["steps_per_s"]
        spread = [per_cpu * made[end] / per_wall for end in ("lowest", "highest")]
        yield Figure("env", f"skirmish {name} x{options.battles}", "steps/CPU-s", per_cpu, *spread, wall=per_wall)
    for name in options.particles:
        rows = particle_speed.measure(name, options.battles, options.seconds / particle_speed.REPETITIONS, "cpu")
        wall = median(float(row["steps_per_second"]) for row in rows)
        values = [float(row["steps_per_cpu_second"]) for row in rows]
        yield figure("env", f"{name} x{options.battles}", "steps/CPU-s", values, wall=wall)


# ---------------------------------------------------------------- learners


def lengths(kind: str) -> torch.Tensor:
    """Steps of the episodes of a batch: all of the longest, or between a fifth and nine fifths of the mean."""
    if kind == "full":
        return torch.full((BATCH,), LIMIT)
    spread = torch.rand(BATCH, generator=torch.Generator().manual_seed(0)) * 0.75 + 0.1
    length = (spread / spread.mean() * MEAN * LIMIT).round().long().clamp(1, LIMIT)
    length[0] = LIMIT
    return length


def drawn(spec: EnvSpec, length: torch.Tensor) -> EpisodeBatch:
    """Episodes of random numbers, with the shapes of an environment."""
    rng, b, t, n = torch.Generator().manual_seed(0), len(length), int(length.max()), spec.n_agents
    step, state = valid_mask(length, t), valid_mask(length + 1, t + 1)
    avail = torch.rand(b, t + 1, n, spec.n_actions, generator=rng) < 0.6
    avail[..., 0] |= ~avail.any(-1)
    avail |= (state == 0)[..., None, None]
    action = torch.multinomial(avail[:, :-1].float().flatten(0, 2), 1, generator=rng).view(b, t, n)
    terminated = torch.zeros(b, t, dtype=torch.bool)
    terminated[torch.arange(b), length - 1] = True
    seen = {name: torch.rand(b, t + 1, *shape, generator=rng) < 0.6 for name, shape in spec.extras.items()}
    return EpisodeBatch(
        action=action * step[..., None].long(),
        reward=torch.randn(b, t, generator=rng) * step,
        terminated=terminated,
        mask=step,
        length=length,
        obs=torch.randn(b, t + 1, n, spec.obs_dim, generator=rng) * state[..., None, None],
        state=torch.randn(b, t + 1, spec.state_dim, generator=rng) * state[..., None],
        avail=avail,
        extras={name: x & (state > 0).view(b, t + 1, *[1] * (x.dim() - 2)) for name, x in seen.items()},
    )


def session(algorithm: str, name: str, envs: int = 1, **more: Any) -> Session:
    """A run on skirmish that nothing has happened in."""
    settings = {"seed": 1, "batch_size_run": envs, "test_nepisode": 0, "device": "cpu", **more}
    return new_session("sc2", algorithm, settings | {"env_args": {"map_name": name, "engine": "skirmish"}})


def stored(spec: EnvSpec, batch: EpisodeBatch) -> Replay:
    """A replay that holds just this batch, so that every update is of it."""
    replay = Replay(spec, len(batch), 10**11, "cpu", torch.Generator().manual_seed(0))
    replay.add(batch)
    return replay


def learner(options: argparse.Namespace, algorithm: str, name: str, kind: str) -> Figure:
    """One update, in turn with the reference's of the same batch where there is one."""
    more = {"adv_hypernet_layers": 1} if algorithm == "fop" and options.released else {}
    made = session(algorithm, name, **more)
    replay = stored(made.env.spec, drawn(made.env.spec, lengths(kind)))
    plain = REFERENCES[algorithm](made.learner) if algorithm in REFERENCES else None
    ours, theirs = [], []
    for _ in range(options.repeat + 1):
        ours.append(timed(lambda: made.learner.update(replay, 0)))
        if plain is not None:
            theirs.append(timed(lambda: plain.update(replay.latest(BATCH))))
    cpu, wall = ([1e3 * pair[k] for pair in ours[1:]] for k in (0, 1))
    subject = f"{algorithm}{' (one-layer λ)' if more else ''} {name} {kind}"
    if plain is None:
        return figure("learner", subject, "ms CPU/update", cpu, wall=median(wall))
    other = [1e3 * pair[0] for pair in theirs[1:]]
    ratios = [b / a for a, b in zip(cpu, other, strict=True)]
    spread = {"ratio_low": min(ratios), "ratio_high": max(ratios)}
    beside = {"wall": median(wall), "reference": median(other), "ratio": median(ratios), "more": spread}
    return figure("learner", subject, "ms CPU/update", cpu, **beside)


def learners(options: argparse.Namespace) -> Iterator[Figure]:
    """Every algorithm on every map's shapes."""
    for name in options.maps:
        for algorithm in options.algs:
            for kind in options.lengths:
                yield learner(options, algorithm, name, kind)


# ---------------------------------------------------------------- whole runs


CORES = {
    "1 thread": {},
    "torch_threads=2": {"torch_threads": 2},
}
"""Ways of using the machine's cores for one run."""


def runs(options: argparse.Namespace) -> Iterator[Figure]:
    """Environment steps per CPU second: collecting alone, and with updates at several ratios.

    Agents act at random (ε of step 0) throughout, so that episodes are equally long in every line.
    """
    for name, algorithm in product(options.run_maps, options.run_algs):
        first = filled(algorithm, name)
        for runner, envs in product(options.runners, options.envs):
            yield run(options, Case(algorithm, name, runner, envs, None, "1 thread"), first)
            for ratio, cores in product(options.ratios, options.cores):
                yield run(options, Case(algorithm, name, runner, envs, ratio, cores), first)


@dataclass(frozen=True)
class Case:
    """One line of the part ``run``."""

    algorithm: str
    name: str
    runner: str
    envs: int
    ratio: int | None
    """Episodes collected per update; None: no updates."""
    cores: str

    @property
    def subject(self) -> str:
        """What it is called."""
        what = f"1 update per {self.ratio} episodes, {self.cores}" if self.ratio else "collecting"
        return f"{self.algorithm} {self.name} x{self.envs} {self.runner}, {what}"


def filled(algorithm: str, name: str) -> EpisodeBatch:
    """What the replay holds before anything is timed: so much that a batch is a small part of it."""
    made = session(algorithm, name, STORED_FIRST // 4)
    batches = [made.runner.collect(t_env=0, mode=made.controller.explore_mode).episodes for _ in range(4)]
    return joined(batches, made.env.spec)


def run(options: argparse.Namespace, case: Case, first: EpisodeBatch) -> Figure:
    """All rounds together, and the slowest and fastest: streamed episodes come in bursts, so rounds are unlike."""
    made = session(case.algorithm, case.name, case.envs, runner=case.runner, **CORES[case.cores])
    torch.set_num_threads(made.settings["torch_threads"])
    made.replay.add(first)
    _round(made, case.ratio)
    made.runner.counters()
    rounds = [_round(made, case.ratio) for _ in range(options.repeat * (1 if case.ratio else 4))]
    torch.set_num_threads(1)
    total = Round(*(sum(each) for each in zip(*map(astuple, rounds), strict=True)))
    rates = [each.steps / each.cpu for each in rounds]
    slot_use = made.runner.counters().get("slot_use", total.steps / total.slots)
    aside = {"slot_use": slot_use, "steps_per_episode": total.steps / total.episodes}
    aside["learner_share"] = total.learning / total.cpu
    per_cpu, per_wall = total.steps / total.cpu, total.steps / total.wall
    return Figure("run", case.subject, "steps/CPU-s", per_cpu, min(rates), max(rates), wall=per_wall, more=aside)


@dataclass
class Round:
    """At least ``BATCH`` episodes and their updates."""

    episodes: int = 0
    steps: int = 0
    slots: int = 0
    """Rows times steps, until the longest episode of each collection ended."""
    cpu: float = 0.0
    wall: float = 0.0
    learning: float = 0.0
    """CPU seconds of the updates."""


def _round(made: Session, ratio: int | None) -> Round:
    """Collects and learns."""
    made_in = Round()

    def work() -> None:
        while made_in.episodes < BATCH:
            batch = made.runner.collect(t_env=0, mode=made.controller.explore_mode).episodes
            made.replay.add(batch)
            before = made_in.episodes
            made_in.episodes += len(batch)
            made_in.steps += int(batch.length.sum())
            made_in.slots += made.env.n_envs * int(batch.length.max())
            for _ in range(made_in.episodes // ratio - before // ratio if ratio else 0):
                made_in.learning += timed(lambda: made.learner.update(made.replay, 0))[0]

    made_in.cpu, made_in.wall = timed(work)
    return made_in


# ---------------------------------------------------------------- memory


def memory(options: argparse.Namespace) -> Iterator[Figure]:
    """Gigabytes of 5,000 episodes, extrapolated from some, by the length that they have."""
    formats: tuple[Format, ...] = ("dense", "sparse", "half")
    for name in options.maps:
        made = session("qmix", name, 8)
        replays = [Replay(made.env.spec, STORED, 10**11, "cpu", torch.Generator(), None, kind) for kind in formats]
        while len(replays[0]) < options.stored:
            episodes = made.runner.collect(t_env=0, mode="explore").episodes
            for replay in replays:
                replay.add(episodes)
        for replay in replays:
            states = replay.steps + len(replay)
            per_state, mean = replay.used_bytes / states, states / len(replay)
            drawing = [1e3 * timed(lambda: replay.uniform(BATCH))[0] for _ in range(options.repeat)]  # noqa: B023
            more = {"bytes_per_state": per_state, "states_per_episode": mean, "measured_episodes": len(replay)}
            more["draw_ms"] = median(drawing)
            size = STORED * mean * per_state / 1e9
            yield Figure("memory", f"{name}, {STORED:,} episodes, {replay.stored}", "GB", size, size, size, more=more)


# ---------------------------------------------------------------- table, file and picture


def shown(x: float | None) -> str:
    """A number with three digits or more."""
    if x is None:
        return ""
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def table(figures: list[Figure]) -> str:
    """Markdown."""
    head = ["part", "what", "unit", "median", "lowest to highest", "by wall time", "reference", "ratio"]
    body = [
        [f.part, f.subject, f.unit, shown(f.median), f"{shown(f.low)} to {shown(f.high)}", shown(f.wall),
         shown(f.reference), shown(f.ratio)]
        for f in figures
    ]  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body])


def peak() -> int:
    """The most memory that this process has had, in MiB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def keep(figure: Figure, about: dict[str, Any]) -> None:
    """Appends to the file, at once, so that an interrupted measurement is not lost."""
    with JSON.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(figure) | about | {"peak_mib": peak()}) + "\n")


def draw() -> None:
    """The history of every figure, one panel a part, by date and commit."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    rows = [json.loads(line) for line in JSON.read_text(encoding="utf-8").splitlines()]
    times = list(dict.fromkeys((row["date"], row["commit"]) for row in rows))
    _, panels = pyplot.subplots(len(PARTS), 1, figsize=(11, 4 * len(PARTS)), squeeze=False)
    for part, panel in zip(PARTS, panels[:, 0], strict=True):
        own = [row for row in rows if row["part"] == part]
        for subject in dict.fromkeys(row["subject"] for row in own):
            at = [(times.index((r["date"], r["commit"])), r) for r in own if r["subject"] == subject]
            spread = [[r["median"] - r["low"] for _, r in at], [r["high"] - r["median"] for _, r in at]]
            panel.errorbar([x for x, _ in at], [r["median"] for _, r in at], spread, marker="o", label=subject)
        panel.set(title=part, yscale="log", ylabel=", ".join(sorted({row["unit"] for row in own})))
        panel.set_xticks(range(len(times)), [" ".join(when) for when in times], rotation=20, fontsize=7)
        if own:
            panel.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    pyplot.tight_layout()
    pyplot.savefig(PICTURE, dpi=90)


def main(arguments: list[str] | None = None) -> None:
    """Measures what is asked for."""

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",")]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=names, default=list(PARTS))
    parser.add_argument("--algs", type=names, default=["qmix", "fop", "macpf"])
    parser.add_argument("--maps", type=names, default=["2s3z", "MMM2"])
    parser.add_argument("--particles", type=names, default=["simple_spread:3"])
    parser.add_argument("--lengths", type=names, default=["half", "full"], help="of a drawn batch's episodes")
    parser.add_argument("--battles", type=int, default=1024, help="environments side by side, alone")
    parser.add_argument("--run-algs", type=names, default=["qmix"], help="algorithms of whole runs")
    parser.add_argument("--run-maps", type=names, default=["2s3z"], help="maps of whole runs")
    parser.add_argument("--runners", type=names, default=["episode", "stream"], help="of whole runs")
    parser.add_argument("--envs", type=numbers, default=[1, 8, 32], help="environments of whole runs")
    parser.add_argument("--ratios", type=numbers, default=[1, 8], help="episodes collected per update")
    parser.add_argument("--cores", type=names, default=list(CORES), help="ways to use two cores")
    parser.add_argument("--stored", type=int, default=64, help="episodes that the replay's size is measured of")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions; one more is left out")
    parser.add_argument("--seconds", type=float, default=3.0, help="of each environment")
    parser.add_argument("--released", action="store_true", help="FOP with the release's one-layer λ")
    parser.add_argument("--plot", action="store_true", help="only the picture")
    options = parser.parse_args(arguments)
    if not options.plot:
        measure(options)
    draw()


def measure(options: argparse.Namespace) -> None:
    """All parts."""
    torch.set_num_threads(1)
    about, figures = conditions(), []
    for part, work in zip(PARTS, (environments, learners, runs, memory), strict=True):
        for made in work(options) if part in options.parts else ():
            figures.append(made)
            keep(made, about | {"load": round(os.getloadavg()[0], 1)})
            aside = ", ".join(f"{name} {shown(x)}" for name, x in made.more.items())
            print(f"{made.subject}: {shown(made.median)} {made.unit} {aside}", flush=True)
    print("\n" + table(figures))
    print(f"\n{'; '.join(f'{key}: {value}' for key, value in about.items())}; peak memory: {peak()} MiB")


if __name__ == "__main__":
    main()
