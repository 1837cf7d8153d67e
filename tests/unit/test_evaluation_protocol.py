"""Tests at fixed marks, with every episode kept, on seeds of their own; the best policy, and its absolute metric."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

import main
from comparison.runs import from_files
from core import checkpoint, cli
from core.config import ConfigError
from core.seeding import Streams
from run import Session, build
from tools import trained
from tracking.folder import RunFolder
from tracking.journal import read

WORDS = [
    "--config=qmix", "--env-config=matrix_game", "with", "env_args.preset=four", "seed=4", "t_max=50", "device=cpu",
    "test_interval=12", "test_nepisode=3", "log_interval=20", "batch_size=4", "buffer_size=16", "batch_size_run=5",
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A short run by the command line."""
    where = tmp_path_factory.mktemp("results")
    assert main.main([*WORDS, f"results_dir={where}"]) == 0
    (found,) = where.rglob("record.json")
    return RunFolder(found.parent)


def settings(*more: str) -> dict:
    return cli.compose(cli.parse([*WORDS, *more]))


def test_tests_stand_for_marks_and_keep_every_episode(folder: RunFolder):
    tests = [line for line in read(folder.journal) if line["kind"] == "test"]
    assert [line["mark"] for line in tests] == [0, 12, 24, 36, 50]
    assert all(line["mark"] <= line["t_env"] < line["mark"] + 5 for line in tests)
    for line in tests:
        assert {len(values) for values in line["episodes"].values()} == {3}
        for name, values in line["episodes"].items():
            assert sum(values) / 3 == pytest.approx(line["values"][f"test_{name}_mean"], rel=1e-6)


def test_other_lines_of_the_journal_have_no_more_than_values(folder: RunFolder):
    others = [line for line in read(folder.journal) if line["kind"] != "test"]
    assert others and all(set(line) == {"kind", "t_env", "values"} for line in others)


def test_test_seeds_are_not_trainings():
    streams = Streams(4)
    tests = {streams.seed("eval", t) for t in range(0, 3000, 7)} | {
        streams.seed("eval", t, 1) for t in range(0, 3000, 7)
    }
    assert len(tests) == 2 * len(range(0, 3000, 7))
    assert not tests & {streams.seed("env"), streams.seed("act"), streams.seed("replay"), streams.seed("eval")}
    assert not tests & {streams.seed("env", row) for row in range(3000)}


class Scripted(Session):
    """Tests whose results are written down beforehand."""

    results: list[float]

    def evaluate(self, mode: str, episodes: int, *, afresh: bool = False) -> dict[str, torch.Tensor]:
        return {"return": torch.tensor([self.results.pop(0)] * episodes), "optimal": torch.zeros(episodes)}


def test_the_policy_of_the_best_test_is_kept_as_it_was_tested():
    session = Scripted(settings("best_by=test_return_mean"))
    session.results = [1.0, math.nan, 3.0, 3.0, 2.0]
    before, kept, best = {}, {}, []
    original = session.test

    def test():
        before[session.progress.t_env] = parameters(session)
        return original()

    session.test = test
    for tick in session.train():
        if tick.best is not None:
            at = tick.best["progress"]["t_env"]
            best.append(at)
            kept[at] = {k: v for k, v in tick.best["learner"].items() if isinstance(v, torch.Tensor)}
    assert len(best) == 2 and best[0] == 0 and list(before).index(best[1]) == 2  # a tie does not count, nor does NaN
    assert session.progress.best == 3.0
    for at in best:
        assert all(torch.equal(before[at][name], kept[at][name]) for name in before[at])
    final = parameters(session)
    assert any(not torch.equal(final[name], kept[best[1]][name]) for name in final), "training went on meanwhile"
    session.close()


def parameters(session: Session) -> dict[str, torch.Tensor]:
    return {name: x.detach().clone() for name, x in session.learner.state_dict().items() if isinstance(x, torch.Tensor)}


def test_the_best_so_far_survives_a_resume():
    session = Scripted(settings("best_by=test_return_mean"))
    session.results = [5.0]
    session.test()
    again = Scripted(settings("best_by=test_return_mean"))
    again.load_state_dict(session.state_dict())
    again.results = [4.0]
    again.test()
    assert again.progress.best == 5.0 and again._best is None
    for one in (session, again):
        one.close()


def test_none_is_kept_where_none_is_wanted():
    session = Scripted(settings("best_by=None"))
    session.results = [5.0]
    session.test()
    assert session.progress.best is None and session._best is None
    session.close()


def test_a_metric_that_tests_do_not_report_is_refused():
    with pytest.raises(ConfigError, match="'best_by' is 'test_retrun_mean', which tests do not report"):
        build(settings("best_by=test_retrun_mean"))


def test_best_is_a_checkpoint_for_acting(folder: RunFolder):
    state = checkpoint.load(folder.best)
    best = max(line["values"]["test_return_mean"] for line in read(folder.journal) if line["kind"] == "test")
    assert state["session"]["progress"]["best"] == pytest.approx(best)
    session = trained.load(settings(), folder, best=True)
    assert session.progress.t_env == state["session"]["progress"]["t_env"]
    session.close()


def test_other_episodes_than_the_tests():
    words = ["--config=qmix", "--env-config=multi_goal", "with", "seed=4", "device=cpu", "buffer_size=32"]
    session = build(cli.compose(cli.parse(words)))
    mode = session.controller.test_modes[0]
    first, again, other = (session.evaluate(mode, 8, afresh=afresh)["return"] for afresh in (False, False, True))
    assert torch.equal(first, again) and not torch.equal(first, other)
    session.close()


def test_the_absolute_metric_is_ten_times_the_episodes(folder: RunFolder, capsys: pytest.CaptureFixture[str]):
    assert main.main(["absolute", str(folder.path)]) == 0
    (line,) = [json.loads(text) for text in (folder.path / "evaluations.jsonl").read_text().splitlines()]
    assert line["checkpoint"] == "best" and line["episodes"] == 30 and line["greedy"] and line["mode"] == "test"
    (run,) = from_files([str(folder.path)], "results")
    assert run.absolute("test_return_mean") == line["values"]["return"] and len(line["values"]["return"]) == 30
    assert run.episodes[0]["return"] == next(read(folder.journal))["episodes"]["return"]


def test_runs_without_a_best_policy_are_named(folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    other = RunFolder.create(settings(f"results_dir={tmp_path}"), "matrix_game/four")
    assert main.main(["absolute", str(other.path)]) == 2
    assert f"{other.path} has no best.pt" in capsys.readouterr().err
