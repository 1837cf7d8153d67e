"""The three updates; ``update(batch)`` returns the losses."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from core.specs import EpisodeBatch
from learners.base import Learner
from reference.networks import (
    Padded,
    at_once,
    by_steps,
    dependent_values,
    fop_mixer,
    in_turn,
    monotone,
    td_lambda,
)
from rl.masked import sample
from rl.soft import soft_value

Losses = dict[str, Tensor]
BARRED = -1e10
"""Value of an unavailable action."""


def log_softmax(logits: Tensor, avail: Tensor) -> Tensor:
    """log π over the available actions."""
    return logits.masked_fill(~avail, BARRED).log_softmax(-1)


def taken(x: Tensor, action: Tensor) -> Tensor:
    """x of the actions."""
    return x.gather(-1, action.unsqueeze(-1)).squeeze(-1)


class Reference(ABC):
    """A learner's update, made from a copy of its parameters as they are now."""

    def __init__(self, learner: Learner, t_env: int = 0) -> None:
        """``t_env`` decides the temperature, where there is one; optimisers begin anew."""
        self.own: Any = copy.deepcopy(learner).requires_grad_(True)
        """The copy: it gives the parameters, the generator and the keys, and nothing of it is called."""
        self.cfg, self.t_env, self.n_actions = learner.cfg, t_env, learner.spec.n_actions
        self.optimisers = [self._rmsprop(*parts) for parts in self.parts()]

    @abstractmethod
    def parts(self) -> list[tuple[nn.Module, ...]]:
        """The modules of every optimiser."""

    @abstractmethod
    def update(self, batch: EpisodeBatch) -> Losses:
        """One update of every part."""

    @staticmethod
    def _rmsprop(*modules: nn.Module) -> tuple[torch.optim.Optimizer, list[nn.Parameter]]:
        params = [p for module in modules for p in module.parameters()]
        return torch.optim.RMSprop(params, lr=5e-4, alpha=0.99, eps=1e-5, foreach=False), params

    def zero(self, *numbers: int) -> None:
        """No gradients at the optimisers ``numbers``."""
        for k in numbers:
            self.optimisers[k][0].zero_grad()

    def step(self, *numbers: int) -> None:
        """Clips and steps the optimisers ``numbers``."""
        for k in numbers:
            optimiser, params = self.optimisers[k]
            nn.utils.clip_grad_norm_(params, self.cfg.grad_norm_clip, foreach=False)
            optimiser.step()


class QMIX(Reference):
    """PyMARL's ``QLearner.train``.

    Left out: the actions' one-hots are made once per update instead of copied out of the replay, and nothing is logged.
    """

    def parts(self) -> list[tuple[nn.Module, ...]]:
        """One optimiser."""
        return [(self.own.controller, self.own.mixer)]

    def update(self, batch: EpisodeBatch) -> Losses:
        """Online and target networks step by step over the padded batch; the target's graph is thrown away."""
        own, padded = self.own, Padded(batch, self.n_actions)
        slow_controller, slow_mixer = own.target.slow
        q = by_steps(own.controller.agent, padded)
        chosen = taken(q[:, :-1], batch.action)
        slow_q = by_steps(slow_controller.agent, padded)
        best = q.detach().masked_fill(~batch.avail, BARRED).argmax(-1)
        ahead = monotone(slow_mixer, taken(slow_q, best)[:, 1:], batch.state[:, 1:], nn.functional.elu)
        y = batch.reward + self.cfg.gamma * (1 - batch.terminated.float()) * ahead
        total = monotone(own.mixer, chosen, batch.state[:, :-1], nn.functional.elu)
        loss = padded.mean((total - y.detach()).square())
        self.zero(0)
        loss.backward()
        self.step(0)
        return {"q_loss": loss.detach()}


class FOP(Reference):
    """The released ``FOP_Learner``: ``train_actor``, then ``train_critic`` with its own passes of every network.

    As released, the policy's loss is differentiated through both critics, and targets have graphs. Left out: steps are
    taken together at the end, as ours are, since the release's order changes the numbers; λ has the layers that our
    mixer has, and unavailable actions are masked as ours are.
    """

    def parts(self) -> list[tuple[nn.Module, ...]]:
        """The policy and both critics."""
        return [(self.own.controller,), *((critic,) for critic in self.own.critics)]

    def update(self, batch: EpisodeBatch) -> Losses:
        """All gradients, then all steps."""
        padded, alpha = Padded(batch, self.n_actions), self.cfg.alpha(self.t_env, 0)
        self.zero(0, 1, 2)
        losses = {"policy_loss": self._actor(padded, alpha)}
        self.zero(1, 2)
        losses |= self._critics(padded, alpha)
        self.step(0, 1, 2)
        return losses

    def _log_pi(self, padded: Padded) -> Tensor:
        return log_softmax(by_steps(self.own.controller.agent, padded), padded.batch.avail)

    def _q(self, critic: Any, padded: Padded) -> Tensor:
        return critic.agent.head(at_once(critic.agent, padded.inputs()))

    def _actor(self, padded: Padded, alpha: float) -> Tensor:
        avail, log_pi = padded.batch.avail, self._log_pi(padded)
        pi = log_pi.softmax(-1)
        q_min = torch.minimum(*(self._q(critic, padded) for critic in self.own.critics))
        each = (pi * torch.where(avail, alpha * log_pi - q_min, 0.0)).sum(-1)
        loss = padded.mean(each[:, :-1])
        loss.backward()
        return loss.detach()

    def _critics(self, padded: Padded, alpha: float) -> Losses:
        batch, own = padded.batch, self.own
        log_pi = self._log_pi(padded).detach()
        action = sample(log_pi, own.rng)
        joint = nn.functional.one_hot(action, self.n_actions).float()
        slow = []
        for critic in own.target.slow:
            q = self._q(critic, padded)
            v = soft_value(q, batch.avail, alpha)
            slow.append(fop_mixer(critic.mixer, taken(q, action), v, batch.state, joint, batch.obs)[0])
        log_prob = taken(log_pi, action)
        entropy = -(log_prob.mean(-1) if self.cfg.entropy_reduction == "mean" else log_prob.sum(-1))
        y = td_lambda(padded, torch.minimum(*slow).detach() + alpha * entropy, self.cfg.gamma, self.cfg.td_lambda)
        losses: Losses = {}
        for m, critic in enumerate(own.critics):
            q = self._q(critic, padded)[:, :-1]
            total, regulariser = fop_mixer(
                critic.mixer, taken(q, batch.action), soft_value(q, batch.avail[:, :-1], alpha), batch.state[:, :-1],
                padded.taken, batch.obs[:, :-1],
            )  # fmt: skip
            loss = padded.mean((total - y).square() + regulariser)
            loss.backward()
            losses[f"critic{m}_loss"] = loss.detach()
        return losses


class MACPF(Reference):
    """The released ``DFOP_Learner``: actor and critic, each for both modes, with their own passes.

    As released, the policies' encoder runs four times agent by agent, the critics' six times; messages of earlier
    agents are embedded again for every agent, also where they are not read; the critics' values in the actor's loss,
    and the targets, have graphs. Left out: the second mixer, whose parameters were optimised though never used;
    gradients of the dependent losses into the trunk (T-29); reading later agents' actions (T-30); one optimiser step
    per loss, since ours are taken together at the end. Draws are repeated from one state of the generator, so that
    every pass draws alike.
    """

    def parts(self) -> list[tuple[nn.Module, ...]]:
        """Policies and critics."""
        return [(self.own.controller,), (self.own.critics,)]

    def update(self, batch: EpisodeBatch) -> Losses:
        """All gradients, then all steps."""
        padded, alpha = Padded(batch, self.n_actions), self.cfg.alpha(self.t_env, 0)
        start = self.own.rng.get_state()
        self.zero(0, 1)
        policy = self._in_both(lambda dependent: self._actor(padded, dependent, alpha))
        self.own.rng.set_state(start)
        critic = self._in_both(lambda dependent: self._critic(padded, dependent, alpha))
        self.step(0, 1)
        return {"policy_loss": policy, "critic_loss": critic}

    def _in_both(self, loss_of: Callable[[bool], Tensor]) -> Tensor:
        total = torch.zeros(())
        for dependent in (False, True):
            loss = loss_of(dependent)
            loss.backward()
            total += loss.detach()
        return total

    def _decide(self, padded: Padded, dependent: bool) -> tuple[Tensor, Tensor, Tensor]:
        """log π, actions and what agents tell each other; independent agents draw together, as ours do."""
        avail, rng = padded.batch.avail, self.own.rng

        def choose(logits: Tensor, avail: Tensor) -> Tensor:
            return sample(log_softmax(logits, avail), rng) if dependent else logits.argmax(-1)

        logits, action, said = in_turn(self.own.controller.agent, padded, dependent, choose)
        log_pi = log_softmax(logits, avail)
        return log_pi, action if dependent else sample(log_pi.detach(), rng), said

    def _values(self, critics: Any, padded: Padded, action: Tensor, dependent: bool) -> Tensor:
        joint = nn.functional.one_hot(action, self.n_actions).float()
        said = torch.cat([padded.ids.expand(*joint.shape[:2], -1, -1), joint], -1)
        h = at_once(critics.head.agent, padded.inputs()[:, : action.shape[1]])
        return dependent_values(critics.head, h, said, padded.batch.extras["visible"][:, : action.shape[1]], dependent)

    def _actor(self, padded: Padded, dependent: bool, alpha: float) -> Tensor:
        log_pi, action, _ = self._decide(padded, dependent)
        q = self._values(self.own.critics, padded, action, dependent).detach()
        pi = log_pi.softmax(-1)
        each = (pi * torch.where(padded.batch.avail, alpha * log_pi - q, 0.0)).sum(-1)
        return padded.mean(each[:, :-1])

    def _critic(self, padded: Padded, dependent: bool, alpha: float) -> Tensor:
        batch, own = padded.batch, self.own
        log_pi, action, _ = self._decide(padded, dependent)
        log_prob = taken(log_pi.detach(), action)
        slow = self._values(own.target.slow, padded, action, dependent)
        total = monotone(own.target.slow.mixer, taken(slow, action), batch.state, nn.Identity())
        entropy = -(log_prob.mean(-1) if self.cfg.entropy_reduction == "mean" else log_prob.sum(-1))
        y = td_lambda(padded, total.detach() + alpha * entropy, self.cfg.gamma, self.cfg.td_lambda)
        q = self._values(own.critics, padded, batch.action, dependent)
        total = monotone(own.critics.mixer, taken(q, batch.action), batch.state[:, :-1], nn.Identity())
        return padded.mean((total - y).square())


REFERENCES: dict[str, type[Reference]] = {"qmix": QMIX, "fop": FOP, "macpf": MACPF}
"""By the name of the algorithm."""
