"""What an evaluation prints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tools.evaluate import _print


def test_agents_returns_are_kept_but_not_printed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    means = {"return": 6.0, "return_per_agent": 2.0, **{f"agent_return_{i}": float(i) for i in range(12)}, "won": 0.5}
    result = {"label": "here", "mode": "test", "t_env": 10, "episodes": 3, "means": means}
    _print([result, result | {"mode": "test_dep"}], SimpleNamespace(path=tmp_path))
    shown = capsys.readouterr().out
    assert "agent_return" not in shown
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert rows == [["test", "6", "2", "0.5"], ["test_dep", "6", "2", "0.5"]]
