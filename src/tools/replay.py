"""``replay RUN``: plays battles of a trained policy and writes them as one HTML page that needs nothing else."""

from __future__ import annotations

import argparse
import html
import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

from core import cli
from core.config import MOST, load, settle
from tools.pages import place, save

if TYPE_CHECKING:  # torch is loaded only when something is really played
    from core.config import Settings
    from run import Session
    from tracking.folder import RunFolder

PAGE = Path(__file__).parent / "page"
"""The page's own files, put together when a recording is written."""
STYLES = ("base.css", "replay.css")
SCRIPTS = ("scene.js", "panel.js", "player.js")
LARGEST = 1000
"""Most episodes of one page."""


def main(argv: list[str]) -> int:
    """Writes the page; the exit status.

    Raises:
        ConfigError: no such run, no checkpoint, an environment without pictures, or a place that cannot be written.
    """
    options = _parser().parse_args(argv)
    folder, settings = _opened(options)
    out = place(options.out or folder.path / "replay.html")
    save(out, _played(folder, settings, options))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"{cli.STARTED_AS} replay",
        description="Plays episodes of a trained policy and writes one HTML page to watch them, "
        "which needs no server and no network.",
    )
    parser.add_argument("run", help="path of the run's folder, or any part of its name that no other run has")
    parser.add_argument("--episodes", type=_between(1, LARGEST), default=4, help="how many (default: 4)")
    parser.add_argument("--seed", type=_between(0, MOST["seed"]), help="of the episodes (default: the run's)")
    parser.add_argument("--out", help="the page's file (default: replay.html in the run's folder)")
    parser.add_argument("--sample", action="store_true", help="explore as in training, instead of acting as tested")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="where to play (default: the run's)")
    parser.add_argument("--results-dir", default="results", help="where runs are looked for (default: results)")
    return parser


def _between(least: int, most: int) -> Any:
    """A reader of whole numbers from ``least`` to ``most``."""

    def number(text: str) -> int:
        value = int(text) if text.isdecimal() else -1
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be a whole number from {least} to {most}, not {text}")
        return value

    return number


def _opened(options: argparse.Namespace) -> tuple[RunFolder, Settings]:
    """The run and its settings, with what the options change."""
    from tracking.folder import RunFolder

    folder = RunFolder.open(options.run, options.results_dir)
    updates = {name: getattr(options, name) for name in ("seed", "device") if getattr(options, name) is not None}
    command = cli.Command("replay", options.run, updates=updates)
    return folder, settle(cli.revise(load(folder.config), command, cli.EVALUABLE))


def _played(folder: RunFolder, settings: Settings, options: argparse.Namespace) -> str:
    """The page of freshly played episodes."""
    from tools import trained
    from tools.recording import compact, record

    session = trained.load(settings, folder)
    try:
        recordings = record(session, options.episodes, sample=options.sample)
        return page(caption(folder, session, sample=options.sample) | compact(recordings))
    finally:
        session.close()


def caption(folder: RunFolder, session: Session, *, sample: bool) -> dict[str, Any]:
    """What the page says of the run."""
    settings = session.settings
    return {
        "title": f"{settings['name']} on {session.env.label()}",
        "run": folder.path.name,
        "trained": session.progress.t_env,
        "policy": "exploring as in training" if sample else "acting as in tests",
        "seed": settings["seed"],
    }


def page(recording: dict[str, Any]) -> str:
    """One HTML text with style, scripts and the recording inside."""
    data = json.dumps(recording, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Template((PAGE / "replay.html").read_text(encoding="utf-8")).substitute(
        title=html.escape(recording["title"]),
        style="".join((PAGE / name).read_text(encoding="utf-8") for name in STYLES),
        recording=data.replace("<", "\\u003c"),  # so that no text in it can end the element
        script="\n".join((PAGE / name).read_text(encoding="utf-8") for name in SCRIPTS),
    )
