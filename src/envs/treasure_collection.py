"""Cooperative treasure collection (Iqbal and Sha 2019, MAAC): treasures are found and brought to their banks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from core.picture import Entity, Frame, Stage
from core.registry import ENVS
from envs.particles import physics
from envs.particles.base import ACTIONS, ARROWS
from envs.particles.mixed import ACCEL, MAX_SPEED, Kind, MixedEnv, one_hot
from envs.rows.native import refuse_unknown

COLLECTOR, BANK, TREASURE = 0.05, 0.075, 0.025
"""Radii."""
BANK_MASS = 2.25
TREASURE_BOUND = 0.95
"""Half-side of the square in which treasures appear."""
PRIZE, BUMP, SHAPE = 5.0, 5.0, 0.1
"""For a treasure found or delivered; for touching another collector; per unit of distance to what is wanted."""
NEAREST = 7
"""Of so many collectors a bank that nothing is on the way to minds the middle."""
NOTHING = -1


@ENVS.register
class TreasureCollection(MixedEnv):
    """Collectors take one treasure at a time, whose type says which bank wants it. Everybody sees everything.

    Whenever an empty-handed collector touches a treasure, or a collector its treasure's bank, all agents get 5.
    Collectors lose 5 for each other collector that they touch. Everybody loses a tenth of a distance: an empty-handed
    collector that to the nearest treasure, another one that to its bank, a bank that to the nearest collector with
    something for it; if there is none, that to the middle of the 7 nearest collectors.

    What is touched after a step changes hands before the next one: so a treasure is rewarded before it is taken, is
    seen at the parking place once, and is elsewhere after that, with a new type.
    """

    counts = ("n_collectors", "n_banks", "n_treasures")
    kept = ("holding", "type", "there", "at_treasure", "at_bank")

    @dataclass(frozen=True, kw_only=True)
    class Config(MixedEnv.Config):
        """Keys beside those of both worlds."""

        episode_limit: int = 100
        """Steps after which an episode is cut."""
        n_collectors: int = 6
        """Agents that find and carry."""
        n_banks: int = 2
        """Agents that are delivered to, one for each type of treasure."""
        n_treasures: int = 6
        """How many there are at any time."""
        parked: float = -999.0
        """Both coordinates of a treasure between being taken and appearing again: one step (T-56)."""

    def __init__(self, cfg: Config, n_envs: int, device: torch.device | str, seed: int) -> None:
        cfg = self.settle(cfg)
        c, m, k = cfg.n_collectors, cfg.n_banks, cfg.n_treasures
        self._wide = 4 + 2 * m
        seen = 4 + (c + m - 1) * self._wide + k * (2 + m)
        size = torch.tensor([COLLECTOR] * c + [BANK] * m, device=device)
        mass = torch.tensor([1.0] * c + [BANK_MASS] * m, device=device)
        bodies = physics.bodies(
            size, mass=mass, accel=ACCEL * mass, max_speed=torch.full_like(size, MAX_SPEED), by_mass=True
        )
        kinds = (Kind(c, m + seen), Kind(m, seen))
        super().__init__(cfg, n_envs, device, seed, kinds=kinds, bodies=bodies, n_things=k)
        self._bound = torch.tensor([1.0] * (c + m) + [TREASURE_BOUND] * k, device=self.device)[:, None]
        self._self = torch.eye(c + m, dtype=torch.bool, device=self.device)[..., None]
        self.holding = torch.full((c, n_envs), NOTHING, device=self.device)
        """The type of what a collector holds, or NOTHING."""
        self.type = torch.zeros(k, n_envs, dtype=torch.int64, device=self.device)
        self.there = torch.ones(k, n_envs, dtype=torch.bool, device=self.device)
        """False for treasures that are parked."""
        self.at_treasure = torch.zeros(c, k, n_envs, dtype=torch.bool, device=self.device)
        """Which collectors touched which treasures after the last step."""
        self.at_bank = torch.zeros(c, m, n_envs, dtype=torch.bool, device=self.device)
        # What agents see of each other (place, velocity, whose bank, what is held), and of treasures (place, type).
        self._agents = torch.zeros(c + m, self._wide, n_envs, device=self.device)
        self._agents[c:, 4 : 4 + m] = torch.eye(m, device=self.device)[..., None]
        self._treasures = torch.zeros(k, 2 + m, n_envs, device=self.device)
        self._distance = torch.zeros(c + m, c + m + k, n_envs, device=self.device)

    def label(self) -> str:
        """Name and numbers, for instance ``treasure_collection/6_collectors_2_banks_6_treasures``."""
        cfg = self.cfg
        return f"{super().label()}/{cfg.n_collectors}_collectors_{cfg.n_banks}_banks_{cfg.n_treasures}_treasures"

    # --- what happens -------------------------------------------------------------------------------------------------

    def begin(self, which: Bool[Tensor, " b"]) -> None:
        """Everything somewhere, all hands empty."""
        u = self.scatter(which, self._bound, self.cfg.n_treasures)
        self._update(which, self.type, self._drawn_type(u))
        self.holding.masked_fill_(which, NOTHING)
        self.there.masked_fill_(which, True)
        self.at_treasure.masked_fill_(which, False)
        self.at_bank.masked_fill_(which, False)
        self._measure()

    def act(self, action: Int[Tensor, "b n"], running: Bool[Tensor, " b"]) -> Float[Tensor, "2 m b"]:
        """What was touched after the last step changes hands, then everybody pushes."""
        action = refuse_unknown(action, len(ACTIONS), running)
        gone = ~self.there & running
        self._take(running)
        self._appear(gone)
        wanted = self.at_bank & self._held()
        self.holding.masked_fill_(wanted.any(1) & running, NOTHING)
        return self._pushed(action)

    def _take(self, running: Tensor) -> None:
        """The first empty-handed collector at a treasure takes it; one after the other, as nobody can take two."""
        for j in range(self.cfg.n_treasures):
            can = self.at_treasure[:, j] & (self.holding == NOTHING) & running
            takes = can & (can.cumsum(0) == 1)
            self._update(takes, self.holding, self.type[j])
            self.there[j] &= ~takes.any(0)
        self.landmarks.masked_fill_(~self.there & running, self.cfg.parked)

    def _appear(self, gone: Tensor) -> None:
        """Treasures that were parked lie somewhere again."""
        k = self.cfg.n_treasures
        u = self._random.uniform(gone.any(0), 3 * k).t()
        self._update(gone, self.landmarks, TREASURE_BOUND * (2 * u[: 2 * k].reshape(2, k, -1) - 1))
        self._update(gone, self.type, self._drawn_type(u[2 * k :]))
        self.there |= gone

    def _drawn_type(self, u: Tensor) -> Tensor:
        return (u * self.cfg.n_banks).long()

    def _held(self) -> Bool[Tensor, "c m b"]:
        """Which type each collector holds."""
        return one_hot(self.holding, self.cfg.n_banks)

    def _measure(self) -> None:
        """All distances from agents."""
        self._distance = physics.distances(self.pos, self.entities)

    # --- what it is worth, and what is seen of it ---------------------------------------------------------------------

    def earn(self) -> Float[Tensor, "n b"]:
        """Prizes for all; bumps and distances for each."""
        self._measure()
        c, m = self.cfg.n_collectors, self.cfg.n_banks
        among, banks, treasures = self._distance[:c].split([c, m, self.cfg.n_treasures], 1)
        self.at_treasure = (treasures < COLLECTOR + TREASURE) & self.there
        self.at_bank = banks < COLLECTOR + BANK
        empty, held = self.holding == NOTHING, self._held()
        found = (self.at_treasure & empty[:, None]).sum((0, 1))
        brought = (self.at_bank & held).sum((0, 1))
        bumps = (among < 2 * COLLECTOR).sum(1) - 1  # everybody is at itself
        way = torch.where(empty, treasures.amin(1), (banks * held).sum(1))
        waiting = banks.masked_fill(~held, torch.inf).amin(0)
        idle = torch.where(waiting.isinf(), self._crowd(), waiting)
        return PRIZE * (found + brought) - torch.cat([BUMP * bumps + SHAPE * way, SHAPE * idle])

    def _crowd(self) -> Float[Tensor, "m b"]:
        """How far from each bank the middle of the collectors nearest to it is."""
        c = self.cfg.n_collectors
        offset = self.pos[:, None, :c] - self.pos[:, c:, None]
        if c > NEAREST:
            nearest = self._distance[c:, :c].topk(NEAREST, 1, largest=False).indices
            offset = offset.gather(2, nearest.expand(2, -1, -1, -1))
        return torch.hypot(*offset.mean(2))

    def observe(self) -> None:
        """Oneself, then the others and the treasures, the nearest first."""
        c, m = self.cfg.n_collectors, self.cfg.n_banks
        n, held = c + m, self._held()
        self._agents[:, :2], self._agents[:, 2:4] = self.pos.transpose(0, 1), self.vel.transpose(0, 1)
        self._agents[:c, 4 + m :] = held
        self._treasures[:, :2] = self.landmarks.transpose(0, 1)
        self._treasures[:, 2:] = one_hot(self.type, m)
        others = sort_by(self._distance[:, :n].masked_fill(self._self, torch.inf), self._agents)[:, :-1]
        treasures = sort_by(self._distance[:, n:], self._treasures)
        for x in (others, treasures):
            x[:, :, :2] -= self._agents[:, None, :2]
        last = self.cfg.n_treasures * (2 + m)
        for kind, agents in zip(self.seen, (slice(0, c), slice(c, n)), strict=True):
            kind[:, :4] = self._agents[agents, :4]
            kind[:, -last - (n - 1) * self._wide : -last].unflatten(1, (n - 1, -1)).copy_(others[agents])
            kind[:, -last:].unflatten(1, (-1, 2 + m)).copy_(treasures[agents])
        self.seen[0][:, 4 : 4 + m] = held

    # --- pictures, checkpoints --------------------------------------------------------------------------------------

    def stage(self, row: int) -> Stage:  # noqa: ARG002 - the same in every row
        """Collectors, banks, and treasures in the colour of the bank that wants them, also on those who carry them.

        A treasure's type changes during an episode, so that it has one entity for each, of which one is there.
        """
        c, m, k = self.cfg.n_collectors, self.cfg.n_banks, self.cfg.n_treasures
        moving = {"actions": ACTIONS, "pushes": ARROWS}
        collectors = (
            replace(Entity.of_agent(i, radius=COLLECTOR, **moving), name=f"collector {i}", kind="collector")
            for i in range(c)
        )
        banks = (
            replace(Entity.of_agent(c + j, radius=BANK, **moving), name=f"bank {j}", kind="bank", team=1 + j)
            for j in range(m)
        )
        owners = [f"treasure {i}" for i in range(k)] + [f"what collector {i} carries" for i in range(c)]
        treasures = (
            Entity(name=f"{owner}, for bank {j}", kind="treasure", mark="", team=1 + j, radius=TREASURE)
            for owner in owners
            for j in range(m)
        )
        return self._stage(("collectors", *(f"bank {j}" for j in range(m))), (*collectors, *banks, *treasures))

    def frame(self, row: int) -> Frame:
        """Where everything is; collectors with a treasure are after its bank."""
        c, m = self.cfg.n_collectors, self.cfg.n_banks
        places = self.places(row)
        holding, kind, there = (x[:, row].cpu().numpy() for x in (self.holding, self.type, self.there))
        agents, treasures = places[: c + m], places[c + m :]
        carried = agents[:c] + 0.7 * np.array(COLLECTOR, dtype=np.float32)  # on the edge, so as to leave the number
        types = np.arange(m)
        alive = np.concatenate([there[:, None] & (kind[:, None] == types), holding[:, None] == types]).ravel()
        loads = np.concatenate([treasures, carried]).repeat(m, 0) * alive[:, None]
        target = np.full(len(agents) + len(loads), -1)
        target[:c] = np.where(holding == NOTHING, -1, c + holding)
        alive = np.concatenate([np.ones(len(agents), dtype=bool), alive])
        return Frame.of(np.concatenate([agents, loads]), alive=alive, target=target)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of ``state_dict``."""
        super().load_state_dict(state)
        self._measure()


def sort_by(distance: Float[Tensor, "n m b"], what: Float[Tensor, "m f b"]) -> Float[Tensor, "n m f b"]:
    """``what`` in the order of distance, once for each of n; equally far things keep their order.

    Ranks are counted: with so few things and so many rows, that is several times faster than sorting.
    """
    rank = torch.zeros_like(distance, dtype=torch.int16)
    for j in range(distance.shape[1]):  # all pairs at once would be no faster and m times as large
        rank[:, :j] += distance[:, j : j + 1] < distance[:, :j]
        rank[:, j + 1 :] += distance[:, j : j + 1] <= distance[:, j + 1 :]
    rank = rank.long()[:, :, None].expand(-1, -1, what.shape[1], -1)
    return what.new_empty(rank.shape).scatter_(1, rank, what.expand(len(distance), -1, -1, -1))
