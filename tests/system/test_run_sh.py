"""run.sh with a stand-in for Python and pip: what it installs when, and what it says where it cannot."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = f"""#!/bin/sh
# Notes installations, reports what would be run, and is Python otherwise.
case "$*" in
  *"-m pip install"*) echo "$*" >>"$LOG"; [ -z "$SLOW" ] || sleep "$SLOW"; exit "${{PIP_STATUS:-0}}" ;;
  *"-m pip check"*) if [ -n "$BROKEN" ]; then echo "$BROKEN"; exit 1; fi ;;
  *"-m pip"*) exit 0 ;;
  *"-m pytest"* | src/main.py*)
    echo "in $PWD:$COFACTOR_STARTED_AS"; for word in "$@"; do echo "<$word>"; done; exit 7 ;;
  *) exec "{sys.executable}" "$@" ;;
esac
"""
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="run.sh needs bash")


class Project:
    """A copy of run.sh in a folder with a space in its name, with an environment that is a stand-in."""

    def __init__(self, folder: Path) -> None:
        self.root, self.log = folder / "my project", folder / "installed"
        self.venv = self.root / ".venv"
        (self.venv / "bin").mkdir(parents=True)
        self.python = self.venv / "bin" / "python"
        self.python.write_text(STAND_IN)
        self.python.chmod(0o755)
        for name in ("run.sh", "requirements.txt", *(f"requirements-{more}.txt" for more in ("dev", "envs", "pysc2"))):
            shutil.copy(ROOT / name, self.root)
        (self.root / "requirements-game.txt").write_text(
            "-r requirements-client.txt\ngame @ git+https://host/game.git@12\n"
        )
        (self.root / "requirements-client.txt").write_text("client==1\n")
        self.command = str(self.root / "run.sh")

    def environment(self, **env: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name != "COFACTOR_VENV"}
        return kept | {"LOG": str(self.log), "SLOW": "", "BROKEN": ""} | env

    def run(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.command, *words],
            cwd=self.root.parent,
            env=self.environment(**env),
            capture_output=True,
            text=True,
            check=False,
        )

    def installations(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_installs_once_then_starts_at_once(project: Project):
    first = project.run("--config=x", "with", "label=two words")
    assert first.returncode == 7, first.stderr
    assert first.stdout == f"in {project.root}:./run.sh\n<src/main.py>\n<--config=x>\n<with>\n<label=two words>\n"
    assert len(project.installations()) == 1
    began = time.perf_counter()
    second = project.run("--config=x", "with", "label=two words")
    assert time.perf_counter() - began < 1
    assert (second.returncode, second.stdout, second.stderr) == (7, first.stdout, "")
    assert len(project.installations()) == 1


def test_tests_need_more_and_that_is_enough_for_runs(project: Project):
    project.run()
    done = project.run("test", "-k", "some thing")
    assert done.stdout == f"in {project.root}:\n<-m>\n<pytest>\n<-n>\n<2>\n<-k>\n<some thing>\n"
    names = ["requirements.txt", "requirements-dev.txt", "requirements-pysc2.txt"]
    assert [line.rpartition("/")[2] for line in project.installations()] == names
    project.run()
    project.run("test")
    assert len(project.installations()) == 3


def test_environments_are_installed_when_asked_for(project: Project):
    for _ in range(2):
        done = project.run("install", "envs")
        assert (done.returncode, done.stdout) == (0, "") and "installed: envs" in done.stderr
    assert [line.rpartition("/")[2] for line in project.installations()] == ["requirements-envs.txt"]
    project.run()
    assert len(project.installations()) == 1, "they bring what a run needs"


@pytest.mark.parametrize("words", [["install", ""], ["install", "env"], ["install", "envs", "now"], ["install", "dev"]])
def test_nothing_else_can_be_installed(project: Project, words: list[str]):
    done = project.run(*words)
    assert done.returncode == 1 and "knows these names: client envs game" in done.stderr
    assert not project.installations()


def test_installing_needs_no_extra(project: Project):
    for _ in range(2):
        done = project.run("install")
        assert (done.returncode, done.stdout) == (0, "") and "installed: requirements.txt" in done.stderr
    assert [Path(line).name for line in project.installations()] == ["requirements.txt"]


def test_what_comes_on_top_is_installed_without_dependencies(project: Project):
    done = project.run("install", "game", "envs")
    assert done.returncode == 0, done.stderr
    words = [line.split() for line in project.installations()]
    assert [Path(line[-1]).name for line in words] == [
        "requirements.txt",
        "requirements-game.txt",
        "requirements-envs.txt",
    ]
    assert ["--no-deps" in line for line in words] == [False, True, False]
    project.run("install", "envs", "game")
    assert len(project.installations()) == 3


def test_what_fails_on_top_leaves_the_rest(project: Project):
    project.run("install")
    assert project.run("install", "game", PIP_STATUS="1").returncode == 1
    project.run()
    assert [Path(line).name for line in project.installations()] == ["requirements.txt", "requirements-game.txt"]
    assert project.run("install", "game").returncode == 0
    assert len(project.installations()) == 3


def test_what_is_included_counts(project: Project):
    project.run("install", "game")
    (project.root / "requirements-client.txt").write_text("client==2\n")
    project.run("install", "game")
    assert [Path(line).name for line in project.installations()] == [
        "requirements.txt",
        *["requirements-game.txt"] * 2,
    ]


@pytest.mark.parametrize(
    ("broken", "status"),
    [
        (
            "game 1.0 requires enum34, which is not installed.\nClient 1 has requirement numpy<1, but you have 2.",
            0,
        ),
        ("game 1.0 requires enum34, which is not installed.\nsacred 1 requires wrapt, which is not installed.", 1),
        ("gamer 1.0 requires enum34, which is not installed.", 1),
    ],
)
def test_contradictions_that_are_meant_are_none(project: Project, broken: str, status: int):
    done = project.run("install", "game", BROKEN=broken)
    assert done.returncode == status
    assert ("contradict each other" in done.stderr) is (status == 1)
    assert "game 1.0" not in done.stderr


def test_changed_requirements_are_installed(project: Project):
    project.run()
    with (project.root / "requirements.txt").open("a") as file:
        file.write("# another line\n")
    project.run()
    assert len(project.installations()) == 2


def test_a_failed_installation_is_not_taken_for_one(project: Project):
    failed = project.run(PIP_STATUS="1")
    assert failed.returncode == 1 and failed.stdout == ""
    assert "run.sh: error: pip could not install requirements.txt" in failed.stderr
    assert project.run().returncode == 7
    assert len(project.installations()) == 2


def test_a_killed_installation_is_not_taken_for_one(project: Project):
    started = subprocess.Popen(
        [project.command], env=project.environment(SLOW="20"), stderr=subprocess.DEVNULL, start_new_session=True
    )
    until = time.monotonic() + 20
    while not project.installations() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    assert project.run().returncode == 7
    assert len(project.installations()) == 2


@pytest.mark.skipif(shutil.which("flock") is None, reason="there is no flock")
def test_two_starts_at_once_install_once(project: Project):
    env = project.environment(SLOW="0.5")
    started = [
        subprocess.Popen([project.command], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(3)
    ]
    assert [process.wait() for process in started] == [7, 7, 7]
    assert len(project.installations()) == 1


def test_a_folder_of_somebody_else_is_left_alone(project: Project, tmp_path: Path):
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "dear.txt").write_text("x")
    done = project.run(COFACTOR_VENV=str(letters))
    assert done.returncode == 1 and "COFACTOR_VENV" in done.stderr
    assert [path.name for path in letters.iterdir()] == ["dear.txt"]


@pytest.mark.parametrize(
    ("python", "says"),
    [
        ("", "Python 3.11 or newer is needed and was not found (found: no Python at all)"),
        ('case "$2" in *platform*) echo " 3.9.2" ;; *) exit 1 ;; esac', "(found: 3.9.2)"),
        (
            'case "$2" in *ensurepip*) exit 1 ;; *print*) echo 3.12 ;; esac',
            "On Debian and Ubuntu: sudo apt install python3.12-venv",
        ),
    ],
    ids=["no Python", "old Python", "no venv"],
)
def test_says_what_python_it_needs(project: Project, tmp_path: Path, python: str, says: str):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("bash", "env", "readlink", "dirname", "mkdir", "touch", "ls", "cat", "find"):
        (programs / name).symlink_to(str(shutil.which(name)))
    if python:
        (programs / "python3").write_text(f"#!{shutil.which('bash')}\n{python}\n")
        (programs / "python3").chmod(0o755)
    done = project.run(PATH=str(programs), COFACTOR_VENV=str(tmp_path / "new"))
    assert done.returncode == 1
    assert says in done.stderr
    assert not (tmp_path / "new").exists()
