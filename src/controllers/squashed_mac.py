"""Agents that draw from normal distributions squashed into their boxes."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from controllers.box import centred
from controllers.gaussian_mac import GaussianMAC, WithDeviation
from core.registry import CONTROLLERS
from core.specs import EnvSpec
from modules.agents.base import Agent
from rl.distributions import SquashedGaussian
from rl.gaussian import LOG_STD_MAX, LOG_STD_MIN, boxed


@CONTROLLERS.register
class SquashedMAC(GaussianMAC):
    """The network's outputs are μ_i(τ_i) and log σ_i(τ_i) of x; the action is centre + half-width * tanh(x).

    Haarnoja et al. 2018 (algorithms.md 1.4). μ_i is 0 at the start, so agents begin around the centre of their boxes;
    log σ is held in [-5, 2]. ``policy`` is of x, which is stored with the episode: ratios of densities are the same for
    x as for the action. Densities of the action itself come from ``squashed``.
    """

    def network(self, spec: EnvSpec) -> nn.Module:
        """The agents' network with a head for log σ beside that for the means."""
        agent = centred(self.settings.build("agent", spec))
        return _WithHead(agent, spec.n_actions, self.cfg.log_std_init)

    def boxed(self, drawn: Float[Tensor, "b n a"]) -> Float[Tensor, "b n a"]:
        """The action of x; the clamp takes away what rounding may add to it at the faces."""
        return boxed(drawn, self.low, self.high).clamp(self.low, self.high)

    def squashed(self, out: Float[Tensor, "*rest n p"]) -> SquashedGaussian:
        """The policies over actions in their boxes, from the network's outputs."""
        mean, log_std = out.chunk(2, -1)
        return SquashedGaussian(mean, log_std, self.low, self.high)


class _WithHead(WithDeviation):
    """log σ is a second head's output."""

    def __init__(self, agent: Agent, n: int, log_std: float) -> None:
        super().__init__(agent)
        self.log_std = nn.Linear(agent.hidden_dim, n)
        nn.init.constant_(self.log_std.bias, log_std)

    def deviation(self, features: Float[Tensor, "b t n h"]) -> Float[Tensor, "b t n a"]:
        """Within the usual bounds."""
        return self.log_std(features).clamp(LOG_STD_MIN, LOG_STD_MAX)
