"""Name -> class, by file name: ``LEARNERS["macpf"]`` imports ``learners/macpf.py`` and nothing else."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

C = TypeVar("C", bound=type)
_REGISTERS = re.compile(r"^@[A-Z]+\.register$", re.MULTILINE)


class UnknownNameError(KeyError):
    """A name that no file of the package answers to."""

    def __str__(self) -> str:
        return str(self.args[0])


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """The nearest option as a question, or all of them where they are few enough to read."""
    options = sorted(options)
    close = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Choose one of: {', '.join(options)}." if 0 < len(options) <= 30 else ""


class Registry:
    """The components of one package, one per module, imported when first asked for."""

    def __init__(self, kind: str, package: str) -> None:
        """``kind`` is what one of them is called in messages."""
        self.kind, self.package = kind, package
        self._classes: dict[str, Any] = {}

    def register(self, cls: C) -> C:
        """Class decorator: the component is known by the name of its file."""
        self._classes[cls.__module__.rpartition(".")[2]] = cls
        return cls

    def names(self) -> list[str]:
        """Every legal name: the package's files that register something, told by their text, not by importing them."""
        folders = [Path(folder) for folder in importlib.import_module(self.package).__path__]
        files = [file for folder in folders for file in folder.glob("*.py")]
        return sorted({f.stem for f in files if _REGISTERS.search(f.read_text(encoding="utf-8"))} | set(self._classes))

    def __getitem__(self, name: str) -> Any:
        """The class called ``name``.

        Raises:
            UnknownNameError: no such file; the message proposes the nearest name.
        """
        if name not in self._classes:
            if name not in self.names():
                raise UnknownNameError(f"unknown {self.kind} '{name}'.{did_you_mean(name, self.names())}")
            importlib.import_module(f"{self.package}.{name}")
        return self._classes[name]


LEARNERS = Registry("learner", "learners")
CONTROLLERS = Registry("controller", "controllers")
RUNNERS = Registry("runner", "runners")
ENVS = Registry("environment", "envs")
AGENTS = Registry("agent", "modules.agents")
CRITICS = Registry("critic", "modules.critics")
MIXERS = Registry("mixer", "modules.mixers")

SLOTS: dict[str, Registry] = {
    "learner": LEARNERS,
    "mac": CONTROLLERS,
    "runner": RUNNERS,
    "env": ENVS,
    "agent": AGENTS,
    "critic": CRITICS,
    "mixer": MIXERS,
}
"""Configuration key -> registry. A component whose ``Config`` has such a key selects a further component by it."""
