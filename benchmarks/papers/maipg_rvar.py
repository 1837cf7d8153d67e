"""RVar along MAIPG's training on simple spread, of the factorised Q̂ and of a joint Q(s, a) (AC-42).

    python benchmarks/papers/maipg_rvar.py [--seeds 3] [--jobs 2]

Writes ``maipg_rvar.csv`` (one row per mixer, seed and update), ``maipg_rvar.md`` and ``maipg_rvar.png``; and, for how
much of the advantages any value of the actions could explain, ``maipg_rvar_ceiling.csv``. Runs that are in the CSVs are
not made again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import matplotlib
import numpy as np
import torch
from sessions import Row, Session, conditions, make_rows, new_session, rows_of
from torch import Tensor, nn

from core.specs import EpisodeBatch
from learners.base import Metrics
from learners.maipg import Interpolated
from modules.critics.ppo import PPOCritic
from modules.layers import action_vectors
from rl.masked import masked_mean
from rl.policy_gradient import residual_variance

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__)
WARM_UP, LAST = 20_000, 200_000
ROLLOUTS = 64
MIXERS = {"QMIX": "maipg", "VDN": "maipg_vdn"}
COLUMNS = ["mixer", "seed", "t_env", "return_mean", "rvar_factorised", "rvar_joint", "cpu_s"]
CEILING = HERE.with_name("maipg_rvar_ceiling.csv")
CEILING_COLUMNS = ["t_env", "steps", "advantage_variance", "rvar_factorised", "rvar_linear", "cpu_s"]
CEILINGS, COLLECTIONS, RIDGE = (48_000, LAST, 400_000), 60, 10.0
"""Steps of training before the advantages are looked at; collections looked at; the regression's penalty."""
SETTINGS = {
    **{key: ROLLOUTS for key in ("batch_size_run", "batch_size", "buffer_size")},
    "chunk_length": 25,
    "recurrent": False,
    "lr": 7e-4,
    "critic_lr": 7e-4,
    "epochs": 10,
    "nu": 0.05,
    "rvar_samples": 16,
    "t_max": LAST,
    "test_nepisode": 0,
    "log_interval": 1,
    "device": "cpu",
}


class JointQ(nn.Module):
    """Q(s, a): MAIPG's recurrent network of the state, whose head reads the joint action; it only watches."""

    def __init__(self, made: Session) -> None:
        """Beside the learner of a session, with its settings, and random numbers of its own."""
        super().__init__()
        self.learner, spec = (made.learner,), made.env.spec
        with torch.random.fork_rng():
            torch.manual_seed(made.settings["seed"])
            self.critic = PPOCritic(spec.state_dim, 1, spec.n_agents * spec.n_actions, made.settings.of(PPOCritic))
        self.optimiser = torch.optim.Adam(self.critic.parameters(), lr=made.learner.cfg.critic_lr, eps=1e-5)
        self.rng = torch.Generator().manual_seed(made.settings["seed"])

    def features(self, data: Interpolated) -> Tensor:
        """Of every history of states; chunks are whole episodes."""
        start = self.critic.initial_hidden(len(data), 1)
        return self.critic.encode(data.state[:, :, None], start, data.length)[0].squeeze(2)

    def total(self, features: Tensor, action: Tensor) -> Tensor:
        """Q of numbered actions."""
        joint = action_vectors(action, self.learner[0].spec.n_actions).flatten(2)
        return self.critic.head(torch.cat([features, joint], -1)).squeeze(-1)

    def learn(self, data: Interpolated) -> None:
        """As many steps as Q̂ makes, on the same episodes and targets."""
        learner = self.learner[0]
        for _ in range(learner.cfg.epochs):
            q = self.total(self.features(data), data.action)
            loss = masked_mean((q - data.q_target).square(), data.mask)
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.critic.parameters(), learner.cfg.grad_norm_clip)
            self.optimiser.step()

    @torch.no_grad()
    def rvar(self, data: Interpolated) -> Tensor:
        """As MAIPG measures it."""
        learner = self.learner[0]
        out, _ = learner.controller.agent(data.obs, data.last, data.policy_memory, data.length)
        pi, features = learner.controller.policy(out, data.avail), self.features(data)
        drawn = [self.total(features, pi.sample(self.rng)) for _ in range(learner.cfg.rvar_samples)]
        scale = learner.value.scale
        advantage = data.returns - scale.denormalise(scale.kept(data.value))
        centred = self.total(features, data.action) - torch.stack(drawn).mean(0)
        return residual_variance(advantage.squeeze(-1), centred, data.mask)


def watch(made: Session) -> None:
    """A joint Q sees what the learner sees: it is measured before every update, and then learns."""
    joint, gather = JointQ(made), made.learner.gather

    def watched(batch: EpisodeBatch) -> tuple[Interpolated, Metrics]:
        data, metrics = gather(batch)
        metrics["rvar_joint"] = joint.rvar(data)
        joint.learn(data)
        return data, metrics

    made.learner.gather = watched


def train(job: tuple[str, int]) -> list[Row]:
    """One run of a mixer and a seed: a row per update."""
    mixer, seed = job
    made = new_session("simple_spread", MIXERS[mixer], SETTINGS | {"seed": seed})
    watch(made)
    rows: list[Row] = []
    for tick in made.train():
        values: dict[str, Any] = {}
        for record in tick.records:
            values |= record.values
        rvars = {"rvar_factorised": values["rvar"], "rvar_joint": values["rvar_joint"]}
        known = {"mixer": mixer, "seed": seed, "t_env": tick.t_env, "return_mean": values["return"]}
        rows.append(known | rvars)
    return rows


def ceiling(steps: int) -> list[Row]:
    """RVar of Q̂ and of a linear regression after so many steps of training, on steps that neither has learnt from.

    The regression reads what Q̂ must find out: every agent's action less its mean under the policy, times its own
    velocity, the other agents' and the landmarks' relative positions and the landmarks' directions. Half the new steps
    fit it, the other half measure both.
    """
    made = new_session("simple_spread", "maipg_vdn", SETTINGS | {"seed": 0, "t_max": steps})
    for _ in made.train():
        pass
    new = [deviations(made) for _ in range(COLLECTIONS)]
    x, q, advantage = (torch.cat(column) for column in zip(*new, strict=True))
    half = len(x) // 2
    fitted, wanted = x[:half], advantage[:half] - advantage[:half].mean()
    weights = torch.linalg.solve(fitted.T @ fitted + RIDGE * torch.eye(x.shape[1]), fitted.T @ wanted)
    rest, real = advantage[None, half:], torch.ones(1, len(x) - half)
    row = {"t_env": steps, "steps": len(x), "advantage_variance": round(float(advantage.var()), 2)}
    row["rvar_factorised"] = round(float(residual_variance(rest, q[None, half:], real)), 5)
    row["rvar_linear"] = round(float(residual_variance(rest, (x[half:] @ weights)[None], real)), 5)
    return [row]


@torch.no_grad()
def deviations(made: Session) -> tuple[Tensor, Tensor, Tensor]:
    """Of every step of a new collection: what the regression reads, Q̂ less its mean, and the advantage."""
    learner = made.learner
    data, _ = learner.gather(made.runner.collect(t_env=0, mode="explore").episodes)
    out, _ = learner.controller.agent(data.obs, data.last, data.policy_memory, data.length)
    pi, features = learner.controller.policy(out, data.avail), learner.q(data.state, data.q_memory, data.length)[0]
    n_actions, rng = made.env.spec.n_actions, torch.Generator().manual_seed(0)

    def total(action: Tensor) -> Tensor:
        return learner.q.total(features, action_vectors(action, n_actions), data.state)

    drawn = [total(pi.sample(rng)) for _ in range(learner.cfg.rvar_samples)]
    velocity, landmarks, others = data.obs[..., :2], data.obs[..., 4:10], data.obs[..., 10:14]
    towards = nn.functional.normalize(landmarks.unflatten(-1, (3, 2)), dim=-1).flatten(-2)
    seen = torch.cat([torch.ones_like(velocity[..., :1]), velocity, landmarks, others, towards], -1)
    surprise = action_vectors(data.action, n_actions) - out.softmax(-1)
    scale = learner.value.scale
    advantage = (data.returns - scale.denormalise(scale.kept(data.value))).squeeze(-1)
    x = (surprise.unsqueeze(-1) * seen.unsqueeze(-2)).flatten(2)
    centred = total(data.action) - torch.stack(drawn).mean(0)
    return x.flatten(0, 1), centred.flatten(), advantage.flatten()


def report(rows: list[dict[str, str]]) -> str:
    """The Markdown summary."""
    lines, verdicts = [*HEAD], []
    for mixer in MIXERS:
        good, above = [], []
        for seed in seeds_of(rows, mixer):
            own = [row for row in of(rows, mixer, seed) if int(row["t_env"]) > WARM_UP]
            mixed, joint = (np.array([float(row[f"rvar_{name}"]) for row in own]) for name in ("factorised", "joint"))
            good.append(float((mixed < 1).mean()))
            above.append(float(np.median(joint)) >= float(np.median(mixed)))
            last = np.mean([float(row["return_mean"]) for row in own[-10:]])
            spans = " | ".join(f"{np.median(x):.4f} | {x.min():.4f} to {x.max():.4f}" for x in (mixed, joint))
            lines.append(
                f"| {mixer} | {seed} | {good[-1]:.2f} | {spans} | {(joint >= mixed).mean():.2f} | {last:.1f} |"
            )
        if good:
            verdicts.append(
                f"- {mixer}: factorised RVar below 1 at 80 % or more of the updates after {WARM_UP:,} steps: "
                f"{'yes' if min(good) >= 0.8 else 'NO'}, {sum(x >= 0.8 for x in good)} of {len(good)} seeds. "
                f"Informational, joint at least factorised (medians): {sum(above)} of {len(above)} seeds."
            )
    limits = [
        f"| {int(row['t_env']):,} | {row['advantage_variance']} | {row['rvar_factorised']} | {row['rvar_linear']} |"
        for row in rows_of(CEILING)
    ]
    return "\n".join([*lines, "", *verdicts, "", *LIMITS, *limits, "", conditions(), ""])


def seeds_of(rows: list[dict[str, str]], mixer: str) -> list[str]:
    """Those that were run."""
    return sorted({row["seed"] for row in rows if row["mixer"] == mixer}, key=int)


def of(rows: list[dict[str, str]], mixer: str, seed: str) -> list[dict[str, str]]:
    """One run's rows."""
    return [row for row in rows if (row["mixer"], row["seed"]) == (mixer, seed)]


HEAD = [
    "# RVar of MAIPG's action value",
    "",
    "RVar = Var(A - Q̃) / Var(A), where Q̃ is an action value less its mean over 16 joint actions drawn from the",
    "policies: the share of the advantages' variance that it leaves (AC-42, the paper's figure 1). Command:",
    "`python benchmarks/papers/maipg_rvar.py`. Raw rows: `maipg_rvar.csv`. Simple spread with 3 agents, `maipg` and",
    "`maipg_vdn` with networks without memory, 64 environments and ν = 0.05. The joint Q(s, a) is MAIPG's network of",
    "the state, whose head reads all actions; it learns beside the factorised one, with the same targets, steps and",
    "optimiser, and nothing learns from it.",
    "",
    "![RVar over steps](maipg_rvar.png)",
    "",
    f"After {WARM_UP:,} steps:",
    "",
    "| mixer | seed | updates with factorised < 1 | factorised, median | from, to | joint, median | from, to "
    "| updates with joint >= factorised | return, last 10 updates |",
    "|---|---|---|---|---|---|---|---|---|",
]


LIMITS = [
    "How much could be explained? Of `maipg_vdn`, seed 0, after so many steps: RVar on 48,000 new steps, of Q̂ and of a",
    "linear regression on actions times velocities and relative positions, which was fitted to another 48,000 steps",
    "of the same policies and knows no state value. Where not even that is below 1, next to nothing of these",
    "advantages' variance is due to the actions of the step itself.",
    "",
    "| steps of training | variance of the advantages | RVar of Q̂ | RVar of the regression |",
    "|---|---|---|---|",
]


def draw(rows: list[dict[str, str]]) -> None:
    """One panel per mixer, every seed."""
    figure, axes = plt.subplots(1, len(MIXERS), figsize=(11, 4), layout="constrained", sharey=True)
    for axis, mixer in zip(axes, MIXERS, strict=True):
        for number, name in enumerate(("factorised", "joint")):
            for index, seed in enumerate(seeds_of(rows, mixer)):
                own = [(int(row["t_env"]), float(row[f"rvar_{name}"])) for row in of(rows, mixer, seed)]
                label = None if index else f"{name} Q, each seed"
                axis.plot(*zip(*own, strict=True), color=f"C{number}", alpha=0.7, linewidth=1, label=label)
        axis.axhline(1, color="grey", linewidth=0.8, linestyle="--")
        axis.axvline(WARM_UP, color="grey", linewidth=0.8, linestyle=":")
        axis.set(xlabel="environment steps", ylabel="RVar", title=f"simple spread, 3 agents, {mixer}")
    axes[0].legend()
    figure.savefig(HERE.with_suffix(".png"), dpi=110)


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    path = HERE.with_suffix(".csv")
    done = {(row["mixer"], int(row["seed"])) for row in rows_of(path)}
    jobs = [(mixer, seed) for mixer in MIXERS for seed in range(options.seeds) if (mixer, seed) not in done]
    make_rows(path, COLUMNS, train, jobs, options.jobs)
    known = {int(row["t_env"]) for row in rows_of(CEILING)}
    make_rows(CEILING, CEILING_COLUMNS, ceiling, [steps for steps in CEILINGS if steps not in known], options.jobs)
    rows = rows_of(path)
    HERE.with_suffix(".md").write_text(report(rows), encoding="utf-8")
    draw(rows)
    print(HERE.with_suffix(".md").read_text())


if __name__ == "__main__":
    main()
