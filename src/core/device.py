"""The way from host memory to a device, without waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

T = TypeVar("T")


def sent(x: Shaped[Tensor, "*any"], device: torch.device | str) -> Shaped[Tensor, "*any"]:
    """``x`` on ``device``, by an asynchronous copy where it goes from host memory to a GPU.

    Only page-locked memory is copied while the host goes on; torch keeps it until the copy is done, and uses it again.
    A copy to the host is waited for: nobody could tell otherwise when its numbers are there.
    """
    device = torch.device(device)
    if device.type == "cpu" or x.device.type != "cpu":
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


class Lane:
    """A stream of copies to a GPU beside the one in which it calculates.

    The host never waits for a GPU, so it hands out the next batch's copies while the last batch is still learnt from;
    on a stream of their own they are made at once instead of after all that was handed out before.
    """

    def __init__(self, device: torch.device | str) -> None:
        """``device``: a GPU."""
        self.device = torch.device(device)
        self._stream = torch.cuda.Stream(self.device)

    def __call__(self, move: Callable[[Callable[[Tensor], Tensor]], T]) -> T:
        """What ``move`` makes with a function that copies one host tensor; whatever is calculated next has it."""
        present, arrived = torch.cuda.current_stream(self.device), []

        def copied(x: Tensor) -> Tensor:
            arrived.append(sent(x, self.device))
            return arrived[-1]

        with torch.cuda.stream(self._stream):
            made = move(copied)
        present.wait_stream(self._stream)
        for x in arrived:
            x.record_stream(present)  # so that its memory is not given away before it has been read there
        return made


def roomy(device: torch.device | str, nbytes: int) -> bool:
    """Whether ``nbytes`` are at most half of what is free on ``device``; always in host memory."""
    device = torch.device(device)
    return device.type != "cuda" or 2 * nbytes <= torch.cuda.mem_get_info(device)[0]
