"""The variance of MAIPG's policy gradient at fixed policies on simple spread, for several ν and mixers (AC-41).

    python benchmarks/papers/maipg_variance.py [--seeds 5] [--jobs 2]

Trains a little, then fits V and Q̂ to the policies as they are, and takes the gradient of the actor's loss on each of 64
new episodes. Writes ``maipg_variance.csv`` (one row per mixer, seed, scale and ν), ``maipg_variance.md`` and
``maipg_variance.png``. What is in the CSV is not run again.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import numpy as np
import torch
from gradients import moments
from sessions import Row, Session, conditions, make_rows, new_session, rows_of

from learners.maipg import Interpolated
from modules.layers import action_vectors
from rl.policy_gradient import residual_variance

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__)
NUS = (0.0, 0.3, 0.5)
MIXERS = {"QMIX": "maipg", "VDN": "maipg_vdn"}
SCALES = ("as learnt", "returns")
"""Advantages standardised, as the learner has them, or on the scale of returns, as Q̂ is."""
ROLLOUTS, PART, FITS = 64, 2, 40
"""Episodes that gradients are taken of, episodes in each mini-batch of them, and updates of V and Q̂ alone."""
COLUMNS = ["mixer", "seed", "scale", "nu", "variance", "squared_mean", "q_explained", "rvar", "test_return", "cpu_s"]
SETTINGS = {
    **{key: ROLLOUTS for key in ("batch_size_run", "batch_size", "buffer_size")},
    "chunk_length": 25,
    "recurrent": False,
    "lr": 7e-4,
    "critic_lr": 5e-3,
    "tau": 0.05,
    "epochs": 5,
    "nu": 0.05,
    "entropy_coef": 0.0,
    "rvar_samples": 16,
    "t_max": 16 * ROLLOUTS * 25,
    "test_nepisode": 0,
    "log_interval": 10**9,
    "device": "cpu",
}


def measure(job: tuple[str, int]) -> list[Row]:
    """One mixer and one seed: all gradients of the same policies, values and episodes."""
    mixer, seed = job
    made = new_session("simple_spread", MIXERS[mixer], SETTINGS | {"seed": seed})
    for _ in made.train():
        pass
    for _ in range(FITS):
        fit(made)
    data, metrics = fresh(made)
    known = {
        "mixer": mixer,
        "seed": seed,
        "q_explained": round(explained(made, data), 4),
        "rvar": round(float(metrics["rvar"]), 4),
        "test_return": round(float(made.evaluate("test", ROLLOUTS)["return"].mean()), 2),
    }
    likelihood, deterministic = gradients(made, data, 0.0), gradients(made, data, 1.0)
    raw = data.returns - made.learner.value.scale.denormalise(made.learner.value.scale.kept(data.value))
    units = dict(zip(SCALES, (1.0, float(raw.std())), strict=True))
    rows = []
    for (scale, unit), nu in itertools.product(units.items(), NUS):
        interpolated = (1 - nu) * unit * likelihood + nu * deterministic
        variance, squared = moments(interpolated, torch.full((len(interpolated),), 1 / len(interpolated)))
        rows.append(known | {"scale": scale, "nu": nu, "variance": variance, "squared_mean": squared})
    return rows


def fresh(made: Session) -> tuple[Interpolated, dict[str, torch.Tensor]]:
    """New episodes of the policies as they are, ready to be learnt from."""
    rollout = made.runner.collect(t_env=made.progress.t_env, mode=made.controller.explore_mode)
    return made.learner.gather(rollout.episodes)


def fit(made: Session) -> None:
    """V and Q̂ learn from new episodes, the policies do not."""
    learner = made.learner
    data, _ = fresh(made)
    for part in data.parts(learner.cfg, learner.rng):
        features, _ = learner.q(part.state, part.q_memory, part.length)
        learner.descend("value", learner.value.loss(part))
        learner.descend("q", learner.q_loss(part, features))
        learner.target.step()


@torch.no_grad()
def explained(made: Session, data: Interpolated) -> float:
    """The share of the variance of Q̂'s targets that Q̂ explains on episodes that it has not seen."""
    learner = made.learner
    features, _ = learner.q(data.state, data.q_memory, data.length)
    total = learner.q.total(features, action_vectors(data.action, made.env.spec.n_actions), data.state)
    return float(1 - residual_variance(data.q_target, total, data.mask))


def gradients(made: Session, data: Interpolated, nu: float) -> torch.Tensor:
    """The actor's gradient on every mini-batch, [mini-batches, parameters]. It is linear in ν."""
    learner = made.learner
    learner.cfg = replace(learner.cfg, nu=nu)
    rows = []
    for rows_of_part in torch.arange(len(data)).split(PART):
        part = data.chosen(rows_of_part)
        features, _ = learner.q(part.state, part.q_memory, part.length)
        loss, _ = learner.policy_loss(part, features.detach())
        gradient = torch.autograd.grad(loss, list(made.controller.parameters()))
        rows.append(torch.cat([x.flatten() for x in gradient]))
    return torch.stack(rows)


def variances(rows: list[dict[str, str]], mixer: str, scale: str) -> np.ndarray:
    """[seeds, ν]."""
    own = [row for row in rows if (row["mixer"], row["scale"]) == (mixer, scale)]
    seeds = sorted({row["seed"] for row in own}, key=int)
    return np.array(
        [
            [float(row["variance"]) for nu in NUS for row in own if (row["seed"], float(row["nu"])) == (seed, nu)]
            for seed in seeds
        ]
    ).reshape(-1, len(NUS))


def report(rows: list[dict[str, str]]) -> str:
    """The Markdown summary."""
    lines = [*HEAD]
    for scale, mixer in itertools.product(SCALES, MIXERS):
        table = variances(rows, mixer, scale)
        falls = int((table[:, -1] < table[:, 0]).sum())
        shown = " · ".join(" ".join(f"{x:.2e}" for x in seed) for seed in table)
        ratio = np.median(table[:, 1:] / table[:, :1], axis=0)
        lines.append(
            f"| {scale} | {mixer} | {shown} | {ratio[0]:.2f}, {ratio[1]:.2f} | {falls} of {len(table)} "
            f"| {'yes' if falls >= 4 else 'NO'} |"
        )
    lines += ["", "| mixer | seed | Q̂'s targets explained | RVar | test return |", "|---|---|---|---|---|"]
    for row in rows:
        if row["scale"] == SCALES[0] and float(row["nu"]) == 0:
            lines.append(
                f"| {row['mixer']} | {row['seed']} | {row['q_explained']} | {row['rvar']} | {row['test_return']} |"
            )
    return "\n".join([*lines, "", *NOTES, "", conditions(), ""])


HEAD = [
    "# Variance of MAIPG's gradient",
    "",
    "Does the actor's gradient become less noisy with ν (AC-41, the paper's figure 4a)? Command:",
    "`python benchmarks/papers/maipg_variance.py`. Raw rows: `maipg_variance.csv`. Simple spread with 3 agents,",
    f"networks without memory. The policies after 25,600 steps are held still while V and Q̂ learn from {FITS} further",
    f"times {ROLLOUTS} episodes; then the actor's gradient (without entropy) is taken on {ROLLOUTS // PART}",
    f"mini-batches of {PART} new episodes.",
    "",
    "![Variance over ν](maipg_variance.png)",
    "",
    '"As learnt": advantages are standardised and Q̂ is on the scale of returns, as in the loss; with such rewards the',
    'paper takes ν = 0.05. "Returns": advantages are on that scale, too, as in the formula that is interpolated.',
    "",
    "| scale | mixer | Var for ν = 0, 0.3, 0.5, by seed | Var(0.3), Var(0.5) over Var(0), median | Var(0.5) < Var(0) "
    "| at least 4 of 5 |",
    "|---|---|---|---|---|---|",
]


NOTES = [
    "What it says: where Q̂ hardly depends on the actions (RVar 1), its part of the gradient is next to nothing, and",
    "the variance falls as (1-ν)², whatever is learnt. So it is with QMIX here: all returns lie far below 0, where the",
    "ELU of its mixer is flat, and v(s) explains the targets alone. QMIX's pass is therefore an empty one. With the",
    "sum, Q̂ does depend on the actions; on the scale of returns its part is small beside the likelihood part, while as",
    "learnt it is the larger one, for the advantages alone are standardised: there ν has to be as small as the paper's",
    "0.05.",
]


def draw(rows: list[dict[str, str]]) -> None:
    """One panel per scale: every seed thin, the median thick."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for (axis, scale), (number, mixer) in itertools.product(zip(axes, SCALES, strict=True), enumerate(MIXERS)):
        table = variances(rows, mixer, scale)
        axis.plot(NUS, table.T, color=f"C{number}", alpha=0.3, linewidth=1)
        axis.plot(NUS, np.median(table, 0), color=f"C{number}", label=f"{mixer} (median of {len(table)} seeds)")
        axis.set(xlabel="ν", ylabel="variance of the actor's gradient", yscale="log", title=f"advantages: {scale}")
    axes[0].legend()
    figure.savefig(HERE.with_suffix(".png"), dpi=110)


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    path = HERE.with_suffix(".csv")
    done = {(row["mixer"], int(row["seed"])) for row in rows_of(path)}
    jobs = [(mixer, seed) for seed in range(options.seeds) for mixer in MIXERS if (mixer, seed) not in done]
    make_rows(path, COLUMNS, measure, jobs, options.jobs)
    rows = sorted(rows_of(path), key=lambda row: (row["mixer"], int(row["seed"])))
    HERE.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    draw(rows)
    print(HERE.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
