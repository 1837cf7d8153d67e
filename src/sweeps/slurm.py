"""A sweep as an array of Slurm jobs, by submitit: requeued when their time is up or when they must give way."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import checkpoint
from core.config import ConfigError
from core.registry import did_you_mean
from sweeps.manifest import Manifest
from sweeps.pool import Pool, Slot
from sweeps.work import OPEN, State, Work

if TYPE_CHECKING:
    import submitit

REMEDY = "it needs the Python package submitit: pip install -r requirements-cluster.txt"
MOST_TIMEOUTS = 1000
"""How often a job may run out of time and be queued again; what preempts it is not counted."""
_NOTES = "slurm.json"
"""In the sweep's folder: which runs every submitted job has."""
_SOURCES = Path(__file__).resolve().parents[1]
_SET = {"job_name", "time", "mem", "cpus_per_task", "gpus_per_node", "nodes", "ntasks_per_node", "array_parallelism"}
"""Parameters that follow from the manifest's other keys."""


@dataclass
class Batch:
    """The runs of one Slurm job: as many as share its GPU, else one. submitit calls it, ``checkpoint`` on a warning.

    It may be called any number of times, on any host: every call goes on from the runs' own checkpoints.
    """

    works: list[Work]
    slots: list[Slot]
    retries: int
    results_dir: Path
    logs: Path
    _pool: Pool | None = field(default=None, init=False, repr=False)

    def __call__(self) -> dict[str, str]:
        """Works until all runs have ended; their states by id."""
        from submitit.core.job_environment import JobEnvironment

        for work in self.works:
            work.take_over(self.results_dir)
        self._pool = Pool(self.works, self.slots, self.retries, self.results_dir, self.logs, listens=False)
        self._pool.run()
        states = {work.cell.id: work.state.value for work in self.works}
        if State.STOPPED in {work.state for work in self.works}:
            # A signal went to every process of the job, as when it is preempted: what the warning would have done.
            signal.raise_signal(JobEnvironment._usr_sig())
        return states

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Lets every run save a checkpoint, and asks for the same once more."""
        from submitit.helpers import DelayedSubmission

        if self._pool is not None:
            self._pool.stop(signal.SIGTERM)
            self._pool.wait()
        return DelayedSubmission(self)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_pool": None}


def submit(manifest: Manifest, works: Sequence[Work], jobs: int | None, cluster: str = "slurm") -> list[Any]:
    """Submits what is neither done, running nor queued; submitit's jobs.

    Args:
        manifest: the sweep.
        works: its runs.
        jobs: most jobs of the array at a time; None: submitit's own limit.
        cluster: submitit's executor; ``local`` and ``debug`` need no Slurm.

    Raises:
        ConfigError: submitit or Slurm is missing, or the manifest asks for what they do not have.
    """
    todo = [work for work in works if work.state in OPEN]
    if not todo:
        return []
    executor = _executor(manifest, jobs, cluster)
    batches = list(_batches(manifest, todo))
    paths = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_SOURCES), paths]))  # the jobs inherit it
    try:
        with executor.batch():
            submitted = [executor.submit(batch) for batch in batches]
    finally:
        os.environ["PYTHONPATH"] = paths or ""
    pairs = list(zip(submitted, batches, strict=True))
    _note(manifest, [{"job": job.job_id, "cells": [work.cell.id for work in batch.works]} for job, batch in pairs])
    for job, batch in pairs:
        for work in batch.works:
            work.state, work.note = State.QUEUED, f"job {job.job_id}"
    return submitted


def mark(manifest: Manifest, works: Sequence[Work]) -> None:
    """Marks runs whose job is queued or has not come to them yet; Slurm is asked only if there are any."""
    open_works = [work for work in works if work.state in OPEN]
    jobs = {cell: note["job"] for note in _notes(manifest) for cell in note["cells"]}
    wanted = {jobs[work.cell.id] for work in open_works if work.cell.id in jobs}
    unfinished = _unfinished(manifest, wanted) if wanted else set()
    for work in open_works:
        job = jobs.get(work.cell.id)
        if job in unfinished:
            work.state, work.note = State.QUEUED, f"job {job}"


def _batches(manifest: Manifest, works: Sequence[Work]) -> Iterator[Batch]:
    """Runs by jobs: those that share a GPU together."""
    size = manifest.resources.per_gpu
    slots: list[Slot] = [{} for _ in range(size)]
    for at in range(0, len(works), size):
        yield Batch(
            list(works[at : at + size]), slots, manifest.retries, manifest.results_dir, manifest.folder / "logs"
        )


def _executor(manifest: Manifest, jobs: int | None, cluster: str) -> Any:
    try:
        import submitit
        from submitit.slurm.slurm import SlurmExecutor
    except ModuleNotFoundError as error:
        raise ConfigError([f"--backend slurm: {REMEDY}"]) from error
    valid = SlurmExecutor._valid_parameters() - _SET
    problems = [
        f"{manifest.file}: 'slurm.{key}' (value {value!r}) is not a parameter of submitit's that may be given here."
        + did_you_mean(str(key), valid)
        for key, value in manifest.slurm.items()
        if key not in valid
    ]
    if problems:
        raise ConfigError(problems)
    extra = {f"slurm_{key}": value for key, value in manifest.slurm.items()}
    if jobs is not None:
        extra["slurm_array_parallelism"] = jobs
    needs, runs = manifest.resources, manifest.resources.per_gpu
    try:
        executor = submitit.AutoExecutor(
            manifest.folder / "slurm" / "%j", cluster=cluster, slurm_max_num_timeout=MOST_TIMEOUTS
        )
    except RuntimeError as error:
        raise ConfigError(
            [f"--backend slurm: {error} Start this on a host that has Slurm's sbatch and srun"]
        ) from error
    executor.update_parameters(
        name=f"sweep-{manifest.name}",
        timeout_min=math.ceil(needs.hours * 60),
        cpus_per_task=needs.cpus * runs,
        mem_gb=None if needs.memory_gb is None else needs.memory_gb * runs,
        gpus_per_node=1 if needs.gpus else 0,
        **extra,
    )
    return executor


def _notes(manifest: Manifest) -> list[dict[str, Any]]:
    path = manifest.folder / _NOTES
    return json.loads(path.read_text()) if path.exists() else []


def _note(manifest: Manifest, new: list[dict[str, Any]]) -> None:
    with checkpoint.replacing(manifest.folder / _NOTES) as file:
        file.write(json.dumps(_notes(manifest) + new, indent=1).encode())


def _unfinished(manifest: Manifest, jobs: Iterable[str]) -> set[str]:
    """Those of the jobs that are still to do something, as Slurm says."""
    try:
        from submitit import SlurmJob
    except ModuleNotFoundError:
        logging.getLogger("cofactor").warning("whether jobs are still queued is not known: %s", REMEDY)
        return set()
    found = [SlurmJob(folder=manifest.folder / "slurm" / "%j", job_id=job) for job in jobs]
    return {job.job_id for job in found if not job.done()}  # all were made before: one question answers for all
