"""A sweep on a Ray cluster: one task per run, on whatever host has room; runs of a lost host go on elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from core import cli
from core.config import ConfigError
from runners.crew import refuse_unreachable
from sweeps.manifest import Manifest
from sweeps.pool import Pool
from sweeps.work import OPEN, State, Work

MOST_LOSSES = 10
"""How often a run is started again because its host was lost."""
_POLL_SECONDS = 0.5
_SOURCES = Path(__file__).resolve().parents[1]


def run(manifest: Manifest, works: Sequence[Work], jobs: int | None, watch: Callable[[], None]) -> int:
    """Runs what is neither done nor running, and waits for it; the signal that stopped it, or 0.

    Args:
        manifest: the sweep.
        works: its runs; their states are kept up to date.
        jobs: most runs at a time; None: as many as the cluster has room for.
        watch: called some times a second.

    Raises:
        ConfigError: Ray or a cluster is missing.
    """
    ray = _connected()
    try:
        with _noted() as signals:
            _conduct(ray, manifest, [work for work in works if work.state in OPEN], jobs, signals, watch)
    finally:
        ray.shutdown()
    return signals[0] if signals else 0


def _conduct(
    ray: Any, manifest: Manifest, pending: list[Work], jobs: int | None, signals: list[int], watch: Callable[[], None]
) -> None:
    """Keeps tasks under way until there are no more, or until a signal has ended those that there are."""
    task, cancelled = _task(ray, manifest), 0
    under_way: dict[Any, Work] = {}
    while under_way or (pending and not signals):
        while pending and not signals and len(under_way) < (jobs or len(pending) + len(under_way)):
            work = pending.pop(0)
            under_way[task.remote(work, manifest)] = work
            work.state, work.note = State.QUEUED, ""
        ready, _ = ray.wait(list(under_way), timeout=_POLL_SECONDS)
        for done in ready:
            _take(ray, done, under_way.pop(done), manifest.results_dir)
        if len(signals) > cancelled:
            cancelled = len(signals)
            _cancel(ray, under_way, force=cancelled > 2)
        watch()


def carry_out(work: Work, manifest: Manifest) -> tuple[State, str]:
    """One run from where it is to its end, on the host where this is called; its state and why."""
    work.take_over(manifest.results_dir)
    slot = {} if manifest.resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    Pool([work], [slot], manifest.retries, manifest.results_dir, manifest.folder / "logs").run()
    return work.state, work.note


def _connected() -> Any:
    """Ray, connected to the cluster of RAY_ADDRESS or the one that this host belongs to."""
    try:
        import ray
    except ModuleNotFoundError as error:
        problem = "--backend ray: it needs the Python package ray: pip install -r requirements-cluster.txt"
        raise ConfigError([problem]) from error
    variables = {"PYTHONPATH": str(_SOURCES), **{k: x for k, x in os.environ.items() if k == cli.MONGO_VARIABLE}}
    try:
        refuse_unreachable(os.environ.get("RAY_ADDRESS", "auto"))
        ray.init(address="auto", runtime_env={"env_vars": variables}, logging_level="WARNING", log_to_driver=False)
    except ConnectionError as error:
        remedy = (
            "start one with 'ray start --head' here and 'ray start --address=...' on further hosts, or set RAY_ADDRESS"
        )
        raise ConfigError([f"--backend ray: no Ray cluster was found: {remedy}"]) from error
    return ray


def _task(ray: Any, manifest: Manifest) -> Any:
    """``carry_out`` as a Ray task with the resources of one run."""
    needs = manifest.resources
    memory = {} if needs.memory_gb is None else {"memory": int(needs.memory_gb * 1e9)}
    options = {"num_cpus": needs.cpus, "num_gpus": needs.gpus or 0, "max_retries": MOST_LOSSES, **memory}
    return ray.remote(**options)(carry_out)


def _take(ray: Any, task: Any, work: Work, results_dir: Path) -> None:
    """Notes how a task ended."""
    try:
        state, note = ray.get(task)
    except ray.exceptions.TaskCancelledError:
        state, note = None, "stopped before it began"
    except ray.exceptions.RayError as error:
        state, note = State.FAILED, str(error).strip().splitlines()[-1]
    work.refresh(work.find(results_dir))
    work.state, work.note = state or work.state, note


def _cancel(ray: Any, tasks: Iterable[Any], force: bool) -> None:
    """Asks the runs to stop with a checkpoint, or kills them."""
    for task in tasks:
        ray.cancel(task, force=force)


@contextlib.contextmanager
def _noted() -> Iterator[list[int]]:
    """The SIGINTs and SIGTERMs that have come."""
    signals: list[int] = []

    def note(signum: int, _frame: FrameType | None) -> None:
        signals.append(signum)

    before = {signum: signal.signal(signum, note) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
