"""python src/main.py --config=macpf --env-config=sc2 with env_args.map_name=corridor"""

from __future__ import annotations

import importlib
import signal
import sys
from typing import TYPE_CHECKING, Any

import yaml

from core import cli
from core.config import ConfigError, Settings, load, masked, settle
from core.registry import UnknownNameError
from core.stop import Stop

if TYPE_CHECKING:  # at run time these, and torch with them, are loaded only when something is really started
    from pathlib import Path

    from run import Session
    from tracking.folder import RunFolder
    from tracking.tracker import Tracker

BAD_INPUT = 2


def main(argv: list[str]) -> int:
    """Does what the words after the program's name ask for; the exit status (see ``cli.HELP``)."""
    if not argv:
        print(cli.help_text(), file=sys.stderr)
        return BAD_INPUT
    actions = {"print_config": print_config, "train": train, "resume": resume, "evaluate": test}
    try:
        if argv[0] in cli.tools():
            return int(importlib.import_module(f"tools.{argv[0]}").main(argv[1:]))
        command = cli.parse(argv)
        if command.action == "help":
            print(cli.help_text())
            return 0
        return actions[command.action](command)
    except (ConfigError, UnknownNameError) as error:
        print(f"error: {masked(str(error))}", file=sys.stderr)
        return BAD_INPUT


def print_config(command: cli.Command) -> int:
    """Every legal key of a run with its value, as YAML."""
    print(masked(yaml.safe_dump(cli.compose(command), sort_keys=False)), end="")
    return 0


def train(command: cli.Command) -> int:
    """A new run."""
    settings = settle(cli.compose(command))
    session = assemble(settings)
    from tracking.folder import RunFolder

    try:
        folder = RunFolder.create(settings, session.env.label())
        with folder.claim():
            return conduct(settings, folder, session, None)
    finally:
        session.close()


def resume(command: cli.Command) -> int:
    """Goes on with a run from its checkpoint; from its first step where it was stopped before the first one."""
    from core import checkpoint

    folder = open_run(command)
    recorded = load(folder.config)
    settings = settle(cli.revise(recorded, command, cli.RESUMABLE))
    with folder.claim():
        if folder.status == "COMPLETED" and settings["t_max"] <= recorded["t_max"]:
            raise ConfigError([f"the run has completed its t_max={recorded['t_max']}: go further with t_max=LARGER"])
        try:
            state = checkpoint.load(folder.checkpoint) if folder.checkpoint.exists() else {}
        except checkpoint.CheckpointError as error:
            raise ConfigError([str(error)]) from error
        session = assemble(settings)
        try:
            with checkpoint.replacing(folder.config) as file:
                file.write(yaml.safe_dump(without_password(settings), allow_unicode=True).encode())
            return conduct(settings, folder, session, state)
        finally:
            session.close()


def test(command: cli.Command) -> int:
    """Plays test episodes with what a run has learnt."""
    folder = open_run(command)
    settings = settle(cli.revise(load(folder.config), command, cli.EVALUABLE))
    from tools.evaluate import evaluate

    evaluate(settings, folder)
    return 0


def open_run(command: cli.Command) -> RunFolder:
    """The run that the command names."""
    from tracking.folder import RunFolder

    return RunFolder.open(str(command.run), str(command.updates.get("results_dir", "results")))


def assemble(settings: Settings) -> Session:
    """Everything that a run is made of. Built before anything is written, so that a mistake leaves no trace."""
    from run import build

    return build(settings)


def conduct(settings: Settings, folder: RunFolder, session: Session, state: dict[str, Any] | None) -> int:
    """Trains under Sacred's eyes. ``state`` is a checkpoint ({}: none was made yet), None for a new run."""
    from tracking.experiment import execute

    with Stop() as stop:

        def body(tracker: Tracker) -> None:
            if state is not None:
                restore(session, tracker, state)
            follow(settings, folder, session, tracker, stop)

        status = execute(settings, folder, body, resume=state is not None)
    if status == "INTERRUPTED":
        print(f"to go on: {cli.STARTED_AS} resume {folder.path.name}", file=sys.stderr)
    return {"COMPLETED": 0, "INTERRUPTED": 128 + (stop.signum or signal.SIGINT)}.get(status, 1)


def restore(session: Session, tracker: Tracker, state: dict[str, Any]) -> None:
    """Sets session and curves back to a checkpoint."""
    if state:
        session.load_state_dict(state.pop("session"))  # its replay would fill memory for as long as it is referred to
        tracker.load_state_dict(state.pop("tracker"))
        tracker.message(f"resumed at step {session.progress.t_env}")
    else:
        tracker.load_state_dict({"cursor": 0})
        tracker.message("the run was stopped before its first checkpoint: it starts again from step 0")


def follow(settings: Settings, folder: RunFolder, session: Session, tracker: Tracker, stop: Stop) -> None:
    """Trains, reports and saves until the end or until a signal.

    Raises:
        Interrupted: a signal came; the checkpoint is written.
    """
    from core import checkpoint
    from tracking.record import Interrupted

    def state() -> dict[str, Any]:
        parts = {"session": session.state_dict(), "tracker": tracker.state_dict()}
        return {**parts, "settings": without_password(settings)}

    for tick in session.train():
        for record in tick.records:
            tracker.log(record)
        tracker.progress(tick.t_env, tick.episode)
        if tick.best is not None:
            keep(folder.best, {"session": tick.best, "settings": without_password(settings)}, tracker)
        if stop.signum:
            checkpoint.save(folder.checkpoint, state())
            raise Interrupted(stop.signum)
        if tick.checkpoint_due:
            keep(folder.checkpoint, state(), tracker)
    checkpoint.save(folder.checkpoint, state())


def keep(path: Path, state: dict[str, Any], tracker: Tracker) -> None:
    """Saves on the way, where a full disk is no reason to lose what is in memory."""
    from core import checkpoint

    try:
        checkpoint.save(path, state)
    except checkpoint.CheckpointError as error:
        tracker.message(f"warning: {error}")


def without_password(settings: Settings) -> dict[str, Any]:
    """A copy that may be written to disk."""
    return {**settings.plain(), "mongo_url": settings["mongo_url"] and masked(settings["mongo_url"])}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
