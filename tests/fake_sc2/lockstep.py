"""SMAC's own environment on the stand-in beside our native one with the same seed and actions, step by step.

A program of its own (``python -m fake_sc2.lockstep 3m``, ``SC2PATH`` being an installation), since smac and smacv2
cannot be used in one process: both register maps of the same names with pysc2.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from typing import Any

import numpy as np
import torch

from envs.skirmish.battle import Skirmish
from envs.skirmish.maps import MAPS
from envs.skirmish.options import Options


def choose(avail: np.ndarray, rng: np.random.Generator, eager: float = 0.8) -> list[int]:
    """Every agent attacks (or heals) if it can, with probability ``eager``; else it does anything that it may."""
    legal = [np.flatnonzero(row) for row in avail]
    return [int(row[-1] if row[-1] > 5 and rng.random() < eager else rng.choice(row)) for row in legal]


class Lockstep:
    """Both environments on one map, and how far they ever were apart."""

    def __init__(self, name: str, seed: int, native_seed: int) -> None:
        """With the same seeds both draw the same."""
        from smac.env import StarCraft2Env

        self.theirs = StarCraft2Env(map_name=name, seed=seed)
        self.native = Skirmish(MAPS[name], Options(), 1, torch.device("cpu"), native_seed)
        self.ours = self.native.live
        self.apart: dict[str, float] = defaultdict(float)

    def note(self, what: str, theirs: Any, ours: torch.Tensor | float) -> None:
        """The largest difference so far."""
        difference = np.abs(np.asarray(theirs, dtype=np.float64) - np.asarray(ours, dtype=np.float64))
        self.apart[what] = max(self.apart[what], float(difference.max()))

    def look(self) -> None:
        """Compares what is shown; SMAC's numbers as far as 32 bits hold them."""
        self.note("avail_actions", np.array(self.theirs.get_avail_actions()), self.ours["avail"][0])
        self.note("obs", np.array(self.theirs.get_obs(), dtype=np.float32), self.ours["obs"][0])
        self.note("state", np.array(self.theirs.get_state(), dtype=np.float32), self.ours["state"][0])

    def episode(self, rng: np.random.Generator) -> int:
        """Plays one to the end of either, or until they differ in what may be done; returns its length."""
        self.theirs.reset()
        self.native.reset()
        steps, over = 0, False
        while not over:
            self.look()
            if self.apart["avail_actions"] > 0.0:
                break
            actions = choose(np.array(self.theirs.get_avail_actions()), rng)
            reward, ended, info = self.theirs.step(actions)
            self.native.step(torch.tensor([actions]))
            steps += 1
            ends = bool(self.ours["terminated"][0] | self.ours["truncated"][0])
            self.note("reward", reward, self.ours["reward"][0])
            self.note("ends", ended, ends)
            self.note("battle_won", info["battle_won"], self.ours["won"][0])
            self.note("dead_allies", info["dead_allies"], self.ours["dead_allies"][0])
            self.note("dead_enemies", info["dead_enemies"], self.ours["dead_enemies"][0])
            over = ended or ends
        self.look()
        return steps


def main(name: str, episodes: int = 3, seed: int = 3, native_seed: int = 3) -> None:
    """Prints the largest differences by quantity, and the number of steps, as JSON."""
    pair, rng = Lockstep(name, seed, native_seed), np.random.default_rng(1)
    steps = sum(pair.episode(rng) for _ in range(episodes))
    pair.theirs.close()
    sys.stdout.write(json.dumps({"map": name, "episodes": episodes, "steps": steps} | pair.apart) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
