"""``compare``: who is pooled with whom, what is refused, what is missing, and the numbers and files that come out."""

from __future__ import annotations

import csv
import dataclasses
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import main
from comparison import marl_eval
from comparison.database import from_mongo
from comparison.groups import grouped, split
from comparison.guard import differences
from comparison.missing import missing
from comparison.runs import Run, from_files, usual_metric
from comparison.scores import collect
from comparison.summary import Estimate, Summary
from comparison.tables import Table, comma_separated, latex, markdown
from core import cli
from core.config import ConfigError
from core.schedule import mark
from tracking.folder import RunFolder
from tracking.journal import Journal

WON, RETURN = "test_battle_won_mean", "test_return_mean"
COMMIT = {"commit": "0123456789abcdef", "dirty": False, "origin": None}


def config(name: str = "qmix", seed: int = 0, **changes: Any) -> dict[str, Any]:
    words = [f"--config={name}", "--env-config=sc2", "with", "t_max=300", "test_interval=100", f"seed={seed}"]
    settings = cli.compose(cli.parse(words)).plain()
    settings["env_args"] |= {"engine": "skirmish", "map_name": "3m"} | changes.pop("env_args", {})
    return settings | changes


def run(name: str = "qmix", seed: int = 0, won: tuple[float, ...] = (0, 0.2, 0.4, 0.8), **changes: Any) -> Run:
    """A finished run, tested a little after 0, 100, 200 and 300 steps."""
    own = config(name, seed, **changes)
    curve = [(100 * i + (seed + 3 if i else 0), float(value)) for i, value in enumerate(won)]
    curves = {WON: curve, RETURN: [(t, 20 * value) for t, value in curve]}
    label = f"sc2-skirmish/{own['env_args']['map_name']}"
    return Run(f"results/{name}_{seed}", own, "COMPLETED", label, curves, {"engine": "skirmish", "git": COMMIT})


def on_8m(*args: Any, **kw: Any) -> Run:
    return run(*args, **kw, env_args={"map_name": "8m"})


# --- marks ------------------------------------------------------------------------------------------------------------


def test_marks_are_multiples_and_the_end():
    assert [mark(t, 100, 250) for t in (0, 99, 103, 200, 249, 250, 263)] == [0, 0, 100, 200, 200, 250, 250]


def test_curves_are_compared_at_marks():
    assert run(seed=5).at_marks(WON) == {0: 0.0, 100: 0.2, 200: 0.4, 300: 0.8}
    assert run(seed=5).finished and not run(won=(0, 0.2)).finished


# --- groups -----------------------------------------------------------------------------------------------------------


def test_variants_of_one_name_are_not_pooled():
    runs = [run(seed=0), run(seed=1), run(seed=2, lr=0.1), run("vdn", 0)]
    groups = grouped(runs)
    lr = runs[0].config["lr"]
    assert {name: [r.seed for r in own] for name, own in groups.items()} == {
        f"qmix [lr={lr}]": [0, 1],
        "qmix [lr=0.1]": [2],
        "vdn": [0],
    }
    assert split(groups) == {"qmix": ["lr"]}
    assert [r.seed for r in grouped(runs, ["lr"])["qmix"]] == [0, 1, 2]


def test_a_key_that_one_run_does_not_have_makes_a_variant():
    old = run(seed=1)
    del old.config["lr"]
    assert set(grouped([run(seed=0), old])) == {f"qmix [lr={run().config['lr']}]", "qmix [lr=unset]"}


def test_places_seeds_and_rhythms_do_not_make_variants():
    other = run(seed=1, device="cuda", results_dir="elsewhere", log_interval=7, label="x", mongo_url="mongodb://a")
    assert set(grouped([run(seed=0), other])) == {"qmix"}


# --- the guard --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "changes"),
    [
        ("batch_size_run", {"batch_size_run": 8}),
        ("runner", {"runner": "segment"}),
        ("test_nepisode", {"test_nepisode": 8}),
        ("test_policy", {"test_greedy": False}),
        ("t_max", {"t_max": 200}),
        ("test_interval", {"test_interval": 50}),
        ("env_args.reward_sparse", {"env_args": {"reward_sparse": True}}),
        ("env_args.reward_scale_rate", {"env_args": {"reward_scale_rate": 10.0}}),
        ("env_args.difficulty", {"env_args": {"difficulty": "5"}}),
        ("game_version", {"env_args": {"game_version": "4.10"}}),
    ],
)
def test_what_must_be_alike_is_found(key, changes):
    found = differences([run(seed=0), run(seed=1), run("vdn", seed=2, **changes)])
    assert [one.key for one in found] == [key]
    assert [[r.seed for r in runs] for runs in found[0].runs.values()] == [[0, 1], [2]]


def test_engines_and_code_are_compared_over_all_maps():
    real = dataclasses.replace(on_8m(seed=1), facts={"engine": "starcraft2", "git": COMMIT | {"dirty": True}})
    assert [(one.key, one.among) for one in differences([run(), real])] == [
        ("commit", "all environments"),
        ("engine", "sc2"),
    ]


def test_budgets_may_differ_between_maps_but_not_on_one():
    assert not differences([run(seed=0), on_8m(seed=0, t_max=200)])


def test_runs_alike_pass():
    assert not differences([run(seed=0), run(seed=1), run("vdn", 0), on_8m("vdn", 0)])


# --- what is missing --------------------------------------------------------------------------------------------------


def test_missing_runs_come_with_commands_that_would_run_them():
    groups = grouped([run(seed=0), run(seed=1), run("vdn", 0), on_8m(seed=0), on_8m(seed=1)])
    found = missing(groups)
    assert [(one.algorithm, one.task, one.seed) for one in found] == [
        ("vdn", "sc2/3m", 1),
        ("vdn", "sc2/8m", 0),
        ("vdn", "sc2/8m", 1),
    ]
    words = found[2].command.split()
    assert words[:2] == cli.STARTED_AS.split()
    settings = cli.compose(cli.parse(words[2:]))
    assert (settings["name"], settings["seed"], settings["t_max"], settings["test_interval"]) == ("vdn", 1, 300, 100)
    assert settings["env_args"]["map_name"] == "8m" and settings["env_args"]["engine"] == "skirmish"


def test_a_missing_runs_command_keeps_what_makes_the_variant():
    groups = grouped([run(seed=0, lr=0.1), run(seed=1, lr=0.1), run(seed=3)])
    (one,) = missing(groups)
    assert one.algorithm == f"qmix [lr={run().config['lr']}]" and one.seed == 0 and "lr=" not in one.command
    (other,) = missing(grouped([run(seed=0, lr=0.1), run(seed=3), run(seed=4)]))
    assert "lr=0.1" in other.command.split()


def test_a_missing_runs_command_says_values_as_they_are():
    odd = {"env_args": {"difficulty": "5", "sight_range": None, "replay_prefix": "a b"}, "grad_norm_clip": 1e-5}
    (one,) = missing(grouped([run(seed=0, **odd), run("vdn", 0), run("vdn", 1)]), None)
    settings = cli.compose(cli.parse(shlex.split(one.command)[2:]))
    assert settings["grad_norm_clip"] == 1e-5
    assert {key: settings["env_args"][key] for key in odd["env_args"]} == odd["env_args"]


def test_seeds_can_be_asked_for():
    assert [one.seed for one in missing(grouped([run(seed=0), run(seed=4)]), [0, 1, 2])] == [1, 2]


def test_equal_numbers_of_different_seeds_are_enough():
    assert not missing(grouped([run(seed=0), run(seed=1), run("vdn", 5), run("vdn", 9)]))


# --- numbers ----------------------------------------------------------------------------------------------------------


def scores(runs: list[Run], metric: str = WON, last: int = 1, **bounds: tuple[float, float]) -> Any:
    return collect(grouped(runs), metric, {"" if k == "other" else k: v for k, v in bounds.items()}, last)


def test_final_area_and_curves_by_hand():
    found = scores([run(seed=0), run(seed=1, won=(0, 0.4, 0.4, 0.4))], last=2)
    assert found.marks["sc2/3m"].tolist() == [0, 100, 200, 300]
    assert found.of("final", "qmix", "sc2/3m").tolist() == pytest.approx([0.6, 0.4])
    assert found.of("area", "qmix", "sc2/3m").tolist() == pytest.approx([(0.1 + 0.3 + 0.6) / 3, (0.2 + 0.4 + 0.4) / 3])
    band = Summary(found, 200, 0).curve("qmix", "sc2/3m")
    assert band.value.tolist() == pytest.approx([0, 0.3, 0.4, 0.6])
    assert (band.low <= band.value).all() and (band.value <= band.high).all()


def test_only_marks_that_all_runs_have_are_compared():
    found = scores([run(seed=0), run("vdn", seed=0, won=(0, 0.5))])
    assert found.marks["sc2/3m"].tolist() == [0, 100]
    assert found.of("final", "qmix", "sc2/3m").tolist() == [0.2]


def test_over_tasks_every_task_has_as_many_runs():
    runs = [run(seed=s, won=(0, 0, 0, 0.1 * s)) for s in (1, 2, 3)] + [on_8m(seed=s, won=(0, 0, 0, 1)) for s in (1, 2)]
    matrix = scores(runs).matrix("final", "qmix")
    np.testing.assert_allclose(matrix, [[0.1, 1.0], [0.2, 1.0]])
    (line,) = Summary(scores(runs), 100, 0).over_tasks()
    assert line.runs == 2
    assert line.values["final"].value == pytest.approx((0.2 + 1.0) / 2)  # of 0.1, 0.2, 1, 1 the middle two
    assert line.values["gap"].value == pytest.approx(1 - 2.3 / 4)


def test_an_algorithm_without_a_task_is_not_aggregated():
    found = Summary(scores([run(seed=0), on_8m(seed=0), run("vdn", 0)]), 100, 0)
    assert [line.algorithm for line in found.over_tasks()] == ["qmix"]
    assert set(found.curves_over_tasks()) == {"qmix"}
    assert found.improvement() == {}


def test_returns_are_aggregated_with_bounds_only():
    runs = [run(seed=0), on_8m(seed=0)]
    assert scores(runs, RETURN).bounds is None
    found = scores(runs, RETURN, other=(0.0, 20.0), **{"sc2/8m": (-20.0, 20.0)})
    np.testing.assert_allclose(found.matrix("final", "qmix"), [[0.8, 0.9]])


def test_improvement_is_that_of_final_scores():
    runs = [run(seed=s, won=(0, 0, 0, 0.5)) for s in (0, 1)]
    runs += [run("vdn", s, won=(0, 0, 0, w)) for s, w in ((0, 0.4), (1, 0.5))]
    found = Summary(scores(runs), 100, 0).improvement()
    assert found["qmix", "vdn"].value == pytest.approx(0.75) and found["vdn", "qmix"].value == pytest.approx(0.25)


def test_one_run_has_no_interval():
    runs = [run(seed=0), run("vdn", 0), run("vdn", 1, won=(0, 0, 0, 0.2))]
    one, two = Summary(scores(runs), 100, 0).on("sc2/3m")
    assert one.values["final"].value == 0.8 and np.isnan(one.values["final"].low)
    assert two.values["final"].low == pytest.approx(0.2) and two.values["final"].high == pytest.approx(0.8)
    table = Table("t", ["", "final"], [["one", one.values["final"]], ["two", two.values["final"]]])
    assert "| one | 0.800 |\n| two | 0.500 [0.200, 0.800] |" in markdown(table)
    assert "t,one,final,0.8,,\n" in comma_separated([table])
    assert np.isnan(Summary(scores(runs), 100, 0).improvement()["qmix", "vdn"].high)


def test_the_absolute_metric_is_of_the_best_policy_and_of_the_right_mode():
    lines = [
        {"checkpoint": "last", "prefix": "test_", "values": {"battle_won": [1.0, 1.0]}},
        {"checkpoint": "best", "prefix": "test_", "values": {"battle_won": [0.0, 1.0]}},
        {"checkpoint": "best", "prefix": "test_dep_", "values": {"battle_won": [1.0, 0.5]}},
    ]
    tested = dataclasses.replace(run(), evaluations=tuple(lines))
    assert tested.absolute(WON) == [0.0, 1.0]
    assert tested.absolute("test_dep_battle_won_mean") == [1.0, 0.5]
    assert run().absolute(WON) is None
    assert scores([tested, run(seed=1)]).absolute == {}  # not of all runs
    assert scores([tested]).of("absolute", "qmix", "sc2/3m").tolist() == [0.5]


def test_a_metric_that_a_run_lacks_is_named():
    with pytest.raises(ConfigError, match="has no 'test_x_mean'; all runs have: test_battle_won_mean"):
        scores([run()], "test_x_mean")
    assert usual_metric([run()]) == WON


# --- texts ------------------------------------------------------------------------------------------------------------

TABLE = Table("won_mean on 3m", ["algorithm", "runs", "final"], [["a_b", 3, Estimate(0.5, 0.25, 0.75)], ["c", 1, None]])


def test_markdown():
    assert "| a_b | 3 | 0.500 [0.250, 0.750] |\n| c | 1 | – |" in markdown(TABLE)


def test_latex_is_escaped():
    text = latex(TABLE)
    assert r"a\_b & 3 & 0.500 [0.250, 0.750] \\" in text and r"\caption{won\_mean on 3m" in text


def test_csv_is_unrounded():
    rows = list(csv.DictReader(comma_separated([TABLE]).splitlines()))
    assert rows[1] == {
        "table": "won_mean on 3m", "row": "a_b", "column": "final", "value": "0.5", "low": "0.25", "high": "0.75"
    }  # fmt: skip


def test_marl_evals_layout():
    tests = {103: {"battle_won": [0.0, 1.0, None]}}
    kept = dataclasses.replace(run(), episodes=tests)
    data = marl_eval.export(grouped([kept]), [scores([kept])])
    steps = data["sc2"]["3m"]["qmix"]["seed_0"]
    assert [steps[f"step_{i}"]["step_count"] for i in range(4)] == [0, 100, 200, 300]
    assert steps["step_1"]["battle_won"][:2] == [0.0, 1.0] and np.isnan(steps["step_1"]["battle_won"][2])
    assert steps["step_3"]["battle_won"] == [0.8]
    assert "absolute_metrics" not in steps


def test_marl_eval_reads_it():
    processing = pytest.importorskip(
        "marl_eval.utils.data_processing_utils",
        reason="marl-eval is not installed (pip install --no-deps id-marl-eval)",
    )
    lines = ({"checkpoint": "best", "prefix": "test_", "values": {"battle_won": [0.0, 1.0], "return": [0.0, 20.0]}},)
    runs = [dataclasses.replace(r, evaluations=lines) for r in (run(seed=0), run(seed=1), run("vdn", 0), run("vdn", 1))]
    runs += [dataclasses.replace(r, evaluations=lines) for r in (on_8m(seed=0), on_8m(seed=1))]
    runs += [dataclasses.replace(r, evaluations=lines) for r in (on_8m("vdn", 0), on_8m("vdn", 1))]
    data = marl_eval.export(grouped(runs), [scores(runs), scores(runs, RETURN)])
    processed = processing.data_process_pipeline(json.loads(json.dumps(data)), ["return"])
    matrices, _ = processing.create_matrices_for_rliable(processed, "sc2", ["return"])
    theirs = matrices["mean_battle_won"]["qmix"]  # of absolute metrics
    assert theirs.shape == (2, 2) and theirs.tolist() == [[0.5, 0.5], [0.5, 0.5]]


# --- the command ------------------------------------------------------------------------------------------------------


def written(where: Path, one: Run, status: str = "COMPLETED") -> RunFolder:
    folder = RunFolder.create(one.config | {"results_dir": str(where)}, one.label)
    folder.config.write_text(yaml.safe_dump(one.config | {"results_dir": str(where)}))
    folder.update(status=status, git=one.facts["git"], engine="skirmish")
    journal = Journal(folder.journal)
    for i, (t_env, won) in enumerate(one.curves[WON]):
        values = {WON: won, RETURN: 20 * won}
        kept = {"mark": 100 * i, "episodes": {"battle_won": [won] * 4, "return": [20 * won] * 4}}
        journal.write({"kind": "train", "t_env": t_env, "values": {"loss": 1.0}})
        journal.write({"kind": "test", "t_env": t_env, "values": values} | kept)
    journal.close()
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for one in (run(seed=0), run(seed=1), run("vdn", 0), run("vdn", 1), on_8m(seed=0), on_8m("vdn", 0)):
        written(tmp_path / "results", one)
    return tmp_path / "results"


def test_everything_is_written(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main.main(["compare", str(runs), "--metric", WON, "--metric", RETURN, "--out", str(out), "--resamples", "50",
                      "--normalise", "0,20", "--normalise", "sc2/8m=-20,20"]) == 0  # fmt: skip
    shown = capsys.readouterr().out
    assert f"{WON} over 2 tasks, normalised" in shown and "missing: qmix on sc2/8m, seed 1" in shown
    names = {path.name for path in out.iterdir()}
    assert names >= {"compare.md", "compare.tex", "compare.csv", "scores.csv", "marl_eval.json"}
    assert names >= {
        f"{kind}_{metric}.{end}"
        for kind in ("curves", "aggregates", "improvement", "profile")
        for metric in (WON, RETURN)
        for end in ("png", "svg")
    }
    page = (out / "compare.md").read_text()
    assert all((out / name).exists() for name in re.findall(r"\]\((.*?)\)", page))
    assert "- commit: 0123456789ab" in page and "- batch_size_run: 1" in page and "seeds of vdn: 0, 1" in page
    rows = list(csv.DictReader((out / "scores.csv").open()))
    assert len(rows) == 2 * 6 * 4
    steps = json.loads((out / "marl_eval.json").read_text())["sc2"]["3m"]["vdn"]["seed_1"]
    assert steps["step_2"] == {"step_count": 200, "battle_won": [0.4] * 4, "return": [8.0] * 4}


def test_it_refuses_and_says_why(runs, capsys):
    odd = written(runs, run(seed=2, batch_size_run=8))
    assert main.main(["compare", str(runs)]) == 2
    said = capsys.readouterr().err
    assert "'batch_size_run' differs among the runs on sc2" in said and "--pool-anyway batch_size_run" in said
    assert f"8: qmix seed 2 ({odd.path.name})" in said and "1: qmix seed 0 (" in said
    assert main.main(["compare", str(runs), "--pool-anyway", "batch_size_run", "--resamples", "20"]) == 0
    assert "accepted by --pool-anyway: 'batch_size_run'" in capsys.readouterr().out


def test_unfinished_runs_are_left_out_and_named(runs, capsys):
    short = written(runs, run("vdn", 2, won=(0, 0.2)), "INTERRUPTED")
    assert main.main(["compare", str(runs), "--resamples", "20"]) == 0
    assert f"left out, unfinished (INTERRUPTED): vdn seed 2 ({short.path.name})" in capsys.readouterr().out
    assert main.main(["compare", str(runs), "--unfinished", "--resamples", "20"]) == 0
    assert "left out" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere"], "no run 'nowhere'"),
        ([], "compare needs runs"),
        (["RUNS", "--normalise", "1"], "--normalise takes MIN,MAX"),
        (["RUNS", "--normalise", "1,1"], "MIN must be below MAX"),
        (["RUNS", "--metric", "test_x_mean"], "has no 'test_x_mean'"),
        (["RUNS", "--seeds", "a"], "--seeds takes whole numbers"),
    ],
)
def test_bad_input_is_refused(runs, capsys, words, said):
    words = [str(runs) if word == "RUNS" else word for word in words]
    assert main.main(["compare", *words, "--results-dir", str(runs)]) == 2
    assert said in capsys.readouterr().err


def test_files_tell_everything(runs):
    found = from_files([str(runs)], "results")
    assert len(found) == 6 and all(one.finished and one.code == "0123456789ab" for one in found)
    one = next(r for r in found if (r.name, r.seed, r.task) == ("vdn", 1, "sc2/3m"))
    assert set(one.curves) == {WON, RETURN} and one.episodes[104]["battle_won"] == [0.2] * 4
    assert one.at_marks(WON) == {0: 0.0, 100: 0.2, 200: 0.4, 300: 0.8}


def test_a_run_that_is_named_twice_counts_once(runs):
    path = next(runs.rglob("record.json")).parent
    assert len(from_files([str(runs), str(path), path.name], str(runs))) == 6


# --- MongoDB ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def database(monkeypatch):
    mongomock = pytest.importorskip("mongomock")
    client = mongomock.MongoClient()
    monkeypatch.setattr("comparison.database.pymongo.MongoClient", lambda *args, **kw: client)
    for number, one in enumerate((run(seed=0), run(seed=1), on_8m("vdn", 0)), start=1):
        entry = {"_id": number, "config": one.config, "status": "COMPLETED", "experiment": {
            "name": one.name, "dependencies": ["torch==2.13.0"],
            "repositories": [{"commit": COMMIT["commit"], "dirty": False, "url": "x"}],
        }, "info": {"engine": "skirmish", "label": one.label}}  # fmt: skip
        client.cofactor.runs.insert_one(entry)
        for name, curve in one.curves.items():
            steps, values = [t for t, _ in curve], [v for _, v in curve]
            client.cofactor.metrics.insert_one({"run_id": number, "name": name, "steps": steps, "values": values})
        client.cofactor.metrics.insert_one({"run_id": number, "name": "loss", "steps": [1], "values": [2.0]})
    return client


def test_runs_from_mongo_are_runs_from_files(database):
    found = from_mongo("mongodb://host", "cofactor", [])
    assert [(r.name, r.seed, r.task, r.code, r.finished) for r in found] == [
        ("qmix", 0, "sc2/3m", "0123456789ab", True),
        ("qmix", 1, "sc2/3m", "0123456789ab", True),
        ("vdn", 0, "sc2/8m", "0123456789ab", True),
    ]
    assert found[0].curves == run(seed=0).curves and found[0].facts["versions"] == {"torch": "2.13.0"}
    assert [r.seed for r in from_mongo("mongodb://host", "cofactor", ["2", "8m/vdn"])] == [1, 0]


def test_what_was_sent_twice_counts_once(database):
    database.cofactor.metrics.update_one({"run_id": 1, "name": WON}, {"$push": {"steps": 103, "values": 0.7}})
    assert dict(from_mongo("mongodb://host", "cofactor", ["1"])[0].curves[WON])[103] == 0.7


def test_compare_reads_mongo(database, capsys):
    assert main.main(["compare", "-m", "mongodb://host", "3m", "--resamples", "20"]) == 0
    assert f"{WON} on sc2/3m" in capsys.readouterr().out
    assert main.main(["compare", "-m", "mongodb://host", "10m"]) == 2
    assert "no run in host:27017/cofactor has the number, name or label '10m'" in capsys.readouterr().err
