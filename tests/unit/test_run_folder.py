"""The run folder and its record."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from core.config import ConfigError
from tracking import folder as module
from tracking.folder import RunFolder

SOURCES = Path(module.__file__).parents[1]


@pytest.fixture
def settings(tmp_path):
    return {
        "name": "qmix",
        "seed": 7,
        "results_dir": str(tmp_path),
        "mongo_url": None,
        "env_args": {"engine": "skirmish"},
    }


def test_a_new_folder(settings, tmp_path):
    folder = RunFolder.create(settings, "sc2-skirmish/corridor")
    assert folder.path.parent == tmp_path / "sc2-skirmish" / "corridor" / "qmix"
    assert re.fullmatch(r"\d{8}T\d{6}Z_seed7_[0-9a-f]{4}", folder.path.name)
    assert yaml.safe_load(folder.config.read_text()) == settings
    record = folder.record
    assert record["status"] == folder.status == "CREATED"
    assert (record["engine"], record["label"], record["seed"]) == ("skirmish", "sc2-skirmish/corridor", 7)


def test_names_cannot_leave_the_results(settings, tmp_path):
    folder = RunFolder.create(settings | {"name": "../../evil name"}, "/../a b/c")
    assert folder.path.is_relative_to(tmp_path)
    assert folder.path.parent == tmp_path / "a-b" / "c" / "evil-name"


def test_many_in_one_second_are_different(settings):
    assert len({RunFolder.create(settings, "x").path for _ in range(30)}) == 30


def test_passwords_are_not_written(settings, monkeypatch):
    url = "mongodb://me:s3cret@host:27017/db"
    monkeypatch.setattr(sys, "argv", ["main.py", f"--mongo={url}"])
    folder = RunFolder.create(settings | {"mongo_url": url}, "x")
    folder.begin(resume=False)
    folder.begin(resume=True)
    for path in folder.path.iterdir():
        assert "s3cret" not in path.read_text()
    assert "mongodb://me:***@host:27017/db" in folder.config.read_text()


def test_opening_by_path_by_file_and_by_part_of_the_name(settings, tmp_path, monkeypatch):
    one, two = (RunFolder.create(settings | {"seed": seed}, "x/y") for seed in (1, 22))
    assert RunFolder.open(one.path).path == one.path
    assert RunFolder.open(one.config).path == one.path
    assert RunFolder.open("seed22", tmp_path).path == two.path
    assert RunFolder.open(f"x/y/qmix/{one.path.name}", tmp_path).path == one.path
    monkeypatch.chdir(tmp_path)
    assert RunFolder.open(two.path.name, ".").path == two.path


def test_opening_what_is_not_there_or_not_unique(settings, tmp_path):
    with pytest.raises(ConfigError, match="no runs yet"):
        RunFolder.open("abcd", tmp_path)
    one, two = (RunFolder.create(settings | {"seed": seed}, "x") for seed in (1, 2))
    with pytest.raises(ConfigError, match="2 runs") as error:
        RunFolder.open("seed", tmp_path)
    assert one.path.name in str(error.value)
    assert two.path.name in str(error.value)
    with pytest.raises(ConfigError, match=f"Did you mean '{one.path.name}'"):
        RunFolder.open(one.path.name[:-1] + "zz", tmp_path)


def test_the_record_is_replaced_whole_or_not_at_all(settings, monkeypatch):
    folder = RunFolder.create(settings, "x")
    before = folder.record

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(module.os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        folder.update(status="RUNNING")
    assert folder.record == before


def test_from_begin_to_end(settings):
    folder = RunFolder.create(settings, "x")
    folder.begin(resume=False)
    assert folder.status == "RUNNING"
    assert folder.record["pid"] == os.getpid()
    assert folder.record["versions"]["python"].startswith("3.")
    folder.end("FAILED", "ValueError: no")
    assert folder.status == "FAILED"
    started = folder.record["started"]
    folder.begin(resume=True)
    record = folder.record
    assert (record["started"], record["error"], record["stopped"], len(record["resumes"])) == (started, None, None, 1)


def test_a_run_whose_process_is_gone_is_dead(settings):
    folder = RunFolder.create(settings, "x")
    folder.begin(resume=False)
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    folder.update(pid=child.pid)
    assert folder.status == "DEAD"
    folder.update(pid=os.getpid(), process_started=folder.record["process_started"] - 100)  # the number was used again
    assert folder.status == "DEAD"


def test_on_another_host_the_heartbeat_decides(settings):
    folder = RunFolder.create(settings, "x")
    folder.begin(resume=False)
    folder.update(host="elsewhere")
    assert folder.status == "RUNNING"
    folder.update(heartbeat="2020-01-01T00:00:00+00:00")
    assert folder.status == "DEAD"


def test_only_one_process_writes(settings):
    folder = RunFolder.create(settings, "x")
    folder.begin(resume=False)
    code = f"import sys; sys.path.insert(0, {str(SOURCES)!r})\nfrom tracking.folder import RunFolder\n"
    code += f"with RunFolder({str(folder.path)!r}).claim(): print('mine')"

    def other():
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        return done.stdout.strip() or done.stderr.strip().splitlines()[-1]

    with folder.claim():
        with folder.claim():
            pass
        assert f"is being written by process {os.getpid()}" in other()
    assert other() == "mine"
