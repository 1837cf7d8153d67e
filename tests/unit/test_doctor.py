"""doctor: what every check says of a machine in order and of one that is not."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import psutil
import pytest

from core.config import ConfigError
from tools import doctor, game, machine, probes
from tools.findings import Context, Finding, ok, warning
from tools.probes import ProbeError, Probes

ROOT = Path(__file__).resolve().parents[2]
TORCH = {
    "version": "2.13.0",
    "threads": 1,
    "cuda": None,
    "available": False,
    "warnings": [],
    "architectures": [],
    "gpus": [],
}
H200 = {"name": "NVIDIA H200", "gib": 139.8, "error": None}


class Known:
    """Probes whose results are given; an exception among them is what the probe ended with."""

    def __init__(self, **results: Any) -> None:
        self.results = results

    def result(self, name: str) -> Any:
        if isinstance(self.results[name], Exception):
            raise self.results[name]
        return self.results[name]

    def close(self) -> None:
        pass


@pytest.fixture
def look(tmp_path: Path):
    """A context in which nothing is installed, with what the test adds."""

    def context(mongo: str | None = None, memory: Path = tmp_path, **results: Any) -> Context:
        return Context(Known(**results), tmp_path / "sc2", tmp_path / "results", mongo, "cofactor", memory)

    return context


def game_at(folder: Path, build: str = "75689", content: bytes = b"#!/bin/sh\n") -> Path:
    binary = folder / "sc2" / "Versions" / f"Base{build}" / "SC2_x64"
    binary.parent.mkdir(parents=True)
    binary.write_bytes(content)
    binary.chmod(0o755)
    return binary


# --- Python -----------------------------------------------------------------------------------------------------------


def test_python(look, monkeypatch):
    assert machine.python(look()).status == "ok"
    monkeypatch.setattr(machine.sys, "version_info", (3, 10, 4))
    assert machine.python(look()).status == "error"


@pytest.mark.parametrize(
    ("installed", "status", "says"),
    [
        ({}, "ok", "as pinned"),
        ({"torch": "2.13.0+cu126"}, "ok", "as pinned"),
        ({"setuptools": "84.0.0"}, "warning", "setuptools 84.0.0 instead of 80.8.0"),
        ({"sacred": None, "numpy": "1.26"}, "error", "missing: sacred"),
    ],
)
def test_packages(look, monkeypatch, installed, status, says):
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line)
    monkeypatch.setattr(machine, "_version", lambda name: {**pins, **installed}[name])
    found = machine.packages(look())
    assert found.status == status and says in found.detail
    assert ("run.sh" in found.remedy) is (status != "ok")


def test_a_package_that_is_not_installed_has_no_version():
    assert machine._version("a-package-that-nobody-has") is None
    assert machine._version("pytest") == pytest.__version__


def test_torch(look, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: {0, 1})
    assert machine.torch(look(torch=TORCH)) == ok("2.13.0, 1 threads")
    crowded = machine.torch(look(torch=TORCH | {"threads": 8}))
    assert crowded.status == "warning" and "torch_threads=2" in crowded.remedy
    broken = machine.torch(look(torch=ProbeError("ImportError: libtorch.so")))
    assert broken.status == "error" and "libtorch.so" in broken.detail and broken.remedy


def test_warp(look):
    facts = {"version": "1.19.0", "cache": "kernels", "writable": True}
    assert machine.warp(look(warp=facts)).status == "ok"
    assert "WARP_CACHE_PATH" in machine.warp(look(warp=facts | {"writable": False})).remedy
    assert machine.warp(look(warp=ProbeError("killed by signal 4"))).status == "error"


# --- GPU --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("torch", "driver", "status", "says"),
    [
        ({}, (None, None), "ok", "no NVIDIA driver"),
        ({}, ("550.54", "12.4"), "warning", "torch 2.13.0 was built without CUDA"),
        ({"cuda": "13.0"}, ("550.54", "12.4"), "warning", "built for CUDA 13.0, driver 550.54 serves up to 12.4"),
        ({"cuda": "12.4"}, ("550.54", "12.4"), "warning", "CUDA_VISIBLE_DEVICES is"),
        ({"cuda": "12.4", "warnings": ["out of order"]}, ("550.54", "12.10"), "warning", "out of order"),
        ({"cuda": "12.6", "available": True, "gpus": [H200]}, ("570", "12.8"), "ok", "NVIDIA H200 (139.8 GiB)"),
        (
            {
                "cuda": "12.6",
                "available": True,
                "gpus": [H200 | {"error": "no kernel image"}],
                "architectures": ["sm_70"],
            },
            ("570", "12.8"),
            "error",
            "NVIDIA H200: no kernel image (torch was built for sm_70)",
        ),
    ],
)
def test_cuda(look, monkeypatch, torch, driver, status, says):
    monkeypatch.setattr(machine, "_driver", lambda: driver)
    found = machine.cuda(look(torch=TORCH | torch))
    assert found.status == status and says in found.detail
    assert bool(found.remedy) is (status != "ok")


def test_the_driver_is_asked(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine._driver() == (None, None)
    (tmp_path / "nvidia-smi").write_text(
        "#!/bin/sh\necho '| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: 12.4     |'\n"
    )
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert machine._driver() == ("550.54.15", "12.4")


# --- the machine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpu_max", "quota"), [("max 100000\n", None), ("150000 100000\n", 1.5), ("nonsense", None), (None, None)]
)
def test_a_containers_share_of_processors(tmp_path, cpu_max, quota):
    if cpu_max is not None:
        (tmp_path / "cpu.max").write_text(cpu_max)
    assert machine._quota(tmp_path) == quota


def test_cores(look, monkeypatch):
    monkeypatch.setattr(machine.os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(machine, "_quota", lambda: None)
    assert machine.cores(look()).status == "ok"
    monkeypatch.setattr(machine, "_quota", lambda: 1.5)
    assert "torch_threads=1" in machine.cores(look()).remedy


def test_memory(look, monkeypatch):
    memory = namedtuple("memory", "total available")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(16 * 2**30, 8 * 2**30))
    assert machine.memory(look()).status == "ok"
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory(16 * 2**30, 2**30))
    assert machine.memory(look()).status == "warning"


@pytest.mark.parametrize(
    ("free", "status"), [(100 * 2**30, "ok"), (5 * 2**30, "warning"), (2**29, "error")], ids=["much", "little", "none"]
)
def test_disk(look, monkeypatch, free, status):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2 * free, free, free))
    assert machine.disk(look()).status == status
    assert machine.scratch(look()).status == ("warning" if free < 2**30 else "ok")


def test_a_place_for_results_that_is_read_only(look, monkeypatch):
    def refuse(**_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "TemporaryFile", refuse)
    found = machine.disk(look())
    assert found.status == "error" and "Permission denied" in found.detail and "results_dir" in found.remedy


def test_shared_memory(look, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**26, 0, 2**26))
    docker = machine.shared_memory(look())
    assert docker.status == "warning" and "64 MiB of 64 MiB" in docker.detail and "--shm-size" in docker.remedy
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(2**30, 0, 2**30))
    assert machine.shared_memory(look()).status == "ok"
    assert machine.shared_memory(look(memory=tmp_path / "none")).status == "error"


@pytest.mark.parametrize(
    ("limits", "status", "remedy"),
    [
        ((1024, 1_048_576), "warning", "ulimit -n 4096"),
        ((1024, 2048), "warning", "ulimit -n 2048"),
        ((65_536, 65_536), "ok", ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), "ok", ""),
    ],
)
def test_descriptors(look, monkeypatch, limits, status, remedy):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    found = machine.descriptors(look())
    assert found.status == status and found.remedy.startswith(remedy)


def test_git(look, monkeypatch):
    facts = {"commit": "0123456789abcdef", "dirty": True, "origin": None}
    monkeypatch.setattr("tracking.folder.git_facts", lambda: facts)
    monkeypatch.setattr(shutil, "which", lambda _: "git")
    assert machine.git(look()) == ok("commit 0123456789ab, with uncommitted changes")
    monkeypatch.setattr("tracking.folder.git_facts", lambda: None)
    assert "safe.directory" in machine.git(look()).remedy
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert machine.git(look()).remedy == "install git"


# --- MongoDB ----------------------------------------------------------------------------------------------------------


def test_no_database_is_asked_for(look):
    assert machine.mongo(look()).status == "ok"


def test_a_database_that_is_away_does_not_hold_up(look, monkeypatch):
    monkeypatch.setattr(machine, "PATIENCE_MS", 200)
    began = time.monotonic()
    found = machine.mongo(look(mongo="mongodb://me:secret@127.0.0.1:1/"))
    assert found.status == "error" and "127.0.0.1:1 is not reachable" in found.detail
    assert "secret" not in found.detail and time.monotonic() - began < 10


def test_a_database_that_answers(look, tmp_path):
    secantus = pytest.importorskip("secantus", reason="SecantusDB, the embedded database server, is not installed")
    import pymongo

    path = str(tmp_path / "mongo")
    with secantus.SecantusDBServer(storage_path=path, replica_set_name=None, cache_size="128M") as server:
        found = machine.mongo(look(mongo=server.uri))
        with pymongo.MongoClient(server.uri) as client:
            assert client["cofactor"].list_collection_names() == []
    assert found.status == "ok" and "database cofactor is writable" in found.detail


def test_a_database_that_refuses(look, monkeypatch):
    import pymongo
    from pymongo.errors import OperationFailure

    def refuse(_: Any) -> None:
        raise OperationFailure("long story", 18, {"errmsg": "Authentication failed."})

    monkeypatch.setattr(pymongo.MongoClient, "server_info", refuse)
    found = machine.mongo(look(mongo="mongodb://me:secret@127.0.0.1:1/"))
    assert found.status == "error" and found.detail == "127.0.0.1:1 answers but refuses: Authentication failed."


# --- StarCraft II -----------------------------------------------------------------------------------------------------


def test_no_game(look):
    assert game.starcraft2(look()).status == "warning"
    assert game.maps(look()).status == "ok"


def test_the_game(look, tmp_path):
    game_at(tmp_path, "69232")
    other = game.starcraft2(look())
    assert other.status == "warning" and other.detail.startswith("4.6.2 at")
    binary = game_at(tmp_path)
    assert game.starcraft2(look()) == ok(f"4.6.2, 4.10 at {tmp_path / 'sc2'}")
    binary.chmod(0o644)
    found = game.starcraft2(look())
    assert found.status == "error" and found.remedy == f"chmod +x {binary}"


def test_a_disk_that_must_not_execute(look, tmp_path, monkeypatch):
    game_at(tmp_path).chmod(0o644)
    flags = namedtuple("flags", "f_flag")
    monkeypatch.setattr(os, "statvfs", lambda _: flags(os.ST_NOEXEC))
    assert "noexec" in game.starcraft2(look()).remedy


def test_libraries_that_the_system_lacks(look, tmp_path, monkeypatch):
    game_at(tmp_path, content=b"\x7fELF...")
    said = "\tlibc.so.6 => /lib/libc.so.6 (0x1)\n\tlibsdl.so.2 => not found\n"
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 0, said))
    found = game.starcraft2(look())
    assert found.status == "error" and found.detail == "the system lacks libsdl.so.2"


def test_maps(look, tmp_path):
    game_at(tmp_path)
    folder = tmp_path / "sc2" / "Maps" / "SMAC_Maps"
    folder.mkdir(parents=True)
    (folder / "3m.SC2Map").touch()
    wanted = {"sc2": ["3m", "corridor"], "smacv2": ["32x32_flat"]}
    found = game.maps(look(maps=wanted))
    assert found.status == "warning" and found.detail.endswith("sc2: corridor; smacv2: 32x32_flat")
    for name in ("corridor", "32x32_flat"):
        (folder / f"{name}.SC2Map").touch()
    assert game.maps(look(maps=wanted)).status == "ok"


@pytest.mark.parametrize(
    ("facts", "variable", "status", "remedy"),
    [
        (("upb", ["pys2clientprotocol"]), None, "ok", ""),
        (("cpp", []), None, "ok", ""),
        (("python", ["s2clientprotocol"]), None, "warning", "./run.sh install sc2"),
        (("python", []), "python", "warning", "unset PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION"),
        (("upb", ["s2clientprotocol", "pys2clientprotocol"]), None, "warning", "pip uninstall both"),
    ],
)
def test_protobuf(look, monkeypatch, facts, variable, status, remedy):
    monkeypatch.delenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", raising=False)
    if variable:
        monkeypatch.setenv("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", variable)
    backend, messages = facts
    found = game.protobuf(look(protobuf={"version": "7.36.2", "backend": backend, "messages": messages}))
    assert found.status == status and found.remedy.startswith(remedy)


def test_pysc2(look):
    assert game.pysc2(look(pysc2={"version": "4.0.0"})) == ok("4.0.0")
    assert game.pysc2(look(pysc2={"version": None})).status == "warning"
    old = game.pysc2(look(pysc2=ProbeError("TypeError: Descriptors cannot be created directly.")))
    assert old.status == "error" and "pip uninstall s2clientprotocol" in old.remedy
    assert "no websocket" in game.pysc2(look(pysc2=ProbeError("no websocket"))).detail


@pytest.mark.parametrize("package", ["smac", "smacv2"])
def test_smac(look, package):
    check = doctor.CHECKS[package]
    assert check(look(**{package: {"version": "1.0.0", "right": True}})) == ok("1.0.0")
    assert check(look(**{package: {"version": None}})).status == "warning"
    assert check(look(**{package: ProbeError("no pygame")})).status == "error"
    wrong = check(look(**{package: {"version": "2.4.1", "right": False}}))
    assert wrong.status == "error" and "another project" in wrong.detail and f"pip uninstall {package}" in wrong.remedy


def test_games_that_nobody_plays(look, monkeypatch):
    process = namedtuple("process", "info")
    running = [
        process({"pid": 11, "ppid": 1, "name": "SC2_x64"}),
        process({"pid": 12, "ppid": 9, "name": "SC2_x64"}),
        process({"pid": 13, "ppid": 1, "name": "bash"}),
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda _: running)
    assert game.orphans(look()).remedy.endswith("kill 11")
    monkeypatch.setattr(psutil, "process_iter", lambda _: running[1:])
    assert game.orphans(look()).status == "ok"


# --- probes -----------------------------------------------------------------------------------------------------------


def probed(monkeypatch, tmp_path: Path, body: str, deadline: float = 20.0) -> Any:
    """The result of a probe whose process runs ``body``."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "probes.py").write_text(body)
    monkeypatch.setattr(probes, "SOURCES", tmp_path)
    started = Probes(["torch"], deadline)
    try:
        return started.result("torch")
    finally:
        started.close()


@pytest.mark.parametrize(
    ("body", "deadline", "says"),
    [
        ("import time; time.sleep(60)", 0.3, "took too long"),
        ("import os; os.kill(os.getpid(), 4)", 20.0, "killed by signal 4"),
        ("raise ImportError('libcudart.so.12: cannot open')", 20.0, "ImportError: libcudart.so.12: cannot open"),
        (
            "raise TypeError('Descriptors cannot be.\\n\\nMore information: there')",
            20.0,
            "^TypeError: Descriptors cannot be.$",
        ),
        ("import sys; sys.exit('no exception')", 20.0, "^no exception$"),
        ("print('hello')", 20.0, "gave no answer"),
        ("", 20.0, "gave no answer"),
    ],
    ids=["hangs", "is killed", "fails", "explains", "exits", "talks", "is silent"],
)
def test_a_probe_that_breaks_is_no_more_than_that(monkeypatch, tmp_path, body, deadline, says):
    with pytest.raises(ProbeError, match=says):
        probed(monkeypatch, tmp_path, body, deadline)


def test_greetings_of_libraries_are_not_the_answer(monkeypatch, tmp_path):
    assert probed(monkeypatch, tmp_path, "print('Warp 1.19.0 initialized')\nprint('[1, 2]')") == [1, 2]


def test_probes_of_this_installation():
    started = Probes(["protobuf", "pysc2"])
    try:
        assert started.result("protobuf")["backend"] in ("upb", "cpp", "python")
        assert "version" in started.result("pysc2")
    finally:
        started.close()


def test_the_wrong_smac_is_told_from_the_right_one(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "smac" / "facade").mkdir(parents=True)
    (tmp_path / "smac" / "__init__.py").touch()
    assert probes.smac_()["right"] is False
    (tmp_path / "smacv2" / "env" / "starcraft2").mkdir(parents=True)
    for folder in ("smacv2", "smacv2/env"):
        (tmp_path / folder / "__init__.py").touch()
    assert probes.smacv2_() == {"version": "without a version", "right": True}
    for name in ("smac", "smacv2", "smacv2.env"):
        sys.modules.pop(name, None)


def test_maps_are_those_of_the_environments():
    wanted = probes.maps_()
    assert len(wanted["sc2"]) == 23 and "corridor" in wanted["sc2"] and "8m_vs_9m_myopic" not in wanted["sc2"]
    assert wanted["smacv2"] == ["32x32_flat"]


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_check_that_breaks_does_not_end_the_others(look, monkeypatch):
    def broken(_: Context) -> Finding:
        raise ValueError("at mongodb://me:secret@host")

    checks = {"first": broken, "second": lambda _: warning("slow", "hurry"), "third": lambda _: ok("fine")}
    monkeypatch.setattr(doctor, "CHECKS", checks)
    found = doctor.examine(look(), ["second", "third"])
    assert {name: finding.status for name, finding in found.items()} == {
        "first": "error",
        "second": "error",
        "third": "ok",
    }
    assert "ValueError" in found["first"].detail and "secret" not in found["first"].detail
    assert doctor.examine(look(), [])["second"].status == "warning"


@pytest.fixture
def ended(monkeypatch):
    """Doctor without probes, with two checks of which the second is as told."""

    def run(argv: list[str], second: Finding) -> int:
        monkeypatch.setattr(doctor, "Probes", Known)
        monkeypatch.setattr(doctor, "CHECKS", {"python": lambda _: ok("here"), "disk": lambda _: second})
        return doctor.main(argv)

    return run


def test_prints_a_table_and_ends_with_its_worst(ended, capsys):
    assert ended([], ok("much")) == 0
    assert ended([], warning("little", "make room")) == 0
    assert "-> make room" in capsys.readouterr().out
    assert ended(["--need=disk"], warning("little", "make room")) == 1
    assert "1 ok, 0 warning, 1 error" in capsys.readouterr().out


def test_prints_without_rich(ended, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert ended([], warning("little", "make room")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "ok       python: here",
        "warning  disk: little",
        "         -> make room",
    ]


def test_prints_json(ended, capsys):
    assert ended(["--json"], Finding("error", "full", "make room")) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["status"] == "error"
    assert printed["checks"][1] == {"check": "disk", "status": "error", "detail": "full", "remedy": "make room"}


def test_a_need_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="starcraft2"):
        doctor.main(["--need", "starcraft"])


@pytest.mark.slow
def test_doctor_of_this_installation():
    command = [sys.executable, str(ROOT / "src" / "main.py"), "doctor", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    printed = json.loads(done.stdout)
    assert [check["check"] for check in printed["checks"]] == list(doctor.CHECKS)
    assert done.returncode == (printed["status"] == "error"), done.stderr
    found = {check["check"]: check["status"] for check in printed["checks"]}
    assert found["python"] == found["torch"] == found["warp"] == "ok"
