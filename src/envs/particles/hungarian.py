"""The Hungarian algorithm as a kernel: one thread finds the cheapest assignment of one row (Kuhn 1955; Munkres 1957).

Agents are placed one after the other, each along the cheapest path of exchanges to a free target; prices of agents and
targets keep the lengths of these paths from being negative. That takes n^3 steps. Agents and targets count from 1 here;
target 0 is where the agent that is being placed waits.
"""

from __future__ import annotations

from typing import no_type_check

import warp as wp

FAR = 3.0e38


@no_type_check
@wp.struct
class Search:
    """What the threads write on: [b, n + 1] each, entry 0 being the waiting agent's."""

    agent_price: wp.array2d(dtype=wp.float32)
    target_price: wp.array2d(dtype=wp.float32)
    length: wp.array2d(dtype=wp.float32)
    """Of the cheapest way to a target, as far as known."""
    before: wp.array2d(dtype=wp.int32)
    """The target from which that way comes."""
    reached: wp.array2d(dtype=wp.int32)
    """1 where the cheapest way is known for certain."""
    agent_at: wp.array2d(dtype=wp.int32)
    """Who has a target; 0: nobody."""


@no_type_check
@wp.func
def look(cost: wp.array3d(dtype=wp.float32), s: Search, n: int, at: int, row: int):
    """Shorter ways by way of the agent at target ``at``; the nearest target that is not yet reached."""
    agent = s.agent_at[row, at]
    nearest = int(0)
    shortest = float(FAR)
    for j in range(1, n + 1):
        if s.reached[row, j] == 0:
            way = cost[agent - 1, j - 1, row] - s.agent_price[row, agent] - s.target_price[row, j]
            if way < s.length[row, j]:
                s.length[row, j] = way
                s.before[row, j] = at
            if s.length[row, j] < shortest:
                shortest = s.length[row, j]
                nearest = j
    return nearest


@no_type_check
@wp.func
def reprice(s: Search, n: int, nearest: int, row: int):
    """Changes the prices so that the way to the nearest target costs nothing, and no way costs less."""
    shortest = s.length[row, nearest]
    for j in range(n + 1):
        if s.reached[row, j] == 1:
            agent = s.agent_at[row, j]
            s.agent_price[row, agent] = s.agent_price[row, agent] + shortest
            s.target_price[row, j] = s.target_price[row, j] - shortest
        else:
            s.length[row, j] = s.length[row, j] - shortest


@no_type_check
@wp.func
def place(cost: wp.array3d(dtype=wp.float32), s: Search, n: int, agent: int, row: int):
    """Finds a target for one more agent."""
    s.agent_at[row, 0] = agent
    for j in range(n + 1):
        s.length[row, j] = FAR
        s.reached[row, j] = 0
    at = int(0)
    for _ in range(agent):
        if at == 0 or s.agent_at[row, at] > 0:
            s.reached[row, at] = 1
            at = look(cost, s, n, at, row)
            reprice(s, n, at, row)
    for _ in range(agent):
        if at > 0:
            before = s.before[row, at]
            s.agent_at[row, at] = s.agent_at[row, before]
            at = before


@no_type_check
@wp.kernel
def assign(cost: wp.array3d(dtype=wp.float32), s: Search, target: wp.array2d(dtype=wp.int64)):
    """``target`` [n, b]: the target of each agent, counted from 0, in the assignment of least cost [n, n, b]."""
    row = wp.tid()
    n = cost.shape[0]
    for j in range(n + 1):
        s.agent_at[row, j] = 0
        s.agent_price[row, j] = 0.0
        s.target_price[row, j] = 0.0
    for agent in range(1, n + 1):
        place(cost, s, n, agent, row)
    for j in range(1, n + 1):
        target[s.agent_at[row, j] - 1, row] = wp.int64(j - 1)
