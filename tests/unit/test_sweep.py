"""Sweeps: the manifest, the runs it means, what is to be done with each, and the pool that does it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console

from core import cli
from core.config import ConfigError
from sweeps import pool as pools
from sweeps.board import Board
from sweeps.cells import Cell, assignments, expand, ident, rehearsed
from sweeps.manifest import Manifest, Resources, read
from sweeps.pool import Pool, slots
from sweeps.work import State, Work, best, find, last_step, survey
from tools import sweep
from tracking.folder import RunFolder
from tracking.journal import Journal

SMALL = """
    algorithms: [qmix, vdn]
    environments: [matrix_game]
    seeds: 2
    with: {t_max: 100, device: cpu, agent: mlp}
"""


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(cli.MONGO_VARIABLE, raising=False)


@pytest.fixture
def manifest(tmp_path: Path) -> Any:
    """Writes and reads a manifest whose results lie apart."""

    def write(text: str, name: str = "one") -> Manifest:
        path = tmp_path / f"{name}.yaml"
        path.write_text(textwrap.dedent(text) + f"\nresults_dir: {tmp_path / 'results'}\n")
        return read(path)

    return write


def problems(error: pytest.ExceptionInfo[ConfigError]) -> str:
    return "\n".join(error.value.problems)


# --- the manifest -----------------------------------------------------------------------------------------------------


def test_every_combination_is_a_run(manifest: Any):
    cells = expand(manifest(SMALL))
    assert [str(cell) for cell in cells] == [
        "qmix matrix_game seed 1",
        "qmix matrix_game seed 2",
        "vdn matrix_game seed 1",
        "vdn matrix_game seed 2",
    ]
    assert len({cell.id for cell in cells}) == 4
    assert {cell.settings["t_max"] for cell in cells} == {100}
    assert cells[0].settings["label"] == f"one/{cells[0].id}"


def test_later_layers_win_and_names_follow(manifest: Any):
    cells = expand(
        manifest("""
        algorithms:
          qmix:
          quick: {config: qmix, lr: 0.01, batch_size: 8}
        environments:
          climbing: {config: matrix_game, env_args.preset: climbing, batch_size: 16}
        variants:
          plain:
          td: {gamma: 0.5, lr: 0.02}
        seeds: [7]
        with: {lr: 0.001, batch_size: 4, agent: mlp}
        exclude: [{algorithm: qmix, variant: td}]
        """)
    )
    rows = {(c.settings["name"], c.settings["lr"], c.settings["batch_size"], c.settings["gamma"]) for c in cells}
    assert rows == {("qmix-plain", 0.001, 16, 0.99), ("quick-plain", 0.01, 8, 0.99), ("quick-td", 0.02, 8, 0.5)}
    assert {(c.environment, c.settings["env_args"]["preset"]) for c in cells} == {("climbing", "climbing")}


def test_maps_are_environments(manifest: Any):
    text = "algorithms: [qmix]\nenvironments: {sc2: {maps: [3m, 2s3z], env_args: {engine: skirmish}}}\nseeds: 1"
    cells = expand(manifest(text))
    assert [(c.environment, c.settings["env_args"]["map_name"]) for c in cells] == [("3m", "3m"), ("2s3z", "2s3z")]
    assert {c.settings["env_args"]["engine"] for c in cells} == {"skirmish"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"algorithm": ["qmix"]}, "key 'algorithm' is not known. Did you mean 'algorithms'?"),
        ({"algorithms": ["qmixx"]}, "'algorithms.qmixx': there is no config/algs/qmixx.yaml. Did you mean 'qmix'?"),
        ({"algorithms": ["qmix", "qmix"]}, "'algorithms' names 'qmix' twice"),
        ({"environments": {}}, "'environments' is empty"),
        ({"environments": 3}, "'environments' must be a list of (text) or a mapping, not 3 (int)"),
        ({"environments": {"sc2": {"maps": "3m"}}}, "'environments.sc2.maps' must be a list of (text), not '3m'"),
        ({"environments": {"sc2": {"maps": ["3m", "3m"]}}}, "two environments are called '3m'"),
        ({"seeds": 0}, "'seeds' must be a list of seeds, or how many"),
        ({"seeds": [1, 1]}, "'seeds' has 1 twice"),
        ({"seeds": [-1]}, "'seeds' has -1: it must lie between 0 and 4294967295"),
        ({"with": {"seed": 3}}, "'with.seed' cannot be set: list the seeds under 'seeds'"),
        ({"variants": {"a b": {}}}, "'variants.a b': a name has letters"),
        ({"exclude": [{"algo": "qmix"}]}, "'exclude', rule 1: there is no axis 'algo'. Did you mean 'algorithm'?"),
        ({"exclude": [{"seed": 9}]}, "'exclude', rule 1: there is no seed '9'"),
        ({"resources": {"gpu": 1}}, "key 'resources.gpu' is not known. Did you mean 'gpus'?"),
        ({"resources": {"gpus": 2}}, "'resources.gpus' must lie between 0 and 1, a run's share of one GPU, not 2"),
        ({"resources": {"memory_gb": 0}}, "'resources.memory_gb' must be positive, not 0"),
        ({"retries": -1}, "'retries' must be at least 0, not -1"),
        ({"name": "../x"}, "'name' is part of a path"),
    ],
)
def test_mistakes_of_a_manifest(tmp_path: Path, change: dict[str, Any], says: str):
    path = tmp_path / "one.yaml"
    path.write_text(yaml.safe_dump({"algorithms": ["qmix"], "environments": ["matrix_game"], "seeds": 1} | change))
    with pytest.raises(ConfigError) as error:
        read(path)
    assert f"{path}: {says}" in problems(error)


def test_all_mistakes_at_once(manifest: Any):
    with pytest.raises(ConfigError) as error:
        manifest("algorithms: [qmixx]\nenvironments: [hallwayy]\nseeds: [1, 1]\nretries: -2")
    assert len(error.value.problems) == 4


def test_settings_of_every_run_are_checked(manifest: Any):
    with pytest.raises(ConfigError) as error:
        expand(
            manifest("""
            algorithms: {qmix: {lr: fast}, vdn: }
            environments: [matrix_game]
            seeds: 2
            with: {batch_sise: 3}
            """)
        )
    lr, batch = sorted(error.value.problems)
    assert lr.startswith("'lr' (from one.yaml) must be a number, not 'fast' (str)")
    assert lr.endswith("[2 of 4 runs: qmix matrix_game seed 1, qmix matrix_game seed 2]")
    assert batch == "key 'batch_sise' (from one.yaml) is not known. Did you mean 'batch_size'?", "in all: no list"


def test_equal_runs_are_refused(manifest: Any):
    with pytest.raises(ConfigError, match=r"'vdn matrix_game seed 1' and 'same matrix_game seed 1' are the same"):
        expand(manifest("algorithms: {vdn: , same: {config: vdn, name: vdn}}\nenvironments: [matrix_game]\nseeds: 1"))


def test_components_that_do_not_fit_are_found_before_anything_starts(manifest: Any):
    cells = expand(made := manifest("algorithms: [qmix, maddpg_continuous]\nenvironments: [matrix_game]\nseeds: 3"))
    tried: list[str] = []

    def rehearse(settings: Any) -> None:
        tried.append(settings["name"])
        sweep.rehearse(settings, here=True)

    with pytest.raises(ConfigError) as error:
        rehearsed(cells, made, rehearse)
    assert len(tried) == 2, "seeds are no further trials"
    assert "does not fit environment 'matrix_game'" in problems(error) and "[3 of 6 runs:" in problems(error)


# --- ids and command lines --------------------------------------------------------------------------------------------


def test_an_id_is_what_is_computed(manifest: Any):
    (cell, *_) = expand(manifest(SMALL))
    settings = cell.settings
    place = {
        "device": "cuda",
        "results_dir": "x",
        "mongo_url": "mongodb://h",
        "label": "l",
        "t_max": 7,
        "tensorboard": True,
    }
    assert ident(settings | place) == ident(dict(reversed(settings.items()))) == cell.id
    assert ident(settings | {"lr": 0.1}) != cell.id
    assert ident(settings | {"seed": 2}) != cell.id
    assert ident(settings | {"env_args": settings["env_args"] | {"preset": "climbing"}}) != cell.id


def test_changing_the_manifest_adds_and_removes_only(manifest: Any):
    before = {str(cell): cell.id for cell in expand(manifest(SMALL))}
    more = (
        SMALL.replace("[qmix, vdn]", "[iql, qmix]").replace("seeds: 2", "seeds: 3").replace("t_max: 100", "t_max: 200")
    )
    after = {str(cell): cell.id for cell in expand(manifest(more, "other"))}
    assert before["qmix matrix_game seed 2"] == after["qmix matrix_game seed 2"]
    assert len(set(after.values()) & set(before.values())) == 2


@pytest.mark.parametrize(
    "value",
    ["3m", "1", "None", "true", "a b", "it's", "", "[1]", 3, 2.5, 1e-7, True, None, [1, "x"], {"a": {"b": [None]}}],
)
def test_values_survive_the_command_line(value: Any):
    words = assignments({"key": value, "env_args": {"deep": value}})
    assert cli.parse(["resume", "run", "with", *words]).updates == {"key": value, "env_args": {"deep": value}}


# --- what has become of them ------------------------------------------------------------------------------------------


def begun(cell: Cell, status: str, t_max: int = 100, steps: int = 0) -> RunFolder:
    folder = RunFolder.create(cell.settings | {"t_max": t_max}, "matrix_game")
    folder.update(status=status)
    if steps:
        journal = Journal(folder.journal)
        journal.write({"kind": "train", "t_env": 1, "values": {}})
        journal.write({"kind": "train", "t_env": steps, "values": {}})
        journal.close()
    return folder


def test_states_and_commands(manifest: Any):
    made = manifest(SMALL.replace("seeds: 2", "seeds: 3"))
    cells = expand(made)
    folders = [
        begun(cells[0], "COMPLETED"),
        begun(cells[1], "COMPLETED", t_max=60),
        begun(cells[2], "INTERRUPTED", t_max=300, steps=40),
        begun(cells[3], "FAILED"),
        begun(cells[4], "RUNNING"),
    ]
    folders[4].update(host="elsewhere", heartbeat="2999-01-01T00:00:00+00:00")
    works = survey(cells, made.results_dir)
    names = [work.state.name for work in works]
    assert names == ["DONE", "STOPPED", "STOPPED", "FAILED", "RUNNING", "WAITING"]
    assert works[1].words() == ["resume", str(folders[1].path), "with", "device=cpu", "t_max=100"], "it goes further"
    assert works[2].words()[-1] == "t_max=300", "it was asked to go further, and does"
    assert works[2].reached() == 40
    assert works[5].words()[:2] == ["--config=vdn", "--env-config=matrix_game"]
    works[4].take_over(made.results_dir)
    assert works[4].state is State.STOPPED


def test_of_several_folders_the_completed_one_counts(manifest: Any):
    made = manifest(SMALL)
    (cell, *_) = expand(made)
    done = begun(cell, "COMPLETED")
    later = begun(cell, "FAILED").path
    later.rename(later.with_name(f"9{later.name[1:]}"))  # names begin with the time
    found = find(made.results_dir)[cell.id]
    assert len(found) == 2 and best(found).path == done.path
    assert best([]) is None


def test_a_torn_journal_still_tells_its_last_whole_record(manifest: Any):
    (cell, *_) = expand(manifest(SMALL))
    folder = begun(cell, "RUNNING", steps=80)
    with folder.journal.open("ab") as file:
        file.write(b'{"kind":"tr')
    assert last_step(folder) == 80
    folder.journal.write_bytes(b"no record\n")
    assert last_step(folder) == 0


def test_work_travels_to_other_hosts(manifest: Any):
    made = manifest(SMALL)
    (cell, *_) = expand(made)
    folder = begun(cell, "FAILED")
    sent = pickle.loads(pickle.dumps(survey([cell], made.results_dir)[0]))
    sent.take_over(made.results_dir)
    assert (sent.cell, sent.folder.path, sent.state) == (cell, folder.path, State.FAILED)
    assert sent.cell.settings == cell.settings


# --- places -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def set_up(cores: int, gpus: int, free_gb: float = 100.0) -> None:
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)))
        monkeypatch.setattr(pools, "visible_gpus", lambda: [str(gpu) for gpu in range(gpus)])
        monkeypatch.setattr(pools.psutil, "virtual_memory", lambda: SimpleNamespace(available=free_gb * 1e9))

    return set_up


def gpus(found: list[dict[str, str]]) -> list[str | None]:
    return [slot.get("CUDA_VISIBLE_DEVICES") for slot in reversed(found)]


def test_places_follow_cores_memory_and_gpus(machine: Any):
    machine(cores=8, gpus=0)
    assert gpus(slots(Resources(), None, "auto")) == [None] * 8
    assert gpus(slots(Resources(cpus=3), None, "cpu")) == [""] * 2
    assert len(slots(Resources(), 3, "auto")) == 3
    machine(cores=8, gpus=0, free_gb=20)
    assert len(slots(Resources(memory_gb=6), None, "auto")) == 3
    machine(cores=8, gpus=2)
    assert gpus(slots(Resources(gpus=0.5), None, "auto")) == ["0", "1", "0", "1"]
    assert gpus(slots(Resources(gpus=1 / 3), 5, "auto")) == ["0", "1", "0", "1", "0"]
    assert gpus(slots(Resources(), 5, "auto")) == ["0", "1", "0", "1", "0"]
    assert gpus(slots(Resources(gpus=0), 2, "auto")) == ["", ""]
    machine(cores=2, gpus=4)
    assert gpus(slots(Resources(gpus=0.5), None, "auto")) == ["0", "1"], "no more than the cores allow"


def test_impossible_places(machine: Any):
    machine(cores=2, gpus=0, free_gb=2)
    with pytest.raises(ConfigError, match=r"'resources.gpus' is 0.5, but there is no usable GPU here: give gpus: 0"):
        slots(Resources(gpus=0.5), None, "auto")
    with pytest.raises(ConfigError, match=r"'resources.memory_gb' is 5, but only 2.0 GB are free"):
        slots(Resources(memory_gb=5), None, "auto")


# --- the pool ---------------------------------------------------------------------------------------------------------

RUN = '''
"""Stands for a run: records itself as one does, and behaves as its seed says."""
import json, os, pathlib, signal, sys, time, uuid
words = sys.argv[1:]
keys = dict(word.split("=", 1) for word in words if "=" in word)
if words[0] == "resume":
    folder = pathlib.Path(words[1])
else:
    folder = pathlib.Path(keys["results_dir"]) / "x" / uuid.uuid4().hex
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"label: {keys['label']}\\nt_max: {keys['t_max']}\\n")
    (folder / "seed").write_text(keys["seed"])
seed = int((folder / "seed").read_text())
starts = len(list(folder.glob("start*")))
(folder / f"start{starts}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
def end(status, code):
    (folder / "record.json").write_text(json.dumps({"status": status}))
    sys.exit(code)
def stop(signum, frame):
    end("INTERRUPTED", 128 + signum)
signal.signal(signal.SIGTERM, stop)
(folder / "record.json").write_text(json.dumps({"status": "CREATED"}))
print("this is seed", seed, flush=True)
if seed == 2 and starts == 0:
    end("FAILED", 1)
if seed == 3:
    print("it breaks every time"); end("FAILED", 1)
if seed == 4:
    end("FAILED", 2)
if seed == 5:
    time.sleep(60)
end("COMPLETED", 0)
'''


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "run.py"
    path.write_text(RUN)
    monkeypatch.setattr(pools, "MAIN", path)
    return path


def pool_of(made: Manifest, places: int = 2, retries: int = 1) -> Pool:
    works = survey(expand(made), made.results_dir)
    given = [{"CUDA_VISIBLE_DEVICES": str(place)} for place in range(places)]
    return Pool(works, given, retries, made.results_dir, made.folder / "logs")


def one(seeds: list[int]) -> str:
    return f"algorithms: [vdn]\nenvironments: [matrix_game]\nseeds: {seeds}\nwith: {{t_max: 9, device: cpu}}"


def starts(work: Work) -> int:
    return len(list(work.folder.path.glob("start*")))


def test_failed_runs_are_tried_again_and_not_for_ever(manifest: Any, stand_in: Path):
    pool = pool_of(manifest(one([1, 2, 3, 4])), retries=2)
    assert pool.run() == 0
    assert [work.state.name for work in pool.works] == ["DONE", "DONE", "FAILED", "FAILED"]
    assert [starts(work) for work in pool.works] == [1, 2, 3, 1], "wrong input (4) is wrong the second time too"
    assert pool.works[2].note == "exit status 1"
    places = {path.read_text() for work in pool.works for path in work.folder.path.glob("start*")}
    assert places == {"0", "1"}


def test_what_is_done_is_not_run_again(manifest: Any, stand_in: Path):
    made = manifest(one([1, 2]))
    pool_of(made).run()
    again = pool_of(made)
    assert again.run() == 0 and [starts(work) for work in again.works] == [1, 2]
    assert [work.attempts for work in again.works] == [0, 0]


def test_signals_stop_runs_so_that_they_go_on_later(manifest: Any, stand_in: Path):
    made = manifest(one([5, 6, 7]))
    pool = pool_of(made, places=1)

    def interrupt() -> None:
        while not any(made.results_dir.rglob("start0")):
            time.sleep(0.01)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    before = signal.getsignal(signal.SIGINT)
    assert pool.run() == signal.SIGINT
    assert signal.getsignal(signal.SIGINT) is before
    assert [work.state.name for work in pool.works] == ["STOPPED", "WAITING", "WAITING"]
    assert json.loads((pool.works[0].folder.path / "record.json").read_text()) == {"status": "INTERRUPTED"}
    assert pool_of(made).works[0].words()[:2] == ["resume", str(pool.works[0].folder.path)]


def test_runs_end_with_a_sweep_that_is_killed(manifest: Any, stand_in: Path, tmp_path: Path):
    made = manifest(one([5]))
    program = textwrap.dedent(f"""
        import sys; sys.path[:0] = {sys.path!r}
        from pathlib import Path
        from sweeps import pool
        from sweeps.cells import expand
        from sweeps.manifest import read
        from sweeps.work import survey
        pool.MAIN = Path({str(stand_in)!r})
        made = read({str(made.file)!r})
        pool.Pool(survey(expand(made), made.results_dir), [{{}}], 0, made.results_dir, made.folder / "logs").run()
    """)
    with subprocess.Popen([sys.executable, "-c", program]) as process:
        deadline = time.monotonic() + 60
        while not any(made.results_dir.rglob("start0")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        time.sleep(0.3)
        process.kill()
    record = next(made.results_dir.rglob("record.json"))
    while "INTERRUPTED" not in record.read_text():
        assert time.monotonic() < deadline, "the run lives on"
        time.sleep(0.05)


# --- what is shown ----------------------------------------------------------------------------------------------------


def shown(board: Board) -> str:
    console = Console(width=160)
    with console.capture() as capture:
        console.print(board.table())
    return capture.get()


def test_the_table_says_where_every_seed_is(manifest: Any):
    made = manifest(SMALL.replace("seeds: 2", "seeds: 3"))
    cells = expand(made)
    begun(cells[0], "COMPLETED", steps=100).update(summary={"test_return_mean": 4.0})
    begun(cells[1], "INTERRUPTED", steps=50).update(summary={"test_return_mean": 5.0})
    works = survey(cells, made.results_dir)
    text = shown(Board(works, made.results_dir))
    row = next(line for line in text.splitlines() if "qmix" in line)
    assert "1 done  2 stopped 50%  3 waiting" in row
    assert "50%" in row.split("│")[4] and "return 4.5" in row
    assert "4 waiting, 1 done, 1 stopped" in text


def test_failures_show_the_end_of_their_output_and_the_command(manifest: Any, stand_in: Path):
    made = manifest(one([3]))
    pool = pool_of(made, retries=0)
    pool.run()
    console = Console(width=200)
    with console.capture() as capture:
        Board(pool.works, made.results_dir, console).failures(pool.logs)
    text = capture.get()
    assert "vdn matrix_game seed 3 failed: exit status 1" in text
    assert "it breaks every time" in text
    assert f"resume {pool.works[0].folder.path}" in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_commands_that_parse(manifest: Any, capsys: pytest.CaptureFixture[str]):
    made = manifest(SMALL)
    assert sweep.main([str(made.file), "--dry-run"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith(cli.STARTED_AS)]
    assert len(lines) == 4
    command = cli.parse(lines[0].removeprefix(cli.STARTED_AS).split())
    assert (command.config, command.updates["seed"]) == ("qmix", 1)
    assert not made.results_dir.exists()


def test_status_tells_whether_all_is_done(manifest: Any, capsys: pytest.CaptureFixture[str]):
    made = manifest(one([1]))
    assert sweep.main([str(made.file), "--status"]) == 1
    begun(expand(made)[0], "COMPLETED", t_max=9)
    assert sweep.main([str(made.file), "--status"]) == 0
    assert "1 done" in capsys.readouterr().out


def test_two_processes_do_not_run_one_sweep(manifest: Any, stand_in: Path):
    made = manifest(one([5]))
    made.folder.mkdir(parents=True)
    hold = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(); time.sleep(60)"
    lock = made.folder / ".lock"
    with subprocess.Popen([sys.executable, "-c", hold, str(lock)], stdout=subprocess.PIPE) as holder:
        holder.stdout.readline()
        with pytest.raises(ConfigError, match="the sweep 'one' is being run by another process"):
            sweep.main([str(made.file)])
        holder.kill()
