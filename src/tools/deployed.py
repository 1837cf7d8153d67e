"""A team's policy as one agent carries it: its own observation in, its own action out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from controllers.base import Controller
from core.config import ConfigError
from core.specs import EnvSpec, TimeStep

INPUTS = ("obs", "last", "avail", "agent", "hidden")
OUTPUTS = ("action", "hidden")


class LocalPolicy(nn.Module):
    """What one agent does, by the controller's own code: the other agents' places are filled with zeros.

    The same file serves every agent, whose number is an input, whether or not agents share parameters.
    """

    def __init__(self, controller: Controller) -> None:
        """``controller`` acts as in tests.

        Raises:
            ConfigError: an agent's action depends on what others observe.
        """
        super().__init__()
        self.controller = controller.eval()
        self.spec: EnvSpec = controller.spec
        self.mode = controller.test_modes[0]
        if self._listens():
            why = "an agent acts on what others observe or tell it, at every step"
            raise ConfigError([f"mac={controller.settings['mac']} cannot be exported for one agent: {why}"])

    def forward(self, obs: Tensor, last: Tensor, avail: Tensor, agent: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step of one agent in each of b places.

        Args:
            obs: [b, o] what it observes, padded with zeros to the longest observation.
            last: [b, a] its last action, one-hot (in a box the action itself); zeros at the start.
            avail: [b, a] which actions it may take; all true in a box.
            agent: [b] its number, from 0.
            hidden: [b, h] what the last call returned; zeros at the start.

        Returns:
            Its action, [b] or in a box [b, a], and its memory, [b, h].
        """
        own = one_hot(agent, self.spec.n_agents).bool()
        action, after = self.team(
            *(torch.where(own[..., None], x[:, None], torch.zeros_like(x)[:, None]) for x in (obs, last)),
            avail[:, None] | ~own[..., None],
            torch.where(own[..., None], hidden[:, None], torch.zeros_like(hidden)[:, None]),
        )
        return self._of(own, action), self._of(own, after)

    def team(self, obs: Tensor, last: Tensor, avail: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All agents at once, as in a test: [b, n, ·] each."""
        b = obs.shape[0]  # len() would fix the number of places in the exported graph
        step = TimeStep(obs, obs.new_zeros(b, self.spec.state_dim), avail, self._extras(b))
        rng = torch.Generator()  # the same numbers at each call, for those that draw in tests, too
        acted = self.controller.act(step, last, hidden, t_env=0, mode=self.mode, rng=rng)
        return acted.action, acted.hidden

    def example(self, b: int, seed: int = 0) -> tuple[Tensor, ...]:
        """Arguments of ``forward`` for b places, of the right shapes and types."""
        rng, spec = torch.Generator().manual_seed(seed), self.spec
        width = self.controller.initial_hidden(1).shape[-1]
        agent = torch.arange(b) % spec.n_agents
        avail = torch.ones(b, spec.n_actions, dtype=torch.bool)
        hidden = torch.zeros(b, width)
        return torch.randn(b, spec.obs_dim, generator=rng), torch.zeros(b, spec.n_actions), avail, agent, hidden

    def _extras(self, b: int) -> dict[str, Tensor]:
        return {name: torch.zeros(b, *shape, dtype=torch.bool) for name, shape in self.spec.extras.items()}

    @staticmethod
    def _of(own: Tensor, x: Tensor) -> Tensor:
        """The entry of the agent itself; exactly, as all others become 0."""
        mask = own if x.dim() == 2 else own[..., None]
        return torch.where(mask, x, torch.zeros_like(x)).sum(1)

    @torch.no_grad()
    def _listens(self) -> bool:
        """Whether the first agent acts or remembers otherwise when the others observe something else."""
        obs, last, avail, _, hidden = (x[None] for x in self.example(self.spec.n_agents))
        others = obs.clone()
        others[:, 1:] += 1.0
        seen = [self._first(x, last, avail, hidden) for x in (obs, others)]
        return any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(*seen, strict=True))

    def _first(self, obs: Tensor, last: Tensor, avail: Tensor, hidden: Tensor) -> list[Tensor]:
        action, after = self.team(obs, last, avail, hidden)
        return [action[:, 0].float(), after[:, 0]]


def describe(policy: LocalPolicy) -> dict[str, Any]:
    """What somebody who loads the file needs to know."""
    spec = policy.spec
    return {
        "inputs": {
            "obs": ["float32", spec.obs_dim],
            "last": ["float32", spec.n_actions],
            "avail": ["bool", spec.n_actions],
            "agent": ["int64"],
            "hidden": ["float32", policy.controller.initial_hidden(1).shape[-1]],
        },
        "outputs": {"action": ["int64"] if spec.discrete else ["float32", spec.n_actions], "hidden": ["float32"]},
        "agents": [
            {"obs": obs, "actions": action.n, "low": action.low, "high": action.high}
            for obs, action in zip(spec.obs_dims, spec.actions, strict=True)
        ],
    }
