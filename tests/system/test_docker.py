"""docker/: what can be told of images and services without an engine that builds and starts them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = sorted([DOCKER / "Dockerfile", *DOCKER.glob("*.Dockerfile")])
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
LASTING = [name for name, service in SERVICES.items() if service["restart"] != "no"]
TRAINERS = ["trainer", "trainer-cuda"]


def tool(name: str) -> str:
    """A linter beside this Python or on PATH."""
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def passes(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def instructions(image: Path) -> list[tuple[str, str]]:
    """(instruction, its words) of a Dockerfile, lines put together and comments left out."""
    text = "".join(line for line in image.read_text().splitlines(keepends=True) if not line.startswith("#"))
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


def copied(image: Path) -> list[str]:
    """What an image takes from its context."""
    words = [text.split() for name, text in instructions(image) if name == "COPY"]
    return [word for line in words for word in line[:-1] if not word.startswith("--")]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a file out: the last rule that fits it, or a folder above it, decides."""
    out = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        rule = line.strip().removeprefix("!").removeprefix("**/")
        if not rule or rule.startswith("#"):
            continue
        parts = path.split("/")
        anywhere = "**/" in line and any(fnmatch(part, rule) for part in parts)
        if anywhere or any(fnmatch("/".join(parts[: i + 1]), rule) for i in range(len(parts))):
            out = not line.startswith("!")
    return out


# --- linters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(image: Path):
    passes(tool("hadolint"), str(image))


def test_compose_fits_its_schema():
    passes(tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(DOCKER / "compose.yaml"))


def test_shellcheck_finds_nothing():
    passes(tool("shellcheck"), *(str(ROOT / name) for name in ("run.sh", "install_sc2.sh", ".ci/run")))


# --- images -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_images_are_pinned_and_need_no_root(image: Path):
    lines = instructions(image)
    for base in (text for name, text in lines if name == "FROM"):
        assert re.search(r":\d+\.\d+\.\d+", base) and "latest" not in base, f"{base} is not one version"
    arguments = dict(text.split("=", 1) for name, text in lines if name == "ARG")
    user = [text for name, text in lines if name == "USER"][-1]
    user = re.sub(r"\$(\w+)", lambda found: arguments[found.group(1)], user)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"runs as {user}"


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_what_is_copied_exists_and_is_in_the_context(image: Path):
    context = ROOT if image.name == "Dockerfile" else DOCKER
    for pattern in copied(image):
        found = list(context.glob(pattern))
        assert found, f"{image.name} copies {pattern}, which does not exist"
        assert context == DOCKER or not any(ignored(path.relative_to(ROOT).as_posix()) for path in found)


def test_bash_keeps_the_names_of_arguments():
    """An argument called UID is no argument: bash sets that name itself, and it is 0 while an image is built."""
    names = {text.partition("=")[0] for name, text in instructions(DOCKER / "Dockerfile") if name == "ARG"}
    done = subprocess.run(
        ["bash", "-c", "readonly -p"], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    assert names and not names & set(re.findall(r" (\w+)=", done.stdout))


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.name)
def test_the_steps_are_bash(image: Path):
    for name, text in instructions(image):
        if name == "RUN":
            passes("bash", "-n", "-c", text)


def test_the_image_has_all_that_a_run_needs():
    taken = {
        path.relative_to(ROOT).as_posix() for pattern in copied(DOCKER / "Dockerfile") for path in ROOT.glob(pattern)
    }
    assert {"run.sh", "install_sc2.sh", "requirements.txt", "src", "config"} <= taken
    for script in ("run.sh", "install_sc2.sh"):
        assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("results/sc2-skirmish/corridor/run/checkpoint.pt", True),
        (".git/config", True),
        (".venv/bin/python", True),
        ("StarCraftII/Versions/Base75689/SC2_x64", True),
        ("tests/unit/test_doctor.py", True),
        ("src/core/__pycache__/cli.cpython-311.pyc", True),
        ("src/core/cli.py", False),
        ("src/tools/page/replay.html", False),
        ("config/algs/qmix.yaml", False),
        ("requirements-sc2.txt", False),
        ("run.sh", False),
    ],
)
def test_what_stays_outside(path: str, out: bool):
    assert ignored(path) is out


def test_the_licence_is_never_accepted_by_default():
    arguments = dict(text.split("=", 1) for name, text in instructions(DOCKER / "Dockerfile") if name == "ARG")
    assert arguments["ACCEPT_BLIZZARD_LICENCE"] == "no"
    for name in TRAINERS:
        assert SERVICES[name]["build"]["args"]["ACCEPT_BLIZZARD_LICENCE"] == "${ACCEPT_BLIZZARD_LICENCE:-no}"
    steps = [text for name, text in instructions(DOCKER / "Dockerfile") if name == "RUN" and "install_sc2" in text]
    assert len(steps) == 1
    for answer, runs in (("no", False), ("", False), ("yes", True)):
        step = steps[0].replace("./install_sc2.sh", "echo installing")
        done = subprocess.run(
            ["bash", "-c", step], env=os.environ | {"ACCEPT_BLIZZARD_LICENCE": answer}, capture_output=True, text=True
        )
        assert done.returncode == 0 and ("installing" in done.stdout) is runs


@pytest.mark.parametrize(
    ("extras", "words"), [("sc2", "install sc2"), ("", "install"), ("sc2 envs", "install sc2 envs")]
)
def test_the_step_that_installs(tmp_path: Path, extras: str, words: str):
    step = next(text for name, text in instructions(DOCKER / "Dockerfile") if name == "RUN" and "./run.sh" in text)
    for name, body in (("run.sh", 'echo "$PIP_EXTRA_INDEX_URL $*"'), ("python", 'echo "$BUILT"')):
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n")
        (tmp_path / name).chmod(0o755)
    step = step.replace("/opt/venv/bin/python", "./python")
    for built, status in (("cpu", 0), ("cu130", 1)):
        env = os.environ | {"EXTRAS": extras, "TORCH_BUILD": "cpu", "BUILT": built}
        command = ["bash", "-o", "pipefail", "-c", step]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr
        assert done.stdout == f"https://download.pytorch.org/whl/cpu {words}\n"


# --- services ---------------------------------------------------------------------------------------------------------


def test_the_services():
    assert {"mongo", "omniboard", *TRAINERS} <= set(SERVICES)
    assert {"mongo", "omniboard"} == set(LASTING), "a trainer that is started again would begin a new run"
    assert all("profiles" in SERVICES[name] for name in set(SERVICES) - set(LASTING)), "up starts only what lasts"


@pytest.mark.parametrize("name", [*LASTING, *TRAINERS])
def test_services_tell_that_they_are_alive(name: str):
    health = SERVICES[name]["healthcheck"]
    assert health["test"][0] in ("CMD", "CMD-SHELL") and {"interval", "timeout", "retries"} <= set(health)


@pytest.mark.parametrize("name", SERVICES)
def test_services_reach_nobody_else(name: str):
    service = SERVICES[name]
    assert re.search(r":(\d+\.\d+\.\d+|cpu|cuda)$", service["image"])
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert not service.get("privileged") and service.get("network_mode") != "host"


@pytest.mark.parametrize("name", SERVICES)
def test_files_and_volumes_that_services_name_exist(name: str):
    service = SERVICES[name]
    if "build" in service:
        context = (DOCKER / service["build"]["context"]).resolve()
        image = context / service["build"]["dockerfile"]
        assert image in IMAGES
        declared = {text.partition("=")[0] for word, text in instructions(image) if word == "ARG"}
        assert set(service["build"].get("args", {})) <= declared
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert (DOCKER / source).is_dir() if source.startswith(".") else source in COMPOSE["volumes"]


@pytest.mark.parametrize("name", TRAINERS)
def test_trainers_have_what_many_games_need(name: str):
    service = SERVICES[name]
    assert service["shm_size"] == "2gb" and service["ulimits"]["nofile"] >= 4096
    assert service["depends_on"]["mongo"]["condition"] == "service_healthy"
    assert service["environment"]["COFACTOR_MONGO_URL"] == "mongodb://mongo:27017"
    places = [volume.split(":")[1] for volume in service["volumes"]]
    image = (DOCKER / "Dockerfile").read_text()
    assert {"/cofactor/results", "/StarCraftII"} <= set(places) and all(place in image for place in places)


def test_only_one_trainer_asks_for_a_gpu():
    devices = SERVICES["trainer-cuda"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices[0]["driver"] == "nvidia" and devices[0]["capabilities"] == ["gpu"]
    assert SERVICES["trainer-cuda"]["build"]["args"]["TORCH_BUILD"] == "${TORCH_BUILD:-cu130}"
    assert "deploy" not in SERVICES["trainer"] and SERVICES["trainer"]["build"]["args"]["TORCH_BUILD"] == "cpu"


def test_the_trainers_health_is_that_of_its_own_run(tmp_path: Path):
    kind, command = SERVICES["trainer"]["healthcheck"]["test"]
    run = tmp_path / "results" / "sc2-skirmish" / "3m" / "qmix" / "run"
    run.mkdir(parents=True)
    record = run / "record.json"

    def healthy() -> bool:
        done = subprocess.run(["sh", "-c", command.replace("$$", "$")], cwd=tmp_path, check=False)
        return done.returncode == 0

    assert kind == "CMD-SHELL" and not healthy()
    record.write_text(json.dumps({"host": "another"}, indent=2))
    assert not healthy()
    record.write_text(json.dumps({"host": socket.gethostname()}, indent=2))
    assert healthy()
    os.utime(record, times=(time.time() - 3600,) * 2)
    assert not healthy()
