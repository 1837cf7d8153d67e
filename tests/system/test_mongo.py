"""Whole runs against a real database server (SecantusDB, which speaks MongoDB's protocol)."""

from __future__ import annotations

import hashlib
import json
import math
import os
import signal
import socket
import time

import gridfs
import pymongo
import pytest

from patience import wait_for
from tracking import experiment, mongo, shipping
from tracking.experiment import execute
from tracking.folder import RunFolder
from tracking.journal import series
from tracking.record import Interrupted, Record

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def serve(path):
    return secantus.SecantusDBServer(storage_path=str(path), replica_set_name=None, cache_size="128M")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("mongo")) as running:
        yield running


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """Beats and waits of tests; the bounds that are checked follow from them."""
    monkeypatch.setattr(experiment, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(shipping, "BEAT_SECONDS", 0.2)
    monkeypatch.setattr(mongo, "WAIT_MS", 500)


@pytest.fixture
def settings(server, tmp_path, request):
    return {
        "name": "qmix",
        "seed": 3,
        "t_max": 100,
        "results_dir": str(tmp_path),
        "mongo_url": server.uri,
        "mongo_db": request.node.name[:40],
        "tensorboard": False,
        "lr": 0.0005,
        "env_args": {"engine": "skirmish", "map_name": "3m"},
    }


@pytest.fixture
def folder(settings):
    return RunFolder.create(settings, "sc2-skirmish/3m")


@pytest.fixture
def db(server, settings):
    with pymongo.MongoClient(server.uri) as client:
        yield client[settings["mongo_db"]]


def log(tracker, *steps):
    for t_env in steps:
        tracker.log(Record("train", t_env, {"loss": 1 / t_env, "grad_norm": math.nan}))
        tracker.log(Record("test", t_env, {"test_battle_won_mean": t_env / 100}))
        tracker.log(Record("perf", t_env, {"steps_per_second": 5.0}))
        tracker.progress(t_env, t_env // 10)


def points_in(db):
    """How many points of curves the database has."""
    return sum(metric["n"] for metric in db.metrics.find())


def steps_of(db, run_id=1):
    """Steps by metric name; one document per metric, referred to by the run, its lists equally long."""
    found = list(db.metrics.find({"run_id": run_id}))
    refs = {ref["name"]: ref["id"] for ref in db.runs.find_one({"_id": run_id})["info"]["metrics"]}
    assert refs == {metric["name"]: str(metric["_id"]) for metric in found}
    for metric in found:
        assert len(metric["values"]) == len(metric["timestamps"]) == len(metric["steps"])
    return {metric["name"]: metric["steps"] for metric in found}


def in_files(folder):
    directory = folder.path / folder.record["sacred"]["dir"]
    metrics = json.loads((directory / "metrics.json").read_text())
    return json.loads((directory / "run.json").read_text()), {name: metric["steps"] for name, metric in metrics.items()}


def test_a_completed_run(db, settings, folder, capsys):
    def body(tracker):
        log(tracker, 10, 20)
        time.sleep(0.5)  # some beats
        log(tracker, 30)
        tracker.message("the last words: ünï")
        folder.checkpoint.write_bytes(os.urandom(600_000))

    assert execute(settings, folder, body) == "COMPLETED"
    run = db.runs.find_one()
    assert (run["_id"], run["status"], run["experiment"]["name"]) == (1, "COMPLETED", "qmix")
    assert run["config"] == settings
    assert (run["info"]["engine"], run["info"]["label"]) == ("skirmish", "sc2-skirmish/3m")
    assert run["info"]["summary"] == {"test_battle_won_mean": 0.3, "test_t_env": 30}
    assert run["result"] == 0.3
    assert run["host"]["hostname"] == socket.gethostname()
    assert "the last words: ünï" in run["captured_out"]
    assert "Completed after" in run["captured_out"]  # Sacred's own words
    assert run["captured_out"] in folder.console.read_text()
    names = {"loss", "grad_norm", "test_battle_won_mean", "steps_per_second"}
    assert steps_of(db) == {name: [10, 20, 30] for name in names} == in_files(folder)[1]
    assert db.metrics.find_one({"name": "loss"})["values"] == [1 / 10, 1 / 20, 1 / 30]
    assert math.isnan(db.metrics.find_one({"name": "grad_norm"})["values"][0])
    stored = {artifact["name"]: gridfs.GridFS(db).get(artifact["file_id"]).read() for artifact in run["artifacts"]}
    on_disk = {path.name: path.read_bytes() for path in (folder.config, folder.journal, folder.checkpoint)}
    assert {name: hashlib.sha256(data).digest() for name, data in stored.items()} == {
        name: hashlib.sha256(data).digest() for name, data in on_disk.items()
    }
    record = folder.record
    assert record["status"] == "COMPLETED"
    assert record["sacred"] == {
        "dir": "sacred/1",
        "mongo": {"id": 1, "address": settings["mongo_url"].split("/")[2], "db": settings["mongo_db"]},
    }
    sources = dict(run["experiment"]["sources"])
    assert b"def execute" in gridfs.GridFS(db).get(sources["tracking/experiment.py"]).read()


def test_a_failing_run_keeps_its_output(db, settings, folder):
    def body(tracker):
        log(tracker, 10)
        tracker.message("just before")
        raise ValueError("boom")

    assert execute(settings, folder, body) == "FAILED"
    run = db.runs.find_one()
    assert run["status"] == "FAILED"
    assert "just before" in run["captured_out"]
    assert run["fail_trace"][-1] == "ValueError: boom\n"
    assert steps_of(db)["loss"] == [10]
    assert (folder.record["status"], folder.record["error"]) == ("FAILED", "ValueError: boom")
    assert in_files(folder)[0]["status"] == "FAILED"
    assert "raise ValueError" in folder.console.read_text()
    assert list(series(folder.journal)["loss"]) == [(10, 0.1)]


def test_an_interrupted_run_is_resumed_as_the_same_run(db, settings, folder):
    saved = {}

    def body(tracker):
        log(tracker, 10, 20)
        saved.update(tracker.state_dict())
        log(tracker, 30, 40)
        assert wait_for(lambda: points_in(db) == 16)
        raise Interrupted(signal.SIGTERM)

    assert execute(settings, folder, body) == "INTERRUPTED"
    assert db.runs.find_one()["status"] == folder.record["status"] == in_files(folder)[0]["status"] == "INTERRUPTED"
    assert steps_of(db)["loss"] == [10, 20, 30, 40]
    before = db.metrics.find_one({"name": "loss"})
    with pymongo.MongoClient(settings["mongo_url"]) as client:  # another run in between
        client[settings["mongo_db"]].runs.insert_one({"_id": 2, "status": "RUNNING"})

    def rest(tracker):
        tracker.load_state_dict(saved)
        log(tracker, 30, 40, 50)

    assert execute(settings | {"t_max": 200}, folder, rest, resume=True) == "COMPLETED"
    assert set(map(tuple, steps_of(db).values())) == {(10, 20, 30, 40, 50)}
    after = db.metrics.find_one({"name": "loss"})
    assert after["_id"] == before["_id"]
    assert after["timestamps"][:2] == before["timestamps"][:2]
    assert sorted(run["_id"] for run in db.runs.find()) == [1, 2]
    run = db.runs.find_one({"_id": 1})
    assert (run["status"], run["config"]["t_max"]) == ("COMPLETED", 200)
    assert run["captured_out"].count("Started run") == 2
    files = in_files(folder)
    assert files[0]["status"] == "COMPLETED"
    assert set(map(tuple, files[1].values())) == {(10, 20, 30, 40, 50)}
    assert [step for step, _ in series(folder.journal)["loss"]] == [10, 20, 30, 40, 50]
    assert len(folder.record["resumes"]) == 1


@pytest.fixture
def interruptible():
    """SIGINT as in a terminal: a process that was started in the background ignores it, and so would its children."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_control_c(db, settings, folder):
    def body(tracker):
        log(tracker, 10)
        signal.raise_signal(signal.SIGINT)

    assert execute(settings, folder, body) == "INTERRUPTED"
    assert db.runs.find_one()["status"] == "INTERRUPTED"


def test_a_server_absent_at_the_start_and_there_at_the_resumption(db, settings, folder, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    absent = settings | {"mongo_url": f"mongodb://me:s3cret@127.0.0.1:{port}"}
    saved = {}

    def body(tracker):
        log(tracker, 10, 20)
        saved.update(tracker.state_dict())

    begin = time.monotonic()
    assert execute(absent, folder, body) == "COMPLETED"
    assert time.monotonic() - begin < 8
    shown = capsys.readouterr().out
    expected = f"MongoDB at 127.0.0.1:{port} is not reachable: the run goes on, everything is kept in {folder.path}"
    assert shown.count(expected) == 1
    assert all("s3cret" not in path.read_text(errors="ignore") for path in folder.path.rglob("*") if path.is_file())
    assert in_files(folder)[1]["loss"] == [10, 20]

    def rest(tracker):
        tracker.load_state_dict(saved)
        log(tracker, 30)

    assert execute(settings, folder, rest, resume=True) == "COMPLETED"
    assert steps_of(db)["loss"] == [10, 20, 30] == in_files(folder)[1]["loss"]
    assert folder.record["sacred"]["mongo"]["id"] == 1


def test_a_server_that_dies_neither_stops_the_run_nor_holds_up_its_end(settings, tmp_path, capsys):
    with serve(tmp_path / "mortal") as mortal:
        settings = settings | {"mongo_url": mortal.uri}
        folder = RunFolder.create(settings, "x")
        died: list[float] = []

        def body(tracker):
            log(tracker, 10)
            with pymongo.MongoClient(mortal.uri) as client:
                assert wait_for(lambda: points_in(client[settings["mongo_db"]]) == 4)
            mortal.stop()
            died.append(time.monotonic())
            log(tracker, 20)
            time.sleep(0.7)
            log(tracker, 30)

        assert execute(settings, folder, body) == "COMPLETED"
    assert time.monotonic() - died[0] < 10
    assert [step for step, _ in series(folder.journal)["loss"]] == [10, 20, 30] == in_files(folder)[1]["loss"]
    shown = capsys.readouterr().out
    assert "did not get the end of this run (up to 8 of 12 points)" in shown
    assert f"src/main.py sync {folder.path.name} -m URL" in shown
    with serve(tmp_path / "mortal") as again, pymongo.MongoClient(again.uri) as client:
        run = client[settings["mongo_db"]].runs.find_one()
        assert run["status"] == "RUNNING"  # it could not hear of the end; the next resumption tells it, or ``sync``

        def rest(tracker):
            tracker.load_state_dict({"cursor": folder.journal.stat().st_size})

        assert execute(settings | {"mongo_url": again.uri}, folder, rest, resume=True) == "COMPLETED"
        assert steps_of(client[settings["mongo_db"]])["loss"] == [10, 20, 30]
        assert client[settings["mongo_db"]].runs.find_one()["status"] == "COMPLETED"


def test_a_server_that_never_answers(settings, capsys):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        settings = settings | {"mongo_url": f"mongodb://127.0.0.1:{silent.getsockname()[1]}"}
        folder = RunFolder.create(settings, "x")
        begin = time.monotonic()
        assert execute(settings, folder, lambda tracker: log(tracker, 10)) == "COMPLETED"
    assert time.monotonic() - begin < 8
    assert "is not reachable" in capsys.readouterr().out


def test_an_unusable_address_is_reported_and_the_run_goes_on(settings, folder, capsys):
    status = execute(settings | {"mongo_url": "mongodb://host:port"}, folder, lambda tracker: log(tracker, 10))
    assert status == "COMPLETED"
    assert "mongo_url" in capsys.readouterr().out
