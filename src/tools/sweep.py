"""``sweep FILE``: runs everything that a manifest asks for, and nothing twice."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from core import cli
from core.config import ConfigError, Settings, check_fit, settle
from core.registry import ENVS
from sweeps.board import Board
from sweeps.cells import expand, rehearsed, shown
from sweeps.manifest import Manifest, read
from sweeps.pool import Pool, slots
from sweeps.work import OPEN, State, Work, survey

if TYPE_CHECKING:
    from collections.abc import Sequence

BACKENDS = ("local", "ray", "slurm")


def main(argv: list[str]) -> int:
    """Does the sweep, or shows what it would do or has done; the exit status.

    0: every run is done (or handed to Slurm), 1: some are not, 130 or 143: stopped by a signal.

    Raises:
        ConfigError: with every mistake of the manifest and of its runs; nothing has been started.
    """
    options = _parser().parse_args(argv)
    if options.mongo:
        os.environ[cli.MONGO_VARIABLE] = options.mongo
    manifest = read(options.file)
    cells = expand(manifest)
    if not options.status:
        print(f"checking {len(cells)} runs", flush=True)
        rehearsed(cells, manifest, lambda settings: rehearse(settings, here=options.backend == "local"))
    works = survey(cells, manifest.results_dir)
    if options.backend == "slurm" or options.status:
        _mark_queued(manifest, works)
    board = Board(works, manifest.results_dir)
    if options.status:
        board.console.print(board.table())
        board.failures(manifest.folder / "logs")
    elif options.dry_run:
        _announce(works)
    else:
        with _alone(manifest):
            return {"local": _local, "ray": _ray, "slurm": _slurm}[options.backend](
                manifest, works, board, options.jobs
            )
    return 0 if options.dry_run else _status(works)


def rehearse(settings: Settings, here: bool) -> None:
    """Puts the components of a run together once, but for the runner, with one row on the CPU.

    Args:
        settings: the run's.
        here: whether it will run on this machine, and so needs everything of the environment here.

    Raises:
        ConfigError: they do not go together, or this machine lacks something.
        ValueError: a component refuses its settings.
    """
    cls = ENVS[settings["env"]]
    if not here and not cls.native:
        return
    try:
        settings = Settings({**settle(settings), "device": "cpu"})
    except ConfigError:
        if here:
            raise
        return  # what this host lacks the others may have
    import torch

    env = cls.build(settings.of(cls), 1, torch.device("cpu"), 0)
    try:
        check_fit(settings, env.spec)
        controller = settings.build("mac", env.spec)
        settings.build("learner", env.spec, controller, rng=torch.Generator())
    finally:
        env.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} sweep",
        description="Runs what a manifest asks for: algorithms x environments x seeds. What is done is skipped, what "
        "was interrupted goes on from its checkpoint. docs/sweeps.md explains the manifest.",
    )
    parser.add_argument("file", help="the manifest, a YAML file")
    parser.add_argument("--backend", choices=BACKENDS, default="local", help="where runs go (default: this machine)")
    parser.add_argument("--jobs", type=_number, help="most runs side by side (default: what cores, memory, GPUs allow)")
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--dry-run", action="store_true", help="check everything and print the commands")
    only.add_argument("--status", action="store_true", help="show how far the runs are")
    parser.add_argument("-m", "--mongo", metavar="URL", help="send metrics to this MongoDB too")
    return parser


def _number(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 on, not {text}")
    return int(text)


def _announce(works: Sequence[Work]) -> None:
    for work in works:
        print(f"# {work.cell}: {work.state.value}")
        if work.state in OPEN:
            print(shown(work.words()))


def _status(works: Sequence[Work]) -> int:
    return int(any(work.state is not State.DONE for work in works))


@contextlib.contextmanager
def _alone(manifest: Manifest) -> Iterator[None]:
    """Keeps a second process from starting the same runs.

    Raises:
        ConfigError: another one is at work.
    """
    manifest.folder.mkdir(parents=True, exist_ok=True)
    with open(manifest.folder / ".lock", "a") as lock:
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                [f"the sweep '{manifest.name}' is being run by another process; --status shows how far it is"]
            ) from None
        yield


def _local(manifest: Manifest, works: Sequence[Work], board: Board, jobs: int | None) -> int:
    """Everything on this machine."""
    devices = {str(work.cell.settings["device"]) for work in works}
    places = slots(manifest.resources, jobs, "cpu" if devices == {"cpu"} else "auto")
    logs = manifest.folder / "logs"
    pool = Pool(works, places, manifest.retries, manifest.results_dir, logs, board.update)
    with board.live():
        signum = pool.run()
    return _ended(manifest, works, board, signum)


def _ray(manifest: Manifest, works: Sequence[Work], board: Board, jobs: int | None) -> int:
    """One Ray task per run, on whatever hosts the cluster has."""
    from sweeps import on_ray

    with board.live():
        signum = on_ray.run(manifest, works, jobs, board.update)
    return _ended(manifest, works, board, signum)


def _slurm(manifest: Manifest, works: Sequence[Work], board: Board, jobs: int | None) -> int:
    """An array of Slurm jobs; this process does not wait for them."""
    from sweeps import slurm

    submitted = slurm.submit(manifest, works, jobs)
    board.console.print(board.table())
    print(f"{len(submitted)} jobs submitted: {cli.STARTED_AS} sweep {manifest.file} --status shows how far they are")
    return 0


def _mark_queued(manifest: Manifest, works: Sequence[Work]) -> None:
    from sweeps import slurm

    slurm.mark(manifest, works)


def _ended(manifest: Manifest, works: Sequence[Work], board: Board, signum: int) -> int:
    """Says what has become of the runs; the exit status."""
    if not board.console.is_terminal:
        board.console.print(board.table())
    board.failures(manifest.folder / "logs")
    busy = [work.cell for work in works if work.state is State.RUNNING]
    if busy:
        print(f"{len(busy)} runs are being worked on by other processes")
    if signum:
        print(f"stopped; to go on: {cli.STARTED_AS} sweep {manifest.file}")
        return 128 + signum
    return _status(works)
