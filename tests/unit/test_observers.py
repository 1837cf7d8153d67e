"""The hardened observers, against an imitation of MongoDB."""

from __future__ import annotations

import datetime
import hashlib
import json
import math

import gridfs
import mongomock
import numpy as np
import pytest
import torch
from bson import json_util
from mongomock.gridfs import enable_gridfs_integration
from pymongo.errors import AutoReconnect, ServerSelectionTimeoutError, WriteError

from core.config import ConfigError
from tracking import mongo as module
from tracking.mongo import HardenedMongoObserver, parse_address
from tracking.observers import FileObserver

enable_gridfs_integration()
NOW = datetime.datetime(2030, 1, 1)


@pytest.fixture
def db():
    return mongomock.MongoClient()["cofactor"]


@pytest.fixture
def make(db, tmp_path, monkeypatch):
    """Makes observers of ``db``, which after a failure try again at once."""
    monkeypatch.setattr(module, "_REST_SECONDS", (0.0, 0.0))

    def observer():
        return HardenedMongoObserver.create_from(
            db.runs, gridfs.GridFS(db), metrics_collection=db.metrics, failure_dir=str(tmp_path / "unsent")
        )

    return observer


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source.py").write_text("x = 1\n")
    return {"name": "e", "base_dir": str(tmp_path), "sources": [("source.py", digest(tmp_path / "source.py"))]}


def digest(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def start(observer, ex_info, uid="u1", **config):
    return observer.started_event(ex_info, "train", {"hostname": "h"}, NOW, config, {"uid": uid}, None)


def points(steps, values=None):
    return {"steps": list(steps), "values": list(values or steps), "timestamps": [NOW] * len(steps)}


def beat(observer, out="", **info):
    observer.heartbeat_event(info=info, captured_out=out, beat_time=NOW, result=None)


def broken(*_, **__):
    raise AutoReconnect("connection closed")


def curve(db, name, run_id=1):
    found = list(db.metrics.find({"run_id": run_id, "name": name}))
    assert len(found) == 1
    assert len(found[0]["timestamps"]) == len(found[0]["steps"])
    return list(zip(found[0]["steps"], found[0]["values"], strict=True))


def test_sources_and_resources_are_stored_once(db, make, source, tmp_path):
    resource = tmp_path / "map.yaml"
    resource.write_text("a: 1")
    for uid in ("u1", "u2"):
        observer = make()
        start(observer, source, uid)
        observer.resource_event(str(resource))
        observer.resource_event(str(resource))
        observer.completed_event(NOW, None)
    first, second = db.runs.find()
    assert first["experiment"]["sources"] == second["experiment"]["sources"]
    assert first["resources"] == [[str(resource), digest(resource)]]
    fs = gridfs.GridFS(db)
    assert fs.get(first["experiment"]["sources"][0][1]).read() == b"x = 1\n"
    assert db["fs.files"].count_documents({}) == 2
    (tmp_path / "source.py").write_text("x = 2\n")
    changed = source | {"sources": [("source.py", digest(tmp_path / "source.py"))]}
    start(make(), changed, "u3")
    assert db["fs.files"].count_documents({}) == 3


def test_run_numbers_count_on_and_a_taken_one_is_skipped(db, make, source, monkeypatch):
    assert [start(make(), source, uid) for uid in "abc"] == [1, 2, 3]
    observer = make()
    look = db.runs.find_one
    stale = iter([{"_id": 2}, {"_id": 3}])

    def find_one(*args, **kwargs):
        return next(stale) if "sort" in kwargs else look(*args, **kwargs)

    monkeypatch.setattr(observer.runs, "find_one", find_one)
    assert start(observer, source, "d") == 4


def test_values_become_plain(db, make, source):
    observer = make()
    start(observer, source, seed=2**70, sizes=np.array([1, 2]))
    values = [torch.tensor(0.5), np.float32(1.5), np.array([2.0]), 2**65, math.nan, math.inf]
    observer.log_metrics(metrics_by_name={"x": points(range(6), values), "y": points([0, 1], ["text", 1.0])}, info={})
    beat(observer, tensor=torch.ones(2), big=2**63)
    stored = [value for _, value in curve(db, "x")]
    assert stored[:4] == [0.5, 1.5, 2.0, float(2**65)]
    assert math.isnan(stored[4])
    assert stored[5] == math.inf
    assert curve(db, "y") == [(1, 1.0)]
    run = db.runs.find_one()
    assert run["config"] == {"seed": str(2**70), "sizes": [1, 2]}
    assert (run["info"]["tensor"], run["info"]["big"]) == ([1.0, 1.0], str(2**63))


def test_the_entry_refers_to_its_metrics(db, make, source):
    observer = make()
    start(observer, source)
    observer.log_metrics(metrics_by_name={"x": points([1])}, info={})
    beat(observer)
    refs = db.runs.find_one()["info"]["metrics"]
    assert refs == [{"name": "x", "id": str(db.metrics.find_one()["_id"])}]
    assert "run_id_1_name_1" in db.metrics.index_information()


def test_a_failed_heartbeat_keeps_its_points_for_the_next(db, make, source, monkeypatch, capsys):
    observer = make()
    start(observer, source)
    observer.log_metrics(metrics_by_name={"x": points([1]), "y": points([1])}, info={})
    with monkeypatch.context() as patch:
        patch.setattr(observer.metrics, "update_one", broken)
        beat(observer)
        observer.log_metrics(metrics_by_name={"x": points([2])}, info={})
        beat(observer)
    assert capsys.readouterr().out.count("is not reachable: the run goes on, everything is kept in") == 1
    beat(observer)
    assert curve(db, "x") == [(1, 1), (2, 2)]
    assert curve(db, "y") == [(1, 1)]
    assert "answers again" in capsys.readouterr().out


def test_a_write_whose_answer_was_lost_is_not_repeated(db, make, source, monkeypatch):
    observer = make()
    start(observer, source)
    write = observer.metrics.update_one

    def written_but_unanswered(*args, **kwargs):
        write(*args, **kwargs)
        raise AutoReconnect("timed out")

    observer.log_metrics(metrics_by_name={"x": points([1, 2])}, info={})
    with monkeypatch.context() as patch:
        patch.setattr(observer.metrics, "update_one", written_but_unanswered)
        beat(observer)
    observer.log_metrics(metrics_by_name={"x": points([3])}, info={})
    beat(observer)
    assert curve(db, "x") == [(1, 1), (2, 2), (3, 3)]
    assert [ref["name"] for ref in db.runs.find_one()["info"]["metrics"]] == ["x"]


def test_one_refused_metric_does_not_hold_up_the_others(db, make, source, monkeypatch, capsys):
    observer = make()
    start(observer, source)
    write = observer.metrics.update_one

    def refuse_x(key, *args, **kwargs):
        if key["name"] == "x":
            raise WriteError("too large")
        return write(key, *args, **kwargs)

    monkeypatch.setattr(observer.metrics, "update_one", refuse_x)
    for step in (1, 2):
        observer.log_metrics(metrics_by_name={"x": points([step]), "y": points([step])}, info={})
        beat(observer)
    assert curve(db, "y") == [(1, 1), (2, 2)]
    assert capsys.readouterr().out.count("refuses the metric 'x'") == 1


def test_a_database_that_comes_later_gets_everything(db, make, source, monkeypatch):
    observer = make()
    with monkeypatch.context() as patch:
        patch.setattr(observer.runs, "find_one", broken)
        assert start(observer, source) is None
        observer.log_metrics(metrics_by_name={"x": points([1])}, info={})
        beat(observer, "early\n")
    assert db.runs.count_documents({}) == 0
    observer.log_metrics(metrics_by_name={"x": points([2])}, info={})
    beat(observer, "early\nlate\n")
    assert curve(db, "x") == [(1, 1), (2, 2)]
    assert db.runs.find_one()["captured_out"] == "early\nlate\n"


def test_after_a_failure_the_database_is_left_alone_for_a_while(db, make, source, monkeypatch):
    observer = make()
    start(observer, source)
    monkeypatch.setattr(module, "_REST_SECONDS", (100.0, 100.0))
    calls = []

    def fail(*_, **__):
        calls.append(1)
        raise ServerSelectionTimeoutError("nobody there")

    monkeypatch.setattr(observer.runs, "update_one", fail)
    for _ in range(5):
        beat(observer)
    assert len(calls) == 1


def test_the_end_that_the_database_missed_is_in_a_file(make, source, tmp_path, monkeypatch, capsys):
    observer = make()
    start(observer, source)
    monkeypatch.setattr(observer.runs, "update_one", broken)
    observer.failed_event(NOW, ["Traceback", "ValueError: no"])
    entry = json_util.loads((tmp_path / "unsent" / "run.json").read_text())
    assert (entry["status"], entry["fail_trace"][-1]) == ("FAILED", "ValueError: no")
    assert str(tmp_path / "unsent" / "run.json") in capsys.readouterr().out


def test_only_the_end_of_long_output_is_stored(db, make, source):
    observer = make()
    start(observer, source)
    beat(observer, "é" * 1_500_000 + "end")
    stored = db.runs.find_one()["captured_out"]
    assert stored.endswith("é" * 100 + "end")
    assert len(stored.encode()) in (2_000_000, 1_999_999)


def test_an_artifact_given_again_replaces_the_first(db, make, source, tmp_path):
    observer = make()
    start(observer, source)
    path = tmp_path / "config.yaml"
    for text in ("a: 1", "a: 2"):
        path.write_text(text)
        observer.artifact_event("config.yaml", str(path))
    (artifact,) = db.runs.find_one()["artifacts"]
    assert gridfs.GridFS(db).get(artifact["file_id"]).read() == b"a: 2"
    assert db["fs.files"].count_documents({"filename": "artifact://runs/1/config.yaml"}) == 1


def test_a_missing_file_does_not_stop_the_rest(db, make, source, tmp_path, capsys):
    observer = make()
    start(observer, source)
    observer.artifact_event("gone", str(tmp_path / "gone"))
    observer.completed_event(NOW, None)
    assert db.runs.find_one()["status"] == "COMPLETED"
    assert "not stored in MongoDB" in capsys.readouterr().out


def test_a_resumed_run_continues_its_entry_and_its_curves(db, make, source):
    observer = make()
    start(observer, source, "other")  # number 1 is somebody else's
    observer.log_metrics(metrics_by_name={"x": points([1, 2, 3])}, info={})
    observer.completed_event(NOW, None)
    observer = make()
    assert start(observer, source, "mine") == 2
    observer.log_metrics(metrics_by_name={"x": points([1, 2, 3]), "late": points([3])}, info={})
    beat(observer, "first part\n")
    observer.interrupted_event(NOW, "INTERRUPTED")

    observer = make()
    assert start(observer, source, "mine", t_max=9) == 2
    assert "stop_time" not in db.runs.find_one({"_id": 2})
    observer.restore({"x": [(1, 1), (2, 2)], "missed": [(1, 5.0)]})
    observer.log_metrics(metrics_by_name={"x": points([3, 4])}, info={})
    beat(observer, "second part\n")
    observer.completed_event(NOW, None)
    assert curve(db, "x", 2) == [(1, 1), (2, 2), (3, 3), (4, 4)]
    assert curve(db, "missed", 2) == [(1, 5.0)]
    assert curve(db, "x", 1) == [(1, 1), (2, 2), (3, 3)]
    assert db.metrics.count_documents({"run_id": 2, "name": "late"}) == 0
    run = db.runs.find_one({"_id": 2})
    assert (run["status"], run["config"]["t_max"]) == ("COMPLETED", 9)
    assert run["captured_out"] == "first part\nsecond part\n"
    assert {ref["name"]: ref["id"] for ref in run["info"]["metrics"]} == {
        found["name"]: str(found["_id"]) for found in db.metrics.find({"run_id": 2})
    }
    assert db.runs.count_documents({}) == 2


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("mongodb://127.0.0.1:28102", "127.0.0.1:28102", "cofactor"),
        ("mongodb://me:pw@h1:1,h2:2/lab?authSource=admin", "h1:1,h2:2", "lab"),
        ("mongodb+srv://me:pw@cluster.example.net/lab?x=1", "cluster.example.net", "lab"),
    ],
)
def test_addresses(url, address, name):
    assert parse_address(url, "cofactor")[1:] == (name, address)


@pytest.mark.parametrize(
    "url", ["mongodb://", "mongodb://h:notaport", "http://h", "localhost:27017:sacred", "mongodb://me:***@h/db"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(ConfigError, match="mongo_url"):
        parse_address(url, "cofactor")


def test_files_continue_their_directory_and_their_curves(tmp_path, source):
    observer = FileObserver(tmp_path / "sacred")
    start(observer, source)
    artifact = tmp_path / "policy.pt"
    artifact.write_bytes(b"1")
    observer.artifact_event("policy.pt", str(artifact))
    observer.log_metrics(metrics_by_name={"x": points([1, 2, 3], [0.1, math.nan, 0.3])}, info={})
    observer = FileObserver(tmp_path / "sacred", resume=True)
    start(observer, source)
    observer.restore({"x": [(1, 0.1)]})
    observer.log_metrics(metrics_by_name={"x": points([2])}, info={})
    observer.artifact_event("policy.pt", str(artifact))
    observer.completed_event(NOW, None)
    (directory,) = (path for path in (tmp_path / "sacred").iterdir() if path.name.isdigit())
    metrics = json.loads((directory / "metrics.json").read_text())
    assert metrics == {"x": {"steps": [1, 2], "values": [0.1, 2], "timestamps": [NOW.isoformat()] * 2}}
    run = json.loads((directory / "run.json").read_text())
    assert (run["status"], run["artifacts"]) == ("COMPLETED", ["policy.pt"])


def test_a_full_disk_does_not_switch_the_observer_off(tmp_path, source, monkeypatch, capsys):
    observer = FileObserver(tmp_path / "sacred")
    start(observer, source)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tracking.observers.os.replace", full)
        for step in (1, 2):
            observer.log_metrics(metrics_by_name={"x": points([step])}, info={})
    observer.log_metrics(metrics_by_name={"x": points([3])}, info={})
    assert json.loads((tmp_path / "sacred" / "1" / "metrics.json").read_text())["x"]["steps"] == [1, 2, 3]
    assert capsys.readouterr().out.count("No space left") == 1
