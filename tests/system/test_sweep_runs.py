"""Sweeps with real runs: killed halfway and continued; through submitit; on a Ray cluster that loses a node."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from core import checkpoint
from patience import wait_for
from sweeps import slurm
from sweeps.cells import expand
from sweeps.manifest import Manifest, read
from sweeps.work import State, survey
from tracking import journal
from tracking.folder import RunFolder

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
T_MAX = 400


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COFACTOR_MONGO_URL", raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def write(where: Path, t_max: int = T_MAX, seeds: int = 2, more: str = "") -> Manifest:
    """Two algorithms on a small game."""
    path = where / "small.yaml"
    path.write_text(
        textwrap.dedent(f"""
        algorithms: [qmix, vdn]
        environments: [matrix_game]
        seeds: {seeds}
        with:
          t_max: {t_max}
          test_interval: 100
          test_nepisode: 4
          log_interval: 100
          checkpoint_interval: 100
          agent: mlp
          batch_size: 8
          device: cpu
        results_dir: {where / "results"}
        """)
        + textwrap.dedent(more)
    )
    return read(path)


def command(made: Manifest, *options: str) -> list[str]:
    return [sys.executable, "src/main.py", "sweep", str(made.file), *options]


def run(made: Manifest, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(made, *options), cwd=ROOT, capture_output=True, text=True, check=False)


def states(made: Manifest) -> list[str]:
    return [work.state.name for work in survey(expand(made), made.results_dir)]


def curves(folder: RunFolder) -> list[Any]:
    return [(r["kind"], r["t_env"], r["values"]) for r in journal.read(folder.journal) if r["kind"] != "perf"]


def test_a_sweep_stopped_halfway_ends_as_if_it_had_not_been(tmp_path: Path):
    """SIGINT to the sweep only; what goes on has the same curves as what was never interrupted."""
    for name in ("stopped", "whole"):
        (tmp_path / name).mkdir()
    made = write(tmp_path / "stopped", t_max=20_000, seeds=1)
    with subprocess.Popen(command(made, "--jobs", "2"), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert wait_for(
            lambda: sum(path.stat().st_size > 2000 for path in made.results_dir.rglob("metrics.jsonl")) == 2, 240
        )
        process.send_signal(signal.SIGINT)
        output = process.communicate()[0]
    assert process.returncode == 130 and "2 stopped" in output and "to go on:" in output
    assert states(made) == ["STOPPED", "STOPPED"]
    reached = [work.reached() for work in survey(expand(made), made.results_dir)]
    assert all(100 < steps < 20_000 for steps in reached)

    enough = max(reached) + 200
    made = write(tmp_path / "stopped", t_max=enough, seeds=1)
    for folder in (work.folder for work in survey(expand(made), made.results_dir)):
        text = folder.config.read_text()  # what was asked for at first is more: ask for less
        folder.config.write_text(text.replace("t_max: 20000\n", f"t_max: {enough}\n"))
    done = run(made)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = write(tmp_path / "whole", t_max=enough, seeds=1)
    assert run(whole).returncode == 0
    for one, other in zip(
        survey(expand(made), made.results_dir), survey(expand(whole), whole.results_dir), strict=True
    ):
        assert one.cell.id == other.cell.id
        assert len(one.folder.record["resumes"]) == 1 and not other.folder.record["resumes"]
        assert curves(one.folder) == curves(other.folder)


def test_a_changed_manifest_runs_what_is_new_only(tmp_path: Path):
    made = write(tmp_path, t_max=200, seeds=1)
    assert run(made, "--jobs", "1").returncode == 0
    first = {work.cell.id: work.folder.record for work in survey(expand(made), made.results_dir)}
    made = write(tmp_path, t_max=300, seeds=2)
    done = run(made)
    assert done.returncode == 0, done.stdout
    works = survey(expand(made), made.results_dir)
    assert [work.state for work in works] == [State.DONE] * 4
    kept = [work for work in works if work.cell.id in first]
    assert len(kept) == 2 and all(work.folder.record["uid"] == first[work.cell.id]["uid"] for work in kept)
    assert all(checkpoint.load(work.folder.checkpoint)["session"]["progress"]["t_env"] >= 300 for work in works)
    before = {path: path.stat().st_mtime_ns for path in made.results_dir.rglob("metrics.jsonl")}
    assert run(made).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in made.results_dir.rglob("metrics.jsonl")}


# --- submitit ---------------------------------------------------------------------------------------------------------

SLURM = '''#!{python}
"""Stands for Slurm's commands: an array's jobs are processes, one after the other in the background."""
import json, os, pathlib, re, shlex, signal, subprocess, sys
name, words = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
home = pathlib.Path(os.environ["FAKE_SLURM"])
if name == "sbatch":
    script = pathlib.Path(words[0]).read_text()
    (home / "script").write_text(script)
    array = re.search(r"--array=0-(\\d+)", script)
    for task in range(int(array[1]) + 1 if array else 1):
        made = subprocess.Popen([str(home / "job"), str(task)], start_new_session=True,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        (home / f"group_{{task}}").write_text(str(made.pid))
    print("Submitted batch job 7")
elif name == "job":
    job = f"7_{{words[0]}}"
    env = os.environ | {{"SLURM_JOB_ID": f"10{{words[0]}}", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": words[0]}}
    again = True
    while again:
        (home / job).write_text("RUNNING")
        subprocess.run(["bash", str(home / "script")], env=env)
        requeue = home / f"requeue_{{job}}"
        again = requeue.exists()
        requeue.unlink(missing_ok=True)
    (home / job).write_text("COMPLETED")
elif name == "srun":
    while words[0].startswith("--"):
        words = words[2 if words[0] in ("--output", "--error") else 1:]
    pid = home / f"pid_7_{{os.environ['SLURM_ARRAY_TASK_ID']}}"
    pid.write_text(str(os.getpid()))
    with open(home / f"out_{{os.environ['SLURM_ARRAY_TASK_ID']}}", "a") as out:
        os.dup2(out.fileno(), 1)
        os.dup2(out.fileno(), 2)
    os.execvp(words[0], words)
elif name == "scontrol":
    (home / f"requeue_{{words[1]}}").touch()
elif name == "sacct":
    print("JobID|State|NodeList")
    for path in home.glob("7_*"):
        print(f"{{path.name}}|{{path.read_text()}}|here")
'''


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that stands for a Slurm cluster, whose commands are on the PATH; its jobs end with the test."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -r requirements-cluster.txt")
    home = tmp_path / "slurm"
    home.mkdir()
    for name in ("sbatch", "srun", "scontrol", "sacct", "job"):
        path = home / name
        path.write_text(SLURM.format(python=sys.executable))
        path.chmod(0o755)
    monkeypatch.setenv("FAKE_SLURM", str(home))
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    yield home
    parents = [int(path.read_text()) for path in home.glob("pid_*")]
    runs = [child for pid in parents if alive(pid) for child in children(pid)]
    for path in home.glob("group_*"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(path.read_text()), signal.SIGKILL)
    assert wait_for(lambda: not any(map(alive, runs)), 240)  # the system has told them to end, as their parent is gone


def test_slurm_gets_an_array_and_a_preempted_job_goes_on(tmp_path: Path, cluster: Path):
    """Through sbatch's script itself; the warning signal checkpoints the run, requeues the job, and it continues."""
    more = """
        resources: {cpus: 2, memory_gb: 3, hours: 5}
        slurm: {partition: short, account: lab}
    """
    made = write(tmp_path, t_max=10_000_000, seeds=1, more=more)
    done = run(made, "--backend", "slurm", "--jobs", "1")
    assert done.returncode == 0 and "2 jobs submitted" in done.stdout, done.stdout + done.stderr
    script = (cluster / "script").read_text().splitlines()
    wanted = ["array=0-1%1", "cpus-per-task=2", "mem=3GB", "time=300", "partition=short", "account=lab"]
    assert {f"#SBATCH --{word}" for word in wanted} <= set(script)

    journals = lambda: list(made.results_dir.rglob("metrics.jsonl"))  # noqa: E731
    assert wait_for(lambda: sum(path.stat().st_size > 2000 for path in journals()) == 2, 240)
    again = run(made, "--backend", "slurm")
    assert "0 jobs submitted" in again.stdout, "what runs is not submitted twice"
    pids = {path.name: int(path.read_text()) for path in cluster.glob("pid_*")}
    for pid in pids.values():
        os.kill(pid, signal.SIGUSR2)
    assert wait_for(lambda: all(len(RunFolder(p.parent).record["resumes"]) == 1 for p in journals()), 240)
    assert wait_for(lambda: states(made) == ["RUNNING", "RUNNING"], 240)
    for path in journals():
        steps = [r["t_env"] for r in journal.read(path) if r["kind"] == "train"]
        assert steps == sorted(set(steps))
    status = run(made, "--status")
    assert status.returncode == 1 and "2 running" in status.stdout

    # The same to every process of the job, as Slurm does when a job must give way.
    for name in pids:
        pid = int((cluster / name).read_text())
        for child in children(pid):
            os.kill(child, signal.SIGUSR2)  # they must not die of it
            os.kill(child, signal.SIGTERM)
        os.kill(pid, signal.SIGTERM)
    assert wait_for(lambda: all(len(RunFolder(p.parent).record["resumes"]) == 2 for p in journals()), 240)
    assert wait_for(lambda: states(made) == ["RUNNING", "RUNNING"], 240)


def alive(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def test_submitit_runs_batches_that_share_a_gpu(tmp_path: Path):
    """submitit's own local executor: two jobs of two runs each, three failed starts and all."""
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -r requirements-cluster.txt")
    made = write(tmp_path, t_max=200, seeds=2, more="resources: {gpus: 0.5, hours: 0.2}")
    works = survey(expand(made), made.results_dir)
    jobs = slurm.submit(made, works, None, cluster="local")
    assert [work.state for work in works] == [State.QUEUED] * 4
    results = [job.result() for job in jobs]
    assert len(results) == 2 and [len(result) for result in results] == [2, 2]
    assert {state for result in results for state in result.values()} == {"done"}
    assert states(made) == ["DONE"] * 4
    notes = json.loads((made.folder / "slurm.json").read_text())
    assert [note["job"] for note in notes] == [job.job_id for job in jobs]


def test_unknown_parameters_of_slurm_are_refused(tmp_path: Path, cluster: Path):
    made = write(tmp_path, more="slurm: {partitoin: short}")
    done = run(made, "--backend", "slurm")
    assert done.returncode == 2
    assert "'slurm.partitoin' (value 'short')" in done.stderr and "Did you mean 'partition'?" in done.stderr


def test_without_slurm_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("submitit", reason="submitit is not installed: pip install -r requirements-cluster.txt")
    made = write(tmp_path, seeds=1)
    done = run(made, "--backend", "slurm")
    assert done.returncode == 2 and "--backend slurm" in done.stderr and "a host that has Slurm's sbatch" in done.stderr


# --- Ray --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A cluster of a head without room and two nodes with room for one run each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    small = {"object_store_memory": 100 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **small})
    made.workers = [made.add_node(num_cpus=1, **small) for _ in range(2)]
    monkeypatch.setenv("RAY_ADDRESS", made.address)
    yield made
    made.shutdown()


def test_a_sweep_on_ray_survives_the_loss_of_a_node(tmp_path: Path, nodes: Any):
    made = write(tmp_path, t_max=3_000, seeds=1)
    words = command(made, "--backend", "ray")
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert wait_for(
            lambda: sum(path.stat().st_size > 2000 for path in made.results_dir.rglob("metrics.jsonl")) == 2, 240
        )
        nodes.remove_node(nodes.workers[0], allow_graceful=False)
        output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    works = survey(expand(made), made.results_dir)
    assert [work.state for work in works] == [State.DONE] * 2, output
    resumes = [len(work.folder.record["resumes"]) for work in works]
    assert sum(resumes) >= 1, "one run went on elsewhere"
    for work in works:
        steps = [r["t_env"] for r in journal.read(work.folder.journal) if r["kind"] == "train"]
        assert steps == sorted(set(steps))
