"""``absolute RUN...``: tests the best policy of each run on ten times the test episodes (the absolute metric)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from core import cli
from core.config import ConfigError, load, settle

if TYPE_CHECKING:
    from tracking.folder import RunFolder

TIMES = 10
"""Episodes of the absolute metric for each episode of a test (Gorsane et al. 2022)."""


def main(argv: list[str]) -> int:
    """Evaluates every run; the exit status.

    Raises:
        ConfigError: no such run, or one of them has kept no best policy; the others are evaluated before.
    """
    options = _parser().parse_args(argv)
    from comparison.runs import folders

    without = []
    for path in folders(options.runs, options.results_dir):
        from tracking.folder import RunFolder

        folder = RunFolder(path)
        if folder.best.exists():
            _evaluated(folder, options)
        else:
            without.append(f"{folder.path} has no best.pt: it kept none (best_by), or it was never tested")
    if without:
        raise ConfigError(without)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} absolute",
        description="Tests the policy of best.pt on ten times the test episodes, with seeds of their own, and notes "
        "every episode in the run's evaluations.jsonl, where 'compare' finds it.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run, or a folder of runs")
    parser.add_argument("--episodes", type=int, help=f"how many (default: {TIMES} times the run's test_nepisode)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to play (default: the run's)")
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def _evaluated(folder: RunFolder, options: argparse.Namespace) -> None:
    from tools.evaluate import evaluate

    recorded = load(folder.config)
    episodes = options.episodes or TIMES * recorded["test_nepisode"]
    updates = {"test_nepisode": episodes} | ({"device": options.device} if options.device else {})
    settings = settle(cli.revise(recorded, cli.Command("absolute", updates=updates), cli.EVALUABLE))
    evaluate(settings, folder, best=True)
