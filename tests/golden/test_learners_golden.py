"""What every algorithm's parameters are after 20 updates: a change of what is learnt must be meant.

Sums instead of hashes, because another processor rounds otherwise. After a change that is meant:

    python tests/golden/test_learners_golden.py --refresh

writes ``learners.json`` anew; say in CHANGELOG.md what changed and why.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests")]

import pytest  # noqa: E402
import torch  # noqa: E402

import toy  # noqa: E402 - registers the environment
from core.config import load, merge, resolve  # noqa: E402
from run import build  # noqa: E402

GOLDEN = Path(__file__).with_name("learners.json")
ALGORITHMS = sorted(path.stem for path in (ROOT / "config" / "algs").glob("*.yaml"))
UPDATES, TOLERANCE = 20, 1e-4
SMALL = {
    "env": "toy",
    "seed": 2,
    "batch_size_run": 4,
    "batch_size": 8,
    "burn_in": 8,
    "buffer_size": 40,
    "hidden_dim": 16,
    "target_update_interval": 30,
    "epochs": 2,
    "chunk_length": 3,
    "gamma": 0.95,
    "device": "cpu",
}


def measured(name: str) -> dict[str, Any]:
    """After 20 updates: Σ p, Σ |p| and Σ p² of every part's parameters, and the last metrics."""
    config = load(ROOT / "config" / "algs" / f"{name}.yaml") | {"env": "toy"}
    known = resolve(config)
    small = {key: value for key, value in SMALL.items() if key in known}
    session = build(resolve(merge(config, small | {"env_args": {"box": toy.acts_in_a_box(known)}})))
    updates, t_env = 0, 0
    while updates < UPDATES:
        episodes = session.runner.collect(t_env=t_env, mode="explore").episodes
        session.replay.add(episodes)
        t_env += int(episodes.length.sum())
        if session.learner.ready(session.replay):
            metrics = session.learner.update(session.replay, t_env)
            updates += 1
    parts: dict[str, torch.Tensor] = {}
    for path, p in session.learner.named_parameters():
        part = ".".join(path.split(".")[:2])
        x = p.detach().double()
        parts[part] = parts.get(part, 0) + torch.stack([x.sum(), x.abs().sum(), x.square().sum()])
    return {
        "parameters": {part: [round(v, 9) for v in x.tolist()] for part, x in parts.items()},
        "metrics": {metric: round(float(x), 9) for metric, x in metrics.items()},
    }


@pytest.mark.parametrize("name", ALGORITHMS)
def test_twenty_updates(name: str) -> None:
    wanted, got = json.loads(GOLDEN.read_text(encoding="utf-8")).get(name), measured(name)
    assert wanted, f"no golden values of {name}: run this file with --refresh; changelog line needed"
    changed = [
        f"{what} {key}: {wanted[what].get(key)} before, {got[what].get(key)} now"
        for what in wanted
        for key in sorted(wanted[what].keys() | got[what].keys())
        if not alike(wanted[what].get(key), got[what].get(key))
    ]
    assert not changed, (
        f"{name} learns something else than before; if that is meant: python tests/golden/test_learners_golden.py "
        "--refresh (changelog line needed)\n" + "\n".join(changed)
    )


def alike(one: Any, other: Any) -> bool:
    """Equal to a relative 1e-4; of a part's three sums, to 1e-4 of Σ |p| or Σ p²."""
    if one is None or other is None:
        return False
    if isinstance(one, float):
        return one == pytest.approx(other, rel=TOLERANCE, abs=1e-7)
    scales = (one[1], one[1], one[2])
    return all(abs(a - b) <= TOLERANCE * scale for a, b, scale in zip(one, other, scales, strict=True))


def test_the_comparison_sees_a_change() -> None:
    """A learning rate that is 5 % larger is another algorithm; the same run again is not."""
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))["qmix"]
    sums = golden["parameters"]["controller.agent"]
    assert alike(sums, [x * (1 + 1e-5) for x in sums]) and not alike(sums, [x * (1 + 1e-3) for x in sums])
    assert alike(golden["metrics"]["q_loss"], golden["metrics"]["q_loss"] * (1 + 1e-5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SMALL, "lr", 5e-4 * 1.05)
        other = measured("qmix")
    assert not all(alike(x, other["parameters"][part]) for part, x in golden["parameters"].items())


def test_nothing_else_is_stored() -> None:
    assert sorted(json.loads(GOLDEN.read_text(encoding="utf-8"))) == ALGORITHMS


if __name__ == "__main__":
    if sys.argv[1:] != ["--refresh"]:
        sys.exit(__doc__)
    torch.set_num_threads(1)
    values = {name: measured(name) for name in ALGORITHMS}
    GOLDEN.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    sys.stderr.write(f"{GOLDEN.name} is written: changelog line needed\n")
