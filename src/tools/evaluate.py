"""Tests what a run has learnt: win rate and returns, printed and kept."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from comparison.runs import BEST, EVALUATIONS, LAST
from core.config import ConfigError, Settings
from runners.episode import AGENT_RETURN
from tools import trained

if TYPE_CHECKING:
    from tracking.folder import RunFolder


def evaluate(settings: Settings, folder: RunFolder, *, best: bool = False) -> list[dict[str, Any]]:
    """Plays ``test_nepisode`` episodes in every test mode of the run's controller.

    Args:
        settings: the run's, with what is changed for the evaluation.
        folder: the run's.
        best: the policy that tested best instead of the last one, on other episodes than it was chosen by.

    Returns:
        What is written to ``evaluations.jsonl``.

    Raises:
        ConfigError: no episodes are asked for; the run has no usable checkpoint.
    """
    if settings["test_nepisode"] < 1:
        raise ConfigError(["'test_nepisode' must be at least 1 to evaluate"])
    session = trained.load(settings, folder, best=best)
    try:
        modes = session.controller.test_modes
        results = [_result(settings, folder, session, mode, best=best) for mode in modes]
    finally:
        session.close()
    with (folder.path / EVALUATIONS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)
    _print(results, folder)
    return results


def _result(settings: Settings, folder: RunFolder, session: Any, mode: str, *, best: bool) -> dict[str, Any]:
    stats = session.evaluate(mode, settings["test_nepisode"], afresh=best)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "label": folder.record.get("label", ""),
        "checkpoint": BEST if best else LAST,
        "mode": mode,
        "prefix": "test_" if mode == session.controller.test_modes[0] else f"test_{mode}_",
        "greedy": bool(settings.get("test_greedy", True)),
        "t_env": session.progress.t_env,
        "seed": settings["seed"],
        "episodes": settings["test_nepisode"],
        "means": {name: float(x.double().mean()) for name, x in stats.items()},
        "values": {name: x.tolist() for name, x in stats.items()},
    }


def _print(results: list[dict[str, Any]], folder: RunFolder) -> None:
    first = results[0]
    shown = [name for name in first["means"] if not name.startswith(AGENT_RETURN)]  # a column per agent is too many
    title = f"{first['label']}, {first['episodes']} episodes, trained for {first['t_env']:,} steps"
    table = Table("policy", *shown, title=title)
    for result in results:
        table.add_row(result["mode"], *(f"{result['means'][name]:.4g}" for name in shown))
    console = Console()
    console.print(table)
    console.print(f"every episode's values: {folder.path / EVALUATIONS}", soft_wrap=True)
