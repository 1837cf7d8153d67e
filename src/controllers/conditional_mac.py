"""Agents that act one after another, each seeing the actions before (training), or each alone (execution)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from controllers.base import Acted, Controller, encode_agent
from core.config import Settings
from core.registry import CONTROLLERS
from core.specs import EnvSpec, EpisodeBatch, TimeStep, Uniforms
from modules.agents.conditional import ConditionalHead
from rl.exploration import greedy
from rl.masked import masked_log_softmax, sample


@CONTROLLERS.register
class ConditionalMAC(Controller):
    """MACPF's pair of policies: independent π_i(· | τ_i), dependent π_i(· | τ_i, a_{<i}) (algorithms.md 8.1).

    Agents decide in the fixed order 0 … N-1. Where the environment shows who sees whom (``visible``), an agent reads
    the actions of those it sees only; elsewhere of all before it.
    """

    @dataclass(frozen=True, kw_only=True)
    class Config(Controller.Config):
        """Keys of the pair of policies."""

        dependent: bool = True
        """Explore with the dependent policy; False is the control without it (MACPF_CONTROL)."""
        test_greedy: bool = True
        """Tests take the likeliest action instead of sampling."""

    def __init__(self, spec: EnvSpec, cfg: Config, settings: Settings) -> None:
        super().__init__(spec, cfg, settings)
        self.agent = ConditionalHead(spec, settings.build("agent", spec), cfg.dependent)

    @property
    def test_modes(self) -> tuple[str, ...]:
        """``ind`` is what is executed; ``dep`` is reported beside it."""
        return ("ind", "dep") if self.cfg.dependent else ("ind",)

    def act(
        self,
        step: TimeStep,
        last: Float[Tensor, "b n a"],
        hidden: Float[Tensor, "b n h"],
        *,
        t_env: int,  # noqa: ARG002 - part of the interface; nothing is annealed here
        mode: str,
        rng: torch.Generator,
    ) -> Acted:
        """See ``Controller.act``; modes are ``explore``, ``ind`` and ``dep``."""
        h, hidden = self.agent.encode(step.obs[:, None], last[:, None], hidden)
        avail, visible = step.avail[:, None], step.extras.get("visible")
        chooser = None if mode != self.explore_mode and self.cfg.test_greedy else rng
        if mode == "ind" or not self.cfg.dependent:
            logits = self.agent.independent(h)
            return Acted(_choose(logits, avail, chooser)[:, 0], hidden)
        action = self.decide_in_turn(h, avail, None if visible is None else visible[:, None], chooser)
        return Acted(action[:, 0], hidden)

    def unroll(self, batch: EpisodeBatch) -> Float[Tensor, "b t n h"]:
        """The features h_i of every history, from which both policies follow."""
        return encode_agent(self.agent, batch, self.spec.n_actions)

    @torch.no_grad()
    def decide_in_turn(
        self,
        h: Float[Tensor, "b t n h"],
        avail: Bool[Tensor, "b t n a"],
        visible: Bool[Tensor, "b t n n"] | None,
        rng: Uniforms | None,
    ) -> Int[Tensor, "b t n"]:
        """Joint actions a_i ~ π_i^dep(· | τ_i, a_{<i}), or the likeliest ones where ``rng`` is None.

        Sequential over agents by nature; what agent i reads of those before it is summed up as they decide.
        """
        first, alone = self.agent.unheard(h)
        actions = []
        for i, told in enumerate(self.agent.messages()):
            logits = self.agent.given(first[:, :, i], alone[:, :, i])
            actions.append(_choose(logits, avail[:, :, i], rng))
            message = told[actions[-1]][:, :, None]
            first[:, :, i + 1 :] += message if visible is None else message * visible[:, :, i + 1 :, i, None]
        return torch.stack(actions, -1)


def _choose(logits: Float[Tensor, "*b a"], avail: Bool[Tensor, "*b a"], rng: Uniforms | None) -> Int[Tensor, "*b"]:
    return greedy(logits, avail) if rng is None else sample(masked_log_softmax(logits, avail), rng)
