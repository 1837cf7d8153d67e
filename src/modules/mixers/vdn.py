"""VDN: the sum of the agents' values."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from core.registry import MIXERS
from core.specs import EnvSpec
from modules.mixers.base import Mixer


@MIXERS.register
class VDN(Mixer):
    r"""Sunehag et al., "Value-Decomposition Networks", AAMAS 2018: :math:`Q_{tot} = \sum_i q_i`. No parameters."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """No keys."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:  # noqa: ARG002 - every mixer is built alike
        super().__init__()

    def forward(
        self,
        q: Float[Tensor, "b t n"],
        state: Float[Tensor, "b t s"],  # noqa: ARG002 - the sum does not depend on it
    ) -> Float[Tensor, "b t"]:
        """Q_tot."""
        return q.sum(-1)
