"""The command line and the files of ``config/``: from words to one mapping of flat keys."""

from __future__ import annotations

import ast
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.config import COMMAND_LINE, MASK, ConfigError, Settings, load, merge, resolve
from core.registry import did_you_mean

STARTED_AS = os.environ.get("COFACTOR_STARTED_AS", "python src/main.py")
"""What the user types before the words that are parsed here; run.sh says so."""
CONFIG = Path(__file__).resolve().parents[2] / "config"
TOOLS = Path(__file__).resolve().parents[1] / "tools"
MONGO_VARIABLE = "COFACTOR_MONGO_URL"
ACTIONS = ("train", "print_config", "resume", "evaluate")
OPTIONS = {"--config": "config", "--env-config": "env_config", "--mongo": "mongo", "-m": "mongo"}
PLACE = frozenset(
    {"device", "buffer_device", "cuda_graphs", "torch_threads", "results_dir", "mongo_url", "mongo_db", "tensorboard"}
    | {"ray_address"}
)
"""Keys that say where a run works and reports, not what it computes."""
RESUMABLE = PLACE | {
    "t_max", "test_interval", "test_nepisode", "log_interval", "checkpoint_interval", "best_by", "n_seeds",
}  # fmt: skip
"""Keys that may be changed when a run is resumed."""
EVALUABLE = frozenset(
    {"device", "buffer_device", "cuda_graphs", "torch_threads", "results_dir", "test_nepisode", "seed"}
    | {"batch_size_run"}
)
"""Keys that may be changed for an evaluation."""

HELP = """\
Trains teams of agents.

  {start} --config=ALGORITHM --env-config=ENVIRONMENT [OPTIONS] [with KEY=VALUE ...]
  {start} resume RUN [OPTIONS] [with t_max=... ...]        go on with a stopped run where it was
  {start} evaluate RUN [with test_nepisode=... ...]        test what a run has learnt
  {start} print_config --config=... --env-config=... ...   show every legal key and its value
{tools}
Options
  --config=NAME        the algorithm, a file of config/algs:
{algs}
  --env-config=NAME    the environment, a file of config/envs:
{envs}
  -m URL, --mongo=URL  send metrics to this MongoDB too; also taken from the variable COFACTOR_MONGO_URL
  -h, --help           this text

RUN is the path of a run's folder, or any part of its name that no other run has.
A VALUE is a Python literal ("lr=5e-4", "env_args.sizes=[3,4]") or else text ("env_args.map_name=corridor").

Examples
  {start} --config=macpf --env-config=sc2 with env_args.map_name=corridor seed=1
  {start} --config=qmix --env-config=matrix_game with t_max=20000 test_interval=2000
  {start} resume 20260131T101500Z_seed1_9f3a with t_max=4_000_000

Exit status: 0 completed, 1 failed, 2 wrong input (nothing was started), 130 or 143 stopped by a signal (resumable).
"""


@dataclass(frozen=True)
class Command:
    """What the user asks for."""

    action: str
    """One of ``ACTIONS``, or ``help``."""
    run: str | None = None
    config: str | None = None
    env_config: str | None = None
    mongo: str | None = None
    updates: dict[str, Any] = field(default_factory=dict)
    """What follows ``with``, dotted keys nested."""


def help_text() -> str:
    """What ``--help`` prints."""
    lists = {kind: "".join(f"\n{' ' * 23}{name}" for name in names(kind))[1:] for kind in ("algs", "envs")}
    others = "".join(f"  {STARTED_AS} {name} --help\n" for name in tools())
    return HELP.format(**lists, start=STARTED_AS, tools=others)


def tools() -> list[str]:
    """Commands of their own: the files of ``src/tools`` that have a ``main(argv)``, which reads all further words."""
    found = [path for path in TOOLS.glob("*.py") if "\ndef main(" in path.read_text(encoding="utf-8")]
    return sorted({path.stem for path in found} - set(ACTIONS))


def names(kind: str) -> list[str]:
    """The names of the files of ``config/algs`` or ``config/envs``."""
    return sorted(path.stem for path in (CONFIG / kind).glob("*.yaml"))


# --- words -----------------------------------------------------------------------------------------------------------


def parse(argv: list[str]) -> Command:
    """The command of the words after the program's name.

    Raises:
        ConfigError: with every mistake in them.
    """
    if {"-h", "--help"} & set(argv):
        return Command("help")
    problems: list[str] = []
    options, positional, assignments = _sort(list(argv), problems)
    action, run = _action(positional, problems)
    updates: dict[str, Any] = {}
    for text in assignments:
        _assign(updates, text, problems)
    if action in ("train", "print_config"):
        for option, kind in (("config", "algs"), ("env_config", "envs")):
            _choose(option, options.get(option), kind, problems)
    elif action in ACTIONS:
        given = {"config", "env_config"} & set(options)
        problems += [f"--{name.replace('_', '-')} cannot be given to '{action}': the run has its own" for name in given]
    if problems:
        raise ConfigError(problems)
    return Command(action, run, updates=updates, **options)


def _sort(words: list[str], problems: list[str]) -> tuple[dict[str, str], list[str], list[str]]:
    """Options (wherever they stand), other words before ``with``, words after it."""
    options: dict[str, str] = {}
    positional: list[str] = []
    assignments: list[str] = []
    after = False
    while words:
        word = words.pop(0)
        if word.startswith("-"):
            _option(word, words, options, problems)
        elif word == "with" and not after:
            after = True
        elif "=" in word and not after:
            problems.append(f"'{word}' must stand after the word 'with'")
            assignments.append(word)
        else:
            (assignments if after else positional).append(word)
    return options, positional, assignments


def _option(word: str, rest: list[str], options: dict[str, str], problems: list[str]) -> None:
    """One option; its value is part of the word (--config=NAME) or the next word (--config NAME)."""
    name, equals, value = word.partition("=")
    if name not in OPTIONS:
        problems.append(f"unknown option '{name}'.{did_you_mean(name, [*OPTIONS, '--help'])}")
        return
    if not equals and rest and rest[0] != "with" and not rest[0].startswith("-"):
        value = rest.pop(0)
    if not value:
        problems.append(f"option {name} needs a value: {name}=...")
    elif OPTIONS[name] in options:
        problems.append(f"option {name} is given twice")
    options[OPTIONS[name]] = value


def _action(positional: list[str], problems: list[str]) -> tuple[str, str | None]:
    action, *rest = positional or ["train"]
    if action not in ACTIONS:
        problems.append(f"unknown command '{action}'.{did_you_mean(action, [*ACTIONS, *tools()])}")
        return "unknown", None
    takes = 1 if action in ("resume", "evaluate") else 0
    if len(rest) < takes:
        problems.append(f"'{action}' needs a run: its folder, or a part of its name")
    problems += [f"unexpected word '{word}': settings are written KEY=VALUE after 'with'" for word in rest[takes:]]
    return action, rest[0] if takes and rest else None


def _choose(option: str, name: str | None, kind: str, problems: list[str]) -> None:
    option = "--" + option.replace("_", "-")
    if name is None:
        problems.append(f"give {option}=NAME.{did_you_mean('', names(kind))}")
    elif name and name not in names(kind):
        problems.append(f"{option}: there is no config/{kind}/{name}.yaml.{did_you_mean(name, names(kind))}")


def _assign(updates: dict[str, Any], text: str, problems: list[str]) -> None:
    """Enters ``a.b=value`` into nested ``updates``."""
    key, equals, value = text.partition("=")
    *path, last = key.split(".")
    if not equals or not all([*path, last]):
        problems.append(f"'{text}' is not KEY=VALUE")
        return
    inside = updates
    for part in path:
        inside = inside.setdefault(part, {})
        if not isinstance(inside, dict):
            problems.append(f"'{text}': '{part}' is also given as a whole")
            return
    if last in inside:
        problems.append(f"'{key}' is given twice after 'with'")
    inside[last] = literal(value)


def literal(text: str) -> Any:
    """A Python literal, one of YAML's words true, false and null, or else the text itself."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return {"true": True, "false": False, "null": None}.get(text, text)


# --- configurations --------------------------------------------------------------------------------------------------


def compose(command: Command) -> Settings:
    """The checked settings of a new run: default.yaml, then the environment's file, the algorithm's, the command line.

    Raises:
        ConfigError: with every mistake and where it was made.
    """
    layers: list[tuple[Mapping[str, Any], str]] = []
    for name in ("default", f"envs/{command.env_config}", f"algs/{command.config}"):
        layers.append((load(CONFIG / f"{name}.yaml"), f"config/{name}.yaml"))
    mongo = command.mongo or os.environ.get(MONGO_VARIABLE)
    if mongo:
        layers.append(({"mongo_url": mongo}, "-m/--mongo" if command.mongo else f"the variable {MONGO_VARIABLE}"))
    layers.append((command.updates, COMMAND_LINE))
    return overlay(layers)


def overlay(layers: Sequence[tuple[Mapping[str, Any], str]]) -> Settings:
    """The checked settings of several (mapping, where it came from), later ones first in rank."""
    config: dict[str, Any] = {}
    source: dict[str, str] = {}
    for values, origin in layers:
        config = merge(config, values)
        args = values.get("env_args")
        source |= dict.fromkeys(values, origin)
        source |= {f"env_args.{key}": origin for key in (args if isinstance(args, Mapping) else ())}
    limit_threads(config.get("torch_threads"))
    return resolve(config, source)


def revise(recorded: Mapping[str, Any], command: Command, changeable: frozenset[str]) -> Settings:
    """The settings of a recorded run with what the command line changes.

    Raises:
        ConfigError: a key that cannot be changed any more, or the password of a MongoDB that is not recorded.
    """
    fixed = [key for key in command.updates if key not in changeable]
    if fixed:
        legal = ", ".join(sorted(changeable))
        raise ConfigError(
            [f"'{key}' cannot be changed by '{command.action}', only these can: {legal}" for key in fixed]
        )
    mongo = command.mongo or os.environ.get(MONGO_VARIABLE)
    given = {"mongo_url": mongo} if mongo else {}
    settings = overlay([(recorded, "the run's config.yaml"), (given, "-m/--mongo"), (command.updates, COMMAND_LINE)])
    if "mongo_url" in changeable and f":{MASK}@" in (settings["mongo_url"] or ""):
        raise ConfigError(
            [
                "the run reports to a MongoDB whose password is not recorded: give its address again with -m URL or "
                f"the variable {MONGO_VARIABLE}, or go on without it: with mongo_url=None"
            ]
        )
    return settings


def limit_threads(threads: Any) -> None:
    """Tells the arithmetic libraries how many threads to use, and these to sleep while they wait for work.

    By default they spin, on cores that others need: the battles of skirmish ran at half the speed. Heeded if the
    libraries are not loaded yet.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if isinstance(threads, int) and threads > 0:
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(threads)
