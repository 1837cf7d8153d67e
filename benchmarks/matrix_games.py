"""The acceptance benchmarks on one-step matrix games (algorithms.md 13.2: AC-32 to 35, 37 to 40), seed by seed.

    python benchmarks/matrix_games.py [--only AC-38] [--seeds 10] [--jobs 2]

Every run is one row of ``matrix_games.csv``; rows that are there already are not run again, so an interrupted
benchmark goes on where it stopped. The summary with its gates goes to ``matrix_games.md``.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from sessions import Row, Session, make_rows, new_session, rows_of
from torch import Tensor

from controllers.base import encode_agent, unroll_agents
from core.specs import EpisodeBatch, valid_mask
from learners.value import mix_utilities
from rl.masked import masked_log_softmax, taken

CSV = Path(__file__).with_suffix(".csv")
REPORT = Path(__file__).with_suffix(".md")
COLUMNS = ["check", "variant", "seed", "greedy", "expected", "dep_expected", "optima", "q_best", "detail", "cpu_s"]

LEGEND = [
    "",
    "greedy = payoff of the executed policy's likeliest joint action; dep = E[r] of the dependent policy by",
    "enumeration; optima = its (or, without one, the independent policy's) mass on each optimum; Q* = the learnt joint",
    "value of the optimum: Q_tot (QMIX, VDN, QPLEX, DOP), Q_jt (QTRAN, FOP), Q̂* (OW-QMIX, CW-QMIX). The CSV has it",
    "for every joint action.",
    "",
]

GAME = {
    "agent": "mlp",
    "optimiser": "adam",
    "batch_size": 64,
    "batch_size_run": 8,
    "updates_per_collect": 1,
    "test_nepisode": 0,
    "log_interval": 10**9,
}
FOP = GAME | {
    "burn_in": 64,
    "lr": 1e-3,
    "critic_lr": 1e-3,
    "td_lambda": 0.0,
    "mixer_weights": "one",
    "alpha_start": 1.0,
}
LONG = {"t_max": 80_000, "alpha_anneal_time": 80_000}
SHORT = {"t_max": 24_000, "alpha_anneal_time": 24_000}
MACPF = GAME | {
    "burn_in": 64,
    "lr": 1e-3,
    "critic_lr": 1e-3,
    "td_lambda": 0.0,
    "t_max": 20_000,
    "alpha_schedule": "geometric",
    "alpha_start": 8.0,
    "alpha_finish": 0.5,
    "alpha_rate": 0.9997,
}
ADV = MACPF | {"mixer_form": "adv", "mixer_weights": "one", "mixer_bias": False}
XOR = ADV | {"alpha_start": 0.2, "alpha_finish": 0.2, "alpha_schedule": "linear", "alpha_anneal_time": 1}
UNIFORM = GAME | {"lr": 1e-3, "epsilon_start": 1.0, "epsilon_finish": 1.0, "t_max": 24_000}
DOP = {
    "agent": "mlp",
    "critic_mode": "batch",
    "lr": 1e-3,
    "critic_lr": 1e-3,
    "target_update_interval": 200,
    "t_max": 10_000,
    "test_nepisode": 0,
    "log_interval": 10**9,
}
# Almost uniform data: with ε = 1 the policies' loss, which is of what acts, would have no gradient at all.
DOP_UNIFORM = DOP | {"epsilon_start": 0.99, "epsilon_finish": 0.99}
DOP_OWN = DOP | {"epsilon_start": 1.0, "epsilon_finish": 0.05, "epsilon_anneal_time": 9000}
QPLEX = UNIFORM | {"n_head": 10, "adv_hypernet_layers": 3}


@dataclass(frozen=True)
class Check:
    """One line of the acceptance table: what is run, and what it must reach."""

    check: str
    variant: str
    algorithm: str
    preset: str
    settings: dict[str, Any]
    gate: str = "logged"
    passed: Callable[[list[dict[str, str]]], bool] | None = None
    more: dict[str, Any] = field(default_factory=dict)


def _count(rows: list[dict[str, str]], test: Callable[[dict[str, str]], bool]) -> int:
    return sum(test(row) for row in rows)


def _best(row: dict[str, str]) -> bool:
    return float(row["greedy"]) == 8.0


def _fits(row: dict[str, str]) -> bool:
    return _best(row) and abs(float(row["q_best"]) - 8.0) <= 0.5


def _both_optima(row: dict[str, str]) -> bool:
    return float(row["dep_expected"]) >= 0.97 and min(map(float, row["optima"].split())) >= 0.3


def _seldom(rows: list[dict[str, str]]) -> bool:
    return _count(rows, _best) <= 1


def _mostly(rows: list[dict[str, str]]) -> bool:
    return _count(rows, _best) >= 8


def baseline_check(
    name: str,
    settings: dict[str, Any],
    gate: str = "logged",
    passed: Callable[[list[dict[str, str]]], bool] | None = None,
) -> Check:
    """A value-based algorithm on the 3x3 game, with data that explore uniformly to the end."""
    title = f"{name.upper().replace('_', '-')}, uniform data"
    return Check("AC-35", title, name, "qtran33", settings, gate, passed)


def fop_check(final: float, updates: dict[str, int]) -> Check:
    """FOP on its 3x3 game with one final temperature."""
    return Check(
        "AC-32, AC-33",
        f"FOP, final temperature {final}, {updates['t_max'] // 8} updates",
        "fop",
        "qtran33",
        FOP | {"alpha_finish": final} | updates,
        "greedy (A,A) and Q_jt(A,A) within 0.5 of 8 in at least 9 of 10",
        lambda rows: _count(rows, _fits) >= 9,
    )


CHECKS = [
    Check(
        "AC-37",
        "MACPF (adv)",
        "macpf",
        "xor",
        XOR,
        "dependent E[r] >= 0.97 and each optimum >= 0.3 in at least 8 of 10",
        lambda rows: _count(rows, _both_optima) >= 8,
    ),
    Check("AC-37", "MACPF_CONTROL (adv)", "macpf_control", "xor", XOR),
    Check(
        "AC-38",
        "MACPF (adv)",
        "macpf",
        "four",
        ADV,
        "dependent E[r] >= 7.9 in at least 9 of 10",
        lambda rows: _count(rows, lambda row: float(row["dep_expected"]) >= 7.9) >= 9,
    ),
    Check(
        "AC-34",
        "DOP, uniform data",
        "dop",
        "qtran33",
        DOP_UNIFORM,
        "optimum in at most 2 of 10",
        lambda rows: _count(rows, _best) <= 2,
    ),
    Check("AC-34", "DOP, own exploration", "dop", "qtran33", DOP_OWN),
    *[baseline_check(name, UNIFORM, "optimum in at most 1 of 10", _seldom) for name in ("qmix", "vdn")],
    baseline_check("qplex", QPLEX, "optimum in at least 8 of 10", _mostly),
    baseline_check("qtran", UNIFORM, "optimum in at least 8 of 10", _mostly),
    *[baseline_check(name, UNIFORM) for name in ("ow_qmix", "cw_qmix")],
    fop_check(0.1, LONG),
    Check(
        "AC-38",
        "MACPF (ref)",
        "macpf",
        "four",
        MACPF | {"updates_per_collect": 8},
        "mean dependent E[r] >= 6.5",
        lambda rows: sum(float(row["dep_expected"]) for row in rows) / len(rows) >= 6.5,
    ),
    Check(
        "AC-38",
        "MACPF_CONTROL (ref)",
        "macpf_control",
        "four",
        MACPF,
        "optimum in at most 2 of 10",
        lambda rows: _count(rows, _best) <= 2,
    ),
    Check(
        "AC-39",
        "MACPF (adv)",
        "macpf",
        "four7",
        ADV,
        "independent policy optimal in at least 4 of 10",
        lambda rows: _count(rows, _best) >= 4,
    ),
    Check(
        "AC-40",
        "FOP, the paper's settings",
        "fop",
        "four",
        FOP
        | {"lr": 3e-4, "critic_lr": 3e-4, "alpha_schedule": "geometric", "alpha_finish": 0.5, "alpha_rate": 0.999}
        | {"t_max": 10_000, "batch_size_run": 1, "updates_per_collect": 1},
    ),
    *[fop_check(final, SHORT) for final in (1.0, 0.5, 0.01)],
]


def train(job: tuple[int, int]) -> list[Row]:
    """One run of a check (by its number) and a seed, and what its policies and critics say in the end."""
    check, seed = CHECKS[job[0]], job[1]
    made = new_session(
        "matrix_game", check.algorithm, check.settings | {"seed": seed, "env_args": {"preset": check.preset}}
    )
    for _ in made.train():
        pass
    return [{"check": check.check, "variant": check.variant, "seed": seed} | measure(made)]


def payoff_of(session: Session) -> Tensor:
    """The game's payoff, one axis per agent."""
    return type(session.env).payoff_of(session.env.cfg)


@torch.no_grad()
def measure(session: Session) -> dict[str, Any]:
    """Everything by enumeration of the joint actions: nothing is sampled."""
    payoff = payoff_of(session)
    actions = torch.tensor(list(itertools.product(*(range(n) for n in payoff.shape))))
    batch = every_joint_action(session, actions)
    value = payoff[tuple(actions.T)]
    best = value == value.max()
    out: dict[str, Any] = {"greedy": float(session.evaluate(session.controller.test_modes[0], 1)["return"])}
    if session.settings["mac"] != "basic_mac":
        out |= policies(session, batch, actions, value)
    return out | joint_values(session, batch, actions, best)


def policies(session: Session, batch: EpisodeBatch, actions: Tensor, value: Tensor) -> dict[str, Any]:
    """E[r] of the stochastic policies and the mass that the joint one puts on each optimum."""
    agent, best = session.controller.agent, value == value.max()
    h = session.controller.unroll(batch)[:, :1]
    conditional = session.settings["mac"] == "conditional_mac"
    logits = agent.independent(h) if conditional else h
    prob = taken(masked_log_softmax(logits, batch.avail[:, :1]), actions[:, None]).sum(-1).exp()[:, 0]
    out = {"expected": round(float((prob * value).sum()), 4)}
    if conditional and session.controller.cfg.dependent:
        logits = agent.dependent(h, actions[:, None])
        prob = taken(masked_log_softmax(logits, batch.avail[:, :1]), actions[:, None]).sum(-1).exp()[:, 0]
        out["dep_expected"] = round(float((prob * value).sum()), 4)
    return out | {"optima": " ".join(f"{p:.3f}" for p in prob[best].tolist())}


def joint_values(session: Session, batch: EpisodeBatch, actions: Tensor, best: Tensor) -> dict[str, Any]:
    """The learnt value of every joint action, of learners that have one for the team."""
    tables = {
        "dop": dop_table,
        "fop": fop_table,
        "q_learner": q_table,
        "qtran": qtran_table,
        "weighted_qmix": central_table,
    }
    table_of = tables.get(session.settings["learner"])
    if table_of is None or session.settings.get("mixer", "") is None:
        return {}
    table = table_of(session, batch, actions[:, None])[:, 0]
    return {"q_best": round(float(table[best][0]), 3), "detail": " ".join(f"{x:.2f}" for x in table.tolist())}


def dop_table(session: Session, batch: EpisodeBatch, action: Tensor) -> Tensor:
    """Q_tot of the linear critic."""
    return session.learner.critic.q_tot(batch.state[:, :1], batch.obs[:, :1], action)


def fop_table(session: Session, batch: EpisodeBatch, action: Tensor) -> Tensor:
    """min_m Q_jt^m."""
    alpha = session.learner.cfg.alpha(session.progress.t_env, session.replay.added)
    critics = session.learner.critics
    q = unroll_agents([critic.agent for critic in critics], batch, session.env.spec.n_actions)
    pairs = zip(critics, q, strict=True)
    return torch.minimum(*[critic.joint(batch, local[:, :1], action, alpha)[0] for critic, local in pairs])


def q_table(session: Session, batch: EpisodeBatch, action: Tensor) -> Tensor:
    """Q_tot."""
    return mix_utilities(session.learner.mixer, batch, session.controller.unroll(batch)[:, :1], action)[0]


def qtran_table(session: Session, batch: EpisodeBatch, action: Tensor) -> Tensor:
    """Q_jt."""
    h = encode_agent(session.controller.agent, batch, session.env.spec.n_actions)[:, :1]
    return session.learner.joint(session.learner.critic, h, batch, action)


def central_table(session: Session, batch: EpisodeBatch, action: Tensor) -> Tensor:
    """Q̂*, not its monotone projection."""
    return session.learner.central(batch, action)


def every_joint_action(session: Session, actions: Tensor) -> EpisodeBatch:
    """One one-step episode per joint action."""
    step, b = session.env.reset(), len(actions)
    length = torch.ones(b, dtype=torch.long)

    def twice(x: Tensor) -> Tensor:
        return x[:1, None].expand(b, 2, *x.shape[1:])

    return EpisodeBatch(
        action=actions[:, None],
        reward=payoff_of(session)[tuple(actions.T)][:, None],
        terminated=torch.ones(b, 1, dtype=torch.bool),
        mask=valid_mask(length, 1),
        length=length,
        obs=twice(step.obs),
        state=twice(step.state),
        avail=twice(step.avail),
    )


def report(rows: list[dict[str, str]]) -> str:
    """The Markdown summary."""
    lines = [
        "# Matrix games, seed by seed",
        "",
        "Command: `python benchmarks/matrix_games.py`. Raw rows: `matrix_games.csv`. The checks are those of the",
        "acceptance table of the specification; values per seed are in order of seed.",
        "",
        "| check | what | game | result by seed | gate | passed |",
        "|---|---|---|---|---|---|",
    ]
    for check in CHECKS:
        own = [row for row in rows if (row["check"], row["variant"]) == (check.check, check.variant)]
        if not own:
            continue
        own.sort(key=lambda row: int(row["seed"]))
        verdict = "" if check.passed is None else f"{'yes' if check.passed(own) else 'NO'} ({len(own)} seeds)"
        shown = " · ".join(_shown(row) for row in own)
        lines.append(f"| {check.check} | {check.variant} | {check.preset} | {shown} | {check.gate} | {verdict} |")
    return "\n".join([*lines, *LEGEND])


def _shown(row: dict[str, str]) -> str:
    parts = [f"greedy {float(row['greedy']):g}"]
    parts += [f"dep {float(row['dep_expected']):.2f}"] if row["dep_expected"] else []
    parts += [f"optima {row['optima']}"] if row["optima"] and not row["q_best"] else []
    parts += [f"Q* {float(row['q_best']):.2f}"] if row["q_best"] else []
    return ", ".join(parts)


def main() -> None:
    """Runs what is missing and writes the summary."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="part of a check's or variant's name")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    done = {(row["check"], row["variant"], int(row["seed"])) for row in rows_of(CSV)}
    jobs = [
        (i, seed)
        for i, check in enumerate(CHECKS)
        for seed in range(options.seeds)
        if options.only in f"{check.check} {check.variant}" and (check.check, check.variant, seed) not in done
    ]
    make_rows(CSV, COLUMNS, train, jobs, options.jobs)
    REPORT.write_text(report(rows_of(CSV)), encoding="utf-8")
    print(REPORT.read_text())


if __name__ == "__main__":
    main()
