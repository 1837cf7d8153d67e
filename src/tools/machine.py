"""Checks of the machine: Python and its packages, processors, GPU, memory, disks, limits, git, the database."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from core.config import masked
from tools.findings import Context, Finding, error, gib, ok, warning
from tools.probes import ProbeError

ROOT = Path(__file__).resolve().parents[2]
OLDEST = (3, 11)
PATIENCE_MS = 3000
"""How long a database may take to answer."""
REINSTALL = "start ./run.sh, which installs what requirements.txt pins"


# --- Python -----------------------------------------------------------------------------------------------------------


def python(_: Context) -> Finding:
    """The interpreter."""
    here = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST:
        return error(here, f"install Python {OLDEST[0]}.{OLDEST[1]} or newer and start ./run.sh again")
    return ok(here)


def packages(_: Context) -> Finding:
    """The packages of requirements.txt, in the versions that were tried together."""
    pinned = re.findall(r"^([\w-]+)==([\w.]+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    found = {name: _version(name) for name, _ in pinned}
    lacking = [name for name, _ in pinned if found[name] is None]
    others = [
        f"{name} {found[name]} instead of {pin}" for name, pin in pinned if found[name] and not _is(found[name], pin)
    ]
    if lacking:
        return error(f"missing: {', '.join(lacking)}", REINSTALL)
    if others:
        return warning(f"never tried together: {', '.join(others)}", REINSTALL)
    return ok(f"all {len(pinned)} as pinned")


def _is(found: str | None, pinned: str) -> bool:
    """Whether a version is the pinned one; builds such as 2.13.0+cpu of it are."""
    return found is not None and found.partition("+")[0] == pinned


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def torch(context: Context) -> Finding:
    """Torch and its threads."""
    try:
        facts = context.probes.result("torch")
    except ProbeError as failure:
        return error(f"cannot be loaded: {failure}", REINSTALL)
    cores = len(os.sched_getaffinity(0))
    said = f"{facts['version']}, {facts['threads']} threads"
    if facts["threads"] > cores:
        return warning(f"{said} on {cores} cores", f"with torch_threads={cores}, or OMP_NUM_THREADS={cores}")
    return ok(said)


def warp(context: Context) -> Finding:
    """Warp, and room for the kernels that it compiles."""
    try:
        facts = context.probes.result("warp")
    except ProbeError as failure:
        return error(f"cannot be loaded, so skirmish cannot be played: {failure}", REINSTALL)
    if not facts["writable"]:
        return error(
            f"{facts['version']} cannot write its kernels to {facts['cache']}",
            "make the folder writable, or name another one by WARP_CACHE_PATH",
        )
    return ok(f"{facts['version']}, kernels in {facts['cache']}")


# --- GPU --------------------------------------------------------------------------------------------------------------


def cuda(context: Context) -> Finding:
    """The GPU, its driver, and whether torch was built for them."""
    driver, newest = _driver()
    try:
        facts = context.probes.result("torch")
    except ProbeError:
        return error("not known: torch cannot be loaded", REINSTALL)
    if facts["available"]:
        return _usable(facts, driver)
    if driver is None:
        return ok("no NVIDIA driver: everything runs on the CPU")
    if facts["cuda"] is None:
        return warning(
            f"driver {driver}, but torch {facts['version']} was built without CUDA",
            f"install torch for CUDA {newest or '(see nvidia-smi)'} or older into this environment: https://pytorch.org",
        )
    if newest and _numbers(newest) < _numbers(facts["cuda"]):
        return warning(
            f"torch was built for CUDA {facts['cuda']}, driver {driver} serves up to {newest}",
            f"update the driver, or install torch for CUDA {newest} or older: https://pytorch.org",
        )
    reason = (
        "; ".join(facts["warnings"]) or f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')}"
    )
    return warning(
        f"driver {driver}, but torch finds no GPU: {reason}",
        "look at CUDA_VISIBLE_DEVICES and, in a container, at --gpus; the CPU is used",
    )


def _usable(facts: dict[str, Any], driver: str | None) -> Finding:
    names = ", ".join(f"{gpu['name']} ({gpu['gib']} GiB)" for gpu in facts["gpus"])
    said = f"{names}, torch for CUDA {facts['cuda']}, driver {driver or 'unknown'}"
    broken = [f"{gpu['name']}: {gpu['error']}" for gpu in facts["gpus"] if gpu["error"]]
    if broken:
        built = " ".join(facts["architectures"])
        return error(
            f"{'; '.join(broken)} (torch was built for {built})",
            "install a torch built for this GPU (https://pytorch.org), or work with device=cpu",
        )
    return ok(said)


def _driver() -> tuple[str | None, str | None]:
    """The NVIDIA driver's version and the newest CUDA that it serves; None where it cannot be told."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    version, newest = (re.search(rf"{what} Version:\s*([\d.]+)", done.stdout) for what in ("Driver", "CUDA"))
    return version and version.group(1), newest and newest.group(1)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


# --- processors, memory, disks ----------------------------------------------------------------------------------------


def cores(_: Context) -> Finding:
    """Processors that this process may use."""
    usable, quota = len(os.sched_getaffinity(0)), _quota()
    said = f"{usable} of {os.cpu_count()}"
    if quota is None:
        return ok(said)
    said += f", of which the container grants the time of {quota:g}"
    if quota < usable:
        most = max(int(quota), 1)
        return warning(said, f"with torch_threads={most}: more threads than granted time only wait for each other")
    return ok(said)


def _quota(root: Path = Path("/sys/fs/cgroup")) -> float | None:
    """How many processors' time a container may use; None without such a limit."""
    try:
        limit, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        return None
    return None if limit == "max" else int(limit) / int(period)


def memory(_: Context) -> Finding:
    """Main memory, as far as the container lets it be used."""
    import psutil

    found = psutil.virtual_memory()
    total, free = found.total, found.available
    with contextlib.suppress(OSError, ValueError):  # outside containers there is no such limit
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    said = f"{gib(total)}, {gib(min(free, total))} free"
    if min(free, total) < 2 * 2**30:
        return warning(said, "free some, or make the replay smaller: buffer_size, buffer_steps, batch_size_run")
    return ok(said)


def disk(context: Context) -> Finding:
    """Room for results, and the right to write there."""
    place = context.results
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{gib(free)} free for {context.results}"
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as failure:
        return error(f"cannot write to {place}: {failure.strerror}", "choose another place: with results_dir=...")
    if free < 2**30:
        return error(said, "make room, or choose another place: with results_dir=...")
    if free < 10 * 2**30:
        return warning(
            said, "checkpoints with their replay can take gigabytes each: make room, or with results_dir=..."
        )
    return ok(said)


def scratch(_: Context) -> Finding:
    """Room for temporary files, which StarCraft II needs for every game."""
    place = Path(tempfile.gettempdir())
    free = shutil.disk_usage(place).free
    if free < 2**30:
        return warning(f"{gib(free)} free in {place}", "make room, or name another place by TMPDIR")
    return ok(f"{gib(free)} free in {place}")


def shared_memory(context: Context) -> Finding:
    """Shared memory for simulators in processes of their own."""
    if not context.memory.is_dir():
        return error(f"there is no {context.memory}", "mount it: mount -t tmpfs tmpfs /dev/shm")
    usage = shutil.disk_usage(context.memory)
    said = f"{gib(usage.free)} of {gib(usage.total)} free in {context.memory}"
    if usage.free < 256 * 2**20:
        return warning(said, "in Docker: --shm-size=1g (compose.yaml has it); elsewhere: remount it with size=1g")
    return ok(said)


def descriptors(_: Context) -> Finding:
    """Open files that a process may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= 4096:
        return ok(f"{soft} open files per process" if soft != resource.RLIM_INFINITY else "no limit of open files")
    most = "4096" if hard == resource.RLIM_INFINITY else str(min(hard, 4096))
    return warning(f"{soft} open files per process are few for many environments", f"ulimit -n {most} before the start")


# --- git and MongoDB --------------------------------------------------------------------------------------------------


def git(_: Context) -> Finding:
    """Whether runs can record which code they ran."""
    from tracking.folder import git_facts

    if shutil.which("git") is None:
        return warning("not installed: runs cannot record their commit", "install git")
    facts = git_facts()
    if facts is None:
        return warning(
            f"{ROOT} is no checkout with a commit that git may read: runs cannot record their commit",
            "work in a clone; if it belongs to another user, git config --global --add safe.directory FOLDER",
        )
    changed = ", with uncommitted changes" if facts["dirty"] else ""
    return ok(f"commit {facts['commit'][:12]}{changed}")


def mongo(context: Context) -> Finding:
    """The database: reachable, new enough, writable."""
    if not context.mongo:
        return ok("no address given (-m, COFACTOR_MONGO_URL): runs are written to their folders only")
    import pymongo
    from pymongo.errors import OperationFailure, PyMongoError

    from tracking.mongo import parse_address

    url, name, address = parse_address(context.mongo, context.mongo_db)
    try:
        client: pymongo.MongoClient[dict[str, Any]] = pymongo.MongoClient(
            url, serverSelectionTimeoutMS=PATIENCE_MS, connectTimeoutMS=PATIENCE_MS, socketTimeoutMS=PATIENCE_MS
        )
        with client:
            version = str(client.server_info()["version"])
            _write(client[name])
    except OperationFailure as failure:
        reason = masked(str((failure.details or {}).get("errmsg") or failure))
        return error(
            f"{address} answers but refuses: {reason}", f"give a user that may write to the database {name}: -m URL"
        )
    except PyMongoError as failure:
        reason = re.split(r" \(configured|, Timeout:", masked(str(failure)))[0][:160]
        return error(
            f"{address} is not reachable: {reason}",
            "start it (docker compose -f docker/compose.yaml up -d mongo) or correct the address; runs do without it",
        )
    return ok(f"{version} at {address}, database {name} is writable")


def _write(database: Any) -> None:
    """Writes one document to a collection of its own and takes it away again."""
    trial = database[f"doctor_{uuid.uuid4().hex}"]
    try:
        trial.insert_one({"written": True})
    finally:
        trial.drop()
