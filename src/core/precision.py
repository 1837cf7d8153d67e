"""In which numbers networks are evaluated: float32, or products of matrices in fewer bits where that is faster."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar, cast

import torch

from core.config import Precision

F = TypeVar("F", bound=Callable[..., Any])


def set_matmul(precision: Precision, device: torch.device | str) -> None:
    """How a GPU multiplies float32 matrices in this process, recurrent layers included; nothing elsewhere."""
    if torch.device(device).type != "cuda":
        return
    torch.set_float32_matmul_precision("highest" if precision == "float32" else "high")
    torch.backends.cudnn.allow_tf32 = precision != "float32"


def in_precision(method: F) -> F:
    """Evaluates networks within a ``method`` of a module with ``settings`` in their ``precision``.

    Weights are rounded where they are used and never kept so: an update changes them while it goes on, and what was
    rounded without a gradient must not be used where one is wanted.
    """

    @functools.wraps(method)
    def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.settings["precision"] != "bfloat16":
            return method(self, *args, **kwargs)
        with torch.autocast(next(iter(self.parameters())).device.type, torch.bfloat16, cache_enabled=False):
            return method(self, *args, **kwargs)

    return cast(F, wrapped)


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside, nothing is rounded to fewer bits: gradients on their way back, averages of parameters."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield
