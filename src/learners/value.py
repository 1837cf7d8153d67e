"""What value-based learners share: keys, targets, the mixing of utilities, and what they ask of the controller."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from controllers.base import Controller
from controllers.basic_mac import BasicMAC
from core.config import ConfigError, Settings
from core.specs import EpisodeBatch
from learners.base import Learner, lambda_returns
from modules.mixers.base import Mixer, mix_locals
from rl.exploration import greedy
from rl.masked import taken


@dataclass(frozen=True, kw_only=True)
class ValueConfig(Learner.Config):
    """Keys of the value-based algorithms."""

    td_lambda: float = 0.0
    """0: one-step targets; towards 1: longer returns."""
    target_update_interval: int = 200
    """Episodes collected between two copies into the target networks."""

    def returns(self, batch: EpisodeBatch, value: Float[Tensor, "b states *n"]) -> Float[Tensor, "b t *n"]:
        """Targets y = r + γ (1 - terminated) X(s'), as TD(λ), of the bootstrap values X."""
        return lambda_returns(batch, value, self.gamma, self.td_lambda)


def require_values(controller: Controller, settings: Settings) -> None:
    """Refuses agents that do not act on values.

    Raises:
        ConfigError: the controller is no ``basic_mac``.
    """
    if not isinstance(controller, BasicMAC):
        mac, learner = settings["mac"], settings["learner"]
        raise ConfigError([f"'mac' is '{mac}', but {learner} needs agents that act on their values: basic_mac"])


def mix_utilities(
    mixer: Mixer | None, batch: EpisodeBatch, q: Float[Tensor, "b t n a"], action: Int[Tensor, "b t n"]
) -> tuple[Float[Tensor, "b t *n"], Float[Tensor, "b t *n"]]:
    """Q_tot of a joint action at the first t states, and what the mixer adds to the loss.

    Mixers of advantages measure them from the largest available values of the same ``q``. Without a mixer the
    agents keep their own values.
    """
    if mixer is None:
        chosen = taken(q, action)
        return chosen, chosen.new_zeros(chosen.shape)
    return mix_locals(mixer, batch, q, action, lambda x, avail: taken(x, greedy(x, avail)))
