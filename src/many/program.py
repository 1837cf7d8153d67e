"""One learner's code, run once for the parameters of several learners."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from core.schedule import EachSeed
from learners.base import Learner, Metrics
from modules.layers import RecurrentEncoder
from modules.target import Target

Extracted = Tensor | tuple[Tensor, ...]


class _Outside(torch.autograd.Function):
    """In the middle of a program for one seed, work on the tensors of all of them: its rule for ``torch.vmap``."""

    @staticmethod
    def forward(work: Callable[..., Extracted], *_inputs: Tensor) -> Extracted:
        """Never called: there is no such work for one seed."""
        raise RuntimeError(f"{work} belongs into torch.vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is differentiated here."""

    @staticmethod
    def vmap(_info: Any, in_dims: Any, work: Callable[..., Extracted], *inputs: Tensor) -> tuple[Extracted, Any]:
        """``work`` with its inputs as [seeds, ...], or as they are where all seeds have the same."""
        stacked = [x if d is None else x.movedim(d, 0) for x, d in zip(inputs, in_dims[1:], strict=True)]
        out = work(*stacked)
        return out, tuple(0 for _ in out) if isinstance(out, tuple) else 0


class _Draws(TorchFunctionMode):
    """Whatever is drawn from a stand-in for the seeds' generators is drawn from each of these, in its own turn."""

    def __init__(self, program: Program, stand_in: torch.Generator, each: Sequence[torch.Generator]) -> None:
        super().__init__()
        self.program, self.stand_in, self.each = program, stand_in, each
        self.waits: Sequence[bool] = [False] * len(each)
        """Seeds that draw nothing, and get zeros."""

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is not self.stand_in:
            return func(*args, **kwargs)

        def drawn(*_token: Tensor) -> Tensor:
            own = [None if w else func(*args, **kwargs | {"generator": g})
                   for g, w in zip(self.each, self.waits, strict=True)]  # fmt: skip
            example = next(x for x in own if x is not None)
            return torch.stack([torch.zeros_like(example) if x is None else x for x in own])

        return self.program.outside(drawn)


class _Call(nn.Module):
    """Makes any function of a learner a ``forward``, which ``functional_call`` runs with other parameters."""

    def __init__(self, learner: nn.Module) -> None:
        super().__init__()
        self.learner = learner

    def forward(self, work: Callable[[], Any]) -> Any:
        return work()


class Program:
    """The learners of S seeds with all parameters stacked, [S, ...]; their code runs once, under ``torch.vmap``.

    The stacks take the place of the learners' own memory: every learner's parameters are views of them, so that each
    can at any time act, be saved or be tested by itself; ``settle`` brings what is no parameter to the same state.
    The code that runs is that of one more learner, the template, whose parameters mean nothing. A gradient of the sum
    of all seeds' losses is every seed's own, since nothing of one seed enters another one's loss.
    """

    def __init__(self, learners: Sequence[Any], template: Any) -> None:
        """``template`` is a further learner of the same configuration.

        Raises:
            ValueError: the learners are not at the same point of their training.
        """
        self.learners, self.template, self.n = list(learners), template, len(learners)
        self._refuse_apart()
        for module in template.modules():
            if isinstance(module, RecurrentEncoder):
                module.fused = False
        names = [name for name, _ in _tensors(template)]
        own = [dict(_tensors(learner)) for learner in self.learners]
        self.state = {name: _taken_over([tensors[name] for tensors in own]) for name in names}
        self._of = {id(tensor): self.state[name] for name, tensor in _tensors(template)}
        self.optimisers = {name: self._stacked(name) for name in template._optimisers}
        self.index = torch.arange(self.n, device=next(iter(self.state.values())).device)
        self._token = self.index
        vars(template)["descend_together"] = self._descend
        self._copy_host_state(self.learners[0], template)
        self._caller, self._actor = _Call(template), _Call(template.controller)
        self._whole = {f"learner.{name}": x for name, x in self.state.items()}
        acting = [name for name, _ in _tensors(template.controller)]
        self._acting = {f"learner.{name}": self.state[f"controller.{name}"] for name in acting}
        self.learning = _Draws(self, template.rng, [learner.rng for learner in self.learners])

    def update(self, replay: Any, t_env: Sequence[int]) -> Metrics:
        """``Learner.update`` of all seeds; metrics are [S]. ``replay`` is a ``JointReplay``."""

        def work() -> Metrics:
            metrics: Metrics = self.template.update(replay, self.steps(t_env))
            return metrics

        return self._run(self._caller, self._whole, work, self.learning)

    def act(self, work: Callable[..., Any], draws: _Draws, *inputs: Any) -> Any:
        """``work(controller, *inputs)`` of all seeds; tensors in and out are [S, ...]."""

        def one(*own: Any) -> Any:
            return work(self.template.controller, *own)

        return self._run(self._actor, self._acting, one, draws, *inputs)

    def draws(self, each: Sequence[torch.Generator]) -> _Draws:
        """What draws from the seeds' generators ``each`` in place of ``draws.stand_in``."""
        return _Draws(self, torch.Generator(device=each[0].device), each)

    def outside(self, work: Callable[..., Extracted], *inputs: Tensor) -> Any:
        """From within: what ``work`` makes of all seeds' ``inputs`` [S, ...], one slice of it for each seed."""
        return _Outside.apply(lambda _token, *own: work(*own), self._token, *inputs)

    def steps(self, t_env: Sequence[int]) -> int:
        """From within: the environment steps of every seed, in the place of one seed's."""
        if len(set(t_env)) == 1:
            return t_env[0]
        each = torch.tensor(t_env, dtype=torch.double)
        return EachSeed.of(max(t_env), self.outside(lambda: each.to(self.index.device)))

    def settle(self) -> None:
        """Brings counters and optimisers of every learner to where the program is."""
        for k, learner in enumerate(self.learners):
            self._copy_host_state(self.template, learner)
            for name, stacked in self.optimisers.items():
                for p, own in zip(_params(stacked), _params(learner._optimisers[name]), strict=True):
                    values = stacked.state[p].items()
                    learner._optimisers[name].state[own] = {key: self._slice(x, p, k) for key, x in values}

    def _run(
        self, caller: _Call, state: dict[str, Tensor], work: Callable[..., Any], draws: _Draws, *inputs: Any
    ) -> Any:
        def one(own: dict[str, Tensor], token: Tensor, *xs: Any) -> Any:
            self._token = token
            with draws:
                return functional_call(caller, own, (lambda: work(*xs),))

        return torch.vmap(one)(state, self.index, *inputs)

    def _descend(self, losses: dict[str, Tensor], clip: float | None = None) -> Metrics:
        """``Learner.descend_together`` of all seeds."""
        largest = self.template.cfg.grad_norm_clip if clip is None else clip

        def work(*each: Tensor) -> tuple[Tensor, ...]:
            return self._step(dict(zip(losses, each, strict=True)), largest)

        norms = self.outside(work, *losses.values())
        metrics: Metrics = {f"{name}_loss": loss.detach() for name, loss in losses.items()}
        return metrics | {f"{name}_grad_norm": norm for name, norm in zip(losses, norms, strict=True)}

    def _step(self, losses: dict[str, Tensor], clip: float) -> tuple[Tensor, ...]:
        """One gradient step of every seed along its own losses, clipped by their norms, which are returned."""
        owned = [_params(self.optimisers[name]) for name in losses]
        params = [p for own in owned for p in own]
        gradients = torch.autograd.grad([loss.sum() for loss in losses.values()], params, allow_unused=True)
        for param, gradient in zip(params, gradients, strict=True):
            param.grad = gradient
        return tuple(self._clipped_step(name, own, clip) for name, own in zip(losses, owned, strict=True))

    def _clipped_step(self, name: str, params: list[Tensor], clip: float) -> Tensor:
        found = [(p, p.grad) for p in params if p.grad is not None]
        norm = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for _, g in found], 1)
        norm = torch.linalg.vector_norm(norm, dim=1)
        factor = (clip / (norm + 1e-6)).clamp(max=1.0)
        for param, gradient in found:
            param.grad = _scaled(gradient, factor)
        self.optimisers[name].step()
        return norm

    def _stacked(self, name: str) -> torch.optim.Optimizer:
        """The optimiser ``name`` of all seeds, at the point at which they are."""
        example = self.template._optimisers[name]
        params = [self._of[id(p)] for p in _params(example)]
        made: torch.optim.Optimizer = type(example)(params, **example.defaults)
        each = [learner._optimisers[name] for learner in self.learners]
        for p, *own in zip(params, *map(_params, each), strict=True):
            states = [optimiser.state.get(q, {}) for optimiser, q in zip(each, own, strict=True)]
            made.state[p] = {key: self._joined([state[key] for state in states], own[0]) for key in states[0]}
        return made

    def _joined(self, values: list[Tensor], p: Tensor) -> Tensor:
        """Something that an optimiser keeps, of all seeds: stacked like the parameter, or common to all."""
        return torch.stack(values) if values[0].shape == p.shape and p.dim() else values[0].clone()

    def _slice(self, value: Tensor, stacked: Tensor, k: int) -> Tensor:
        return value[k] if value.shape == stacked.shape else value.clone()

    def _refuse_apart(self) -> None:
        points = [_point(learner) for learner in self.learners]
        if any(point != points[0] for point in points):
            raise ValueError(f"their episodes and gradient steps are {', '.join(map(str, points))}")

    @staticmethod
    def _copy_host_state(source: Learner, to: Learner) -> None:
        to._episodes_seen = source._episodes_seen
        for old, new in zip(_targets(source), _targets(to), strict=True):
            new.count = old.count


def _scaled(gradient: Tensor, factor: Tensor) -> Tensor:
    """Every seed's gradient times its factor, laid out like the parameter: fused optimisers rely on it."""
    return (gradient * factor.view(-1, *[1] * (gradient.dim() - 1))).contiguous()


def _tensors(module: nn.Module) -> Iterable[tuple[str, Tensor]]:
    """Parameters and buffers, each once."""
    yield from module.named_parameters()
    yield from module.named_buffers()


def _targets(learner: nn.Module) -> list[Any]:
    return [module for module in learner.modules() if isinstance(module, Target)]


def _params(optimiser: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimiser.param_groups for p in group["params"]]


def _point(learner: Any) -> tuple[int, ...]:
    """Episodes, and steps of every optimiser."""
    steps = [int(max((s["step"] for s in o.state.values()), default=0)) for o in learner._optimisers.values()]
    return (learner._episodes_seen, *(target.count for target in _targets(learner)), *steps)


def _taken_over(each: list[Tensor]) -> Tensor:
    """All seeds' values of one parameter, [S, ...]; from now on theirs are views of it."""
    stacked = torch.stack([x.detach() for x in each])
    for x, own in zip(each, stacked.unbind(0), strict=True):
        x.data = own
    return stacked.requires_grad_(each[0].requires_grad)
