"""Run folders as training leaves them, for tests of what follows the journal."""

from __future__ import annotations

import datetime
import hashlib
import math
from pathlib import Path

from tracking.folder import RunFolder
from tracking.journal import Journal
from tracking.observers import FileObserver

NOW = datetime.datetime(2030, 1, 1)


class Run:
    """A run folder as training leaves it."""

    def __init__(self, where: Path, seed: int = 1) -> None:
        source = where / "source.py"
        source.write_text("x = 1\n")
        self.folder = RunFolder.create({"name": "a", "seed": seed, "results_dir": str(where), "lr": 1.0}, "x")
        self.folder.console.write_text("hello\n")
        self.files = FileObserver(self.folder)
        md5 = hashlib.md5(source.read_bytes()).hexdigest()
        facts = {"name": "a", "base_dir": str(where), "sources": [("source.py", md5)]}
        meta = {"uid": self.folder.record["uid"]}
        self.files.started_event(facts, "train", {"hostname": "h"}, NOW, {"lr": 1.0, "seed": seed}, meta, None)
        self.journal = Journal(self.folder.journal)

    def log(self, *steps: int, **values: float) -> None:
        """A record of each step."""
        for step in steps:
            self.journal.write({"kind": "train", "t_env": step, "values": values or {"x": step / 2, "y": math.nan}})

    def end(self, result: float = 0.5) -> None:
        """Completes the run."""
        self.files.completed_event(NOW, result)
