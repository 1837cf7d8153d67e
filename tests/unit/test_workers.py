"""Foreign environments in worker processes: what they show, and what happens when they fail."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from envs import fleet
from envs.check import check_env
from envs.external import External
from envs.fleet import Fleet, Place, State, WorkerError, row_seed, row_seeds
from envs.rows.ports import Ports
from patience import wait_for

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
    assert len({row_seed(3, row, life) for row in range(10) for life in range(10)}) == 100


def flaky(log: Path, n_envs: int = 2, care: dict | None = None, **kwargs) -> External:
    kwargs = {"log": str(log), "doom": 0.0, **kwargs}
    return external("toy_flaky:Flaky", n_envs, api="pymarl", kwargs=kwargs, **(care or {}))


def play(env: External, which: torch.Tensor | None = None) -> list[bool]:
    """One episode per row, to its end; which rows' were lost."""
    env.reset(which)
    lost = torch.zeros(env.n_envs, dtype=torch.bool)
    running = torch.ones_like(lost) if which is None else which.clone()
    while running.any():
        outcome = env.step(torch.zeros(env.n_envs, 2, dtype=torch.int64))
        gone = torch.zeros_like(lost) if outcome.lost is None else outcome.lost
        assert not (gone & (outcome.terminated | outcome.truncated)).any()
        lost, running = lost | gone, running & ~(outcome.terminated | outcome.truncated | gone)
    return lost.tolist()


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("raise", r"worker 1 raised \(exit code 1\) while stepping:\n(.*\n)+ZeroDivisionError: toy trouble"),
        ("exit", r"worker 1 died \(exit code 7\) while stepping"),
        ("kill", r"worker 1 died \(exit code -9, SIGKILL\) while stepping"),
        ("hang", r"worker 1 did not answer within 0.5 s and was killed while stepping:\n(.*\n)+.*in _fail"),
    ],
)
def test_a_lost_row_says_so_and_goes_on(fault: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    env = external(kwargs={"fault": fault}, timeout=0.5 if fault == "hang" else 30.0)
    first = env.reset()
    env.step(torch.tensor([[0, 0], [0, 1]]))
    outcome = env.step(torch.tensor([[0, 0], [0, 1]]))  # step 2 is where row 1 fails
    assert outcome.lost is not None and outcome.lost.tolist() == [False, True]
    assert not (outcome.terminated | outcome.truncated).any() and outcome.reward.tolist() == [0, 0]
    assert not outcome.next.obs[1].any() and outcome.next.avail[1].all() and outcome.next.obs[0].any()
    assert re.search(
        rf"warning: environment {said}\n(.*\n)*It is started anew now \(failure 1 ", capsys.readouterr().err
    )
    again = env.reset(torch.tensor([False, True]))  # row 0 is still in its episode
    assert again.state[1, 1] not in first.state[:, 1], "the next simulator has a seed of its own"
    three = env.step(torch.zeros(2, 2, dtype=torch.int64))
    assert three.lost is None and three.next.obs[:, 0, 0].tolist() == [3, 1]
    assert env.replaced() == (1, 0)
    env.close()


def test_failures_in_a_row_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "BACK_OFF", 0.02)
    pauses: list[float] = []
    dismiss = Fleet._dismiss

    def spying(self: Fleet, place: Place, grace: float, due: float) -> None:
        pauses.append(due - time.monotonic())
        dismiss(self, place, grace, due)

    monkeypatch.setattr(Fleet, "_dismiss", spying)
    env = flaky(tmp_path / "log", 1, {"max_failures": 4}, doom=1.0, faults=("exit",))
    for _ in range(4):
        assert play(env) == [True]
    with pytest.raises(WorkerError, match=r"worker 0 died \(exit code 7\).*\(failure 5 in a row; max_failures=4\)"):
        play(env)
    assert env.replaced() == (4, 0)
    assert [round(pause, 2) for pause in pauses[:4]] == [0, 0.02, 0.04, 0.08]
    env.close()


def test_a_finished_episode_forgives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "BACK_OFF", 0.02)
    env = flaky(tmp_path / "log", 1, {"max_failures": 3}, doom=0.4, faults=("exit",))
    lost = [play(env)[0] for _ in range(20)]
    assert 4 <= sum(lost) == env.replaced()[0]
    env.close()


def test_no_start_succeeds_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fleet, "BACK_OFF", 0.02)
    broken = tmp_path / "broken"
    care = {"max_failures": 2}
    env = flaky(tmp_path / "log", 1, care, doom=1.0, faults=("exit",), broken=str(broken))
    broken.touch()
    assert play(env) == [True]
    with pytest.raises(
        WorkerError, match=r"died \(exit code 9\) while starting \(failure 3 in a row; max_failures=2\)"
    ):
        env.reset()
    env.close()


def test_starts_are_throttled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    start = Fleet._start

    def spying(self: Fleet, place: Place) -> None:
        start(self, place)
        at_once.append(sum(place.state is State.STARTING for place in self.places))

    monkeypatch.setattr(Fleet, "_start", spying)
    env = flaky(tmp_path / "log", 4, {"max_starting": 2})
    assert len(at_once) == 4 and max(at_once) == 2
    env.close()


def test_recycling_by_episodes_and_by_memory(tmp_path: Path) -> None:
    env = flaky(tmp_path / "log", 2, {"recycle_episodes": 4})
    recycled = []
    for _ in range(8):
        assert play(env) == [False, False]
        recycled.append(env.replaced()[1])
    # Row 1 is replaced earlier the first time (before its fourth episode), row 0 before its fifth; both then every 4.
    assert recycled == [0, 0, 0, 1, 2, 2, 2, 3] and env.replaced() == (0, 3)
    env.close()
    env = flaky(tmp_path / "log", 1, {"recycle_gib": 0.2}, leak=60)
    for _ in range(8):
        assert play(env) == [False]
    assert env.replaced() == (0, 2), "every third episode: 30 MiB of Python and numpy, and 60 of each episode"
    env.close()


def test_a_failure_ends_all_that_the_simulator_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    game = tmp_path / "game"
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where the simulators' own temporary folders go
    env = flaky(tmp_path / "log", 1, doom=1.0, faults=("kill",), game=str(game))
    assert play(env) == [True]
    first = int(game.read_text())
    assert not Path(f"/proc/{first}").exists(), "ended and buried, although it is in a session of its own"
    env.reset()
    second = int(game.read_text().split()[1])
    assert running(second) and list(tmp_path.glob("cofactor-*"))
    env.close()
    assert not Path(f"/proc/{second}").exists()
    assert not list(tmp_path.glob("cofactor-*"))


def test_ports_are_nobody_elses() -> None:
    mine, other = Ports(), Ports()
    taken = [mine.pick_unused_port() for _ in range(20)]
    assert len({*taken, *(other.pick_unused_port() for _ in range(20))}) == 40
    other._rng.choice = lambda _: taken[0]
    with pytest.raises(OSError, match="no free port"):
        other.pick_unused_port()
    mine.return_port(taken[0])
    assert other.pick_unused_port() == taken[0]
    with socket.socket() as listening:  # by a program that knows nothing of our locks
        listening.bind(("127.0.0.1", taken[1]))
        listening.listen()
        mine.return_port(taken[1])
        other._rng.choice = lambda _: taken[1]
        with pytest.raises(OSError, match="no free port"):
            other.pick_unused_port()
    code = "import os; from envs.rows.ports import Ports; ports = Ports()"
    code += "; print(ports.pick_unused_port(), flush=True); os.kill(os.getpid(), 9)"
    dead = subprocess.run([sys.executable, "-c", code], env=PATHS, capture_output=True, text=True)
    other._rng.choice = lambda _: int(dead.stdout)
    assert other.pick_unused_port() == int(dead.stdout), "a killed process gives its ports back"


PATHS = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), str(TESTS)])}
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
    return subprocess.Popen([sys.executable, "-c", ORPHANING, str(marker), what], env=PATHS)


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


def running(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
