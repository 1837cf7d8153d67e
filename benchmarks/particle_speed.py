"""Environment steps per second of the particle worlds, with random actions, resets included; writes a CSV.

python benchmarks/particle_speed.py [--envs simple_spread:3] [--batches 1,32,1024,4096] [--seconds 2] [--out FILE]
"""

from __future__ import annotations

import argparse
import csv
import platform
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))
from core.registry import ENVS

ENVIRONMENTS = (
    "simple_spread:3,simple_spread:5,formation:3,formation:5,line:3,aggregation:5,treasure_collection,rover_tower"
)
REPETITIONS = 6
"""The first one is left out."""


def measure(name: str, batch: int, seconds: float, device: str) -> list[dict[str, object]]:
    """One row of the table per repetition: whole episodes, actions drawn beforehand. ``name`` may end in ``:N``."""
    name, _, agents = name.partition(":")
    cls = ENVS[name]
    cfg = cls.Config(n_agents=int(agents), action="discrete") if agents else cls.Config()
    env = cls(cfg, batch, device, 0)
    rng = torch.Generator(device).manual_seed(0)
    limit, n_agents = env.spec.episode_limit, env.spec.n_agents
    actions = torch.randint(5, (limit, batch, n_agents), generator=rng, device=device)
    table: list[dict[str, object]] = []
    for repetition in range(REPETITIONS):
        episodes, begin, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - begin < seconds:
            env.reset()
            for action in actions:
                env.step(action)
            if device != "cpu":
                torch.cuda.synchronize()
            episodes += 1
        steps, cpu = episodes * limit * batch, time.process_time() - cpu
        rate = steps / (time.perf_counter() - begin)
        table.append(
            {
                "env": name, "agents": n_agents, "batch": batch, "device": device, "repetition": repetition,
                "steps_per_second": round(rate), "steps_per_cpu_second": round(steps / cpu),
                "machine": platform.processor() or platform.machine(),
            }
        )  # fmt: skip
    return table[1:]


def main() -> None:
    """Measures every environment at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", default=ENVIRONMENTS)
    parser.add_argument("--batches", default="1,32,1024,4096")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="particle_speed.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table: list[dict[str, object]] = []
    for name in args.envs.split(","):
        for batch in map(int, args.batches.split(",")):
            table += measure(name, batch, args.seconds, args.device)
            print(*table[-1].values(), sep="\t", flush=True)
    with open(args.out, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
