"""Runs read from a real database server are the runs in their folders."""

from __future__ import annotations

from pathlib import Path

import pytest

import main
from comparison.database import from_mongo
from comparison.groups import grouped
from comparison.guard import differences
from comparison.runs import from_files

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
WORDS = [
    "--config=qmix", "--env-config=matrix_game", "with", "env_args.preset=four", "t_max=40", "device=cpu",
    "test_interval=10", "test_nepisode=3", "log_interval=20", "batch_size=4", "buffer_size=16", "batch_size_run=5",
]  # fmt: skip


def test_a_database_tells_what_the_folders_tell(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    server = secantus.SecantusDBServer(storage_path=str(tmp_path / "mongo"), replica_set_name=None, cache_size="128M")
    with server as running:
        for seed in (1, 2):
            more = [f"seed={seed}", f"results_dir={tmp_path / 'results'}", f"mongo_url={running.uri}", "mongo_db=runs"]
            assert main.main([*WORDS, *more]) == 0
        files = from_files([str(tmp_path / "results")], "results")
        stored = from_mongo(running.uri, "runs", [])
        assert [run.seed for run in stored] == [run.seed for run in files] == [1, 2]
        for one, other in zip(files, stored, strict=True):
            assert one.curves == other.curves and other.curves
            assert (one.task, one.status, one.code, one.finished) == (
                other.task,
                other.status,
                other.code,
                other.finished,
            )
            assert one.at_marks("test_return_mean") == other.at_marks("test_return_mean")
        assert not differences([*files, *stored]) and len(grouped([*files, *stored])) == 1
        capsys.readouterr()
        assert main.main(["compare", "-m", running.uri, "--db", "runs", "--metric", "test_return_mean"]) == 0
        assert "test_return_mean on matrix_game/four" in capsys.readouterr().out
        assert main.main(["report", "-m", running.uri, "--db", "runs", "--out", str(tmp_path / "page.html")]) == 0
        assert "q_loss" in (tmp_path / "page.html").read_text()
