"""The words of the command line."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from core import cli
from core.cli import Command, literal, parse
from core.config import ConfigError, Settings
from core.stop import Stop


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {"algs": ["qmix", "vdn"], "envs": ["hallway", "sc2"]}
    monkeypatch.setattr(cli, "names", known.__getitem__)
    monkeypatch.delenv(cli.MONGO_VARIABLE, raising=False)


NEW = ["--config=qmix", "--env-config=sc2"]


def test_pymarls_form() -> None:
    command = parse([*NEW, "with", "env_args.map_name=corridor", "lr=5e-4", "env_args.x.y=[1]", "seed=3"])
    updates = {"env_args": {"map_name": "corridor", "x": {"y": [1]}}, "lr": 5e-4, "seed": 3}
    assert command == Command("train", None, "qmix", "sc2", None, updates)


@pytest.mark.parametrize(
    "argv",
    [
        ["--config", "qmix", "--env-config", "sc2", "with", "lr=1"],
        ["with", "lr=1", "--env-config=sc2", "--config=qmix"],
        ["train", "--env-config", "sc2", "with", "lr=1", "--config", "qmix"],
    ],
)
def test_options_stand_anywhere(argv: list[str]) -> None:
    assert parse(argv) == Command("train", None, "qmix", "sc2", None, {"lr": 1})


@pytest.mark.parametrize(
    "words", [["-m", "mongodb://h"], ["-m=mongodb://h"], ["--mongo=mongodb://h"], ["--mongo", "mongodb://h"]]
)
def test_mongo(words: list[str]) -> None:
    assert parse([*NEW, *words]).mongo == "mongodb://h"


def test_other_commands() -> None:
    assert parse(["resume", "abc", "with", "t_max=4_000"]) == Command("resume", "abc", updates={"t_max": 4000})
    assert parse(["evaluate", "results/a/b"]) == Command("evaluate", "results/a/b")
    assert parse(["print_config", *NEW]).action == "print_config"
    assert parse(["resume", "--help"]).action == "help"


def test_help_shows_commands_as_the_user_starts_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "STARTED_AS", "./run.sh")
    assert "\n  ./run.sh resume RUN" in cli.help_text() and "main.py" not in cli.help_text()


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*NEW, "--confg=qmix"], "unknown option '--confg'. Did you mean '--config'?"),
        ([*NEW, "-x"], "unknown option '-x'."),
        (["--env-config=sc2"], "give --config=NAME. Choose one of: qmix, vdn."),
        (["--config=qmix"], "give --env-config=NAME. Choose one of: hallway, sc2."),
        (["--config=qmx", "--env-config=sc2"], "--config: there is no config/algs/qmx.yaml. Did you mean 'qmix'?"),
        (["--config=../algs/qmix", "--env-config=sc2"], "there is no config/algs/../algs/qmix.yaml"),
        (["--config=", "--env-config=sc2"], "option --config needs a value: --config=..."),
        (["--env-config=sc2", "--config"], "option --config needs a value"),
        (["--config", "--env-config=sc2"], "option --config needs a value"),
        ([*NEW, "--config=vdn"], "option --config is given twice"),
        ([*NEW, "lr=1"], "'lr=1' must stand after the word 'with'"),
        ([*NEW, "with", "lr"], "'lr' is not KEY=VALUE"),
        ([*NEW, "with", "lr", "=", "1"], "'lr' is not KEY=VALUE"),
        ([*NEW, "with", "a..b=1"], "'a..b=1' is not KEY=VALUE"),
        ([*NEW, "with", "lr=1", "lr=2"], "'lr' is given twice after 'with'"),
        ([*NEW, "with", "a=1", "a.b=2"], "'a.b=2': 'a' is also given as a whole"),
        (["rseume", "x"], "unknown command 'rseume'. Did you mean 'resume'?"),
        (["resume"], "'resume' needs a run"),
        (["resume", "x", "y"], "unexpected word 'y': settings are written KEY=VALUE after 'with'"),
        (["evaluate", "x", "--config=qmix"], "--config cannot be given to 'evaluate': the run has its own"),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, list) else "",
)
def test_mistakes(argv: list[str], says: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(argv)
    assert any(problem.startswith(says) or says in problem for problem in error.value.problems)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        parse(["--confg=qmix", "--env-config=sc3", "lr=1", "with", "x"])
    assert len(error.value.problems) == 5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1), ("2_000", 2000), ("5e-4", 5e-4), ("True", True), ("true", True), ("False", False), ("None", None),
        ("null", None), ("corridor", "corridor"), ("3m", "3m"), ("2s3z", "2s3z"), ("007", "007"), ("'8'", "8"),
        ("", ""), ("[1, 'a']", [1, "a"]), ("(1, 2)", (1, 2)), ("{'a': 1}", {"a": 1}), ("-1", -1), ("a=b", "a=b"),
        ("1+", "1+"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"), ("no", "no"), ("a\0", "a\0"),
        ("(" * 500, "(" * 500),
    ],
)  # fmt: skip
def test_literals(text: str, value: Any) -> None:
    found = literal(text)
    assert found == value and type(found) is type(value)


class TestRevise:
    recorded = {"mongo_url": None, "t_max": 5}  # noqa: RUF012

    @pytest.fixture(autouse=True)
    def unchecked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cli, "resolve", lambda config, source: Settings(config))

    def test_what_may_change(self) -> None:
        command = Command("resume", "x", updates={"t_max": 9})
        assert cli.revise(self.recorded, command, cli.RESUMABLE) == {"mongo_url": None, "t_max": 9}

    @pytest.mark.parametrize("key", ["lr", "seed", "env_args", "batch_size_run", "learner"])
    def test_what_may_not(self, key: str) -> None:
        with pytest.raises(ConfigError, match=f"'{key}' cannot be changed by 'resume', only these can: .*t_max"):
            cli.revise(self.recorded, Command("resume", "x", updates={key: 1}), cli.RESUMABLE)

    def test_a_password_must_be_given_again(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recorded = {"mongo_url": "mongodb://me:***@host"}
        with pytest.raises(ConfigError, match="password is not recorded: give its address again with -m URL"):
            cli.revise(recorded, Command("resume", "x"), cli.RESUMABLE)
        assert (
            cli.revise(recorded, Command("resume", "x", updates={"mongo_url": None}), cli.RESUMABLE)["mongo_url"]
            is None
        )
        given = Command("resume", "x", mongo="mongodb://me:secret@host")
        assert cli.revise(recorded, given, cli.RESUMABLE)["mongo_url"] == "mongodb://me:secret@host"
        monkeypatch.setenv(cli.MONGO_VARIABLE, "mongodb://me:other@host")
        assert cli.revise(recorded, Command("resume", "x"), cli.RESUMABLE)["mongo_url"] == "mongodb://me:other@host"
        assert cli.revise(recorded, given, cli.RESUMABLE)["mongo_url"] == "mongodb://me:secret@host"
        assert "t_max" not in cli.revise(recorded, Command("evaluate", "x"), cli.EVALUABLE)


def test_the_first_signal_is_a_wish_the_second_an_order(capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Stop() as stop:
        assert stop.signum == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signum == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # as schedulers do: to the process, and to its group
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            signal.sigtimedwait([], 1)
        assert signal.getsignal(signal.SIGTERM) == before
    assert stop.signum == signal.SIGTERM
    assert "with a checkpoint" in capfd.readouterr().err
