"""Wrong input: one clear message, exit status 2, and not a trace on the disk. Also what resuming can run into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import main
from core import checkpoint
from core.specs import ActionSpec
from tracking import journal
from tracking.folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
QMIX = ["--config=qmix", "--env-config=matrix_game"]
TINY = ["batch_size=4", "test_nepisode=2", "log_interval=10", "test_interval=20", "seed=1", "device=cpu"]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current folder, so that everything that is written shows."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COFACTOR_MONGO_URL", raising=False)
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message, after the checks that hold for all wrong input."""
    before = sorted(Path().rglob("*"))
    capsys.readouterr()
    assert main.main(argv) == 2
    output = capsys.readouterr()
    assert output.err.startswith("error: ") and output.out == ""
    assert "Traceback" not in output.err
    assert sorted(Path().rglob("*")) == before
    return output.err


CASES: list[tuple[list[str], list[str]]] = [
    (["--confg=qmix", "--env-config=sc2"], ["'--confg'", "Did you mean '--config'?", "give --config=NAME"]),
    (["--config=qmix"], ["give --env-config=NAME", "matrix_game"]),
    (["--config=qmx", "--env-config=matrix_game"], ["config/algs/qmx.yaml", "Did you mean 'qmix'?"]),
    (["--config=qmix", "--env-config=matrixgame"], ["config/envs/matrixgame.yaml", "Did you mean 'matrix_game'?"]),
    ([*QMIX, "lr=1"], ["'lr=1' must stand after the word 'with'"]),
    ([*QMIX, "with", "t_maxx=3"], ["'t_maxx' (from the command line)", "Did you mean 't_max'?"]),
    ([*QMIX, "with", "lr=fast"], ["'lr' (from the command line) must be a number, not 'fast'"]),
    ([*QMIX, "with", "t_max=2e6"], ["'t_max'", "write t_max=2000000"]),
    ([*QMIX, "with", "t_max=0"], ["'t_max' must be at least 1, not 0"]),
    ([*QMIX, "with", "use_cuda=True"], ["'use_cuda'", "Use device=cpu or device=cuda"]),
    ([*QMIX, "with", "device=gpu"], ["'device'", "one of 'auto', 'cpu', 'cuda', not 'gpu'"]),
    ([*QMIX, "with", "mixer=qmx"], ["unknown mixer 'qmx'. Did you mean 'qmix'?"]),
    ([*QMIX, "with", "mac=policy_mac"], ["'mac' is 'policy_mac'", "basic_mac"]),
    ([*QMIX, "with", "mixer=vdn", "mixing_embed_dim=8"], ["'mixing_embed_dim'", "mixer 'fop'", "not selected"]),
    ([*QMIX, "with", "preset=penalty"], ["'preset'", "env_args.preset"]),
    ([*QMIX, "with", "env_args.prest=penalty"], ["'env_args.prest'", "Did you mean 'preset'?"]),
    ([*QMIX, "with", "env_args.preset=nonsense"], ["preset", "nonsense"]),
    ([*QMIX, "with", "name=../up"], ["'name' is part of a path"]),
    ([*QMIX, "-m", "localhost:27017"], ["'mongo_url' must begin with mongodb://"]),
    (["--config=qmix", "--env-config=sc2", "with", "env_args.map_name=coridor"], ["coridor", "corridor"]),
    (["resume", "nothing"], ["no run 'nothing' in results"]),
    (["evaluate", "nothing"], ["no run 'nothing' in results"]),
    (["resume"], ["'resume' needs a run"]),
]


@pytest.mark.parametrize(("argv", "says"), CASES, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_refused(argv: list[str], says: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(argv, capsys)
    assert [part for part in says if part not in message] == []


def test_all_mistakes_in_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused([*QMIX, "with", "lr=x", "t_maxx=1", "env_args.prest=2", "seed=-1", "mixer=qmx"], capsys)
    assert message.startswith("error: 5 mistakes:\n") and message.count("\n  - ") == 5


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(capsys: pytest.CaptureFixture[str]) -> None:
    assert "no usable GPU: give device=cpu" in refused([*QMIX, "with", "device=cuda"], capsys)


def test_an_algorithm_that_does_not_fit(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ActionSpec, "discrete", False)
    message = refused([*QMIX, "with", "device=cpu"], capsys)
    assert "learner 'q_learner' does not fit environment 'matrix_game': it needs discrete actions" in message


def test_a_key_twice_in_a_file(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    copy = tmp_path_factory.mktemp("copy") / "config"
    shutil.copytree(ROOT / "config", copy)
    with (copy / "algs" / "qmix.yaml").open("a") as file:
        file.write("\nlr: 1.0e-3\nlr: 2.0e-3\n")
    monkeypatch.setattr("core.cli.CONFIG", copy)
    message = refused(QMIX, capsys)
    assert "qmix.yaml, line" in message and "key 'lr' is given twice" in message


# --- runs that exist -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A completed run of 60 steps."""
    results = tmp_path_factory.mktemp("finished") / "results"
    assert main.main([*QMIX, "with", *TINY, "t_max=60", f"results_dir={results}"]) == 0
    (record,) = results.rglob("record.json")
    return record.parent


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> RunFolder:
    """A copy of it in the current folder's results."""
    return RunFolder(shutil.copytree(finished, tmp_path / "results" / "a" / finished.name))


def points(folder: RunFolder) -> list[tuple[str, int]]:
    return [(record["kind"], record["t_env"]) for record in journal.read(folder.journal)]


def test_a_run_leaves_what_it_needs(run: RunFolder) -> None:
    assert yaml.safe_load(run.config.read_text())["t_max"] == 60
    assert run.record["status"] == "COMPLETED"
    assert set(checkpoint.load(run.checkpoint)) == {"session", "tracker", "settings"}
    assert ("test", 60) in points(run)


def test_a_complete_run_is_not_resumed(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(["resume", run.path.name[-4:]], capsys)
    assert "has completed its t_max=60: go further with t_max=LARGER" in message


@pytest.mark.parametrize("change", ["lr=1", "seed=3", "env_args.preset=penalty", "batch_size_run=2", "mixer=vdn"])
def test_what_a_run_computes_cannot_be_changed(run: RunFolder, capsys: pytest.CaptureFixture[str], change: str) -> None:
    message = refused(["resume", run.path.name, "with", "t_max=80", change], capsys)
    key = change.partition("=")[0].partition(".")[0]
    assert f"'{key}' cannot be changed by 'resume'" in message


@pytest.mark.parametrize("command", ["resume", "evaluate"])
@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda whole: whole[:-10], "cut short"),
        (lambda whole: whole[:5000] + b"?" + whole[5001:], "damaged"),
        (lambda whole: b"something else", "not a checkpoint"),
        (lambda whole: whole[:8] + b"\x63" + whole[9:], "format 99"),
    ],
    ids=["cut", "damaged", "foreign", "version"],
)
def test_a_bad_checkpoint(
    run: RunFolder, capsys: pytest.CaptureFixture[str], command: str, damage: Any, says: str
) -> None:
    run.checkpoint.write_bytes(damage(run.checkpoint.read_bytes()))
    before = {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}
    assert says in refused([command, run.path.name, "with", *(["t_max=80"] if command == "resume" else [])], capsys)
    assert before == {path: path.read_bytes() for path in run.path.iterdir() if path.is_file()}


def test_a_run_that_is_still_running_is_left_alone(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    lock = f"open({str(run.path / '.lock')!r}, 'a')"
    hold = f"import fcntl, time; f = {lock}; fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        message = refused(["resume", run.path.name, "with", "t_max=80"], capsys)
        holder.kill()
    assert "is being written by process" in message


def test_the_database_password_is_kept_nowhere_and_asked_for(
    run: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = yaml.safe_load(run.config.read_text()) | {"mongo_url": "mongodb://me:***@localhost:1"}
    run.config.write_text(yaml.safe_dump(settings))
    assert "password is not recorded" in refused(["resume", run.path.name, "with", "t_max=80"], capsys)


def test_print_config_hides_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["print_config", *QMIX, "-m", "mongodb://me:secret@localhost:1"]) == 0
    shown = capsys.readouterr().out
    assert "secret" not in shown and yaml.safe_load(shown)["mongo_url"] == "mongodb://me:***@localhost:1"
    assert not list(Path().iterdir())


def test_messages_hide_the_password(capsys: pytest.CaptureFixture[str]) -> None:
    message = refused([*QMIX, "mongo_url=mongodb://me:secret@localhost:1"], capsys)
    assert "secret" not in message and "'mongo_url=mongodb://me:***@localhost:1' must stand after" in message


def test_going_further_continues_one_curve(run: RunFolder) -> None:
    before = points(run)
    assert main.main(["resume", str(run.path), "with", "t_max=80"]) == 0
    after = points(run)
    assert after[: len(before)] == before
    steps = [t_env for kind, t_env in after if kind == "train"]
    assert steps == sorted(set(steps)) and steps[-1] >= 80
    assert yaml.safe_load(run.config.read_text())["t_max"] == 80
    assert run.record["status"] == "COMPLETED" and len(run.record["resumes"]) == 1


def test_a_run_without_checkpoint_starts_again(run: RunFolder) -> None:
    before = points(run)
    run.checkpoint.unlink()
    run.update(status="INTERRUPTED")
    assert main.main(["resume", str(run.path)]) == 0
    assert points(run) == before
    assert "starts again from step 0" in run.console.read_text()


# --- the real command line -------------------------------------------------------------------------------------------


def shell(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "src" / "main.py"), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ)


def test_exit_statuses_of_the_shell(tmp_path: Path) -> None:
    nothing, asked, wrong = shell(), shell("--help"), shell(*QMIX, "with", "lr=fast")
    assert (nothing.returncode, asked.returncode, wrong.returncode) == (2, 0, 2)
    assert nothing.stderr == asked.stdout and "qmix" in asked.stdout and "matrix_game" in asked.stdout
    assert wrong.stderr == "error: 'lr' (from the command line) must be a number, not 'fast' (str)\n"
    assert not list(tmp_path.iterdir())
