"""Components are found by file name and imported only when asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from core.registry import LEARNERS, SLOTS, Registry, UnknownNameError, did_you_mean

SOURCES = Path(__file__).resolve().parents[2] / "src"


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """A package of two animals, a helper and a broken one."""
    package = tmp_path / "zoo_of_tests"
    package.mkdir()
    head = "from __future__ import annotations\n"
    (package / "__init__.py").write_text("ZOO = None\n")
    (package / "base.py").write_text("class Animal: pass\n")
    for name in ("lion", "tiger"):
        text = f"from zoo_of_tests import ZOO\n@ZOO.register\nclass {name.title()}:\n    pass\n"
        (package / f"{name}.py").write_text(head + text)
    (package / "bear.py").write_text("import no_such_package_anywhere\n@ZOO.register\nclass Bear: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import zoo_of_tests

    registry = Registry("animal", "zoo_of_tests")
    zoo_of_tests.ZOO = registry
    yield registry
    for name in [name for name in sys.modules if name.startswith("zoo_of_tests")]:
        del sys.modules[name]


def test_names_are_the_files_that_register(zoo: Registry) -> None:
    assert zoo.names() == ["bear", "lion", "tiger"]
    assert "zoo_of_tests.lion" not in sys.modules


def test_imported_on_demand_and_alone(zoo: Registry) -> None:
    assert zoo["lion"].__name__ == "Lion"
    assert zoo["lion"] is zoo["lion"]
    assert "zoo_of_tests.tiger" not in sys.modules


@pytest.mark.parametrize(
    ("name", "says"), [("lyon", "Did you mean 'lion'?"), ("base", "Choose one of: bear, lion, tiger.")]
)
def test_unknown_names(zoo: Registry, name: str, says: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        zoo[name]
    assert str(error.value) == f"unknown animal '{name}'. {says}"


def test_a_missing_package_is_not_an_unknown_name(zoo: Registry) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package_anywhere"):
        zoo["bear"]


def test_did_you_mean() -> None:
    assert did_you_mean("t_maxx", ["t_max", "seed"]) == " Did you mean 't_max'?"
    assert did_you_mean("zzz", ["b", "a"]) == " Choose one of: a, b."
    assert did_you_mean("zzz", []) == ""
    assert did_you_mean("zzz", [f"key{i}" for i in range(31)]) == ""


def test_every_component_of_the_repository_can_be_had() -> None:
    """Its file name is its name, and its class has a Config."""
    missing = []
    for slot, registry in SLOTS.items():
        for name in registry.names():
            cls = registry[name]
            assert cls.__module__.rpartition(".")[2] == name
            if not hasattr(cls, "Config"):
                missing.append(f"{slot}={name}")
    assert not missing


def test_core_imports_no_component_and_no_torch() -> None:
    code = "import sys, core.config, core.cli; print([m for m in sys.modules if m in ('torch', 'sacred', 'learners')])"
    done = subprocess.run([sys.executable, "-c", code], cwd=SOURCES, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_learners_are_listed() -> None:
    assert {"q_learner", "macpf"} <= set(LEARNERS.names())
    assert "base" not in LEARNERS.names()
