"""The database dies at random moments, in the middle of messages and for good: afterwards it equals the journal."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pymongo
import pytest

from patience import wait_for
from tools import sync
from tracking import experiment, mongo, shipping
from tracking.experiment import execute
from tracking.folder import RunFolder
from tracking.journal import read, series
from tracking.mongo import read_curves
from tracking.record import Interrupted, Record
from unreliable import Line

secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
ROOT = Path(__file__).resolve().parents[2]
DATABASE = "cofactor"


@pytest.fixture
def brisk(monkeypatch):
    """Beats and waits of tests."""
    monkeypatch.setattr(experiment, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(shipping, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(shipping, "_REST_SECONDS", (0.05, 0.2))
    monkeypatch.setattr(shipping, "_RETRY_SECONDS", 0.05)
    monkeypatch.setattr(mongo, "WAIT_MS", 700)  # pymongo looks for a server once in half a second


def settings_of(results: Path, url: str, seed: int) -> dict[str, object]:
    return {
        "name": "faults",
        "seed": seed,
        "t_max": 10_000,
        "results_dir": str(results),
        "mongo_url": url,
        "mongo_db": DATABASE,
        "tensorboard": False,
    }


def assert_equal(database: pymongo.database.Database, folder: RunFolder) -> None:
    """The database has this run once, its curves are the journal's point for point, and its entry the folder's."""
    (entry,) = database.runs.find({"meta.uid": folder.record["uid"]})
    found = list(database.metrics.find({"run_id": entry["_id"]}))
    for each in found:
        assert len(each["steps"]) == len(each["values"]) == len(each["timestamps"]) == each["n"]
        assert each["timestamps"] == sorted(each["timestamps"])
    assert len({each["name"] for each in found}) == len(found)
    assert read_curves(database, entry["_id"]) == series(folder.journal)
    assert {ref["name"] for ref in entry["info"]["metrics"]} == set(series(folder.journal))
    assert entry["status"] == folder.record["status"]
    assert (entry["stop_time"] is not None) == (folder.record["status"] != "RUNNING")
    ended = folder.record["status"] == "COMPLETED"
    assert {artifact["name"] for artifact in entry["artifacts"]} >= (
        {"config.yaml", "metrics.jsonl"} if ended else set()
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("mongo"))
    with secantus.SecantusDBServer(storage_path=path, replica_set_name=None, cache_size="128M") as running:
        yield running


class Weather(threading.Thread):
    """Takes a line up and down at random moments: absent at the start, back again, away for good at the end.

    The second time it stays up, breaking as it does, until something has come through.
    """

    def __init__(self, line: Line, rng: random.Random, arrived: Callable[[], int]) -> None:
        super().__init__(daemon=True)
        self._line, self._arrived = line, arrived
        self._times = [(rng.uniform(0.1, 0.5), rng.uniform(3_000, 200_000)) for _ in range(4)]
        self.turned = 0

    def run(self) -> None:
        for seconds_down, bytes_up in self._times:
            time.sleep(seconds_down)
            before, latest = self._line.carried, time.monotonic() + 5.0
            self._line.up()
            while self._line.carried - before < bytes_up and time.monotonic() < latest:
                time.sleep(0.001)
            if self.turned == 1:
                wait_for(self._arrived, 120)
            self._line.down()
            self.turned += 1


@pytest.mark.usefixtures("brisk")
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4, 5))])
def test_a_line_that_breaks_at_random_moments(server, tmp_path, seed, capsys):
    rng = random.Random(seed)
    line = Line(int(server.uri.rstrip("/").rpartition(":")[2]), seed, mean_bytes=60_000)
    settings = settings_of(tmp_path, f"mongodb://127.0.0.1:{line.port}", seed) | {"mongo_db": f"faults{seed}"}
    folder = RunFolder.create(settings, "x")
    saved: list[dict[str, int]] = []
    direct = pymongo.MongoClient(server.uri)
    database = direct[f"faults{seed}"]

    def arrived():
        return sum(each["n"] for each in database.metrics.find())

    weather = Weather(line, rng, arrived)

    def log(tracker, first, least, turned):
        t_env = first
        while t_env < first + least or weather.turned < turned:
            values = {f"metric{i}": rng.random() for i in range(rng.randrange(1, 9))}
            tracker.log(Record("train", t_env, values))
            t_env += 1
            time.sleep(0.005)

    def begin(tracker):
        weather.start()
        log(tracker, 0, 50, turned=1)
        saved.append(tracker.state_dict())
        log(tracker, 100_000, 50, turned=2)
        assert arrived() > 0  # some came through all that
        raise Interrupted(signal.SIGTERM)

    def rest(tracker):
        tracker.load_state_dict(saved[0])
        log(tracker, 100_000, 30, turned=4)

    assert execute(settings, folder, begin) == "INTERRUPTED"
    assert execute(settings, folder, rest, resume=True) == "COMPLETED"
    assert line.broken > 0
    shown = capsys.readouterr().out
    assert "is not reachable" in shown
    assert f"sync {folder.path.name} -m URL" in shown
    with direct:
        line.up()
        words = ["--results-dir", str(tmp_path), "-m", str(settings["mongo_url"])]
        while sync.main(words):  # the line still breaks: whatever gets through stays
            time.sleep(0.05)
        line.repair()
        assert sync.main(words) == 0
        assert "was complete" in capsys.readouterr().out
        assert_equal(database, folder)
        assert database.runs.count_documents({}) == 1
    line.down()


class Server:
    """A database server in a process of its own, which can be killed."""

    def __init__(self, path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._path, self._process = path, None
        self.url = f"mongodb://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = [sys.executable, str(Path(sys.executable).parent / "secantusd-py"), "--host", "127.0.0.1"]
        program += ["--port", str(self.port), "--storage-path", str(self._path), "--standalone", "--cache-size", "128M"]
        self._process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Until it answers."""
        with pymongo.MongoClient(self.url, serverSelectionTimeoutMS=60_000) as client:
            client.admin.command("ping")

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def mortal(tmp_path) -> Iterator[Server]:
    server = Server(tmp_path / "mongo")
    yield server
    server.kill()


GAME = ["--config=iql", "--env-config=matrix_game"]
SMALL = ["batch_size=4", "buffer_size=16", "batch_size_run=4", "test_nepisode=2", "device=cpu"]


def command(*words: str) -> list[str]:
    return [sys.executable, "src/main.py", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COFACTOR_MONGO_URL": ""}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_a_server_killed_at_random_moments_while_a_run_trains(mortal, tmp_path, seed):
    """The real command line; the run is killed once too, and resumed."""
    rng, results = random.Random(seed), tmp_path / "results"
    rhythm = ["log_interval=4", "test_interval=40", "checkpoint_interval=60", "t_max=100_000"]
    words = [*GAME, "-m", mortal.url, "with", *SMALL, *rhythm, f"results_dir={results}", f"seed={seed}"]
    output = (tmp_path / "output").open("ab")

    def begin(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(command(*words), cwd=ROOT, env=environment(), stdout=output, stderr=output)

    run = begin(*words)  # with the server absent
    folder = RunFolder(folder_of(results, run))
    for number in range(3):
        mortal.start()
        mortal.wait()
        time.sleep(rng.uniform(3.0, 14.0))
        mortal.kill()
        if number == 1:
            run.kill()
            run.wait()
            run = begin("resume", str(folder.path), "-m", mortal.url)
            while not folder.record["resumes"]:  # only then a signal is a request
                assert run.poll() is None
                time.sleep(0.1)
        time.sleep(rng.uniform(0.0, 3.0))
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 128 + signal.SIGTERM, (tmp_path / "output").read_text()
    assert folder.status == "INTERRUPTED"
    assert "did not get the end of this run" in folder.console.read_text()
    mortal.start()
    mortal.wait()
    for _ in range(2):
        done = subprocess.run(
            command("sync", "--results-dir", str(results), "-m", mortal.url),
            cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    assert "was complete" in done.stdout
    with pymongo.MongoClient(mortal.url) as client:
        assert_equal(client[DATABASE], folder)


def folder_of(results: Path, run: subprocess.Popen[bytes]) -> Path:
    """The folder of a run that has recorded something."""
    deadline = time.monotonic() + 200
    while not any(list(read(file)) for file in results.rglob("metrics.jsonl")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (record,) = results.rglob("record.json")
    return record.parent


@pytest.mark.slow
def test_ten_runs_at_once_share_a_folder_and_a_database(mortal, tmp_path):
    mortal.start()
    mortal.wait()
    results = tmp_path / "results"
    keys = [*SMALL, "log_interval=8", "test_interval=40", "t_max=80", f"results_dir={results}"]
    runs = [
        subprocess.Popen(
            command(*GAME, "-m", mortal.url, "with", *keys, f"seed={seed}"),
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        for seed in range(10)
    ]  # fmt: skip
    ends = [run.communicate(timeout=500) for run in runs]
    assert [run.returncode for run in runs] == [0] * 10, ends
    folders = [RunFolder(record.parent) for record in results.rglob("record.json")]
    assert len(folders) == len({folder.path.name for folder in folders}) == 10
    with pymongo.MongoClient(mortal.url) as client:
        database = client[DATABASE]
        assert sorted(run["_id"] for run in database.runs.find()) == list(range(1, 11))
        for folder in folders:
            assert_equal(database, folder)
            assert (
                database.runs.find_one({"_id": folder.record["sacred"]["mongo"]["id"]})["config"]["seed"]
                == folder.record["seed"]
            )
        assert len(database.fs.files.distinct("filename", {"metadata.md5": {"$exists": True}})) >= 20
