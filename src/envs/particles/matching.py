"""The cheapest one-to-one assignment of n agents to n targets, exact, for all rows at once."""

from __future__ import annotations

from functools import lru_cache
from itertools import permutations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

FEW = 6
"""Up to so many agents all n! assignments are compared (720 for 6): five operations, whatever the numbers."""


def matched(cost: Float[Tensor, "n n b"]) -> Float[Tensor, "n b"]:
    """Each agent's cost in the assignment with the smallest sum; ``cost[i, j]`` is that of agent i at target j."""
    index = by_permutations(cost) if len(cost) <= FEW else by_paths(cost)
    return cost.gather(1, index[:, None])[:, 0]


def by_permutations(cost: Float[Tensor, "n n b"]) -> Int[Tensor, "n b"]:
    """The target of each agent, by looking at every permutation."""
    table, places = _permutations(len(cost), cost.device)
    totals = cost.flatten(0, 1).t() @ places
    return table[totals.argmin(1)].t()


@lru_cache(maxsize=32)
def _permutations(n: int, device: torch.device) -> tuple[Int[Tensor, "p n"], Float[Tensor, "nn p"]]:
    """All permutations, and for each of them which entries of the flattened cost it consists of (1, else 0)."""
    table = torch.tensor(list(permutations(range(n))), device=device)
    entries = table + n * torch.arange(n, device=device)
    return table, torch.zeros(len(table), n * n, device=device).scatter_(1, entries, 1.0).t()


def by_paths(cost: Float[Tensor, "n n b"]) -> Int[Tensor, "n b"]:
    """The target of each agent, by shortest augmenting paths (Jonker and Volgenant 1987; Crouse 2016).

    One agent after the other is placed, moving those before it where that is cheaper. All rows walk together, agent i
    at most i steps: at most n (n + 1) / 2 rounds of some 20 operations on [n, b].
    """
    search = _Search(cost)
    for agent in range(len(cost)):
        search.place(agent)
    return search.agent_at.argsort(0)


class _Search:
    """Assignments of the first agents, and the prices u (agents) and v (targets) that prove them optimal."""

    def __init__(self, cost: Tensor) -> None:
        n, _, b = cost.shape
        self.cost, self.n = cost, n
        self.u, self.v = cost.new_zeros(n, b), cost.new_zeros(n, b)
        self.agent_at = torch.full((n, b), n, device=cost.device)  # n: nobody
        self.number = torch.arange(n, device=cost.device)[:, None]

    def place(self, agent: int) -> None:
        """Adds ``agent``: Dijkstra's search for the cheapest way to a free target, then everybody moves along it."""
        n, b = self.n, self.cost.shape[-1]
        at = torch.full((b,), agent, device=self.cost.device)
        reached = torch.zeros(n, b, dtype=torch.bool, device=self.cost.device)
        length, via = torch.full_like(self.u, torch.inf), torch.zeros_like(self.agent_at)
        shortest, goal = self.u.new_zeros(b), at.new_full((b,), n)
        for _ in range(agent + 1):
            walking = goal == n
            if not bool(walking.any()):
                break
            length, via = self._look(at, shortest, walking & ~reached, length, via)
            ahead, target = length.masked_fill(reached, torch.inf).min(0)
            shortest = torch.where(walking, ahead, shortest)
            reached = reached | (walking & (self.number == target))
            at = torch.where(walking, self.agent_at.gather(0, target[None])[0], at)
            goal = torch.where(walking & (at == n), target, goal)
            at = at.clamp(max=n - 1)
        self._reprice(agent, reached, shortest, length)
        self._move(agent, goal, via)

    def _look(
        self, at: Tensor, shortest: Tensor, open_: Bool[Tensor, "n b"], length: Tensor, via: Tensor
    ) -> tuple[Tensor, Tensor]:
        """From agent ``at``: shorter ways to the targets of ``open_``."""
        row = at[None, None].expand(1, self.n, -1)
        ways = shortest + self.cost.gather(0, row)[0] - self.u.gather(0, at[None]) - self.v
        better = open_ & (ways < length)
        return torch.where(better, ways, length), torch.where(better, at, via)

    def _reprice(self, agent: int, reached: Tensor, shortest: Tensor, length: Tensor) -> None:
        """Keeps all reduced costs at least 0, and 0 along the assignment."""
        slack = torch.where(reached, shortest - length, 0)
        self.v = self.v - slack
        occupied = self.agent_at.clamp(max=self.n - 1)
        self.u = self.u.scatter_add(0, occupied, torch.where(self.agent_at < self.n, slack, 0))
        self.u[agent] += shortest

    def _move(self, agent: int, goal: Tensor, via: Tensor) -> None:
        """Walks back from the free target ``goal``; each agent on the way takes the target ahead of it."""
        seat = self.agent_at.argsort(0)  # seat[i]: the target of agent i, for those who have one
        walking, target = torch.ones_like(goal, dtype=torch.bool), goal
        for _ in range(agent + 1):
            mover = via.gather(0, target[None])[0]
            here = walking & (self.number == target)
            self.agent_at = torch.where(here, mover, self.agent_at)
            walking = walking & (mover != agent)
            if not bool(walking.any()):
                break
            target = torch.where(walking, seat.gather(0, mover[None])[0], target)
