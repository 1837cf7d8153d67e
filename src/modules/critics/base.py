"""What critics of joint actions can do, and how a learner gets the kind that it needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from core.config import ConfigError, Settings
from core.registry import CRITICS, did_you_mean


class JointHistoryCritic(nn.Module, ABC):
    """Q_jt(s, τ, u) of any joint action, and V_jt(s). Every step is evaluated by itself, padding like any other."""

    @abstractmethod
    def forward(
        self, h: Float[Tensor, "b t n h"], state: Float[Tensor, "b t s"], joint: Float[Tensor, "b t n a"]
    ) -> Float[Tensor, "b t"]:
        """Q_jt.

        Args:
            h: the features of the agents' histories τ.
            state: s.
            joint: u, the actions as one-hots.
        """

    @abstractmethod
    def value(self, state: Float[Tensor, "b t s"]) -> Float[Tensor, "b t"]:
        """V_jt."""


def build_critic(settings: Settings, kind: type, *parts: Any) -> Any:
    """The critic that the settings select, built of ``parts``.

    Raises:
        ConfigError: it is of another ``kind`` than the learner needs; the message names those that fit.
    """
    name = settings["critic"]
    if not issubclass(CRITICS[name], kind):
        fit = did_you_mean("", [other for other in CRITICS.names() if issubclass(CRITICS[other], kind)])
        raise ConfigError([f"critic '{name}' does not fit learner '{settings['learner']}'.{fit}"])
    return settings.build("critic", *parts)
