"""python src/main.py --config=macpf --env-config=sc2 with env_args.map_name=corridor"""

from __future__ import annotations

import importlib
import signal
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import yaml

from core import cli
from core.config import ConfigError, Settings, load, masked, settle
from core.registry import UnknownNameError
from core.stop import Stop

if TYPE_CHECKING:  # at run time these, and torch with them, are loaded only when something is really started
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
    """A new run, or one for each of several seeds."""
    settings = settle(cli.compose(command))
    if settings["n_seeds"] > 1:
        return train_together(settings)
    session = assemble(settings)
    from tracking.folder import RunFolder

    try:
        folder = RunFolder.create(settings, session.env.label())
        with folder.claim():
            return conduct(settings, folder, session, None)
    finally:
        session.close()


def train_together(settings: Settings) -> int:
    """New runs that differ in their seeds."""
    from many.runs import Run, conduct
    from tracking.folder import RunFolder

    each = [Settings({**settings, "seed": settings["seed"] + k, "n_seeds": 1}) for k in range(settings["n_seeds"])]
    with ExitStack() as stack:
        sessions = assemble_all(each, stack)
        folders = [RunFolder.create(own, session.env.label()) for own, session in zip(each, sessions, strict=True)]
        for folder in folders:
            stack.enter_context(folder.claim())
        return conduct([Run(*parts) for parts in zip(each, folders, sessions, strict=True)])


def resume(command: cli.Command) -> int:
    """Goes on with a run from its checkpoint; from its first step where it was stopped before the first one."""
    folder = open_run(command)
    settings = settle(cli.revise(load(folder.config), command, cli.RESUMABLE))
    if settings["n_seeds"] > 1:
        return resume_together(command, folder, settings["n_seeds"])
    with folder.claim():
        state = reopen(folder, settings)
        session = assemble(settings)
        try:
            note(settings, folder)
            return conduct(settings, folder, session, state)
        finally:
            session.close()


def resume_together(command: cli.Command, folder: RunFolder, n_seeds: int) -> int:
    """Goes on with all runs that were trained with the one in ``folder`` and have not reached their ends."""
    from many.runs import Run, companions, conduct, refuse_apart

    with ExitStack() as stack:
        folders = companions(folder, n_seeds)
        each = [settle(cli.revise(load(own.config), command, cli.RESUMABLE)) for own in folders]
        each = [Settings({**own, "n_seeds": 1}) for own in each]
        for own in folders:
            stack.enter_context(own.claim())
        left = [k for k, own in enumerate(folders) if own.status != "COMPLETED" or ahead(own, each[k])]
        states = {k: reopen(folders[k], each[k]) for k in left or [0]}
        refuse_apart(list(states.values()))
        sessions = assemble_all([each[k] for k in left], stack)
        for k in left:
            note(each[k], folders[k])
        return conduct([Run(each[k], folders[k], own, states[k]) for k, own in zip(left, sessions, strict=True)])


def ahead(folder: RunFolder, settings: Settings) -> bool:
    """Whether ``settings`` ask for more steps than the run has been made for."""
    return bool(settings["t_max"] > load(folder.config)["t_max"])


def reopen(folder: RunFolder, settings: Settings) -> dict[str, Any]:
    """The checkpoint of a run that is to go on; {} where there is none yet.

    Raises:
        ConfigError: it is unusable, or the run has reached its end.
    """
    from core import checkpoint

    if folder.status == "COMPLETED" and not ahead(folder, settings):
        done = load(folder.config)["t_max"]
        raise ConfigError([f"the run has completed its t_max={done}: go further with t_max=LARGER"])
    try:
        return checkpoint.load(folder.checkpoint) if folder.checkpoint.exists() else {}
    except checkpoint.CheckpointError as error:
        raise ConfigError([str(error)]) from error


def note(settings: Settings, folder: RunFolder) -> None:
    """Writes down the settings with which a run goes on."""
    from core import checkpoint
    from tracking.saving import without_password

    with checkpoint.replacing(folder.config) as file:
        file.write(yaml.safe_dump(without_password(settings), allow_unicode=True).encode())


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


def assemble_all(each: list[Settings], stack: ExitStack) -> list[Session]:
    """The sessions of several seeds, closed by ``stack``."""
    from many.loop import refuse_unfit

    sessions: list[Session] = []
    for settings in each:
        sessions.append(assemble(settings))
        stack.callback(sessions[-1].close)
        refuse_unfit(sessions[0], len(each))
    return sessions


def conduct(settings: Settings, folder: RunFolder, session: Session, state: dict[str, Any] | None) -> int:
    """Trains under Sacred's eyes. ``state`` is a checkpoint ({}: none was made yet), None for a new run."""
    from tracking.experiment import execute
    from tracking.saving import restore

    with Stop() as stop:

        def body(tracker: Tracker) -> None:
            if state is not None:
                restore(session, tracker, state)
            follow(settings, folder, session, tracker, stop)

        status = execute(settings, folder, body, resume=state is not None)
    if status == "INTERRUPTED":
        print(f"to go on: {cli.STARTED_AS} resume {folder.path.name}", file=sys.stderr)
    return {"COMPLETED": 0, "INTERRUPTED": 128 + (stop.signum or signal.SIGINT)}.get(status, 1)


def follow(settings: Settings, folder: RunFolder, session: Session, tracker: Tracker, stop: Stop) -> None:
    """Trains, reports and saves until the end or until a signal.

    Raises:
        Interrupted: a signal came; the checkpoint is written.
    """
    from core import checkpoint
    from tracking.record import Interrupted
    from tracking.saving import keep, state_of, tell

    for tick in session.train():
        tell(tick, settings, folder, tracker)
        if stop.signum:
            checkpoint.save(folder.checkpoint, state_of(session, settings, tracker))
            raise Interrupted(stop.signum)
        if tick.checkpoint_due:
            keep(folder.checkpoint, state_of(session, settings, tracker), tracker)
    checkpoint.save(folder.checkpoint, state_of(session, settings, tracker))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
