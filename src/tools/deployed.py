"""A team's policy as one agent carries it: its own observation in, its own action out."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from controllers.base import Controller
from core.config import ConfigError
from core.specs import EnvSpec, TimeStep
from modules.agents.separate import SeparateAgents

INPUTS = ("obs", "last", "avail", "agent", "hidden")
OUTPUTS = ("action", "hidden")


class LocalPolicy(nn.Module):
    """What one agent does, by the controller's own code: where the others stand there are zeros.

    The same file serves every agent, whose number is an input, whether or not agents share parameters.
    """

    def __init__(self, controller: Controller) -> None:
        """``controller`` acts as in tests.

        Raises:
            ConfigError: an agent's action depends on what others observe.
        """
        super().__init__()
        self.controller = copy.deepcopy(controller).eval()
        if isinstance(controller.agent, SeparateAgents):
            self.controller.agent = OneByOne(controller.agent)
        self.spec: EnvSpec = controller.spec
        self.mode = controller.test_modes[0]
        if self._listens():
            why = "an agent acts on what others observe or tell it, at every step"
            raise ConfigError([f"mac={controller.settings['mac']} cannot be exported for one agent: {why}"])

    def forward(self, obs: Tensor, last: Tensor, avail: Tensor, agent: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """One step of one agent.

        Args:
            obs: [o] what it observes, padded with zeros to the longest observation.
            last: [a] its last action, one-hot (in a box the action itself); zeros at the start.
            avail: [a] which actions it may take; all true in a box.
            agent: [] its number, from 0.
            hidden: [h] what the last call returned; zeros at the start.

        Returns:
            Its action, [] or in a box [a], and its memory, [h].
        """
        own = one_hot(agent, self.spec.n_agents).bool()[:, None]
        alone = [torch.where(own, x, torch.zeros_like(x))[None] for x in (obs, last, hidden)]
        action, after = self.team(alone[0], alone[1], (avail | ~own)[None], alone[2])
        return self._of(own, action[0]), self._of(own, after[0])

    def team(self, obs: Tensor, last: Tensor, avail: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """All agents at once, as in a test: [b, n, ·] each."""
        step = TimeStep(obs, obs.new_zeros(len(obs), self.spec.state_dim), avail, self._extras(len(obs)))
        rng = torch.Generator()  # the same numbers at each call, for those that draw in tests, too
        acted = self.controller.act(step, last, hidden, t_env=0, mode=self.mode, rng=rng)
        return acted.action, acted.hidden

    def example(self) -> tuple[Tensor, ...]:
        """Arguments of ``forward`` at the start of an episode, of the right shapes and types."""
        spec, width = self.spec, self.controller.initial_hidden(1).shape[-1]
        avail = torch.ones(spec.n_actions, dtype=torch.bool)
        return torch.zeros(spec.obs_dim), torch.zeros(spec.n_actions), avail, torch.tensor(0), torch.zeros(width)

    def _extras(self, b: int) -> dict[str, Tensor]:
        return {name: torch.zeros(b, *shape, dtype=torch.bool) for name, shape in self.spec.extras.items()}

    @staticmethod
    def _of(own: Tensor, x: Tensor) -> Tensor:
        """The agent's own entry; exactly, as all others become 0."""
        return torch.where(own if x.dim() == 2 else own[:, 0], x, torch.zeros_like(x)).sum(0)

    @torch.no_grad()
    def _listens(self) -> bool:
        """Whether the first agent acts or remembers otherwise when the others observe something else."""
        n, rng = self.spec.n_agents, torch.Generator().manual_seed(0)
        obs = torch.randn(1, n, self.spec.obs_dim, generator=rng)
        _, last, avail, _, hidden = (x.expand(1, n, *x.shape) for x in self.example())
        others = torch.cat([obs[:, :1], obs[:, 1:] + 1.0], 1)
        seen = [[x[:, 0].float() for x in self.team(y, last, avail, hidden)] for y in (obs, others)]
        return any(not torch.allclose(a, b, atol=1e-5) for a, b in zip(*seen, strict=True))


class OneByOne(nn.Module):
    """Networks of their own, called one after the other: torch.export has no rule for ``torch.vmap``'s batched call."""

    def __init__(self, agents: SeparateAgents) -> None:
        super().__init__()
        self.agents, self.n = agents, agents.networks.n

    def initial_hidden(self, b: int) -> Tensor:
        """The agents'."""
        return self.agents.initial_hidden(b)

    def forward(self, obs: Tensor, last: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """See ``SeparateAgents.forward``."""
        state, places = self.agents.networks.state(), [slice(k, k + 1) for k in range(self.n)]
        each = [
            self.agents.single({name: p[k] for name, p in state.items()}, obs[:, :, at], last[:, :, at], hidden[:, at])
            for k, at in enumerate(places)
        ]
        out, after = zip(*each, strict=True)
        return torch.cat(out, 2), torch.cat(after, 1)


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
