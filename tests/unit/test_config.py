"""Configurations: what is legal, what it becomes, and how every mistake is told."""

from __future__ import annotations

import dataclasses
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import yaml

from core import config
from core.config import (
    COMMAND_LINE,
    ConfigError,
    Experiment,
    Settings,
    check_fit,
    fits,
    load,
    masked,
    merge,
    resolve,
    settle,
)
from core.registry import SLOTS

ROOT = Path(__file__).resolve().parents[2]


class Learner:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        lr: float = 5e-4
        betas: tuple[float, float] = (0.9, 0.999)
        layers: list[int] = dataclasses.field(default_factory=lambda: [64])
        mixer: str | None = "toy_mixer"
        agent: str = "toy_agent"
        kind: Literal["a", "b", 3] = "a"

    def __init__(self, *parts: Any, **kw: Any) -> None:
        self.parts, self.kw = parts, kw

    @classmethod
    def unmet(cls, spec: Any) -> str | None:
        return "it needs discrete actions" if spec == "box" else None


class Mac(Learner):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        agent: str = "toy_agent"
        epsilon_start: float = 1.0

    @classmethod
    def unmet(cls, spec: Any) -> str | None:
        return "it cannot see" if spec == "box" else None


class Runner(Learner):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        pass

    @classmethod
    def unmet(cls, spec: Any) -> str | None:
        return None


class Agent:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        hidden_dim: int = 64

    def __init__(self, *parts: Any) -> None:
        self.parts = parts


class Mixer(Agent):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        embed_dim: int = 32

        def __post_init__(self) -> None:
            if self.embed_dim % 4:
                raise ValueError(f"embed_dim must be a multiple of 4, not {self.embed_dim}")


class OtherMixer(Agent):
    @dataclass(frozen=True, kw_only=True)
    class Config:
        n_towers: int


class Env:
    @dataclass(frozen=True, kw_only=True)
    class Config:
        map_name: str
        engine: Literal["auto", "real", "toy"] = "auto"
        size: tuple[int, ...] = (3, 4)

    @classmethod
    def settle(cls, cfg: Config) -> Config:
        if cfg.engine == "real":
            raise ValueError("the real engine is not installed: use engine=toy")
        return dataclasses.replace(cfg, engine="toy")


@pytest.fixture(autouse=True)
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    for slot, name, cls in (
        ("learner", "toy_learner", Learner),
        ("mac", "basic_mac", Mac),
        ("runner", "episode", Runner),
        ("agent", "toy_agent", Agent),
        ("mixer", "toy_mixer", Mixer),
        ("mixer", "other_mixer", OtherMixer),
        ("env", "toy_env", Env),
    ):
        if name in ("basic_mac", "episode"):
            _ = SLOTS[slot][name]  # imported now, or it would register itself over the toy whenever that happens
        monkeypatch.setitem(SLOTS[slot]._classes, name, cls)
        monkeypatch.setattr(cls, "__module__", f"toys.{name}")


GOOD: dict[str, Any] = {"name": "toy", "learner": "toy_learner", "env": "toy_env", "env_args": {"map_name": "8m"}}


def mistakes(values: dict[str, Any], source: dict[str, str] | None = None, base: dict[str, Any] = GOOD) -> list[str]:
    with pytest.raises(ConfigError) as error:
        resolve(merge(base, values), source)
    for problem in error.value.problems:
        assert problem in str(error.value)
    return error.value.problems


# --- what a configuration becomes ------------------------------------------------------------------------------------


def test_every_effective_value_is_there() -> None:
    settings = resolve(GOOD | {"seed": 3})
    defaults = {f.name: f.default for f in dataclasses.fields(Experiment) if f.default is not dataclasses.MISSING}
    assert settings == defaults | GOOD | {
        "seed": 3, "lr": 5e-4, "betas": [0.9, 0.999], "layers": [64], "mixer": "toy_mixer", "agent": "toy_agent",
        "kind": "a", "epsilon_start": 1.0, "hidden_dim": 64, "embed_dim": 32,
        "env_args": {"map_name": "8m", "engine": "auto", "size": [3, 4]},
    }  # fmt: skip


def test_resolving_again_changes_nothing_and_yaml_keeps_it(tmp_path: Path) -> None:
    settings = resolve(GOOD | {"lr": 1e-5, "label": "yes", "mongo_url": None})
    assert resolve(settings) == settings
    assert pickle.loads(pickle.dumps(settings)) == settings
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(settings))
    assert resolve(load(tmp_path / "c.yaml")) == settings
    assert type(settings.plain()) is dict and settings.plain() == settings


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("mongodb://me:pw@host:27017/db", "mongodb://me:***@host:27017/db"),
        ("mongodb://me:p@ss@w:rd@host/db?x=a@b", "mongodb://me:***@host/db?x=a@b"),
        ("mongodb://me@firm:p@ss@host", "mongodb://me@firm:***@host"),
        ("mongodb://me:p/s@s@host", "mongodb://me:***@host"),
        ("mongodb+srv://:pw@host", "mongodb+srv://:***@host"),
        ("-m mongodb://a:x@h1/ -m mongodb://b:y@h2/", "-m mongodb://a:***@h1/ -m mongodb://b:***@h2/"),
        ("mongodb://me@host:27017", "mongodb://me@host:27017"),
        ("mongodb://one:1,two:2/db", "mongodb://one:1,two:2/db"),
    ],
)
def test_passwords_are_masked(address: str, shown: str) -> None:
    assert masked(address) == shown == masked(shown)


def test_the_largest_seed_is_one_that_sacred_can_set() -> None:
    assert resolve(GOOD | {"seed": 2**32 - 1})["seed"] == 2**32 - 1
    np.random.RandomState(2**32 - 1)
    with pytest.raises(ValueError, match="Seed must be between 0 and 2"):
        np.random.RandomState(2**32)


def test_a_seed_is_drawn_once() -> None:
    seeds = {resolve(GOOD)["seed"] for _ in range(5)}
    assert len(seeds) == 5
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_defaults_are_not_shared() -> None:
    resolve(GOOD)["layers"].append(1)
    assert resolve(GOOD)["layers"] == [64]


def test_numbers_get_their_declared_type() -> None:
    settings = resolve(GOOD | {"lr": 1, "betas": (0, 1)})
    assert [type(x) for x in (settings["lr"], settings["betas"], *settings["betas"])] == [float, list, float, float]


def test_sections_are_typed() -> None:
    settings = resolve(merge(GOOD, {"env_args": {"size": [5]}}))
    assert settings.of(Learner).betas == (0.9, 0.999)
    assert settings.of(Learner).layers == [64]
    assert settings.of(Env) == Env.Config(map_name="8m", size=(5,))
    assert settings.experiment.env_args == settings["env_args"]
    assert settings.experiment.t_max == 2_050_000


def test_build_hands_over_parts_section_and_settings() -> None:
    settings = resolve(GOOD)
    learner = settings.build("learner", "spec", "controller", rng=1)
    assert learner.parts == ("spec", "controller", settings.of(Learner), settings) and learner.kw == {"rng": 1}
    assert settings.build("mixer", "spec").parts == ("spec", Mixer.Config(embed_dim=32))
    assert resolve(GOOD | {"mixer": None}).build("mixer", "spec") is None


def test_a_component_selects_further_components() -> None:
    settings = resolve(GOOD | {"mixer": "other_mixer", "n_towers": 4})
    assert settings["n_towers"] == 4 and "embed_dim" not in settings
    assert list(settings.components()) == ["learner", "mac", "runner", "env", "mixer", "agent"]
    assert "embed_dim" not in resolve(GOOD | {"mixer": None})


def test_merge_goes_into_mappings() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1]}, {"a": {"c": 3}, "d": [2]}) == {"a": {"b": 1, "c": 3}, "d": [2]}


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        {"lr": "fast", "t_maxx": 3, "t_max": 0, "learnr": 1, "kind": "c", "env_args": {"map": "3m", "engine": 1}}
    )
    assert len(found) == 7
    single = mistakes({"lr": "fast"})
    assert str(ConfigError(single)) == single[0]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"t_maxx": 1}, "key 't_maxx' is not known. Did you mean 't_max'?"),
        ({"map_name": "3m"}, "key 'map_name' is one of the environment's keys: env_args.map_name."),
        ({"n_towers": 4}, "key 'n_towers' belongs to mixer 'other_mixer'"),
        ({"use_cuda": True}, "key 'use_cuda' is not known here. Use device=cpu or device=cuda."),
        ({"learner": "toy_lerner"}, "learner: unknown learner 'toy_lerner'. Did you mean 'toy_learner'?"),
        ({"env": "toy_nev"}, "env: unknown environment 'toy_nev'. Did you mean 'toy_env'?"),
        ({"mixer": "None"}, "For none at all write null in a file, None on the command line."),
        ({"learner": None}, "'learner' must be text, not None (NoneType)"),
        ({"mixer": "other_mixer"}, "'n_towers' has no value: give n_towers=... after 'with'; an integer"),
        ({"env_args": {"mapname": 1}}, "environment 'toy_env' has no key 'env_args.mapname'. Did you mean 'map_name'?"),
        ({"env_args": {"size": [3, "4"]}}, "'env_args.size' must be a list of (an integer, ...), not [3, '4'] (list)"),
        (
            {"env_args": {"map_name": 8}},
            "'env_args.map_name' must be text, not 8 (int); write env_args.map_name=\"'8'\"",
        ),
        ({"env_args": 3}, "'env_args' must be a mapping, not 3 (int)"),
        ({"lr": "fast"}, "'lr' must be a number, not 'fast' (str)"),
        ({"lr": True}, "'lr' must be a number, not True (bool)"),
        ({"t_max": 2e6}, "'t_max' must be an integer, not 2000000.0 (float); write t_max=2000000"),
        ({"t_max": float("inf")}, "'t_max' must be an integer, not inf (float)"),
        ({"kind": "c"}, "'kind' must be one of 'a', 'b', 3, not 'c' (str)"),
        ({"betas": [0.9]}, "'betas' must be a list of (a number, a number), not [0.9] (list)"),
        ({"tensorboard": 1}, "'tensorboard' must be True or False, not 1 (int)"),
        ({"mixer": 3}, "'mixer' must be text or null (None), not 3 (int)"),
        ({"t_max": 0}, "'t_max' must be at least 1, not 0"),
        ({"seed": -1}, "'seed' must be at least 0, not -1"),
        ({"seed": 2**32}, "'seed' must be at most 4294967295, not 4294967296"),
        ({"name": "../up"}, "'name' is part of a path: letters, digits and any of _ . + -, not '../up'"),
        ({"mongo_url": "host:27017"}, "'mongo_url' must begin with mongodb:// or mongodb+srv://"),
        ({"embed_dim": 3}, "mixer 'toy_mixer': embed_dim must be a multiple of 4, not 3"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)
def test_a_mistake_names_key_value_and_remedy(values: dict[str, Any], says: str) -> None:
    found = mistakes(values)
    assert len(found) == 1
    assert says in found[0]


def test_missing_values() -> None:
    found = mistakes({}, base={"env": "toy_env"})
    assert [problem.partition(" has no value")[0] for problem in found] == [
        "'name'",
        "'learner'",
        "'env_args.map_name'",
    ]


def test_the_origin_is_told() -> None:
    source = {"t_maxx": "config/default.yaml", "env_args.map": COMMAND_LINE, "lr": "config/algs/toy.yaml"}
    found = mistakes({"t_maxx": 1, "lr": "x", "env_args": {"map": 3}}, source)
    assert [problem.partition("(from ")[2].partition(")")[0] for problem in found] == [
        "config/default.yaml", "config/algs/toy.yaml", COMMAND_LINE,
    ]  # fmt: skip


def test_keys_of_a_component_that_the_command_line_replaced_are_dropped() -> None:
    """A file's mixing_embed_dim must not stand in the way of `with mixer=vdn`."""
    values = GOOD | {"embed_dim": 64, "mixer": "other_mixer", "n_towers": 2}
    settings = resolve(values, {"embed_dim": "config/algs/toy.yaml", "mixer": COMMAND_LINE})
    assert "embed_dim" not in settings
    assert "belongs to mixer 'toy_mixer'" in mistakes(values, {"embed_dim": COMMAND_LINE, "mixer": COMMAND_LINE})[0]
    assert "belongs to mixer 'toy_mixer'" in mistakes(values, {"embed_dim": "a.yaml", "mixer": "a.yaml"})[0]


def test_an_unknown_component_does_not_drag_its_keys_along() -> None:
    assert len(mistakes({"learner": "toy_lerner", "lr": 3, "embed_dim": 4})) == 1


def test_defaults_that_differ_must_be_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Slower:
        lr: float = 1e-4

    monkeypatch.setattr(Mac, "Config", Slower)
    found = mistakes({})
    both = "learner 'toy_learner' has 0.0005, controller 'basic_mac' has 0.0001"
    assert found == [f"'lr' must be given, for its defaults differ: {both}"]
    assert resolve(GOOD | {"lr": 1e-3})["lr"] == 1e-3


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(type(SLOTS["env"]), "__getitem__", lambda self, name: absent("pettingzoo"))
    with pytest.raises(ConfigError, match="needs the Python package 'pettingzoo', which is not installed"):
        config._find("env", "external")
    monkeypatch.setattr(type(SLOTS["env"]), "__getitem__", lambda self, name: absent("core.nonsense"))
    with pytest.raises(ModuleNotFoundError):  # ours: no mistake of the user's
        config._find("env", "external")


def test_settle_writes_what_the_machine_decides() -> None:
    settled = settle(resolve(GOOD))
    assert isinstance(settled, Settings)
    assert settled["env_args"] == {"map_name": "8m", "engine": "toy", "size": [3, 4]}
    assert settle(settled) == settled
    with pytest.raises(ConfigError, match="environment 'toy_env': the real engine is not installed: use engine=toy"):
        settle(resolve(merge(GOOD, {"env_args": {"engine": "real"}})))


def test_check_fit_asks_everybody() -> None:
    check_fit(resolve(GOOD), "grid")
    with pytest.raises(ConfigError) as error:
        check_fit(resolve(GOOD), "box")
    assert error.value.problems == [
        "learner 'toy_learner' does not fit environment 'toy_env': it needs discrete actions",
        "controller 'basic_mac' does not fit environment 'toy_env': it cannot see",
    ]


def test_config_error_survives_processes() -> None:
    error = pickle.loads(pickle.dumps(ConfigError(["a", "b"])))
    assert error.problems == ["a", "b"] and str(error) == "2 mistakes:\n  - a\n  - b"


# --- types -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -3, 2**70], [True, 1.0, "1", None]),
        (float, [0, 1.5, float("nan")], [False, "1", None, 1j]),
        (bool, [True, False], [0, 1, "True", None]),
        (str, ["", "a"], [1, None, b"a"]),
        (None | int, [None, 1], [False, ""]),
        (float | str | None, [1, "a", None], [True, []]),
        (Literal["a", 1], ["a", 1], [True, 1.0, "b", None]),
        (list[int], [[], [1], (1, 2)], [[1.0], ["a"], "12", {1: 2}, 1]),
        (list[list[float]], [[[1, 2.0]], [[]]], [[1.0], [["a"]]]),
        (tuple[int, str], [[1, "a"], (1, "a")], [[1], [1, "a", "b"], ["a", 1], "1a"]),
        (tuple[int, ...], [[], [1, 2, 3]], [[1, "a"], 1]),
        (dict[str, int], [{}, {"a": 1}], [{"a": "b"}, {1: 1}, []]),
        (dict[str, Any], [{"a": [None]}], [{1: 1}]),
        (list, [[1, "a"], ()], ["a", {}]),
        (dict, [{1: 1}], [[]]),
        (Any, [1, None, object()], []),
        (type(None), [None], [0, False, ""]),
        (list[int] | int, [1, [1]], ["a", [1.5]]),
    ],
    ids=lambda x: "" if isinstance(x, list) else str(x),
)
def test_fits(hint: Any, good: list[Any], bad: list[Any]) -> None:
    assert [fits(value, hint) for value in good] == [True] * len(good)
    assert [fits(value, hint) for value in bad] == [False] * len(bad)


# --- files -----------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "some.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-4", 5e-4), ("1e3", 1000.0), ("-2E+2", -200.0), (".5", 0.5), ("1.", 1.0), ("-1_0.5", -10.5),
        (".inf", float("inf")),
        ("2_050_000", 2050000), ("-3", -3), ("0", 0), ("0x10", 16), ("010", "010"), ("1:30", "1:30"), ("3m", "3m"),
        ("2s3z", "2s3z"), ("1e", "1e"), ("8", 8), ("'8'", "8"),
        ("on", "on"), ("off", "off"), ("yes", "yes"), ("No", "No"), ("y", "y"), ("true", True), ("False", False),
        ("null", None), ("~", None), ("", None), ("None", "None"), ("2024-01-01", "2024-01-01"), ("[1, 2.5]", [1, 2.5]),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
    ],
)  # fmt: skip
def test_yaml_values(tmp_path: Path, text: str, value: Any) -> None:
    found = load(written(tmp_path, f"key: {text}\n"))["key"]
    assert found == value and type(found) is type(value)


def test_nan(tmp_path: Path) -> None:
    assert str(load(written(tmp_path, "key: .nan"))["key"]) == "nan"


def test_an_empty_file_is_an_empty_mapping(tmp_path: Path) -> None:
    assert load(written(tmp_path, "# nothing\n")) == {}


def test_anchors_may_be_overridden(tmp_path: Path) -> None:
    assert load(written(tmp_path, "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  y: 3\n"))["b"] == {"x": 1, "y": 3}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lr: 1\nt_max: 2\nlr: 3\n", "some.yaml, line 3: key 'lr' is given twice, first in line 1"),
        ("env_args:\n  a: 1\n  b:\n    - {c: 1, c: 2}\n", "some.yaml, line 4: key 'c' is given twice, first in line 4"),
        ("a: 1\n'a': 2\n", "line 2: key 'a' is given twice"),
        ("1: 2\n", "line 1: a key must be text, not '1'"),
        ("- a\n- b\n", "'KEY: VALUE' lines are expected, not a list"),
        ("text", "'KEY: VALUE' lines are expected, not a str"),
        ("a: [1\nb: 2\n", "line 2"),
        ("a: !!python/object:os.system x\n", "could not determine a constructor"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("a: \x00", "cannot be read"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(written(tmp_path, text))
    assert says in str(error.value) and "some.yaml" in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe4\n")
    for path in (tmp_path / "latin.yaml", tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match=f"{path.name} cannot be read"):
            load(path)


def test_default_yaml_says_what_the_code_says() -> None:
    """One truth: every default of Experiment stands in config/default.yaml, and nothing else does."""
    stated = load(ROOT / "config" / "default.yaml")
    assert stated == {f.name: f.default for f in dataclasses.fields(Experiment) if f.default is not dataclasses.MISSING}


def test_every_key_of_a_run_is_documented() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert [f.name for f in dataclasses.fields(Experiment) if f"`{f.name}`" not in page] == []
