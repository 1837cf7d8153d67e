"""The battles of several seeds, played by one policy call per step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from controllers.base import Acted, Controller
from core.specs import EpisodeBatch, TimeStep
from many.program import Program
from many.rows import JointEnv


class JointController(Controller):
    """Acts for the rows of a ``JointEnv``: those of each seed with its own parameters and generator.

    A seed whose episodes have all ended draws nothing while it waits for the others, as it would draw nothing alone.
    """

    def __init__(self, program: Program, env: JointEnv, rngs: Sequence[torch.Generator]) -> None:
        own = program.template.controller
        super().__init__(own.spec, own.cfg, own.settings)
        self.explore_mode = own.explore_mode
        self._program, self._env = program, env
        self._draws = program.draws(rngs)
        self.t_env: list[int] = []
        """The environment steps of every seed, to be set before each collection."""

    def initial_hidden(self, b: int) -> Tensor:
        """See ``Controller.initial_hidden``."""
        return self._program.template.controller.initial_hidden(b)

    def act(
        self,
        step: TimeStep,
        last: Tensor,
        hidden: Tensor,
        *,
        t_env: int,  # noqa: ARG002
        mode: str,
        rng: torch.Generator,  # noqa: ARG002
    ) -> Acted:
        """See ``Controller.act``; ``t_env`` and ``rng`` are replaced by the seeds' own."""
        extras = list(step.extras)

        def work(controller: Controller, obs: Tensor, state: Tensor, avail: Tensor, *rest: Tensor) -> tuple[Any, ...]:
            seen = TimeStep(obs, state, avail, dict(zip(extras, rest[2:], strict=True)))
            steps = self._program.steps(self.t_env)
            acted = controller.act(seen, rest[0], rest[1], t_env=steps, mode=mode, rng=self._draws.stand_in)
            return acted.action, acted.hidden, acted.extras

        self._draws.waits = [not alive for alive in self._env.alive]
        shown = [step.obs, step.state, step.avail, last, hidden, *step.extras.values()]
        each = [x.unflatten(0, (self._program.n, -1)) for x in shown]
        action, hidden, more = self._program.act(work, self._draws, *each)
        return Acted(action.flatten(0, 1), hidden.flatten(0, 1), {name: x.flatten(0, 1) for name, x in more.items()})

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        """There are no batches of several seeds."""
        raise NotImplementedError("a learner unrolls its own controller")
