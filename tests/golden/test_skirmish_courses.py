"""The course of battles on every map, to the bit: what makes the engine faster must not change it.

    python tests/golden/test_skirmish_courses.py --refresh    # after a change of the rules that is meant

Single-precision numbers hang on the processor's instructions and on the compiler that Warp brings, and the agents on
torch's draws; elsewhere than where the checksums were made the test is skipped.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path

import pytest
import torch

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "src"))

import warp

from envs.sc2 import StarCraft2
from envs.skirmish.maps import MAPS

GOLDEN = Path(__file__).with_name("skirmish_courses.json")
ROWS, STEPS = 6, 40
EAGER = 8.0
"""Weight of an attack against other actions, that battles come to their ends."""


def place() -> str:
    """What the last bits hang on."""
    info = Path("/proc/cpuinfo")
    flags = info.read_text(encoding="utf-8").split() if info.exists() else []
    fused = "fma" if "fma" in flags else "no fma"
    return f"{platform.machine()}, {fused}, Warp {warp.__version__}, torch {torch.__version__.partition('+')[0]}"


def course(name: str) -> str:
    """Checksum of all that is decided and shown in some battles of random but eager agents."""
    env = StarCraft2(StarCraft2.Config(map_name=name, engine="skirmish"), ROWS, "cpu", 3)
    rng, digest, shown = torch.Generator().manual_seed(0), hashlib.sha256(), env.reset()
    for _ in range(STEPS):
        weight = shown.avail.float()
        weight[..., 6:] *= EAGER
        action = torch.multinomial(weight.flatten(0, 1), 1, generator=rng).view(ROWS, -1)
        outcome = env.step(action)
        shown = env.reset(outcome.terminated | outcome.truncated)
        seen = (shown.obs, shown.state, shown.avail, shown.extras["visible"], outcome.reward, outcome.terminated)
        for tensor in (*seen, *env.battle.state_dict().values()):
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@pytest.mark.parametrize("name", MAPS)
def test_battles_take_the_course_that_they_took(name: str) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    if golden["place"] != place():
        pytest.skip(f"the checksums are of another place: {golden['place']}, not {place()}")
    assert course(name) == golden[name]


if __name__ == "__main__":
    if sys.argv[1:] != ["--refresh"]:
        sys.exit(__doc__)
    GOLDEN.write_text(json.dumps({"place": place()} | {name: course(name) for name in MAPS}, indent=1) + "\n")
