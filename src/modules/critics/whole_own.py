"""Central values of an agent's own actions given the others', a copy for every agent (F2A2-COMA)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from core.registry import CRITICS
from core.specs import EnvSpec
from modules.critics.peers import OwnActionCritic, Worth, others_only
from modules.critics.whole import WholeConfig, WholeNet


@CRITICS.register
class WholeOwnCritic(OwnActionCritic):
    """Q(o, (·, a_-i); w_i): one output per own action, so that the counterfactual baseline costs nothing."""

    Config = WholeConfig

    def __init__(self, spec: EnvSpec, cfg: WholeConfig) -> None:
        super().__init__()
        self.net = WholeNet(spec, cfg, spec.n_actions)

    def forward(self, obs: Float[Tensor, "b t n o"], joint: Float[Tensor, "b t i n a"]) -> Worth:
        """See ``PeerCritic.forward``."""
        return Worth(self.net(obs, others_only(joint)))

    def shared(self) -> list[nn.Parameter]:
        """All of it."""
        return list(self.parameters())
