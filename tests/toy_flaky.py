"""A simulator that fails all the time, for the fleet of worker processes; nothing but numpy, as it is started often."""

from __future__ import annotations

import os
import subprocess
import time

import numpy as np


class Flaky:
    """PyMARL's interface; an episode is doomed with probability ``doom``, and then fails at a step drawn in advance.

    Observations are [t, doomed], so nothing doomed may ever be learnt from. Every failure is a line in ``log``. The
    ``faults`` are to raise, to exit, to be killed, to hang, and "slow", which is none: the answer comes after ``delay``
    seconds. With ``game`` there is a process beside it, as StarCraft II would be, which even leaves the process group;
    its number is a line in the file of that name. ``leak`` is how many MiB every episode costs for ever; where the file
    ``broken`` exists, no start succeeds.
    """

    def __init__(
        self,
        seed: int,
        log: str,
        doom: float = 0.3,
        faults: tuple[str, ...] = ("raise", "exit", "kill", "hang", "slow"),
        delay: float = 0.02,
        game: str | None = None,
        broken: str | None = None,
        leak: int = 0,
    ) -> None:
        self.rng, self.log, self.doom, self.faults, self.delay = np.random.default_rng(seed), log, doom, faults, delay
        self.leak, self.leaked = leak, []
        if broken and os.path.exists(broken):
            os._exit(9)
        self.game = subprocess.Popen(["sleep", "1000"], start_new_session=True) if game else None
        if self.game:
            self._note(game, str(self.game.pid))

    def _note(self, path: str, line: str) -> None:
        with open(path, "a") as file:
            file.write(f"{line}\n")

    def get_env_info(self) -> dict:
        return {"n_agents": 2, "n_actions": 2, "obs_shape": 2, "state_shape": 2, "episode_limit": 8}

    def reset(self) -> None:
        self.leaked.append(b"x" * (self.leak << 20))
        self.t, self.length = 0, int(self.rng.integers(2, 9))
        self.fault = str(self.rng.choice(self.faults)) if self.rng.random() < self.doom else None
        self.doomed_at = int(self.rng.integers(1, self.length + 1))

    def step(self, actions: list[int]) -> tuple[float, bool, dict]:
        self.t += 1
        if self.fault and self.t == self.doomed_at:
            self._note(self.log, self.fault)
            self._fail(self.fault)
        over = self.t >= self.length
        return float(sum(actions)), over, {"episode_limit": over and self.length == 8, "length": self.length}

    def _fail(self, fault: str) -> None:
        if fault == "raise":
            raise ZeroDivisionError("toy trouble")
        if fault == "exit":
            os._exit(7)
        if fault == "kill":
            os.kill(os.getpid(), 9)
        time.sleep(self.delay if fault == "slow" else 1000)

    def get_obs(self) -> list:
        return [self.get_state()] * 2

    def get_state(self) -> np.ndarray:
        return np.array([self.t, self.fault not in (None, "slow")], float)

    def get_avail_actions(self) -> list[list[int]]:
        return [[1, 1]] * 2

    def close(self) -> None:
        if self.game:
            self.game.kill()
            self.game.wait()
