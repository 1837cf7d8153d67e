"""Battle steps per second of the skirmish engine, with random actions and automatic resets; writes a CSV.

python benchmarks/skirmish_speed.py [--maps 3m,corridor] [--batches 1,8,64,256] [--seconds 2] [--out FILE]
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
from envs.sc2 import StarCraft2

MAPS = "3m,8m,2s3z,3s5z,5m_vs_6m,25m,27m_vs_30m,3s_vs_5z,corridor"


def measure(map_name: str, batch: int, seconds: float, device: str) -> dict[str, object]:
    """One row of the table: the whole ``step`` (actions checked, copies of all outputs), and the kernels alone."""
    env = StarCraft2(StarCraft2.Config(map_name=map_name, engine="skirmish"), batch, device, 0)
    shown, rng = env.reset(), torch.Generator(device).manual_seed(0)
    inside = steps = 0.0
    rows = 0
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds or steps < 3:
        flat = shown.avail.flatten(0, 1).float()
        action = torch.multinomial(flat, 1, generator=rng).view(batch, -1)
        before = time.perf_counter()
        outcome = env.step(action)
        if device != "cpu":
            torch.cuda.synchronize()
        inside += time.perf_counter() - before
        over = outcome.terminated | outcome.truncated
        shown = env.reset(over) if bool(over.any()) else outcome.next
        steps += 1
        rows += batch
    wall = time.perf_counter() - begin
    return {
        "map": map_name, "batch": batch, "device": device, "microseconds_per_step_call": round(1e6 * inside / steps, 1),
        "battle_steps_per_second": round(rows / inside), "with_resets_and_actions": round(rows / wall),
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip


def main() -> None:
    """Measures every map at every batch size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--maps", default=MAPS)
    parser.add_argument("--batches", default="1,8,64,256")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", default="skirmish_speed.csv")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = []
    for map_name in args.maps.split(","):
        for batch in map(int, args.batches.split(",")):
            table.append(measure(map_name, batch, args.seconds, args.device))
            print(*table[-1].values(), sep="\t")
    with open(args.out, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
