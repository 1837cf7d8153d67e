"""``runner: ray`` on a cluster of two nodes, processes here: what is played, what is lost, and that runs go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from core import cli
from core.config import ConfigError
from core.registry import ENVS
from core.seeding import Streams
from core.specs import joined
from run import Session, build
from runners.episode import EpisodeRunner
from tracking.journal import read

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
STORE = 100 * 2**20


class TwoNodes:
    """A head and one further node, with room for one actor each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.second: Any = None
        self.mend()

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def mend(self) -> None:
        if self.second is None:
            self.second = self.cluster.add_node(num_cpus=1, object_store_memory=STORE)

    def lose(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    before = os.environ.get("RAY_AUTH_MODE")
    os.environ["RAY_AUTH_MODE"] = "disabled"  # so that no token is left in the user's home
    made = TwoNodes()
    yield made
    made.cluster.shutdown()
    if before is None:
        del os.environ["RAY_AUTH_MODE"]


def keys(nodes: TwoNodes, *more: str) -> list[str]:
    common = ["runner=ray", f"ray_address={nodes.address}", "batch_size_run=5", "device=cpu", "seed=4", "agent=mlp"]
    given = {word.partition("=")[0] for word in more}
    return [word for word in common if word.partition("=")[0] not in given] + list(more)


def session(nodes: TwoNodes, *more: str, env: str = "hallway") -> Session:
    words = [f"--config={'qmix'}", f"--env-config={env}", "with", *keys(nodes, *more)]
    return build(cli.compose(cli.parse(words)))


@pytest.fixture
def sessions(nodes: TwoNodes) -> Iterator[Any]:
    """Makes sessions, one after the other, and closes them."""
    nodes.mend()
    made: list[Session] = []

    def make(*more: str, env: str = "hallway") -> Session:
        for old in made:
            old.close()
        made.append(session(nodes, *more, env=env))
        return made[-1]

    yield make
    for old in made:
        old.close()


def locally(of: Session, rows: int, env_seed: int, act_seed: int) -> EpisodeRunner:
    """The runner that an actor should have."""
    cls = ENVS[of.settings["env"]]
    env = cls(of.settings.of(cls), rows, torch.device("cpu"), env_seed)
    rng = torch.Generator().manual_seed(act_seed)
    return EpisodeRunner(env, of.controller, EpisodeRunner.Config(), of.settings, rng)


def same(one: Any, other: Any) -> bool:
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("action", "reward", "obs", "avail", "length")]
    return all(torch.equal(x, y) for x, y in pairs)


# --- what is played ---------------------------------------------------------------------------------------------------


def test_actors_play_what_they_would_play_here(sessions: Any):
    """Rows are divided 3 and 2, streams are the actor's, and episodes of different lengths come as one batch."""
    it = sessions("max_staleness=0")
    streams = Streams(4)
    runners = [locally(it, rows, streams.seed("env", i, 0), streams.seed("act", i, 0)) for i, rows in enumerate((3, 2))]
    for t_env in (0, 1000):
        remote = it.runner.collect(t_env=t_env, mode="explore")
        here = [runner.collect(t_env=t_env, mode="explore") for runner in runners]
        assert same(remote.episodes, joined([rollout.episodes for rollout in here], it.env.spec))
        assert remote.stats["return"].tolist() == [x for rollout in here for x in rollout.stats["return"].tolist()]
    assert it.env.n_envs == 1


def test_tests_are_played_by_all_and_repeat(sessions: Any):
    it = sessions()
    streams = Streams(4)
    first = it.evaluate("test", 7)
    it.runner.collect(t_env=0, mode="explore")  # further episodes are now under way
    again = it.evaluate("test", 7)
    parts = []
    for part, episodes in enumerate((4, 3)):
        runner = locally(it, episodes, *(streams.seed("eval", 0, part, kind) for kind in (0, 1)))
        parts.append(runner.collect(t_env=0, mode="test").stats["ep_length"])
    assert first["ep_length"].tolist() == again["ep_length"].tolist() == torch.cat(parts).tolist()
    assert it.runner.evaluate(t_env=0, mode="test", episodes=7, afresh=True)["ep_length"].shape == (7,)
    assert len(it.runner.collect(t_env=0, mode="explore").episodes) >= 5, "what arrived during the test is not lost"
    assert it.runner.counters()["episodes_lost"] == 0


def test_new_runs_without_staleness_are_equal(sessions: Any):
    def trained() -> tuple[list[Any], dict[str, Any]]:
        words = [
            "max_staleness=0",
            "t_max=120",
            "test_interval=60",
            "test_nepisode=4",
            "log_interval=20",
            "batch_size=8",
        ]
        it = sessions(*words, env="matrix_game")
        records = [r for tick in it.train() for r in tick.records if r.kind != "perf"]
        return records, it.controller.state_dict()

    (records, learnt), (records_again, learnt_again) = trained(), trained()
    assert records == records_again and len(records) > 6
    assert all(torch.equal(x, learnt_again[name]) for name, x in learnt.items())


# --- versions ---------------------------------------------------------------------------------------------------------


def change(it: Session) -> None:
    with torch.no_grad():
        for parameter in it.controller.parameters():
            parameter.add_(0.01)


def test_too_old_episodes_are_discarded_and_counted(sessions: Any):
    it = sessions("max_staleness=1")
    it.runner.collect(t_env=0, mode="explore")  # the next ones are under way, with the same weights
    change(it)
    assert len(it.runner.collect(t_env=0, mode="explore").episodes) >= 5
    assert it.runner.counters()["episodes_stale"] == 0
    for _ in range(3):
        change(it)
        it.runner._publish()
    for _ in range(50):  # one actor may be done several times before the other one is
        assert len(it.runner.collect(t_env=0, mode="explore").episodes) >= 5
        if it.runner._episodes_stale >= 5:
            break
    for _ in range(3):
        it.runner.collect(t_env=0, mode="explore")
    counts = it.runner.counters()
    assert counts["episodes_stale"] == 5, "both actors had begun three versions before, once"
    assert counts["policy_staleness"] == 0


def test_unchanged_weights_are_no_new_version(sessions: Any):
    it = sessions()
    for _ in range(3):
        it.runner.collect(t_env=0, mode="explore")
    assert it.runner._version == 1
    assert it.runner.counters()["policy_staleness"] == 0


def test_on_policy_learners_wait_for_their_own_episodes(nodes: TwoNodes, sessions: Any):
    assert sessions().runner.max_staleness == 1
    words = ["--config=coma", "--env-config=hallway", "with", *keys(nodes, "agent=rnn")]
    sessions().close()
    it = build(cli.compose(cli.parse(words)))
    assert it.runner.max_staleness == 0
    it.close()


# --- losses -----------------------------------------------------------------------------------------------------------


def test_a_killed_actor_is_replaced_by_one_with_streams_of_its_own(sessions: Any):
    it = sessions("max_staleness=0")
    first = it.runner.collect(t_env=0, mode="explore").episodes
    ray.kill(it.runner._crew.seats[1].handle)
    while it.runner.counters()["actors_lost"] == 0 or it.runner.counters()["actors"] < 2:
        got = it.runner.collect(t_env=0, mode="explore")
        assert len(got.episodes) in (3, 5)
    last = it.runner.collect(t_env=0, mode="explore").episodes
    assert it.runner.counters()["episodes_lost"] == 2
    assert it.runner._crew.seats[1].lives == 1
    assert not torch.equal(first.action[3:, :3], last.action[3:, :3]), "the stream of the lost one is not played again"


def test_a_silent_actor_is_given_up(sessions: Any):
    it = sessions("actor_timeout=20")
    it.runner.collect(t_env=0, mode="explore")
    handle = it.runner._crew.seats[0].handle
    for _ in range(3):
        it.runner.collect(t_env=0, mode="explore")
    pid = ray.get(handle.__ray_call__.remote(lambda _self: os.getpid()))
    os.kill(pid, signal.SIGSTOP)
    try:
        deadline = time.monotonic() + 120
        while it.runner.counters()["actors_lost"] == 0:
            assert time.monotonic() < deadline
            assert len(it.runner.collect(t_env=0, mode="explore").episodes) >= 2
            time.sleep(0.2)
            it.runner._crew.answers()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert "gave no answer" in it.runner._crew._trouble


def test_without_any_actor_the_run_ends_with_the_remedy(sessions: Any):
    it = sessions("actor_cpus=64", "actor_timeout=3")
    with pytest.raises(RuntimeError, match=r"no rollout actor for 3 s: 2 actors of 64 CPUs.*the cluster has 2 CPUs"):
        it.runner.collect(t_env=0, mode="explore")


def test_a_missing_cluster_is_one_clear_error(nodes: TwoNodes):
    with pytest.raises(ConfigError, match=r"no Ray cluster answers at '127.0.0.1:1' .*ray start --head"):
        session(nodes, "ray_address=127.0.0.1:1")


def test_resume_goes_on_with_further_streams(sessions: Any):
    it = sessions("max_staleness=0")
    first = it.runner.collect(t_env=0, mode="explore").episodes
    it.runner._crew.actors_lost = 3
    state = it.state_dict()
    it = sessions("max_staleness=0")
    it.load_state_dict(state)
    resumed = it.runner.collect(t_env=0, mode="explore").episodes
    assert it.runner.counters()["actors_lost"] == 3
    assert not torch.equal(first.action[:, :3], resumed.action[:, :3])


# --- the whole --------------------------------------------------------------------------------------------------------


def until(condition: Any, process: subprocess.Popen[str], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_a_run_survives_the_loss_of_a_node(nodes: TwoNodes, tmp_path: Path):
    """The command line, a node killed in the middle, another one added later; the run ends as if nothing had been."""
    nodes.mend()
    rhythm = ["test_interval=1000", "test_nepisode=4", "log_interval=20", "batch_size=8", "t_max=1500000"]
    words = ["--config=qmix", "--env-config=matrix_game", "with", *keys(nodes, *rhythm), f"results_dir={tmp_path}"]
    process = subprocess.Popen(
        [sys.executable, "src/main.py", *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )

    def perf() -> dict[str, float]:
        found = [r["values"] for file in tmp_path.rglob("metrics.jsonl") for r in read(file) if r["kind"] == "perf"]
        return found[-1] if found else {"actors": 0, "actors_lost": 0}

    try:
        until(lambda: perf()["actors"] == 2, process)
        nodes.lose()
        until(lambda: perf()["actors_lost"] >= 1 and perf()["actors"] == 1, process)
        nodes.mend()
        until(lambda: perf()["actors"] == 2, process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM
    finally:
        process.kill()
    (folder,) = [path.parent for path in tmp_path.rglob("record.json")]
    steps = [r["t_env"] for r in read(folder / "metrics.jsonl") if r["kind"] == "train"]
    assert steps == sorted(set(steps))
    t_max = steps[-1] + 200
    done = subprocess.run(
        [sys.executable, "src/main.py", "resume", str(folder), "with", f"t_max={t_max}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    record = json.loads((folder / "record.json").read_text())
    assert record["status"] == "COMPLETED" and record["t_env"] >= t_max
    last = [r for r in read(folder / "metrics.jsonl") if r["kind"] == "perf"][-1]
    assert last["t_env"] > steps[-1] and last["values"]["actors_lost"] >= 1, "losses are counted over resumes"
