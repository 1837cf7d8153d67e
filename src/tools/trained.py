"""What a run has learnt, loaded to be watched or tested, not to be trained further."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core import checkpoint
from core.config import ConfigError, Settings
from run import Session, build

if TYPE_CHECKING:
    from tracking.folder import RunFolder


def load(settings: Settings, folder: RunFolder, *, best: bool = False) -> Session:
    """A session with the policy of the run's last checkpoint, or with the one that tested best.

    Raises:
        ConfigError: there is no usable checkpoint, or the run cannot be built here.
    """
    path = folder.best if best else folder.checkpoint
    if best and not path.exists():
        raise ConfigError([f"{folder.path.name} has no {path.name}: it kept none (best_by), or it was never tested"])
    if not path.exists():
        raise ConfigError([f"{folder.path.name} has no checkpoint yet: nothing has been learnt (resume it first)"])
    try:
        state = checkpoint.load(path)
    except checkpoint.CheckpointError as error:
        raise ConfigError([str(error)]) from error
    session = build(Settings({**settings, "runner": "episode"}))  # what was trained on many hosts is played on this one
    try:
        session.load_policy(state["session"])
    except BaseException:
        session.close()
        raise
    return session
