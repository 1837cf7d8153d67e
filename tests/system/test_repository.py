"""The repository as a whole: linters, layers, size, configuration files, documents."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest

from core.config import load, merge, resolve

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
SOURCES = sorted(SRC.rglob("*.py"))
ALGORITHMS = sorted((ROOT / "config" / "algs").glob("*.yaml"))
ENVIRONMENTS = sorted((ROOT / "config" / "envs").glob("*.yaml"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").rglob("*.md")])
LONGEST, DEEPEST, ALIKE, REPEATED = 50, 3, 6, 0.10
"""Lines of a function; nested blocks in it; consecutive equal lines that count as repeated; their largest share."""
REQUIRED = {
    "external": {"env_args": {"factory": "package.module:callable"}},
    "gymnasium": {"env_args": {"id": "CartPole-v1"}},
    "pettingzoo": {"env_args": {"id": "package.module"}},
}
"""What only the user can say, by environment."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def tool(*arguments: str) -> None:
    """Runs a Python tool in the repository; its findings are the failure."""
    env = os.environ | {"PYTHONPATH": str(SRC), "COLUMNS": "120"}
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.fail(f"{done.stdout}\n{done.stderr}".strip(), pytrace=False)


def tracked() -> list[Path]:
    """The files that are, or would be, in the repository."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [path for name in listed.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def texts() -> Iterator[tuple[Path, int, str]]:
    """Every line of every text file, with its place."""
    for path in tracked():
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            continue
        yield from ((path.relative_to(ROOT), number, line) for number, line in enumerate(lines, 1))


def parsed(path: Path) -> ast.Module:
    """A source file's syntax tree."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def functions() -> Iterator[tuple[str, Function]]:
    """Every function under src, with its place."""
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, Function):
                yield f"{path.relative_to(ROOT)}:{node.lineno} {node.name}", node


# --- tools ------------------------------------------------------------------------------------------------------------


def test_ruff_finds_nothing():
    tool("-m", "ruff", "check", "--no-cache", "--quiet", ".")


def test_ruff_would_format_nothing():
    tool("-m", "ruff", "format", "--no-cache", "--check", ".")


def test_types():
    tool("-m", "mypy", "--no-error-summary")


def test_layers():
    tool("-c", "from importlinter.cli import lint_imports_command as lint; lint()", "--no-cache")


# --- what import-linter cannot see: modules that are no packages ------------------------------------------------------


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, also inside functions."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_only_the_top_imports_the_top():
    for path in SOURCES:
        place, names = path.relative_to(SRC), imported(path)
        assert "main" not in names or place.parts[0] == "main.py", f"{place} imports main"
        assert "run" not in names or place.parts[0] in ("main.py", "tools"), f"{place} imports run"
    assert not imported(SRC / "run.py") & {"main", "tools"}, "run.py stands below main and tools"


def test_packages_are_known_to_the_layers():
    layers = (ROOT / "pyproject.toml").read_text()
    roots = set(re.findall(r'"(\w+)"', re.search(r"root_packages = \[(.*?)\]", layers, re.DOTALL).group(1)))
    assert roots == {path.parent.name for path in SRC.glob("*/__init__.py")}


# --- size -------------------------------------------------------------------------------------------------------------


def test_functions_are_short():
    long = [
        f"{place}: {lines} lines"
        for place, node in functions()
        if (lines := node.end_lineno - node.lineno + 1) > LONGEST
    ]
    assert not long, "\n".join(long)


def depth(node: ast.AST) -> int:
    """Levels of nested blocks below a node; ``elif`` is no further level, a function within starts anew."""
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef | ast.Lambda):
            continue
        block = isinstance(child, ast.If | ast.For | ast.While | ast.With | ast.Try | ast.Match)
        chained = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, depth(child) + (block and not chained))
    return deepest


def test_functions_are_flat():
    deep = [f"{place}: {levels} levels" for place, node in functions() if (levels := depth(node)) > DEEPEST]
    assert not deep, "\n".join(deep)


def code_lines(path: Path) -> list[tuple[int, str]]:
    """Lines of code with their numbers: no imports, signatures, comments, docstrings or blank lines."""
    left_out: set[int] = set()
    for node in ast.walk(parsed(path)):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if docstring or isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(range(node.lineno, node.end_lineno + 1))
        elif isinstance(node, Function):
            left_out.update(range(node.lineno, node.body[0].lineno))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return [(n, line.strip()) for n, line in lines if n not in left_out and line.strip() and line.strip()[0] != "#"]


def repeated(paths: list[Path]) -> tuple[int, int, list[str]]:
    """Lines of code that stand in more than one place in runs of ``ALIKE``, all lines, and the places."""
    windows: dict[tuple[str, ...], list[tuple[Path, list[int]]]] = defaultdict(list)
    total = 0
    for path in paths:
        lines = code_lines(path)
        total += len(lines)
        for at in range(len(lines) - ALIKE + 1):
            part = lines[at : at + ALIKE]
            windows[tuple(text for _, text in part)].append((path, [n for n, _ in part]))
    twice = [places for places in windows.values() if len(places) > 1]
    lines_twice = {(path, n) for places in twice for path, numbers in places for n in numbers}
    return len(lines_twice), total, [" = ".join(f"{p.name}:{n[0]}" for p, n in places) for places in twice]


@pytest.mark.parametrize("package", ["learners", "."])
def test_little_is_written_twice(package: str):
    twice, total, places = repeated(sorted((SRC / package).rglob("*.py")))
    assert twice <= REPEATED * total, f"{twice} of {total} lines are repeated:\n" + "\n".join(places)


def test_the_measure_of_repetition_sees_repetition(tmp_path: Path):
    body = "".join(f"x{i} = {i}\n" for i in range(ALIKE))
    (tmp_path / "a.py").write_text(f'"""One."""\nimport os\n{body}')
    (tmp_path / "b.py").write_text(f"y = 1\n\n# a comment\n{body}")
    twice, total, places = repeated([tmp_path / "a.py", tmp_path / "b.py"])
    assert (twice, total, places) == (2 * ALIKE, 2 * ALIKE + 1, ["a.py:3 = b.py:4"])


# --- texts ------------------------------------------------------------------------------------------------------------


def found(pattern: str, beside: tuple[str, ...] = ()) -> list[str]:
    """Places whose line fits ``pattern``, but for files under ``beside``; this file is about such words itself."""
    skipped = (Path(__file__).relative_to(ROOT).as_posix(), *beside)
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path, number, line in texts()
        if re.search(pattern, line) and not path.as_posix().startswith(skipped)
    ]


def test_no_machine_is_named():
    assert not found(r"(?<![\w.}$~-])/(work|root|Users|home/\w+|mnt)/", beside=("docker/",))


def test_nothing_is_left_unfinished():
    assert not found(r"\b(TODO|FIXME|XXX)\b")


def test_no_large_file():
    large = [f"{path.relative_to(ROOT)}" for path in tracked() if path.stat().st_size > 2_000_000]
    assert not large


def test_requirements_are_exact():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    loose = [line for line in lines if line and line[0] != "#" and not re.fullmatch(r"[\w-]+==[\w.]+", line)]
    assert not loose, loose


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path):
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text(encoding="utf-8"))
    broken = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not broken, broken


def test_readme_names_every_configuration():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [path.stem for path in (*ALGORITHMS, *ENVIRONMENTS) if f"`{path.stem}`" not in readme]
    assert not missing, missing


def test_readme_has_the_two_commands():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "./run.sh --config=macpf --env-config=sc2 with env_args.map_name=corridor\n" in readme
    assert "./run.sh test\n" in readme


def test_the_examples_of_adding_train(tmp_path: Path):
    """The files that docs/adding.md prints, added to a copy of the sources, are found, checked and trained."""
    for folder in ("src", "config"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    page = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
    files = re.findall(r"^`([\w/.]+)`\n```\w+\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert len(files) == 4
    for name, content in files:
        (tmp_path / name).write_text(content, encoding="utf-8")
    small = ["t_max=100", "log_interval=50", "test_nepisode=2", "batch_size=4", "device=cpu"]
    command = ["src/main.py", "--config=hysteretic", "--env-config=echo", "with", "forgiveness=0.5", *small]
    done = subprocess.run([sys.executable, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    journal = "".join(path.read_text() for path in tmp_path.glob("results/echo/hysteretic/*/metrics.jsonl"))
    assert "q_loss" in journal and "test_agreed_mean" in journal


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("algorithm", "environment"), [*product(ALGORITHMS, ENVIRONMENTS)], ids=lambda path: path.stem)
def test_configurations_resolve(algorithm: Path, environment: Path):
    config = REQUIRED.get(environment.stem, {})
    for layer in (ROOT / "config" / "default.yaml", environment, algorithm):
        config = merge(config, load(layer))
    settings = resolve(config)
    assert settings["name"] and settings["learner"] and settings["env"]


def config_fields() -> list[tuple[str, str]]:
    """Every field of every ``Config`` class and of ``Experiment``, with its place."""
    fields = []
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ClassDef) and node.name in ("Config", "Experiment"):
                names = [
                    x.target.id for x in node.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name)
                ]
                fields += [(f"{path.relative_to(ROOT)}:{node.lineno}", name) for name in names]
    return fields


def names_read() -> set[str]:
    """Attributes and string constants that the code reads, so that a key which nobody reads stands out."""
    read: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                read.add(node.attr)
            elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                read.add(str(node.slice.value))
            elif isinstance(node, ast.Dict):
                read |= {key.value for key in node.keys if isinstance(key, ast.Constant)}
            elif isinstance(node, ast.Call):
                read |= {x.value for x in node.args if isinstance(x, ast.Constant) and isinstance(x.value, str)}
    return read


def test_every_key_is_read():
    fields, read = config_fields(), names_read()
    indirect = {f"{what}_interval" for what in ("test", "log", "checkpoint")}  # run.py composes these names
    unread = [f"{place} {name}" for place, name in fields if name not in read | indirect]
    assert len(fields) > 40
    assert not unread, "\n".join(unread)
