"""An algorithm: its networks, its optimisers, and one ``update``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from controllers.base import Controller
from core.config import ConfigError, Settings
from core.graphs import Graphed, fixed
from core.precision import full_precision, in_precision
from core.specs import EnvSpec, EpisodeBatch
from memory.replay import Replay
from modules.target import Target
from rl.returns import td_lambda

Metrics = dict[str, Tensor]


def lambda_returns(
    batch: EpisodeBatch, value: Float[Tensor, "b states *n"], gamma: float, lam: float
) -> Float[Tensor, "b t *n"]:
    """TD(λ) of the values X of every state, whether the batch is padded or packed."""

    def backed_up(whole: EpisodeBatch, x: Tensor) -> Tensor:
        return td_lambda(whole.reward, whole.terminated, whole.mask, x, gamma, lam)

    return batch.over_time(backed_up, value)


def gradients_of(
    loss: Tensor | Sequence[Tensor], params: Sequence[Tensor], *, allow_unused: bool = False
) -> tuple[Tensor, ...]:
    """∂ loss / ∂ params, of the sum of several losses.

    Where networks are evaluated in fewer bits, the way back does not round any further.
    """
    with full_precision():
        return torch.autograd.grad(loss, params, allow_unused=allow_unused)


def means(every: list[Metrics]) -> Metrics:
    """The mean of every metric over several gradient steps."""
    return {key: torch.stack([metrics[key] for metrics in every]).mean() for key in every[0]}


def require(controller: Controller, kind: type[Controller], settings: Settings) -> None:
    """Refuses another way of acting than a learner improves.

    Raises:
        ConfigError: the controller is not of ``kind``.
    """
    if not isinstance(controller, kind):
        needed = kind.__module__.rpartition(".")[2]
        raise ConfigError([f"'mac' is '{settings['mac']}', but {settings['learner']} needs mac={needed}"])


class Learner(nn.Module, ABC):
    """Owns every parameter of a run; its ``state_dict`` is complete: networks, targets, optimisers, generator."""

    recordable = False
    """True: ``update`` learns by ``descend_by`` alone, of losses that need nothing but the batch (key cuda_graphs)."""
    on_policy = False
    """True: every update is of ``batch_size`` episodes that no update has seen."""
    batches_seeds = False
    """True: its code may run under ``torch.vmap`` over several seeds (see ``many``), and a test says so."""

    @dataclass(frozen=True, kw_only=True)
    class Config:
        """Keys that every algorithm has; the defaults are the field's common ones (algorithms.md section 17)."""

        lr: float = 5e-4
        """Learning rate."""
        optimiser: Literal["rmsprop", "adam"] = "rmsprop"
        """RMSprop has PyMARL's alpha 0.99 and epsilon 1e-5."""
        adam_eps: float = 1e-8
        """Adam's epsilon."""
        gamma: float = 0.99
        """Discount factor."""
        batch_size: int = 32
        """Episodes per update."""
        buffer_size: int = 5000
        """Episodes that the replay keeps."""
        buffer_bytes: int = 8_000_000_000
        """Bytes that the replay may take; the oldest episodes go first."""
        buffer_steps: int | None = None
        """Steps that are enough for the replay: the oldest episode goes where it holds these without it."""
        buffer_format: Literal["dense", "sparse", "half"] = "dense"
        """How the replay keeps observations and states: as they are; exactly, but only what is not zero (less memory,
        and each batch takes longer to draw); or with observations rounded to 16 bits."""
        buffer_device: Literal["auto", "cpu", "cuda"] = "auto"
        """Where the replay is; auto: where the networks are, but in host memory where ``buffer_bytes`` are more than
        half of what the GPU has free when the run begins."""
        burn_in: int = 0
        """Episodes collected before the first update (at least batch_size)."""
        grad_norm_clip: float = 10.0
        """Largest norm of the gradient of one optimiser's parameters."""

        def __post_init__(self) -> None:
            """Raises ValueError for values with which no update would ever happen."""
            if not 1 <= self.batch_size <= self.buffer_size:
                raise ValueError(
                    f"batch_size={self.batch_size} must lie between 1 and buffer_size={self.buffer_size}: "
                    "an update draws that many different episodes from the replay"
                )

    def __init__(
        self, spec: EnvSpec, controller: Controller, cfg: Any, settings: Settings, rng: torch.Generator
    ) -> None:
        """``rng`` is the source of all randomness in ``update``; ``settings`` builds the selected components.

        What the host must know, such as an order of agents, is drawn from ``host_rng``: from ``rng`` it would have to
        be waited for, where that one is on a GPU.
        """
        super().__init__()
        self.spec, self.controller, self.cfg, self.settings, self.rng = spec, controller, cfg, settings, rng
        self.host_rng = rng if rng.device.type == "cpu" else torch.Generator().manual_seed(rng.initial_seed())
        self._optimisers: dict[str, torch.optim.Optimizer] = {}
        self._episodes_seen = 0
        self._graphs: dict[str, Graphed] | None = {} if settings["cuda_graphs"] else None
        """Recordings by the name of the optimiser; None: nothing is recorded."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Networks are evaluated in the precision of the run while a subclass updates them."""
        super().__init_subclass__(**kwargs)
        if "update" in vars(cls):
            cls.update = in_precision(cls.update)  # type: ignore[method-assign]

    @classmethod
    def unmet(cls, spec: EnvSpec) -> str | None:
        """Why this algorithm cannot learn in such an environment, or None."""
        if not spec.discrete:
            return "it needs discrete actions"
        return None if spec.reward == "team" else "it needs one team reward"

    def ready(self, replay: Replay) -> bool:
        """Whether enough episodes have been collected for an update."""
        fresh = replay.added - self._episodes_seen if self.on_policy else len(replay)
        return min(fresh, len(replay)) >= self.cfg.batch_size and replay.added >= self.cfg.burn_in

    @abstractmethod
    def update(self, replay: Replay, t_env: int) -> Metrics:
        """Learns once from the replay; returns scalars as tensors, which are not waited for here."""

    def draw(self, replay: Replay) -> EpisodeBatch:
        """``batch_size`` stored episodes: without padding, or in one of few shapes where updates are recorded."""
        batch = replay.uniform(self.cfg.batch_size)
        return batch.packed() if self._graphs is None else fixed(batch, self.spec)

    def new_episodes(self, replay: Replay) -> int:
        """Episodes collected since the last call: the events that target networks count (algorithms.md T-18)."""
        new = replay.added - self._episodes_seen
        self._episodes_seen = replay.added
        return new

    def optimise(self, name: str, *modules: nn.Module, lr: float, weight_decay: float = 0.0) -> None:
        """Creates the optimiser ``name`` over the parameters of ``modules``."""
        params = [p for m in modules for p in m.parameters() if p.requires_grad]
        keys: dict[str, Any] = {"lr": lr, "weight_decay": weight_decay, "capturable": self._graphs is not None}
        if self.cfg.optimiser == "adam":
            self._optimisers[name] = torch.optim.Adam(params, eps=self.cfg.adam_eps, fused=True, **keys)
        else:
            self._optimisers[name] = torch.optim.RMSprop(params, alpha=0.99, eps=1e-5, foreach=True, **keys)

    def descend(self, name: str, loss: Tensor, clip: float | None = None) -> Metrics:
        """One gradient step of optimiser ``name``, clipped to the norm ``clip`` (None: ``grad_norm_clip``).

        Gradients that reach other parameters are dropped.
        """
        return self.descend_together({name: loss}, clip)

    def descend_together(self, losses: dict[str, Tensor], clip: float | None = None) -> Metrics:
        """``descend`` of several optimisers in one backward pass: no loss may reach another one's parameters."""
        owned = {name: [p for g in self._optimisers[name].param_groups for p in g["params"]] for name in losses}
        params = [p for own in owned.values() for p in own]
        gradients = gradients_of(list(losses.values()), params, allow_unused=True)
        for param, gradient in zip(params, gradients, strict=True):
            # Fused optimisers take a gradient to lie in memory as its parameter does; those of stacks are transposed.
            param.grad = None if gradient is None else gradient.contiguous()
        metrics: Metrics = {}
        for name, own in owned.items():
            norm = nn.utils.clip_grad_norm_(own, self.cfg.grad_norm_clip if clip is None else clip)
            self._optimisers[name].step()
            metrics |= {f"{name}_loss": losses[name].detach(), f"{name}_grad_norm": norm}
        return metrics

    def descend_by(self, name: str, loss: Callable[[EpisodeBatch], Tensor], batch: EpisodeBatch) -> Metrics:
        """``descend`` by a loss of what ``draw`` has drawn, recorded where updates are."""
        if self._graphs is None:
            return self.descend(name, loss(batch))
        if name not in self._graphs:
            self._graphs[name] = Graphed(lambda static: self.descend(name, loss(static)))
        return self._graphs[name](batch)

    def descend_each(self, name: str, losses: Iterable[Tensor], target: Target) -> Metrics:
        """One gradient step for each loss, computed only when it is its turn; ``target`` counts the steps.

        Returns the means of the steps' metrics.
        """
        every: list[Metrics] = []
        for loss in losses:
            every.append(self.descend(name, loss))
            target.step()
        return means(every)

    def get_extra_state(self) -> dict[str, Any]:
        """Part of ``state_dict``: what is not a tensor of a module."""
        return {
            "optimisers": {name: optimiser.state_dict() for name, optimiser in self._optimisers.items()},
            "rng": self.rng.get_state(),
            "host_rng": self.host_rng.get_state(),
            "episodes_seen": self._episodes_seen,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        for name, optimiser in self._optimisers.items():
            optimiser.load_state_dict(_as_here(optimiser, state["optimisers"][name]))
        if self._graphs is not None:
            self._graphs.clear()  # they know where the optimisers' former state was
        for name in ("rng", "host_rng"):
            _restore(getattr(self, name), state.get(name, state["rng"]))
        self._episodes_seen = state["episodes_seen"]


def _restore(rng: torch.Generator, state: Tensor) -> None:
    """Goes on with a stream; one of another kind of device, which has a state of another size, begins anew."""
    if state.numel() == rng.get_state().numel():
        rng.set_state(state.cpu())


def _as_here(optimiser: torch.optim.Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """A state whose steps are counted where this run counts them: recordings need them on the GPU, others may not."""
    own = [{key: x for key, x in group.items() if key == "capturable"} for group in optimiser.param_groups]
    return saved | {"param_groups": [group | here for group, here in zip(saved["param_groups"], own, strict=True)]}
