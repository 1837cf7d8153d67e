"""TensorBoard, for those who switch it on."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def open_writer(folder: Path, purge_step: int | None = None) -> Any:
    """A ``SummaryWriter``; points from ``purge_step`` on, written by an earlier part of the run, are hidden.

    Raises:
        ImportError: the package is not installed.
    """
    from torch.utils.tensorboard import SummaryWriter  # slow to import, and optional

    return SummaryWriter(log_dir=str(folder), purge_step=purge_step)
