"""Several seeds as one program: each run is what it would be alone, in its numbers, its draws and its folder."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import main
import toy
from core import checkpoint, cli
from core.config import ConfigError, Settings
from core.schedule import EachSeed, Geometric, Held, Linear
from core.specs import EpisodeBatch
from many.batch import parted
from many.loop import Together, refuse_unfit
from many.rows import JointEnv
from run import Session, build
from tracking.folder import RunFolder

TOLERANCE = 2e-5
"""Of parameters, optimisers, meters and metrics: sums are taken in another order."""
COMMON = (
    "device=cpu", "batch_size=4", "batch_size_run=2", "burn_in=0", "t_max=42", "test_interval=20", "log_interval=15",
    "test_nepisode=2", "updates_per_collect=1", "grad_norm_clip=0.5", "buffer_size=12", "hidden_dim=16",
    "target_update_interval=4",
)  # fmt: skip
OWN_ENDS = ("vdn", "hallway", "t_max=64", "optimiser=adam", "epsilon_anneal_time=50", "td_lambda=0.5")
"""Also the configuration of the tests with run folders."""
CASES = {
    "one after another": ("macpf", "hallway", "alpha_anneal_time=100", "buffer_bytes=6000"),
}
MORE = {
    "own ends": OWN_ENDS,
    "fixed lengths": ("qmix", "matrix_game", "env_args.episode_length=3", "updates_per_collect=2", "t_max=90"),
    "drawn in updates": ("fop", "hallway", "alpha_anneal_time=100", "random_steps=15", "td_lambda=0.8"),
    "nobody mixes": ("iql", "simple_spread", "t_max=300", "double_q=False", "agent=mlp"),
    "joint actions are mixed": ("qplex", "matrix_game", "env_args.episode_length=2"),
    "battles": ("qmix", "sc2", "env_args.engine=skirmish", "env_args.map_name=3m", "t_max=400"),
    "both modes": ("macpf", "sc2", "env_args.engine=skirmish", "env_args.map_name=3m", "t_max=300"),
    "replays apart": ("qmix", "hallway", "buffer_format=sparse"),
    "mixers attend": ("macpf_attention", "simple_spread", "t_max=300"),
}
SLOW = [pytest.param(case, id=name, marks=pytest.mark.slow) for name, case in MORE.items()]


def settings_of(algorithm: str, environment: str, *keys: str, seed: int = 3) -> Settings:
    words = [f"--config={algorithm}", f"--env-config={environment}", "with", f"seed={seed}"]
    chosen = {key.partition("=")[0]: key for key in (*COMMON, *keys)}
    return cli.compose(cli.parse([*words, *chosen.values()]))


def sessions(*words: str, n: int = 2) -> list[Session]:
    return [build(settings_of(*words, seed=3 + k)) for k in range(n)]


def flat(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(inner, f"{at}.{key}")
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from flat(inner, f"{at}[{number}]")
    else:
        yield at, value


def assert_alike(found: Any, expected: Any) -> None:
    """Integers, flags, generators and texts are equal; other numbers almost."""
    found, expected = dict(flat(found)), dict(flat(expected))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, Tensor | float):
            one, other = (torch.as_tensor(x) for x in (found[name], value))
            exact = not one.is_floating_point()
            torch.testing.assert_close(one, other, rtol=0 if exact else TOLERANCE, atol=0 if exact else TOLERANCE,
                                       msg=lambda text, name=name: f"{name}: {text}")  # fmt: skip
        else:
            assert found[name] == value, name


def told(ticks: list[Any]) -> list[dict[str, Any]]:
    """What is reproducible of the records of a run."""
    records = [dataclasses.asdict(record) for tick in ticks for record in tick.records]
    return [record for record in records if record["kind"] != "perf"]


@pytest.mark.parametrize("words", [pytest.param(case, id=name) for name, case in CASES.items()] + SLOW)
def test_each_seed_is_what_it_is_alone(words: tuple[str, ...]) -> None:
    alone, together = sessions(*words), sessions(*words)
    expected = [list(session.train()) for session in alone]
    found: list[list[Any]] = [[] for _ in together]
    loop = Together(together)
    for ticks in loop.train():
        for k, tick in ticks:
            found[k].append(tick)
    loop.settle()
    for k, session in enumerate(alone):
        assert session.learner.state_dict()["_extra_state"]["episodes_seen"] > 0
        assert [(t.t_env, t.episode, t.checkpoint_due) for t in found[k]] == [
            (t.t_env, t.episode, t.checkpoint_due) for t in expected[k]
        ]
        assert_alike(told(found[k]), told(expected[k]))
        assert_alike([t.best for t in found[k]], [t.best for t in expected[k]])
        assert_alike(together[k].state_dict(), session.state_dict())


@pytest.mark.slow
def test_a_settled_session_goes_on_alone() -> None:
    words = MORE["fixed lengths"]
    alone, together = sessions(*words), sessions(*words)
    expected = [list(session.train()) for session in alone]
    loop = Together(together)
    steps = loop.train()
    for _ in range(4):
        next(steps)
    loop.settle()
    left = build(settings_of(*words, seed=4))
    left.load_state_dict(together[1].state_dict())
    found = list(left.train())
    assert_alike(told(found), told(expected[1][4:]))
    assert_alike(left.state_dict(), alone[1].state_dict())


@pytest.mark.slow
def test_seeds_differ() -> None:
    made = sessions(*MORE["fixed lengths"])
    for _ in Together(made).train():
        pass
    weights = [torch.cat([p.detach().flatten() for p in session.learner.parameters()]) for session in made]
    assert (weights[0] - weights[1]).abs().max() > 0.01


# --- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "environment", ["simple_spread", "hallway", "matrix_game", pytest.param("sc2", marks=pytest.mark.slow)]
)
def test_rows_of_several_environments(environment: str) -> None:
    keys = ("env_args.engine=skirmish", "env_args.map_name=3m") if environment == "sc2" else ()
    alone, parts = sessions("vdn", environment, *keys), sessions("vdn", environment, *keys)
    joint = JointEnv(parts[0].more_rows, [session.env for session in parts])
    for part in range(2):
        steps = [joint.reset(), *[joint.step(action).next for action in [_some_action(joint)] * 3]]
        for k, session in enumerate(alone):
            own = [session.env.reset()]
            own += [session.env.step(_some_action(session.env)).next for _ in range(3)]
            rows = slice(2 * k, 2 * k + 2)
            for step, expected in zip(steps, own, strict=True):
                torch.testing.assert_close(step.obs[rows], expected.obs, rtol=0, atol=0)
        if not part:
            joint.hand_back()
            for session, given in zip(alone, parts, strict=True):
                assert_alike(given.env.state_dict(), session.env.state_dict())
    for session in (*alone, *parts):
        session.close()


def _some_action(env: Any) -> Tensor:
    """Stop, where the dead and the living of 3m may do different things, else the last action."""
    shown = env.env if isinstance(env, JointEnv) else env
    if hasattr(shown, "battle"):
        return shown.battle.live["avail"].bool().long().argmax(-1)
    return torch.full((env.n_envs, env.spec.n_agents), min(action.n for action in env.spec.actions) - 1)


def test_episodes_are_cut_to_each_seeds_longest() -> None:
    b, t, n = 4, 5, 2
    length = torch.tensor([2, 3, 5, 1])
    rows = torch.arange(b * (t + 1)).view(b, t + 1).float()
    batch = EpisodeBatch(
        action=torch.zeros(b, t, n, dtype=torch.long), reward=rows[:, :t], terminated=torch.zeros(b, t).bool(),
        mask=torch.ones(b, t), length=length, obs=rows[..., None, None].expand(-1, -1, n, 3), state=rows[..., None],
        avail=torch.ones(b, t + 1, n, 2).bool(), extras={"visible": torch.ones(b, t + 1, n, n).bool()},
    )  # fmt: skip
    first, second = parted(batch, 2)
    assert first.length.tolist() == [2, 3]
    assert first.reward.shape == (2, 3)
    assert first.obs.shape == (2, 4, n, 3)
    assert first.extras["visible"].shape == (2, 4, n, n)
    assert second.reward.tolist() == [[12, 13, 14, 15, 16], [18, 19, 20, 21, 22]]


# --- schedules -------------------------------------------------------------------------------------------------------


def test_schedules_of_several_seeds() -> None:
    steps = [0, 5, 40, 99, 100, 1000]
    each = EachSeed.of(1000, torch.tensor(steps, dtype=torch.double))
    for schedule in (Linear(1.0, 0.05, 100), Linear(0.3, 0.9, 0), Held(1.0, 40, Linear(0.5, 0.1, 100))):
        assert torch.as_tensor(schedule(each)).tolist() == [schedule(t) for t in steps]
    assert Geometric(1.0, 0.1, 0.5)(2) == 0.25


def test_steps_of_several_seeds_are_not_compared() -> None:
    each = EachSeed.of(7, torch.tensor([7.0, 3.0]))
    with pytest.raises(TypeError, match="different environment steps"):
        _ = each < 5
    with pytest.raises(TypeError, match="different environment steps"):
        _ = each == 7


# --- what does not work ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learner": "coma"}, "'learner' is coma"),
        ({"updates_per_step": 0.5}, "'updates_per_step' is set"),
        ({"runner": "ray"}, "'runner' is ray"),
        ({"precision": "bfloat16"}, "'precision' is 'bfloat16'"),
    ],
)
def test_refused(change: dict[str, Any], says: str) -> None:
    session = sessions("vdn", "matrix_game", n=1)[0]
    refuse_unfit(session, 4)
    session.settings = Settings({**session.settings, **change})
    with pytest.raises(ConfigError, match=says) as caught:
        refuse_unfit(session, 4)
    assert "'n_seeds' is 4" in str(caught.value)
    assert "n_seeds=1" in str(caught.value)


def test_environments_without_rows_in_their_state_are_refused() -> None:
    session = sessions("vdn", "matrix_game", n=1)[0]
    session.env = toy.Toy(toy.Toy.Config(), 2, "cpu", 0)
    with pytest.raises(ConfigError, match="'rngs' of the state is no tensor of rows"):
        refuse_unfit(session, 2)


def test_seeds_end_somewhere() -> None:
    with pytest.raises(ConfigError, match="'n_seeds' counts from seed=4294967295"):
        settings_of("vdn", "matrix_game", "n_seeds=2", seed=2**32 - 1)
    with pytest.raises(ConfigError, match="'n_seeds' must be at least 1"):
        settings_of("vdn", "matrix_game", "n_seeds=0")


# --- runs ------------------------------------------------------------------------------------------------------------


def command(where: Path, *keys: str) -> list[str]:
    words = OWN_ENDS
    chosen = {key.partition("=")[0]: key for key in (*COMMON, *words[2:], "seed=3", f"results_dir={where}", *keys)}
    return [f"--config={words[0]}", f"--env-config={words[1]}", "with", *chosen.values()]


def folders(where: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(where.rglob("record.json"), key=lambda p: p.parent.name)]


def curves(folder: RunFolder) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in folder.journal.read_text().splitlines()]
    return [line | {"crc": None} for line in lines if line["kind"] != "perf"]


def saved(folder: RunFolder) -> dict[str, Any]:
    return checkpoint.load(folder.checkpoint)["session"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> list[RunFolder]:
    """Seeds 3 and 4, each started by itself."""
    where = tmp_path_factory.mktemp("alone")
    for seed in (3, 4):
        assert main.main(command(where, f"seed={seed}")) == 0
    made = sorted(folders(where), key=lambda folder: folder.record["seed"])
    episodes = {saved(folder)["progress"]["episode"] for folder in made}
    assert len(episodes) == 2, "the seeds end together, where one is to go on without the other: choose another t_max"
    return made


def stopping_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal after some ticks."""
    train = Together.train

    def stopped(self: Together) -> Iterator[Any]:
        for number, ticks in enumerate(train(self)):
            if number == steps:
                signal.raise_signal(signal.SIGTERM)
            yield ticks

    monkeypatch.setattr(Together, "train", stopped)


def test_every_run_has_its_folder(tmp_path: Path, alone: list[RunFolder]) -> None:
    assert main.main(command(tmp_path, "n_seeds=2")) == 0
    made = sorted(folders(tmp_path), key=lambda folder: folder.record["seed"])
    assert [folder.record["seed"] for folder in made] == [3, 4]
    for folder, expected in zip(made, alone, strict=True):
        assert folder.record["status"] == "COMPLETED"
        assert folder.record["together"] == [own.path.name for own in made]
        assert folder.record.keys() - {"together"} == expected.record.keys()
        assert_alike(folder.record["summary"], expected.record["summary"])
        assert_alike(curves(folder), curves(expected))
        assert_alike(saved(folder), saved(expected))
        assert cli.load(folder.config) == cli.load(expected.config) | {"results_dir": str(tmp_path)}
        assert (folder.best.exists(), folder.console.exists()) == (True, True)
        found, wanted = ({p.name for p in own.sacred.glob("[0-9]*/*")} for own in (folder, expected))
        assert found == wanted
        assert f"t_env {saved(folder)['progress']['t_env']:,}/" in folder.console.read_text()


def test_stopped_and_resumed_together(
    tmp_path: Path, alone: list[RunFolder], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        stopping_after(1, patched)
        assert main.main(command(tmp_path, "n_seeds=2")) == 128 + signal.SIGTERM
    made = sorted(folders(tmp_path), key=lambda folder: folder.record["seed"])
    assert [folder.record["status"] for folder in made] == ["INTERRUPTED"] * 2
    assert "with n_seeds=2" in capsys.readouterr().err
    where = f"results_dir={tmp_path}"
    assert main.main(["resume", made[1].path.name, "with", "n_seeds=3", where]) == 2
    assert "was trained as one of 2" in capsys.readouterr().err
    assert main.main(["resume", made[1].path.name, "with", "n_seeds=2", where]) == 0
    for folder, expected in zip(made, alone, strict=True):
        assert folder.record["status"] == "COMPLETED"
        assert len(folder.record["resumes"]) == 1
        assert_alike(curves(folder), curves(expected))
        assert_alike(saved(folder), saved(expected))
    assert main.main(["resume", made[1].path.name, "with", "n_seeds=2", where]) == 2


@pytest.mark.slow
def test_one_of_them_resumed_alone(tmp_path: Path, alone: list[RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stopping_after(1, patched)
        main.main(command(tmp_path, "n_seeds=2"))
    made = sorted(folders(tmp_path), key=lambda folder: folder.record["seed"])
    assert main.main(["resume", made[1].path.name, "with", f"results_dir={tmp_path}"]) == 0
    assert [folder.record["status"] for folder in made] == ["INTERRUPTED", "COMPLETED"]
    assert_alike(curves(made[1]), curves(alone[1]))
    assert_alike(saved(made[1]), saved(alone[1]))
    # The other one goes on, too: those that have reached their end are left where they are.
    assert main.main(["resume", made[0].path.name, "with", "n_seeds=2", f"results_dir={tmp_path}"]) == 0
    assert_alike(saved(made[0]), saved(alone[0]))


def test_runs_at_different_points_are_not_resumed_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patched:
        stopping_after(1, patched)
        main.main(command(tmp_path, "n_seeds=2"))
    made = folders(tmp_path)
    state = checkpoint.load(made[0].checkpoint)
    state["session"]["progress"]["episode"] += 4
    checkpoint.save(made[0].checkpoint, state)
    assert main.main(["resume", made[0].path.name, "with", "n_seeds=2", f"results_dir={tmp_path}"]) == 2
    assert "resume each by itself" in capsys.readouterr().err
    assert [folder.record["status"] for folder in made] == ["INTERRUPTED"] * 2


def test_an_error_of_one_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Session.tick

    def failing(self: Session, records: list[Any]) -> Any:
        if self.settings["seed"] == 4 and self.progress.episode > 2:
            raise ArithmeticError("seed 4 has had enough")
        return step(self, records)

    monkeypatch.setattr(Session, "tick", failing)
    assert main.main(command(tmp_path, "n_seeds=2")) == 1
    for folder in folders(tmp_path):
        assert folder.record["status"] == "FAILED"
        assert folder.record["error"] == "ArithmeticError: seed 4 has had enough"
        assert folder.console.read_text().count("ArithmeticError: seed 4 has had enough") == 1


def test_refused_before_anything_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config=coma", "--env-config=matrix_game", "with", "n_seeds=2", f"results_dir={tmp_path}"]
    assert main.main(words) == 2
    assert "'learner' is coma" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
