"""Foreign environments in worker processes: what they show, and what happens when they fail."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from envs.check import check_env
from envs.external import External
from envs.fleet import WorkerError, row_seed, row_seeds

PARALLEL, MARL = "toy_simulators:Parallel", "toy_simulators:Marl"
TESTS = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _toys_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TESTS))


def external(factory: str = MARL, n_envs: int = 2, seed: int = 0, **env_args) -> External:
    env_args.setdefault("api", "pymarl" if factory == MARL else "pettingzoo")
    return External(External.settle(External.Config(factory=factory, **env_args)), n_envs, "cpu", seed)


@pytest.fixture(scope="module")
def parallel() -> Iterator[External]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        env = external(PARALLEL, metrics=["twice"])
        yield env
        env.close()


def test_unlike_agents_of_pettingzoo(parallel: External) -> None:
    spec = parallel.spec
    assert [a.n for a in spec.actions] == [3, 2] and spec.obs_dims == (2, 1)
    assert (spec.state_dim, spec.episode_limit, spec.reward) == (3, 4, "team")
    shown = parallel.reset()
    drawn = shown.obs[:, 0, 1]
    assert drawn[0] != drawn[1]
    assert shown.obs[:, 1].tolist() == [[0, 0], [0, 0]]
    assert torch.equal(shown.state, torch.stack([torch.zeros(2), drawn, torch.zeros(2)], -1))
    assert shown.avail[0].tolist() == [[True, True, True], [True, True, False]]


def test_dying_agents_of_pettingzoo(parallel: External) -> None:
    parallel.reset()
    one = parallel.step(torch.tensor([[2, 1], [1, 0]]))
    assert one.reward.tolist() == [2.5, 1]
    assert one.next.avail[0].tolist() == [[True, False, True], [True, True, False]]
    with pytest.raises(ValueError, match="row 1, agent 0: action 1 is not available"):
        parallel.step(torch.tensor([[0, 0], [1, 0]]))
    two = parallel.step(torch.tensor([[2, 1], [2, 1]]))
    assert not (two.terminated | two.truncated).any()
    assert two.next.avail[0, 1].tolist() == [True, False, False]  # it has died
    three = parallel.step(torch.tensor([[2, 0], [0, 0]]))
    assert three.next.obs[:, 1].tolist() == [[0, 0], [0, 0]] and three.reward.tolist() == [2, 0]
    four = parallel.step(torch.tensor([[0, 0], [0, 0]]))
    assert four.truncated.all() and not four.terminated.any()
    assert four.info["twice"].tolist() == [8, 8]
    # The last state of a cut episode is bootstrapped through: who was cut keeps what its mask allows.
    assert four.next.avail[0].tolist() == [[True, True, True], [True, False, False]]
    again = parallel.reset(torch.tensor([False, True]))
    assert again.obs[:, 0, 0].tolist() == [4, 0]
    five = parallel.step(torch.tensor([[0, 0], [1, 1]]))
    assert five.reward.tolist() == [0, 1.5] and five.next.obs[:, 0, 0].tolist() == [4, 1]


def test_true_end_individual_rewards_and_box() -> None:
    kwargs = {"fatal": True, "box": True}
    env = external(PARALLEL, n_envs=1, kwargs=kwargs, reward="individual")
    assert [(a.n, a.low, a.high) for a in env.spec.actions] == [(2, -2, 2), (2, -1, 1)] and not env.spec.discrete
    assert env.reset().avail.all()
    # Agent 0's box is its own; agent 1's unequal dimensions, 0..10 and -3..3, are stretched from -1..1.
    outcome = env.step(torch.tensor([[[1.5, 0.5], [0.5, -1.0]]]))
    assert outcome.reward.tolist() == [[2.0, 7.5 - 3]]
    with pytest.raises(ValueError, match=r"row 0, agent 1: action \[0.0, 1.5\] is not in its box"):
        env.step(torch.tensor([[[1.5, 0.5], [0.0, 1.5]]]))
    env.step(torch.zeros(1, 2, 2))
    outcome = env.step(torch.zeros(1, 2, 2))
    assert outcome.terminated.tolist() == [True] and outcome.truncated.tolist() == [False]
    env.close()


def test_pymarl_ends_and_limits() -> None:
    env = external(metrics=["battle_won"])
    first = env.reset()
    assert first.state[0, 1] != first.state[1, 1]  # every worker has its own seed
    kept = first.state.clone()
    outcome = env.step(torch.tensor([[2, 1], [1, 0]]))
    assert torch.equal(first.state, kept)  # T-05: the simulator's state is a live array
    assert outcome.reward.tolist() == [3, 1] and outcome.terminated.tolist() == [True, False]
    assert outcome.info["battle_won"].tolist() == [1, 0]
    for _ in range(4):
        outcome = env.step(torch.zeros(2, 2, dtype=torch.int64))
    assert outcome.truncated.tolist() == [False, True] and not outcome.terminated.any()  # T-02
    env.close()
    env.close()


def test_own_limit_cuts_earlier() -> None:
    env = external(n_envs=1, episode_limit=2)
    env.reset()
    step = torch.zeros(1, 2, dtype=torch.int64)
    assert [bool(env.step(step).truncated) for _ in range(2)] == [False, True] and env.spec.episode_limit == 2
    env.close()


def test_keeps_the_promises() -> None:
    """With two instances, used in turns and seeded anew, not built anew: starting processes takes its time."""
    envs = [external(PARALLEL) for _ in range(2)]
    closing = [env.close for env in envs]

    def factory(_: int, seed: int) -> External:
        envs.reverse()
        envs[0].seed_rows(seed)
        envs[0].close = lambda: None
        return envs[0]

    try:
        check_env(factory, n_envs=2, max_steps=9, episodes=2)
    finally:
        for close in closing:
            close()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", r"worker 1 raised \(exit code 1\) while stepping:\n(.*\n)+ZeroDivisionError: toy trouble"),
        ("exit", r"worker 1 died \(exit code 7\) while stepping"),
        ("kill", r"worker 1 died \(exit code -9, SIGKILL\) while stepping"),
        ("hang", r"worker 1 did not answer within 0.5 s and was killed while stepping:\n(.*\n)+.*in _fail"),
    ],
)
def test_failures_name_the_worker(fault: str, said: str) -> None:
    env = external(kwargs={"fault": fault}, timeout=0.5 if fault == "hang" else 30.0, max_failures=0)
    env.reset()
    joint = torch.tensor([[0, 0], [0, 1]])
    env.step(joint)
    begin = time.monotonic()
    with pytest.raises(WorkerError, match=said) as caught:
        env.step(joint)
    assert list(caught.value.failures) == [1]
    assert time.monotonic() - begin < 5  # noticed at once, not after the deadline
    env.close()


def test_a_factory_that_fails_is_shown() -> None:
    with pytest.raises(WorkerError, match=r"while starting:\n(.*\n)+RuntimeError: no engine here"):
        external(n_envs=1, kwargs={"fault": "start"})


def test_missing_metric_is_said() -> None:
    env = external(n_envs=1, metrics=["won"])
    env.reset()
    with pytest.raises(WorkerError, match=r"no 'won'; correct env_args.metrics: \['battle_won'\]"):
        env.step(torch.tensor([[2, 0]]))
    env.close()


@pytest.mark.parametrize(
    ("env_args", "message"),
    [
        ({"factory": "toy_simulators"}, "must look like 'package.module:callable'"),
        ({"factory": "no_such_package:make"}, "ModuleNotFoundError.*install what provides 'no_such_package'"),
        ({"factory": "toy_simulators:Paralel"}, "has no callable 'Paralel'; it has: .*Parallel"),
        ({"factory": MARL, "reward": "individual", "api": "pymarl"}, "needs api: pettingzoo"),
        ({"factory": MARL, "timeout": 0.0}, "timeout must be positive"),
    ],
)
def test_mistakes_are_said_before_anything_starts(env_args: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        External.settle(External.Config(**env_args))


def test_seeds_differ() -> None:
    assert len({*row_seeds(3, 50), *row_seeds(4, 50)}) == 100
    assert row_seeds(3, 2) == row_seeds(3, 50)[:2]


ORPHANING = """
import sys, torch
from envs.external import External
kwargs = {"fault": "hang", "marker": sys.argv[1]} if sys.argv[2] == "hang" else {"marker": sys.argv[1]}
env = External(External.Config(factory="toy_simulators:Marl", api="pymarl", kwargs=kwargs), 1, "cpu", 0)
env.reset()
env.step(torch.tensor([[0, 0]]))
if sys.argv[2] == "hang":
    env.step(torch.tensor([[0, 1]]))
"""


def parent(marker: Path, what: str) -> subprocess.Popen[bytes]:
    path = os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])
    return subprocess.Popen([sys.executable, "-c", ORPHANING, str(marker), what], env=os.environ | {"PYTHONPATH": path})


def test_hanging_worker_dies_with_its_killed_parent(tmp_path: Path) -> None:
    marker = tmp_path / "pid"
    process = parent(marker, "hang")
    assert wait_for(lambda: marker.exists() and marker.read_text().endswith("\n"))
    worker = int(marker.read_text())
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert wait_for(lambda: not running(worker))


def test_workers_close_their_simulators_when_the_interpreter_ends(tmp_path: Path) -> None:
    marker = tmp_path / "closed"
    assert parent(marker, "forget").wait(30) == 0
    assert marker.read_text() == "closed\n"


def wait_for(condition, seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def running(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
