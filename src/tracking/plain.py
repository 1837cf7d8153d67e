"""Values as plain Python, the only thing that a journal, YAML or a database should ever be handed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

INT64 = 2**63
"""Whole numbers from here on fit neither BSON nor most readers of JSON."""


def plain(value: Any) -> Any:
    """``value`` built of None, bool, int, float, str, datetime, bytes, list and dict only.

    NaN and infinities stay floats. Tensors and arrays become numbers or nested lists; whole numbers beyond 64 bits
    become text, so that no digit is lost; anything unknown becomes its ``str``.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((plain(item) for item in value), key=str)
    return _scalar(value)


def _scalar(value: Any) -> Any:
    """What is no container; numpy and torch are recognised by their methods, neither library is imported here."""
    if value is None or type(value) in (bool, float, bytes, datetime):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half characters, of odd file names, go into no file
    if isinstance(value, int):
        return int(value) if -INT64 <= value < INT64 else str(int(value))
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)


def number(value: Any) -> float | int:
    """One measurement as a plain number.

    Raises:
        TypeError: ``value`` is not a single number.
    """
    value = plain(value)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str):  # plain() turns huge integers into text; a curve needs a number
        value = float(value)
    if not isinstance(value, int | float):
        raise TypeError(f"a metric must be a single number, not {value!r}")
    return value


def now() -> str:
    """The present in UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
