"""What of a session goes to its folder and its curves, and comes back from there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core import checkpoint
from core.config import Settings, masked
from tracking.folder import RunFolder
from tracking.tracker import Tracker


def restore(session: Any, tracker: Tracker, state: dict[str, Any]) -> None:
    """Sets session and curves back to a checkpoint ({}: none was made yet)."""
    if state:
        session.load_state_dict(state.pop("session"))  # its replay would fill memory for as long as it is referred to
        tracker.load_state_dict(state.pop("tracker"))
        tracker.progress(session.progress.t_env, session.progress.episode)
        tracker.message(f"resumed at step {session.progress.t_env}")
    else:
        tracker.load_state_dict({"cursor": 0})
        tracker.message("the run was stopped before its first checkpoint: it starts again from step 0")


def tell(tick: Any, settings: Settings, folder: RunFolder, tracker: Tracker) -> None:
    """The records of a tick, how far the run is, and its policy where that is the best so far."""
    for record in tick.records:
        tracker.log(record)
    tracker.progress(tick.t_env, tick.episode)
    if tick.best is not None:
        keep(folder.best, {"session": tick.best, "settings": without_password(settings)}, tracker)


def state_of(session: Any, settings: Settings, tracker: Tracker) -> dict[str, Any]:
    """A checkpoint."""
    parts = {"session": session.state_dict(), "tracker": tracker.state_dict()}
    return {**parts, "settings": without_password(settings)}


def keep(path: Path, state: Mapping[str, Any], tracker: Tracker) -> None:
    """Saves on the way, where a full disk is no reason to lose what is in memory."""
    try:
        checkpoint.save(path, state)
    except checkpoint.CheckpointError as error:
        tracker.message(f"warning: {error}")


def without_password(settings: Settings) -> dict[str, Any]:
    """A copy that may be written to disk."""
    return {**settings.plain(), "mongo_url": settings["mongo_url"] and masked(settings["mongo_url"])}
