"""Values of an agent's own actions from its own observation, a copy for every agent (F2A2-ISAC)."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.peers import OwnActionCritic, Worth
from modules.layers import GroupLinear, clipped


@CRITICS.register
class OwnObsCritic(OwnActionCritic):
    """Q(o_i, ·; w_i): two hidden layers with LeakyReLU; nobody else is read, so the cost is linear in N."""

    reads_actions = False

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys of local critics."""

        critic_dim: int = 128
        """Width of the two hidden layers."""
        obs_clip: float | None = None
        """Observations are cut to this size; null: they are not."""

    def __init__(self, spec: EnvSpec, cfg: Config) -> None:
        super().__init__()
        n, h = spec.n_agents, cfg.critic_dim
        self.cfg = cfg
        self.first, self.second = GroupLinear(n, spec.obs_dim, h), GroupLinear(n, h, h)
        self.head = GroupLinear(n, h, spec.n_actions)

    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Worth:  # noqa: ARG002
        """See ``PeerCritic.forward``; what others do is not read."""
        x = leaky_relu(self.first(clipped(obs, self.cfg.obs_clip)))
        return Worth(self.head(leaky_relu(self.second(x))))

    def shared(self) -> list[nn.Parameter]:
        """All of it."""
        return list(self.parameters())
