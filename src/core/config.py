"""Flat configuration in PyMARL's manner, checked as a whole before anything is built.

The legal keys of a run are the fields of ``Experiment`` and of the ``Config`` of every component that the run
selects; ``env_args`` has the fields of the environment's own ``Config``. Nothing else is legal, and every legal key has
a value in the end, so that a recorded run says everything that decided it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import re
import secrets
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from core.registry import SLOTS, Registry, UnknownNameError, did_you_mean

Precision = Literal["float32", "tf32", "bfloat16"]
"""``float32``: as they are. ``tf32``: on a GPU, factors rounded to 10 bits. ``bfloat16``: hidden layers in 8 bits."""
COMMAND_LINE = "the command line"
"""The source of a key that was given with ``with``."""

LEAVES = ("agent", "critic", "mixer")
"""Slots whose components are built without the settings: they select nothing themselves."""

LEAST = {
    "seed": 0,
    "n_seeds": 1,
    "t_max": 1,
    "batch_size_run": 1,
    "updates_per_collect": 1,
    "test_interval": 1,
    "test_nepisode": 0,
    "log_interval": 1,
    "checkpoint_interval": 1,
    "torch_threads": 1,
}
"""The smallest legal values of ``Experiment``'s numbers."""

MOST = {"seed": 2**32 - 1}
"""The largest ones: Sacred hands the seed to NumPy's old generator, which takes 32 bits."""

MASK = "***"
"""What stands for a password wherever one could be written down."""
_PASSWORD = re.compile(r"(://[^:/\s]*:)(?:[^/\s]*|[^?\s]*)@")  # up to the last @: a password may have one unescaped

PYMARL = {
    "use_cuda": "device=cpu or device=cuda",
    "use_tensorboard": "tensorboard=True",
    "local_results_path": "results_dir",
    "runner_log_interval": "log_interval",
    "learner_log_interval": "log_interval",
    "save_model": "checkpoint_interval (checkpoints are always made)",
    "save_model_interval": "checkpoint_interval",
    "checkpoint_path": "the command 'resume RUN' or 'evaluate RUN'",
    "load_step": "the command 'resume RUN' or 'evaluate RUN'",
    "evaluate": "the command 'evaluate RUN'",
    "rnn_hidden_dim": "hidden_dim",
}
"""Keys of PyMARL that are called otherwise here."""


class ConfigError(ValueError):
    """Every mistake of a configuration, together."""

    def __init__(self, problems: list[str]) -> None:
        """``problems`` are one sentence each."""
        self.problems = list(problems)
        head = f"{len(problems)} mistakes:\n  - " if len(problems) > 1 else ""
        super().__init__(head + "\n  - ".join(problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


def masked(text: str) -> str:
    """``text`` with the passwords of all addresses in it replaced by ``MASK``."""
    return _PASSWORD.sub(rf"\1{MASK}@", text)


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """The keys that every run has."""

    name: str
    """What the run is called in results and plots, usually the algorithm."""
    learner: str
    """The algorithm: a file of ``src/learners``."""
    mac: str = "basic_mac"
    """The way of acting: a file of ``src/controllers``."""
    runner: str = "episode"
    """How experience is collected: a file of ``src/runners``."""
    env: str
    """The environment: a file of ``src/envs``."""
    env_args: dict[str, Any] = field(default_factory=dict)
    """The environment's own keys, set with ``env_args.KEY=VALUE``."""
    seed: int = field(default_factory=lambda: secrets.randbelow(2**31))
    """The root of all randomness; drawn once and recorded where it is not given."""
    n_seeds: int = 1
    """Runs with the seeds from ``seed`` on that train in one process as one program, each recorded as a run of its
    own."""
    t_max: int = 2_050_000
    """Environment steps to train for, over all environments side by side."""
    batch_size_run: int = 1
    """Environments side by side."""
    updates_per_collect: int = 1
    """Updates after each collection of episodes."""
    updates_per_step: float | None = None
    """Updates per environment step that was collected, instead of updates_per_collect; null: not used."""
    test_interval: int = 10_000
    """Environment steps between two tests."""
    test_nepisode: int = 32
    """Episodes of a test; 0 for no tests."""
    log_interval: int = 2_000
    """Environment steps between two records of training."""
    checkpoint_interval: int = 100_000
    """Environment steps between two checkpoints; one is also made at the end and when the run is stopped."""
    best_by: str | None = "auto"
    """Test metric by which best.pt is chosen, such as test_return_mean; auto: the environment's; null: no best.pt."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks, replay and native environments live; auto takes a GPU where there is one."""
    precision: Precision = "float32"
    """Of networks: float32, tf32 (on a GPU, factors of products in 10 bits) or bfloat16 (hidden layers in 8 bits)."""
    cuda_graphs: bool = False
    """Whether updates are recorded and replayed as CUDA graphs; needs device=cuda and a learner that can be."""
    torch_threads: int = 1
    """Threads of one process's tensor arithmetic on the CPU."""
    mongo_url: str | None = None
    """MongoDB for Sacred, beside the local files; its password is never recorded."""
    mongo_db: str = "cofactor"
    """The database in it."""
    tensorboard: bool = False
    """Whether to write TensorBoard files too."""
    results_dir: str = "results"
    """Where run folders are made."""
    label: str = ""
    """Free text to find this run by."""

    def __post_init__(self) -> None:
        """Raises ``ConfigError`` for values that no run can have."""
        problems = [
            f"'{key}' must be at least {least}, not {getattr(self, key)!r}"
            for key, least in LEAST.items()
            if getattr(self, key) < least
        ]
        problems += [
            f"'{key}' must be at most {most}, not {getattr(self, key)!r}"
            for key, most in MOST.items()
            if getattr(self, key) > most
        ]
        if self.seed <= MOST["seed"] < self.seed + self.n_seeds - 1:
            problems.append(f"'n_seeds' counts from seed={self.seed} beyond the largest seed, {MOST['seed']}")
        if self.updates_per_step is not None and self.updates_per_step <= 0:
            problems.append(f"'updates_per_step' must be positive, or null, not {self.updates_per_step!r}")
        if not re.fullmatch(r"\w[\w.+-]*", self.name):
            problems.append(f"'name' is part of a path: letters, digits and any of _ . + -, not {self.name!r}")
        if self.mongo_url is not None and not self.mongo_url.startswith(("mongodb://", "mongodb+srv://")):
            problems.append("'mongo_url' must begin with mongodb:// or mongodb+srv://")
        if problems:
            raise ConfigError(problems)


class Settings(dict[str, Any]):
    """A checked, complete configuration: flat, in plain Python values; ``env_args`` is nested."""

    @property
    def experiment(self) -> Experiment:
        """The keys that every run has, typed."""
        return _section(Experiment, self)

    def of(self, cls: Any) -> Any:
        """The part that component class ``cls`` reads, as its ``Config``."""
        return _section(cls.Config, self["env_args"] if cls is SLOTS["env"][self["env"]] else self)

    def build(self, slot: str, *parts: Any, **kw: Any) -> Any:
        """The component selected by ``slot``, called with ``parts``, its ``Config`` and, but for leaves, the settings.

        None where the slot selects nothing.
        """
        if self[slot] is None:
            return None
        cls = SLOTS[slot][self[slot]]
        return cls(*parts, self.of(cls), **kw) if slot in LEAVES else cls(*parts, self.of(cls), self, **kw)

    def components(self) -> dict[str, Any]:
        """The selected component classes by slot."""
        return _select(self, [])

    def plain(self) -> dict[str, Any]:
        """A deep copy as a dict."""
        return copy.deepcopy(dict(self))


yaml.SafeDumper.add_representer(Settings, yaml.SafeDumper.represent_dict)


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` overlaid by ``top``, mappings by key, everything else as a whole."""
    merged = dict(base)
    for key, value in top.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


# --- files -----------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML 1.2's core types, as most people expect them, and no key twice.

    PyYAML follows YAML 1.1, where ``5e-4`` is a string, ``off`` is False, ``010`` is 8, ``1:30`` is 90 and
    ``2024-01-01`` a date. Here these are a float and four strings; ``2_050_000`` stays a number.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[Any, int] = {}
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True) if isinstance(key_node, yaml.ScalarNode) else key_node
            line = key_node.start_mark.line + 1
            if key in seen:
                self.problems.append(f"{self.name}, line {line}: key '{key}' is given twice, first in line {seen[key]}")
            elif not isinstance(key, str):
                self.problems.append(f"{self.name}, line {line}: a key must be text, not {key_node.value!r}")
            seen.setdefault(key, line)
        return super().construct_mapping(node, deep)

    problems: list[str]


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's implicit types, those of 1.1 replaced, by first character."""
    tag = "tag:yaml.org,2002:"
    replaced = {tag + t for t in ("bool", "int", "float", "timestamp")}
    resolvers = {
        char: [(t, pattern) for t, pattern in entries if t not in replaced]
        for char, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    digits, exponent = "[0-9][0-9_]*", "[eE][-+]?[0-9]+"
    for name, pattern, first in (
        ("bool", "true|True|TRUE|false|False|FALSE", "tTfF"),
        ("int", "[-+]?(?:0|[1-9][0-9_]*)|0x[0-9a-fA-F]+", "-+0123456789"),
        ("float", rf"[-+]?(?:{digits}\.[0-9_]*|\.{digits})(?:{exponent})?|[-+]?{digits}{exponent}", "-+.0123456789"),
        ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
    ):
        for char in first:
            resolvers.setdefault(char, []).append((tag + name, re.compile(rf"(?:{pattern})\Z")))
    return resolvers


_Loader.yaml_implicit_resolvers = _resolvers()


def load(path: str | Path) -> dict[str, Any]:
    """One YAML file.

    Raises:
        ConfigError: it cannot be read, is no mapping, or has a key twice; with file and line.
    """
    path = Path(path)
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise ConfigError([f"{path} cannot be read: {error}"]) from error
    loader.name, loader.problems = str(path), []
    try:
        content = loader.get_single_data()
    except yaml.YAMLError as error:
        raise ConfigError([" ".join(str(error).split())]) from error
    finally:
        loader.dispose()
    if not isinstance(content, dict | None):
        loader.problems.append(f"{path}: 'KEY: VALUE' lines are expected, not a {type(content).__name__}")
    if loader.problems:
        raise ConfigError(loader.problems)
    return content or {}


# --- types -----------------------------------------------------------------------------------------------------------


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value may stand where ``hint`` is annotated.

    A float may be written as an integer, a tuple as a list; a bool is no number.
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(type(value) is type(a) and value == a for a in args)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, a) for a in args)
    if origin is tuple:
        items = args[:1] * len(value) if isinstance(value, list | tuple) and args[1:] == (...,) else args
        return isinstance(value, list | tuple) and len(value) == len(items) and all(map(fits, value, items))
    if origin is list:
        return isinstance(value, list | tuple) and all(fits(v, args[0]) for v in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(fits(k, args[0]) and fits(v, args[1]) for k, v in value.items())
    if hint in (None, type(None)):
        return value is None
    if hint in (int, float):
        return isinstance(value, int if hint is int else (int, float)) and not isinstance(value, bool)
    return hint is Any or isinstance(value, (list, tuple) if hint in (list, tuple) else hint)


def wanted(hint: Any) -> str:
    """``hint`` in words."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(repr(a) for a in args)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(wanted(a) for a in args)
    words = {
        int: "an integer", float: "a number", bool: "True or False", str: "text", list: "a list", tuple: "a list",
        dict: "a mapping", type(None): "null (None)",
    }  # fmt: skip
    if origin in (list, tuple):
        inner = ", ".join("..." if a is ... else wanted(a) for a in args)
        return f"a list of ({inner})"
    return words.get(origin or hint, str(hint))


def _typed(value: Any, hint: Any, tuples: bool) -> Any:
    """A fitting value in the very type of ``hint``; lists for tuples unless ``tuples``."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        fitting = [a for a in args if fits(value, a)]
        return _typed(value, type(value) if type(value) in fitting else fitting[0], tuples)
    if isinstance(value, list | tuple):
        hints = args if origin is tuple and args[1:] != (...,) else args[:1] * len(value)
        items = [_typed(v, h, tuples) for v, h in zip(value, hints or [Any] * len(value), strict=True)]
        return tuple(items) if tuples and tuple in (origin, hint) else items
    if isinstance(value, Mapping):
        return {k: _typed(v, args[1] if len(args) == 2 else Any, tuples) for k, v in value.items()}
    return float(value) if hint is float else value


# --- checking --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Key:
    """One legal key as one owner declares it."""

    owner: str
    hint: Any
    field: dataclasses.Field[Any]

    @property
    def required(self) -> bool:
        return self.field.default is dataclasses.MISSING and self.field.default_factory is dataclasses.MISSING

    def default(self) -> Any:
        """A default value of its own; None where one is required."""
        if self.field.default_factory is not dataclasses.MISSING:
            return self.field.default_factory()
        return None if self.required else copy.deepcopy(self.field.default)


def _keys(cls: type, owner: str) -> dict[str, _Key]:
    hints = typing.get_type_hints(cls)
    return {f.name: _Key(owner, hints[f.name], f) for f in dataclasses.fields(cls) if f.init}


def _section(cls: Any, values: Mapping[str, Any]) -> Any:
    return cls(**{name: _typed(values[name], key.hint, tuples=True) for name, key in _keys(cls, "").items()})


def _find(slot: str, name: str) -> Any:
    """The component class, or ConfigError."""
    registry = SLOTS[slot]
    try:
        return registry[name]
    except UnknownNameError as error:
        hint = " For none at all write null in a file, None on the command line." if name.lower() == "none" else ""
        raise ConfigError([f"{slot}: {error}{hint}"]) from error
    except ModuleNotFoundError as error:
        if (Path(__file__).parents[1] / (error.name or "").partition(".")[0]).exists():
            raise  # a module of ours is missing: our mistake, not the user's
        problem = f"{slot}: {registry.kind} '{name}' needs the Python package '{error.name}', which is not installed"
        raise ConfigError([problem]) from error


def _select(config: Mapping[str, Any], problems: list[str]) -> dict[str, Any]:
    """The component classes that ``config`` selects, by slot; a component may select further ones."""
    found: dict[str, Any] = {}
    pending: list[type] = [Experiment]
    tried: set[str] = set()
    while pending:
        for slot, key in _keys(pending.pop(0), "").items():
            name = config.get(slot, None if key.required else key.field.default)
            if slot not in SLOTS or slot in tried or not isinstance(name, str):
                continue
            tried.add(slot)
            try:
                found[slot] = _find(slot, name)
            except ConfigError as error:
                problems += error.problems
                continue
            if slot != "env":
                pending.append(found[slot].Config)
    return found


def _legal(found: Mapping[str, Any]) -> dict[str, list[_Key]]:
    """Every legal flat key, with all who declare it."""
    legal: dict[str, list[_Key]] = {}
    owners = [(Experiment, "every run")]
    owners += [(cls.Config, _titled(slot, cls)) for slot, cls in found.items() if slot != "env"]
    for config, owner in owners:
        for name, key in _keys(config, owner).items():
            legal.setdefault(name, []).append(key)
    return legal


def _titled(slot: str, cls: Any) -> str:
    return f"{SLOTS[slot].kind} '{cls.__module__.rpartition('.')[2]}'"


def _strangers(key: str, found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(slot, title) of components that would make ``key`` legal but are not selected. Imports them: for errors only."""
    for slot, registry in SLOTS.items():
        for name in registry.names() if slot != "env" else ():
            cls = _importable(registry, name)
            if cls is not None and cls is not found.get(slot) and key in _keys(cls.Config, ""):
                yield slot, f"{registry.kind} '{name}'"


def _importable(registry: Registry, name: str) -> Any:
    """The class, or None where it cannot be had on this machine."""
    try:
        return registry[name]
    except (ImportError, UnknownNameError):
        return None


class _Check:
    """Collects the mistakes of one configuration."""

    def __init__(self, source: Mapping[str, str]) -> None:
        self.source = source
        self.problems: list[str] = []
        self.wrong: set[str] = set()
        """Keys whose value has been reported, ``env_args`` dotted."""
        self.missing = False
        """Whether a selected component was not found, so that its keys are not known."""

    def origin(self, key: str) -> str:
        return f" (from {self.source[key]})" if key in self.source else ""

    def report(self, key: str, problem: str) -> None:
        self.wrong.add(key)
        self.problems.append(problem)

    def value(self, name: str, value: Any, keys: list[_Key]) -> Any:
        """A given value in its declared type."""
        for hint in (key.hint for key in keys):
            if fits(value, hint):
                continue
            remedy = ""
            if type(value) is float and fits(whole := round(value) if math.isfinite(value) else 0, hint):
                remedy = f"; write {name}={whole}"
            elif not isinstance(value, list | dict) and fits(str(value), hint):
                remedy = f"; write {name}=\"'{value}'\""
            says = f"'{name}'{self.origin(name)} must be {wanted(hint)}, not {value!r} ({type(value).__name__}){remedy}"
            self.report(name, says)
            return value
        return _typed(value, keys[0].hint, tuples=False)

    def default(self, name: str, keys: list[_Key]) -> Any:
        """The one default of a key that was not given."""
        if any(key.required for key in keys):
            self.report(name, f"'{name}' has no value: give {name}=... after 'with'; {wanted(keys[0].hint)}")
            return None
        defaults = [key.default() for key in keys]
        if any(type(d) is not type(defaults[0]) or d != defaults[0] for d in defaults):
            says = ", ".join(f"{key.owner} has {d!r}" for key, d in zip(keys, defaults, strict=True))
            self.report(name, f"'{name}' must be given, for its defaults differ: {says}")
        return _typed(defaults[0], keys[0].hint, tuples=False)

    def section(self, given: Mapping[str, Any], legal: Mapping[str, list[_Key]], prefix: str = "") -> dict[str, Any]:
        """All legal keys in order of declaration, given or by default."""
        return {
            name: self.value(prefix + name, given[name], keys) if name in given else self.default(prefix + name, keys)
            for name, keys in legal.items()
        }

    def whole(self, cls: Any, values: Any, prefix: str, title: str) -> None:
        """Asks a section of well-typed values for its own opinion: its ``__post_init__`` may refuse them."""
        if "env_args" in self.wrong or any(prefix + name in self.wrong for name in _keys(cls, "")):
            return
        try:
            _section(cls, values)
        except ConfigError as error:
            self.problems += error.problems
        except ValueError as error:
            self.problems.append(f"{title}{error}")

    def unknown(self, key: str, legal: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        """Reports a flat key that is not legal, unless that only follows from another decision.

        Such a key belongs to a component that the command line has just deselected, or that was not found.
        """
        strangers = list(_strangers(key, found))
        overridden = any(self.source.get(slot) == COMMAND_LINE for slot, _ in strangers)
        if overridden and self.source.get(key, COMMAND_LINE) != COMMAND_LINE:
            return
        if strangers and self.missing:
            return
        if key in PYMARL:
            reason = f"is not known here. Use {PYMARL[key]}."
        elif strangers:
            titles = [title for _, title in strangers]
            reason = f"belongs to {' or '.join(titles[:3])}, which is not selected."
        elif key in (env := _env_keys(found)):
            reason = f"is one of the environment's keys: env_args.{key}."
        else:
            near = did_you_mean(key, [*legal, *(f"env_args.{name}" for name in env)])
            reason = "is not known." + (near or " The command print_config shows all keys.")
        self.problems.append(f"key '{key}'{self.origin(key)} {reason}")


def _env_keys(found: Mapping[str, Any]) -> dict[str, list[_Key]]:
    if "env" not in found:
        return {}
    return {name: [key] for name, key in _keys(found["env"].Config, _titled("env", found["env"])).items()}


def resolve(config: Mapping[str, Any], source: Mapping[str, str] | None = None) -> Settings:
    """Fills every default in.

    Args:
        config: flat keys, ``env_args`` nested.
        source: where each key came from, for messages; ``env_args`` with dotted keys.

    Raises:
        ConfigError: with all mistakes at once.
    """
    check = _Check(source or {})
    found = _select(config, check.problems)
    check.missing = bool(check.problems)
    legal, env = _legal(found), _env_keys(found)
    for key in config:
        if key not in legal:
            check.unknown(key, legal, found)
    given = config.get("env_args")
    full = check.section({**config, "env_args": {} if given is None else given}, legal)
    if "env" in found and isinstance(full["env_args"], Mapping):
        args = full["env_args"]
        for key in args:
            if key not in env:
                near = did_you_mean(str(key), env) if env else " It has none."
                title = _titled("env", found["env"])
                check.problems.append(f"{title} has no key 'env_args.{key}'{check.origin(f'env_args.{key}')}.{near}")
        full["env_args"] = check.section(args, env, "env_args.")
    for slot, cls in found.items():
        values, prefix = (full["env_args"], "env_args.") if slot == "env" else (full, "")
        check.whole(cls.Config, values, prefix, _titled(slot, cls) + ": ")
    check.whole(Experiment, full, "", "")
    if check.problems:
        raise ConfigError(check.problems)
    return Settings(full)


def settle(settings: Settings) -> Settings:
    """``settings`` with what the environment decides by looking at this machine written into ``env_args``.

    Raises:
        ConfigError: the machine lacks what is asked for.
    """
    cls = SLOTS["env"][settings["env"]]
    try:
        cfg = cls.settle(settings.of(cls))
    except ValueError as error:
        raise ConfigError([f"{_titled('env', cls)}: {error}"]) from error
    keys = _keys(cls.Config, "")
    args = {name: _typed(getattr(cfg, name), key.hint, tuples=False) for name, key in keys.items()}
    return Settings({**settings, "env_args": args})


def check_fit(settings: Settings, spec: Any) -> None:
    """Asks every selected component whether it can work in an environment of ``spec`` (an ``EnvSpec``).

    Raises:
        ConfigError: with every component's reason why not.
    """
    problems = []
    for slot, cls in settings.components().items():
        reason = cls.unmet(spec) if hasattr(cls, "unmet") else None
        if reason:
            problems.append(f"{_titled(slot, cls)} does not fit environment '{settings['env']}': {reason}")
    if problems:
        raise ConfigError(problems)
