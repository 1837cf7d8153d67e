"""Sacred's files: whole at any moment, continued when a run is resumed, never the end of a run."""

from __future__ import annotations

import datetime
import hashlib
import json
import math

import pytest

from tracking.folder import RunFolder
from tracking.journal import Journal
from tracking.observers import FileObserver

NOW = datetime.datetime(2030, 1, 1)


@pytest.fixture
def source(tmp_path):
    (tmp_path / "source.py").write_text("x = 1\n")
    md5 = hashlib.md5((tmp_path / "source.py").read_bytes()).hexdigest()
    return {"name": "e", "base_dir": str(tmp_path), "sources": [("source.py", md5)]}


@pytest.fixture
def folder(tmp_path):
    return RunFolder.create({"name": "a", "seed": 1, "results_dir": str(tmp_path / "results")}, "x")


def start(observer, ex_info):
    return observer.started_event(ex_info, "train", {"hostname": "h"}, NOW, {"lr": 1}, {"uid": "u"}, None)


def log(folder, *points):
    journal = Journal(folder.journal)
    for step, value in points:
        journal.write({"kind": "train", "t_env": step, "values": {"x": value}})
    journal.close()


def curves(folder):
    return json.loads((folder.sacred / "1" / "metrics.json").read_text())


def told(observer):
    observer.log_metrics(metrics_by_name={"x": {"steps": [0]}}, info={})


def test_files_continue_their_directory_and_their_curves(folder, source, tmp_path):
    observer = FileObserver(folder)
    assert start(observer, source) == folder.path.name
    artifact = tmp_path / "policy.pt"
    artifact.write_bytes(b"1")
    observer.artifact_event("policy.pt", str(artifact))
    log(folder, (1, 0.1), (2, math.nan))
    told(observer)
    observer = FileObserver(folder, resume=True)
    start(observer, source)
    journal = Journal(folder.journal)
    journal.rewind(len(folder.journal.read_bytes().splitlines(keepends=True)[0]))
    journal.close()
    observer.restore()
    assert curves(folder)["x"]["values"] == [0.1]
    log(folder, (2, 0.2))
    observer.artifact_event("policy.pt", str(artifact))
    observer.completed_event(NOW, None)
    (directory,) = (path for path in folder.sacred.iterdir() if path.name.isdigit())
    found = curves(folder)["x"]
    assert (found["steps"], found["values"], len(found["timestamps"])) == ([1, 2], [0.1, 0.2], 2)
    assert found["timestamps"] == sorted(found["timestamps"])
    run = json.loads((directory / "run.json").read_text())
    assert (run["status"], run["artifacts"]) == ("COMPLETED", ["policy.pt"])


def test_a_full_disk_does_not_switch_the_observer_off(folder, source, monkeypatch, capsys):
    observer = FileObserver(folder)
    start(observer, source)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("tracking.observers.os.replace", full)
        for step in (1, 2):
            log(folder, (step, 1.0))
            told(observer)
    log(folder, (3, 1.0))
    told(observer)
    assert curves(folder)["x"]["steps"] == [1, 2, 3]
    assert capsys.readouterr().out.count("No space left") == 1


def test_rewriting_the_curves_takes_a_small_share_of_the_time(folder, source, monkeypatch):
    clock, writes = [0.0], []
    monkeypatch.setattr("tracking.observers.time.monotonic", lambda: clock[0])

    def slow(_):
        writes.append(clock[0])
        clock[0] += 1.0
        return {}

    monkeypatch.setattr("tracking.observers.curves_of", slow)
    observer = FileObserver(folder)
    start(observer, source)
    for _ in range(40):
        told(observer)
        clock[0] += 10.0
    assert writes == [0.0, 51.0, 102.0, 153.0, 204.0, 255.0, 306.0, 357.0]
    observer.interrupted_event(NOW, "INTERRUPTED")
    assert len(writes) == 9


def test_output_is_one_file_by_two_names(folder, source):
    folder.console.write_text("first\n")
    observer = FileObserver(folder)
    start(observer, source)
    with folder.console.open("a") as file:
        file.write("second\n")
    assert (folder.sacred / "1" / "cout.txt").read_text() == "first\nsecond\n"
