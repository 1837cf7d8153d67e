"""The way through ``benchmarks/gpu.py``, on a CPU and with tiny sizes; it measures nothing here."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import gpu
from speed import Figure

TINY = (
    "--device cpu --map 3m --run-map 3m --length 3 --updates 2 --battles 2 --rounds 2 --algs qmix --precisions float32"
)


def test_every_part_is_measured_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "WARM", 1)
    assert gpu.main([*TINY.split(), "--json", str(tmp_path / "gpu.json")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "gpu.json").read_text(encoding="utf-8").splitlines()]
    assert [row["part"] for row in rows] == ["update", "update", "run", "run"]
    assert all(0 < row["low"] <= row["median"] <= row["high"] and row["device"] == "cpu" for row in rows)
    assert "buffer_device=cpu" in rows[1]["subject"] and "1 updates a round" in rows[2]["subject"]
    assert "collecting 3m x2 alone" in capsys.readouterr().out


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 0
    assert "no usable GPU" in capsys.readouterr().out


def test_targets_are_held_against_the_best_figure() -> None:
    def figure(part: str, subject: str, median: float, reference: float | None) -> Figure:
        return Figure(part, subject, "", median, median, median, reference=reference)

    figures = [
        figure("update", "qmix MMM2 T=120, precision=float32", 7.0, 5.0),
        figure("update", "qmix MMM2 T=120, precision=float32, cuda_graphs=True", 4.0, 5.0),
        figure("update", "macpf MMM2 T=120, precision=float32", 20.0, 15.0),
        figure("run", "qmix 3s5z x1024", 150_000.0, 200_000.0),
        figure("run", "collecting 3s5z x1024 alone", 300_000.0, None),
    ]
    assert gpu.verdicts(figures) == [
        "qmix: 4 ms per update, target 5: reached",
        "macpf: 20 ms per update, target 15: missed",
        "run: 150,000 steps/s, target 200,000: missed",
    ]
