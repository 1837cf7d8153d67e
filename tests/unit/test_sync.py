"""``sync``: which runs, whereto, and what it says of them."""

from __future__ import annotations

import itertools
import os

import pymongo
import pytest

from core.config import ConfigError
from tools import sync as module
from tools.sync import find, main
from toy_tracking import Run
from tracking import mongo
from tracking.folder import RunFolder
from tracking.journal import series
from tracking.mongo import read_curves

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mongo"))
    with secantus.SecantusDBServer(storage_path=path, replica_set_name=None, cache_size="128M") as running:
        yield running.uri.rstrip("/")


@pytest.fixture
def url(server):
    return f"{server}/sync{next(_NUMBERS)}"


@pytest.fixture
def three(tmp_path):
    runs = [Run(tmp_path, seed) for seed in (1, 2, 3)]
    for run in runs:
        run.log(1, 2, x=0.5)
        run.end()
        run.folder.update(status="COMPLETED")
    return runs


def rows(text):
    """The table's lines by run."""
    return {line.split()[0]: line for line in text.splitlines() if "_seed" in line.split(maxsplit=1)[0]}


def test_all_runs_are_sent_and_the_second_time_none(three, url, tmp_path, capsys):
    words = ["--results-dir", str(tmp_path), "--mongo", url]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert len(rows(first)) == 3
    assert "3 runs, 6 points sent; 0 failed" in first
    with pymongo.MongoClient(url) as client:
        database = client[url.rpartition("/")[2]]
        assert sorted(run["_id"] for run in database.runs.find()) == [1, 2, 3]
        for entry in database.runs.find():
            folder = RunFolder.open(f"seed{entry['config']['seed']}_", tmp_path)
            assert read_curves(database, entry["_id"]) == series(folder.journal)
            assert entry["meta"]["uid"] == folder.record["uid"]
    assert main(words) == 0
    again = capsys.readouterr().out
    assert "3 runs, 0 points sent; 0 failed" in again
    assert again.count("was complete") == 3


def test_a_run_that_goes_on_is_sent_as_far_as_it_is(three, url, tmp_path, capsys):
    folder = three[0].folder
    folder.begin(resume=False)
    folder.update(pid=os.getpid())
    assert main([str(folder.path), "-m", url]) == 0
    assert "still running: sync again when it has ended" in capsys.readouterr().out
    three[0].log(3, x=1.0)
    assert main([folder.path.name, "--results-dir", str(tmp_path), "-m", url]) == 0
    assert "1 runs, 1 points sent" in capsys.readouterr().out


def test_one_damaged_run_does_not_hold_up_the_others(three, url, tmp_path, capsys):
    journal = three[1].folder.journal
    journal.write_text(journal.read_text().replace('"x":0.5', '"x":0.7', 1))
    RunFolder.create({"name": "a", "seed": 9, "results_dir": str(tmp_path)}, "x")
    assert main(["--results-dir", str(tmp_path), "-m", url]) == 1
    shown = capsys.readouterr().out
    assert f"{three[1].folder.path.name} failed: JournalError: {journal}, line 1: checksum" in shown
    found = rows(shown)
    assert "never started" in next(line for name, line in found.items() if "seed9" in name)
    assert shown.endswith("4 runs, 4 points sent; 1 failed\n")


def test_a_database_that_is_away_is_asked_once(three, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(mongo, "WAIT_MS", 100)
    assert main(["--results-dir", str(tmp_path), "-m", "mongodb://127.0.0.1:1"]) == 1
    shown = capsys.readouterr().out
    assert shown.count("MongoDB at 127.0.0.1:1 is not reachable") == 1
    assert shown.count("not tried") == 2


def test_what_is_meant_by_the_words(three, tmp_path):
    paths = [run.folder.path for run in three]
    assert [folder.path for folder in find([], str(tmp_path))] == sorted(paths)
    assert [folder.path for folder in find([str(tmp_path / "x")], "nowhere")] == sorted(paths)
    assert [folder.path for folder in find([str(paths[1]), paths[1].name, "seed3"], str(tmp_path))] == [
        paths[1],
        paths[2],
    ]
    with pytest.raises(ConfigError, match="no run 'seed7'"):
        find(["seed7"], str(tmp_path))
    with pytest.raises(ConfigError, match="no runs"):
        find([], str(tmp_path / "empty"))


def test_where_to(three, tmp_path, monkeypatch):
    monkeypatch.delenv("COFACTOR_MONGO_URL", raising=False)
    with pytest.raises(ConfigError, match="give its address with -m URL"):
        main(["--results-dir", str(tmp_path)])
    for name, expected in (("COFACTOR_MONGO_URL", "mongodb://variable"), (None, "mongodb://given")):
        monkeypatch.setenv("COFACTOR_MONGO_URL", "mongodb://variable")
        asked = []
        monkeypatch.setattr(module, "sync", lambda _, addresses, asked=asked: asked.extend(addresses.values()) or [])
        main(["--results-dir", str(tmp_path), *([] if name else ["-m", "mongodb://given"])])
        assert set(asked) == {(expected, "cofactor")}
    text = three[0].folder.config.read_text()
    three[0].folder.config.write_text(text + "mongo_url: mongodb://me:***@host\nmongo_db: lab\n")
    monkeypatch.undo()
    monkeypatch.delenv("COFACTOR_MONGO_URL", raising=False)
    with pytest.raises(ConfigError, match="passwords are not kept"):
        main([str(three[0].folder.path)])
