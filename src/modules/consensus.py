"""The primal-dual agreement of agents on the parameters that they share (F2A2; algorithms.md 10.2, 10.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from core.device import sent
from core.precision import full_precision
from rl.consensus import attraction, averaging, dual_step, topology

FLOAT_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class GraphConfig:
    """Keys of the communication graph."""

    topology_share: float = 1.0
    """p: share of the edges beyond a ring, drawn anew with every update; 1 is the complete graph, 0 no edge at all."""
    undirected: bool = False
    """Whether edges go both ways; otherwise who is heard need not hear."""

    def check_graph(self) -> None:
        """Raises ValueError for values that cannot be meant."""
        if not 0 <= self.topology_share <= 1:
            raise ValueError(f"topology_share={self.topology_share} must lie between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class ConsensusConfig(GraphConfig):
    """Keys of the agreement."""

    beta: float = 0.1
    """β: weight of the penalty and step of the duals; at 0 nobody would ever agree (T-42)."""
    exchange_interval: float | None = 1.0
    """Mean number of updates from one exchange of an agent to its next; null: never."""
    exchange_std: float = 0.0
    """Standard deviation of that number, which is drawn for each agent, rounded, and at least 1."""
    sync_init: bool = True
    """Whether all copies start equal."""
    stale_pull: bool = True
    """Whether an agent is drawn to the last average all the time, as written, or only right after receiving it."""
    lambda_center: bool = False
    """Whether agents subtract the mean of the duals around them, which they then exchange, too (T-51)."""

    def check_consensus(self) -> None:
        """Raises ValueError for values that cannot be meant."""
        self.check_graph()
        if self.beta <= 0:
            raise ValueError(f"beta={self.beta} must be positive: with 0 the copies never agree (T-42)")
        if self.exchange_interval is not None and self.exchange_interval < 1:
            raise ValueError(f"exchange_interval={self.exchange_interval} must be at least 1, or null for never")
        if self.exchange_std < 0:
            raise ValueError(f"exchange_std={self.exchange_std} must not be negative")


class Graph:
    """Who hears whom, by random streams of its own: no share of edges moves what a learner draws elsewhere."""

    def __init__(self, n: int, cfg: GraphConfig, rng: torch.Generator) -> None:
        """``rng`` is drawn from once, for the seed of the graph's own generator."""
        self.cfg = cfg
        seed = int(torch.randint(2**62, (), generator=rng, device=rng.device))
        self.rng = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(n, generator=self.rng)

    def draw(self) -> Bool[Tensor, "n n"]:
        """The edges of this update, in host memory."""
        return topology(self.order, self.cfg.topology_share, self.cfg.undirected, self.rng)

    def state_dict(self) -> dict[str, Tensor]:
        """The ring and the generator."""
        return {"order": self.order, "rng": self.rng.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """The inverse of ``state_dict``."""
        self.order = state["order"]
        self.rng.set_state(state["rng"].cpu())


class Consensus(nn.Module):
    r"""Primal-dual hybrid gradient over the copies :math:`\tilde w_i` of shared parameters, stacked as [N, ...].

    Each update, ``pull`` says what is added to the copies' gradients; then ``exchange`` lets those agents whose turn
    it is publish their copies, average what they hear and correct their duals.

    Everybody publishes before anybody averages, so that the duals' sum stays 0 in a complete graph (T-41). Nothing
    draws an agent anywhere before its first exchange (T-43), and one without neighbours never exchanges (T-44). With
    some edges only, or with turns that differ, the sum is not 0 and the fixed point is biased: a property of the
    method, watched by ``dual_mean`` (T-51).
    """

    agreed: Tensor
    dual: Tensor
    published: Tensor

    def __init__(self, shared: Sequence[nn.Parameter], cfg: Any, rng: torch.Generator) -> None:
        """``shared`` are the copies, [N, ...] each; ``cfg`` has the keys of ``ConsensusConfig``."""
        super().__init__()
        self.cfg, self._shared = cfg, tuple(shared)  # in a tuple: the parameters are others' to save
        n = len(shared[0])
        if cfg.sync_init:
            for p in shared:
                p.data.copy_(p.data[:1].expand_as(p).clone())
        self.graph = Graph(n, cfg, rng)
        for name in ("agreed", "dual", "published"):
            self.register_buffer(name, torch.zeros_like(self.copies()))
        # What decides who exchanges is kept in host memory: the host never waits for a device to know it.
        self.met = torch.zeros(n, dtype=torch.bool)
        self.fresh = torch.zeros(n, dtype=torch.bool)
        self.known = torch.zeros(n, dtype=torch.bool)
        self.wait = torch.zeros(n, dtype=torch.long)
        self._rest(torch.ones(n, dtype=torch.bool))

    def copies(self) -> Float[Tensor, "n p"]:
        """All shared parameters of every agent in a row."""
        return torch.cat([p.detach().flatten(1) for p in self._shared], 1)

    @torch.no_grad()
    def pull(self, params: Sequence[Tensor]) -> list[Tensor | None]:
        """λ_i + β(w̃_i - w_i) for each of ``params``, 0 for agents that nothing pulls.

        None for what is not shared, and for all where nobody is pulled.
        """
        pulled = self.met if self.cfg.stale_pull else self.fresh
        if not pulled.any():
            return [None] * len(params)
        known, start = {}, 0
        for p in self._shared:
            part = slice(start, start := start + p[0].numel())
            known[id(p)] = p, part
        return [self._force(*known[id(p)], pulled) if id(p) in known else None for p in params]

    def _force(self, p: Tensor, part: slice, pulled: Tensor) -> Tensor:
        force = attraction(p.detach().flatten(1), self.agreed[:, part], self.dual[:, part], self.cfg.beta)
        force = force if pulled.all() else torch.where(self._rows(pulled), force, 0)
        return force.view_as(p)

    @torch.no_grad()
    @full_precision()
    def exchange(self) -> dict[str, Tensor]:
        """One more update has passed: those whose turn it is publish, average and correct their duals."""
        heard = self.graph.draw()
        self.wait -= 1
        due = self.wait <= 0
        copies = self.copies()
        self.published = copies if due.all() else torch.where(self._rows(due), copies, self.published)
        self.known |= due
        heard &= self.known
        turn = due & heard.any(1)
        if turn.any():
            self._agree(copies, heard, turn)
        self.met |= turn
        self.fresh = turn
        self._rest(due)
        floats = int(heard[turn].sum()) * copies.shape[1] * (2 if self.cfg.lambda_center else 1)
        away = (copies - self.agreed).norm(dim=1)
        return {
            "exchanged_bytes": torch.tensor(float(FLOAT_BYTES * floats)),
            "copies_spread": (copies - copies.mean(0)).norm(dim=1).mean(),
            "copies_to_agreed": torch.where(self._rows(self.met)[:, 0], away, 0).mean(),
            "dual_mean": self.dual.mean(0).norm(),
        }

    def _agree(self, copies: Tensor, heard: Tensor, turn: Tensor) -> None:
        n = len(turn)
        if int(heard.sum()) == n * (n - 1):  # complete: one mean for all, so that the cost is linear in N
            mean, around = self.published.mean(0, keepdim=True), self.dual.mean(0, keepdim=True)
        else:
            weight = sent(averaging(heard), copies.device)
            mean, around = weight @ self.published, weight @ self.dual
        dual = self.dual - around if self.cfg.lambda_center else self.dual
        dual = dual_step(copies, mean, dual, self.cfg.beta)
        if turn.all():
            self.agreed, self.dual = mean.expand_as(copies).contiguous(), dual
            return
        rows = self._rows(turn)
        self.agreed, self.dual = torch.where(rows, mean, self.agreed), torch.where(rows, dual, self.dual)

    def _rows(self, which: Tensor) -> Tensor:
        return sent(which, self.dual.device)[:, None]

    def _rest(self, which: Bool[Tensor, " n"]) -> None:
        """Draws after how many updates the agents of ``which`` exchange again; always the same number of draws."""
        draws = torch.randn(len(which), generator=self.graph.rng)
        if self.cfg.exchange_interval is None:
            self.wait[:] = torch.iinfo(torch.long).max // 2
            return
        steps = (self.cfg.exchange_interval + self.cfg.exchange_std * draws).round().clamp(min=1).long()
        self.wait = torch.where(which, steps, self.wait)

    def get_extra_state(self) -> dict[str, Any]:
        """Part of ``state_dict``: the graph, and whose turn it is when."""
        turns = {name: getattr(self, name).clone() for name in ("met", "fresh", "known", "wait")}
        return turns | {"graph": self.graph.state_dict()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """The inverse of ``get_extra_state``."""
        for name in ("met", "fresh", "known", "wait"):
            setattr(self, name, state[name].cpu().clone())
        self.graph.load_state_dict(state["graph"])
