"""Runs a body as a Sacred experiment."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import sacred
from sacred.dependencies import PackageDependency, Source, get_digest

from core import cli
from core.config import ConfigError, masked
from tracking.console import Console
from tracking.entry import first_info
from tracking.folder import RunFolder, git_facts, versions
from tracking.journal import Journal
from tracking.mongo import Archive
from tracking.observers import FileObserver, FolderObserver
from tracking.plain import plain
from tracking.shipping import BEAT_SECONDS, Shipment, Shipper
from tracking.tracker import Tracker

_END_SECONDS = 30.0
"""How long the last heartbeat may keep a finished run waiting."""
_SOURCES = Path(__file__).resolve().parents[1]


def execute(
    settings: Mapping[str, Any],
    folder: RunFolder,
    body: Callable[[Tracker], None],
    resume: bool = False,
    console: Console | None = None,
) -> str:
    """Runs ``body`` under Sacred and returns COMPLETED, INTERRUPTED or FAILED.

    ``KeyboardInterrupt`` (so also ``Interrupted``) makes it INTERRUPTED; any other exception is printed and makes it
    FAILED. With ``resume`` the same entries and curves are continued; the body must then call
    ``Tracker.load_state_dict`` before it logs. ``console`` is the run's own one where several share the screen.

    Raises:
        ConfigError: another process is writing to this folder.
    """
    title = f"{settings['name']} {folder.record.get('label', '')}"
    console = console or Console(folder.console, settings["t_max"], title)
    with folder.claim(), console.attached():
        folder.begin(resume)
        try:
            _observed(settings, folder, body, resume, console)
            status, error = "COMPLETED", None
        except KeyboardInterrupt as interrupt:
            status, error = "INTERRUPTED", str(interrupt) or None
        except BaseException as failure:  # noqa: BLE001  (it becomes the run's status)
            console.failure(trace_of(failure))
            status, error = "FAILED", f"{type(failure).__name__}: {failure}"
        folder.end(status, error)
        console.message(f"{status}: {folder.path}")
    return status


def _observed(
    settings: Mapping[str, Any], folder: RunFolder, body: Callable[[Tracker], None], resume: bool, console: Console
) -> None:
    """Raises what ``body`` raises, after Sacred and its observers have noted it."""
    files = FileObserver(folder, resume)
    experiment = _experiment(settings, [files, FolderObserver(folder)])
    shipment = _shipment(settings, folder, console)

    def note() -> None:
        _note_sacred(folder, files, shipment)

    command = f"{cli.STARTED_AS} sync {folder.path.name} -m URL"
    shipper = None if shipment is None else Shipper(shipment, command, held=resume, entered=note)

    @experiment.main
    def train(_run: Any) -> Any:
        note()
        stores = (files,) if shipper is None else (files, shipper)
        tracker = Tracker(settings, folder, Journal(folder.journal), _run, console, stores, resume)
        if shipper is not None:
            shipper.start()
        try:
            body(tracker)
            tracker.finish()
        finally:
            tracker.close()
        return _run.result

    try:
        experiment.run(
            info=first_info(folder),
            meta_info={"uid": folder.record["uid"]},
            options={"--beat-interval": BEAT_SECONDS},
        )
    finally:
        run: Any = experiment.current_run
        if run is not None:
            if run._heartbeat is not None:  # Sacred leaves the last one behind after two seconds
                run._heartbeat.join(timeout=_END_SECONDS)
            folder.beat(t_env=run.info["t_env"])  # where it is now, not at the last of the observers' beats
            if shipper is not None and shipment is not None:
                shipper.finish()
                shipment.archive.close()
            note()


def _experiment(settings: Mapping[str, Any], observers: list[Any]) -> sacred.Experiment:
    """A Sacred experiment with every effective value of the configuration and our own loaded modules as sources."""
    _configure_sacred()
    # Sacred asks git about every single file, and fails in a repository without a commit: we ask once, ourselves.
    experiment = sacred.Experiment(settings["name"], base_dir=str(_SOURCES), save_git_info=False)
    config = plain(dict(settings))
    if config.get("mongo_url"):
        config["mongo_url"] = masked(config["mongo_url"])
    experiment.add_config(config)
    experiment.logger = _logger()  # type: ignore[assignment]  # Sacred declares nothing
    experiment.observers.extend(observers)
    experiment.sources.clear()
    experiment.sources.update(_sources())
    experiment.mainfile = next((source for source in experiment.sources if source.repo), experiment.mainfile)
    experiment.dependencies.update(PackageDependency(name, version) for name, version in versions().items())
    return experiment


def _configure_sacred() -> None:
    """Process-wide settings; each answers a trap described in docs/tracking.md."""
    sacred.SETTINGS.CAPTURE_MODE = "no"  # console.log has it all
    sacred.SETTINGS.CONFIG.READ_ONLY_CONFIG = False
    sacred.SETTINGS.DISCOVER_SOURCES = "none"
    sacred.SETTINGS.DISCOVER_DEPENDENCIES = "none"


def _sources() -> set[Source]:
    """Our modules that are in use; the commit is attached to one of them, the main file."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    paths = {Path(file).resolve() for file in files if file}
    ours = {path for path in paths if path.is_relative_to(_SOURCES) and path.suffix == ".py" and path.stat().st_size}
    sources = {path: Source(str(path), get_digest(str(path)), None, None, None) for path in ours}
    main, git = _SOURCES / "main.py", git_facts()
    if git is not None:
        source = sources.get(main) or sources[Path(__file__).resolve()]
        source.repo, source.commit = git["origin"] or str(_SOURCES.parent), git["commit"]
        source.is_dirty = git["dirty"]
    return set(sources.values())


def _shipment(settings: Mapping[str, Any], folder: RunFolder, console: Console) -> Shipment | None:
    """What goes to the database where one is configured; an unusable address is reported and the run goes on."""
    if not settings.get("mongo_url"):
        return None
    try:
        return Shipment(folder, Archive.connect(settings["mongo_url"], settings["mongo_db"]))
    except ConfigError as error:
        console.message(f"{error}: the run goes on without MongoDB, everything is kept in {folder.path}")
        return None


def _note_sacred(folder: RunFolder, files: FileObserver, shipment: Shipment | None) -> None:
    """Where Sacred keeps this run."""
    where: dict[str, Any] = {"dir": files.dir and Path(files.dir).relative_to(folder.path)}
    if shipment is not None:
        archive = shipment.archive
        where["mongo"] = {"id": shipment.run_id, "address": archive.address, "db": archive.name}
    folder.update(sacred=where)


class _PresentStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to what ``sys.stderr`` is at that moment, hence also to console.log."""

    @property
    def stream(self) -> TextIO:
        """The present standard error."""
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """``StreamHandler`` sets it when made; it is looked up instead."""


def _logger() -> logging.Logger:
    """Sacred's root logger, with one handler however many runs a process makes."""
    logger = logging.getLogger("cofactor")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    if not logger.handlers:
        handler = _PresentStderr()
        handler.setFormatter(logging.Formatter("%(levelname)s - %(name)s - %(message)s"))
        logger.addHandler(handler)
    return logger


def trace_of(failure: BaseException) -> str:
    """The traceback without the frames of Sacred's wrappers."""
    trace = traceback.TracebackException.from_exception(failure)
    ours = [frame for frame in trace.stack if not {"sacred", "wrapt"} & set(Path(frame.filename).parts)]
    trace.stack = traceback.StackSummary.from_list(ours)
    return "".join(trace.format())
