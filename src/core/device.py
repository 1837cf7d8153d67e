"""The way from host memory to a device, without waiting."""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def sent(x: Shaped[Tensor, "*any"], device: torch.device | str) -> Shaped[Tensor, "*any"]:
    """``x`` on ``device``, by an asynchronous copy where it comes from host memory.

    Only page-locked memory is copied while the host goes on; torch keeps it until the copy is done, and uses it again.
    """
    device = torch.device(device)
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device, non_blocking=True)
    return x.pin_memory().to(device, non_blocking=True)
