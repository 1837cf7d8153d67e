"""The tracker: who hears what, in which order; and what is shown."""

from __future__ import annotations

import io
import math
import sys

import numpy as np
import pytest
import torch

from tracking import tracker as module
from tracking.console import Console, Speed
from tracking.folder import RunFolder
from tracking.journal import Journal, read, series
from tracking.plain import plain
from tracking.record import Interrupted, Record
from tracking.tracker import Tracker


class FakeRun:
    """Notes what reaches Sacred, and what was in the journal at that moment."""

    def __init__(self, journal_path):
        self.info, self.scalars, self.files, self.journal_path, self.journal_first = {}, [], [], journal_path, True
        self.result = None

    def log_scalar(self, metric_name, value, step=None):
        logged = [record for record in read(self.journal_path) if metric_name in record["values"]]
        self.journal_first &= bool(logged) and logged[-1]["t_env"] == step
        self.scalars.append((metric_name, value, step))

    def add_artifact(self, filename, name=None):
        self.files.append((filename, name))


class FakeStore:
    def __init__(self, journal):
        self.journal = journal

    def restore(self):
        self.curves = series(self.journal)


@pytest.fixture
def folder(tmp_path):
    settings = {"name": "a", "seed": 1, "results_dir": str(tmp_path)}
    return RunFolder.create(settings, "x")


def make(folder, resumed=False, stores=(), **settings):
    run = FakeRun(folder.journal)
    console = Console(folder.console, t_max=100)
    return Tracker(settings, folder, Journal(folder.journal), run, console, stores, resumed), run


def test_the_journal_comes_first_and_names_agree(folder):
    tracker, run = make(folder)
    tracker.log(Record("train", 10, {"loss": torch.tensor(0.5), "n": np.int64(3), "bad": math.nan, "huge": 2**70}))
    assert run.journal_first
    assert [name for name, _, _ in run.scalars] == ["loss", "n", "bad", "huge"]
    assert all(type(value) in (int, float) and step == 10 for _, value, step in run.scalars)
    (line,) = read(folder.journal)
    assert line["values"].pop("bad") != 0
    assert line == {"kind": "train", "t_env": 10, "values": {"loss": 0.5, "n": 3, "huge": float(2**70)}}


def test_a_value_that_is_no_number_is_an_error(folder):
    tracker, _ = make(folder)
    with pytest.raises(TypeError, match="single number"):
        tracker.log(Record("train", 1, {"x": torch.zeros(2)}))
    assert list(read(folder.journal)) == []


def test_the_journal_of_the_same_records_is_the_same(folder, tmp_path):
    twin = RunFolder.create({"name": "b", "seed": 1, "results_dir": str(tmp_path)}, "x")
    for each in (folder, twin):
        tracker, _ = make(each)
        tracker.log(Record("train", 1, {"loss": 0.1}))
        tracker.log(Record("test", 1, {"test_return_mean": 0.1}))
    assert folder.journal.read_bytes() == twin.journal.read_bytes()


def test_the_last_test_is_the_summary(folder):
    tracker, run = make(folder)
    for t_env, won in ((10, 0.25), (20, math.nan)):
        tracker.log(Record("test", t_env, {"test_battle_won_mean": won}))
    assert run.info["summary"]["test_t_env"] == 20
    assert math.isnan(run.result)
    assert math.isnan(run.info["summary"]["test_battle_won_mean"])
    assert folder.record["summary"] == {"test_battle_won_mean": None, "test_t_env": 20}


def test_a_resumed_run_goes_back_with_everything_that_follows_the_journal(folder):
    tracker, _ = make(folder)
    tracker.log(Record("test", 10, {"test_return_mean": 1.0}))
    state = tracker.state_dict()
    tracker.log(Record("test", 20, {"test_return_mean": 2.0}))
    tracker.close()
    store = FakeStore(folder.journal)
    tracker, run = make(folder, resumed=True, stores=(store,))
    with pytest.raises(RuntimeError, match="load_state_dict"):
        tracker.log(Record("test", 20, {"test_return_mean": 2.0}))
    tracker.load_state_dict(state)
    assert store.curves == {"test_return_mean": [(10, 1.0)]}
    assert run.info["summary"] == {"test_return_mean": 1.0, "test_t_env": 10}
    assert run.result == 1.0
    tracker.log(Record("test", 20, {"test_return_mean": 2.5}))
    assert [record["values"]["test_return_mean"] for record in read(folder.journal)] == [1.0, 2.5]


def test_a_large_artifact_stays_at_home(folder, monkeypatch, capsys):
    monkeypatch.setattr(module, "MAX_ARTIFACT_BYTES", 10)
    tracker, run = make(folder)
    small, large = folder.path / "small", folder.path / "large"
    small.write_bytes(bytes(10))
    large.write_bytes(bytes(11))
    assert tracker.artifact(small)
    assert not tracker.artifact(large)
    assert run.files == [(str(small), None)]
    assert str(large) in capsys.readouterr().out


def test_tensorboard_only_when_switched_on(folder):
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker, _ = make(folder)
    tracker.log(Record("train", 1, {"loss": 1.0}))
    tracker.close()
    assert not folder.tensorboard.exists()
    tracker, _ = make(folder, tensorboard=True)
    tracker.log(Record("train", 2, {"loss": 0.25}))
    tracker.close()
    events = accumulators.EventAccumulator(str(folder.tensorboard))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(2, 0.25)]


def test_without_a_terminal_a_line_per_record_and_all_of_it_in_the_log(tmp_path, capsys):
    console = Console(tmp_path / "console.log", t_max=200)
    with console.attached():
        console.record(Record("train", 50, {"return": 1.5, "loss": 9.0}))
        console.record(Record("test", 100, {"test_battle_won_mean": 0.5}))
        console.record(Record("perf", 100, {"steps_per_second": 7.0}))
        sys.stdout.write("from elsewhere: é\n")
        sys.stderr.write("to stderr")
    shown = capsys.readouterr()
    log = (tmp_path / "console.log").read_text()
    assert "t_env 50/200 (25.0%) | return 1.5 |" in log
    assert "t_env 100/200 (50.0%) | test_battle_won_mean 0.5\n" in log
    assert "from elsewhere: é\nto stderr" in log
    assert len(log.splitlines()) == 4
    assert shown.out + shown.err == log


def test_returns_per_agent_are_said_where_there_are_any(tmp_path, capsys):
    each = {f"test_agent_return_{i}_mean": i + 0.5 for i in range(4)}
    console = Console(tmp_path / "console.log", t_max=200)
    with console.attached():
        console.record(Record("test", 50, {"test_return_mean": 8.0, "test_return_per_agent_mean": 2.0} | each))
        console.record(Record("train", 100, {"return": 4.0, "return_per_agent": 1.0, "agent_return_0": 3.0}))
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("| test_return_mean 8  test_return_per_agent_mean 2")
    assert "| return 4  return_per_agent 1 | test return 8 (2 per agent) |" in second


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_a_bar_and_the_log_without_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", Terminal())
    before = sys.stdout
    console = Console(tmp_path / "console.log", t_max=1000, title="qmix corridor")
    with console.attached():
        console.record(Record("test", 0, {"test_battle_won_mean": 0.3125}))
        console.progress(1000)
        console.record(Record("train", 1000, {"return": 1.5}))
        console.message("a message [not markup]")
    assert sys.stdout is before
    shown = screen.getvalue()
    for part in ("qmix corridor", "1,000/1,000", "test win 31.2%", "steps/s", "left", "a message [not markup]"):
        assert part in shown
    log = (tmp_path / "console.log").read_text()
    assert log == "t_env 0/1,000 (0.0%) | test_battle_won_mean 0.3125\na message [not markup]\n"


def test_speed_and_time_left():
    speed = Speed(t_max=10_000)
    assert speed.left == "-:--:--"
    speed.update(1000, clock=100.0)
    speed.update(2000, clock=110.0)
    assert speed.rate == 100.0
    assert speed.left == "0:01:20"
    for i in range(1, 101):  # twice as fast for longer than the window
        speed.update(2000 + 200 * i, clock=110.0 + i)
    assert speed.rate == 200.0


def test_plain_values():
    value = {
        1: np.float32(0.5),
        "t": torch.tensor([[1, 2]]),
        "big": 2**64,
        "in": (True, {3, 1}),
        "path": __import__("pathlib").Path("/a"),
        "x": np.array(2),
        "half": "a\udc80ä",
    }
    assert plain(value) == {
        "1": 0.5,
        "t": [[1, 2]],
        "big": str(2**64),
        "in": [True, [1, 3]],
        "path": "/a",
        "x": 2,
        "half": "a?ä",
    }
    assert type(plain(np.float64(1.5))) is float
    assert type(plain(np.bool_(True))) is bool
    assert math.isnan(plain(math.nan))


def test_an_interruption_is_not_taken_for_a_failure():
    assert issubclass(Interrupted, KeyboardInterrupt)
    assert not issubclass(Interrupted, Exception)
    assert Interrupted(15).signum == 15
