"""What every battle of every map keeps, whole episodes long, whoever plays: bounds, ground, the dead, ends, rows."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

import pytest
import torch
from torch import Tensor

from core.specs import Outcome
from envs.sc2 import StarCraft2
from envs.skirmish.maps import MAPS, ground

Chooser = Callable[[Tensor], Tensor]
OWN = ("hp", "shield", "energy", "cooldown", "pos", "drive", "windup")
"""What only the living change."""


def made(name: str, n_envs: int, seed: int = 0, **options: object) -> StarCraft2:
    return StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name, **options), n_envs, "cpu", seed)


def random_play(seed: int) -> Chooser:
    """Draws available actions."""
    rng = torch.Generator().manual_seed(seed)
    return lambda avail: torch.multinomial(avail.flatten(0, 1).float(), 1, generator=rng).view(avail.shape[:2])


def scripted(avail: Tensor) -> Tensor:
    """With ``heuristic_ai`` the actions do not matter."""
    return torch.zeros(avail.shape[:2], dtype=torch.long)


def brisk(seed: int) -> Chooser:
    """Attacks or heals where it can, else draws an available action: more happens than at random."""
    draw = random_play(seed)

    def choose(avail: Tensor) -> Tensor:
        return torch.where(avail[..., 6:].any(-1), 6 + avail[..., 6:].float().argmax(-1), draw(avail))

    return choose


class Witness:
    """Looks at every step of some battles and fails at what must never happen."""

    def __init__(self, env: StarCraft2) -> None:
        m = env.battle.map
        self.env, self.live, self.n = env, env.battle.live, m.n_agents
        kinds = m.kinds(m.allies) + m.kinds(m.enemies)
        self.most = {
            "hp": torch.tensor([kind.hp for kind in kinds]),
            "shield": torch.tensor([kind.shield for kind in kinds]),
            "energy": torch.tensor([kind.energy_max for kind in kinds]),
        }
        self.grid = torch.from_numpy(ground(m.terrain)).long()
        self.lowest = torch.tensor([{"walks": 1, "climbs": 1, "flies": 0}[kind.legs] for kind in kinds])
        self.highest = torch.tensor([{"walks": 1, "climbs": 2, "flies": 2}[kind.legs] for kind in kinds])
        self.ended = torch.zeros(env.n_envs, dtype=torch.bool)
        self.shown = env.reset()
        self.before = self.copy()
        self.check_bounds()
        self.check_ground()

    def copy(self) -> dict[str, Tensor]:
        """The units as they are."""
        return {name: self.live[name].clone() for name in (*OWN, "time")}

    def step(self, choose: Chooser) -> Outcome:
        """Plays and looks."""
        self.check_shown()
        outcome = self.env.step(choose(self.shown.avail))
        self.shown = outcome.next
        self.check_bounds()
        self.check_ground()
        self.check_the_dead()
        self.check_ends(outcome)
        self.before = self.copy()
        return outcome

    def check_shown(self) -> None:
        """Finite, bounded, nothing of the dead, and something to do for everybody."""
        alive = self.live["hp"][:, : self.n] > 0
        assert torch.equal(self.shown.avail[..., 0], ~alive)
        assert self.shown.avail.any(-1).all()
        assert (self.shown.obs[~alive] == 0).all()
        assert self.shown.obs.abs().max() <= 1 + 1e-6, "also: no NaN"
        assert self.shown.state.abs().max() <= 2, "cooldowns are divided by SMAC's own numbers"

    def check_bounds(self) -> None:
        """Nobody has less than nothing or more than its kind has."""
        for name, most in self.most.items():
            assert (self.live[name] >= 0).all(), name
            assert (self.live[name] <= most).all(), name
        for name in ("pos", "cooldown", "drive"):
            assert self.live[name].isfinite().all(), name
        assert (self.live["cooldown"] >= 0).all()

    def check_ground(self) -> None:
        """The living are where their way of getting about allows."""
        x, y = self.live["pos"].floor().long().unbind(-1)
        assert ((x >= 0) & (y >= 0) & (x < 32) & (y < 32)).all()
        under = self.grid[x, y]
        assert ((under >= self.lowest) & (under <= self.highest)).all()

    def check_the_dead(self) -> None:
        """Who was dead before the step has not moved, cooled down, lost or gained anything."""
        dead = self.before["hp"] <= 0
        assert (self.live["hp"][dead] == 0).all()
        assert (self.live["shield"][dead] == 0).all()
        for name in OWN:
            assert torch.equal(self.live[name][dead], self.before[name][dead]), name

    def check_ends(self, outcome: Outcome) -> None:
        """A battle ends once, by its rules, pays nothing afterwards and stands still."""
        now = outcome.terminated | outcome.truncated
        assert not (outcome.terminated & outcome.truncated).any()
        assert not (self.ended & now).any(), "a battle ends once"
        assert (outcome.reward >= 0).all()
        assert (outcome.reward[self.ended] == 0).all()
        for name in OWN:
            assert torch.equal(self.live[name][self.ended], self.before[name][self.ended]), name
        limit = self.env.spec.episode_limit
        assert (outcome.truncated <= (self.live["time"] == limit)).all()
        assert ((self.live["time"] == limit) <= (self.ended | now)).all()
        ours, theirs = (part.any(-1) for part in (self.live["hp"] > 0).tensor_split([self.n], dim=-1))
        assert ((~ours | ~theirs) <= (self.ended | now)).all(), "nobody fights on against nobody"
        won = outcome.info["battle_won"].bool()
        assert (won <= (outcome.terminated & ours)).all()
        self.ended |= now


def watch(env: StarCraft2, choose: Chooser) -> None:
    """A whole episode of every row, and two steps more."""
    witness = Witness(env)
    for _ in range(env.spec.episode_limit):
        witness.step(choose)
        if witness.ended.all():
            break
    assert witness.ended.all()
    witness.step(choose)
    witness.step(choose)


@pytest.mark.parametrize("name", MAPS)
def test_random_battles_keep_all_rules(name: str) -> None:
    watch(made(name, 2), random_play(1))


@pytest.mark.parametrize("name", MAPS)
def test_scripted_battles_keep_all_rules(name: str) -> None:
    watch(made(name, 2, heuristic_ai=True), scripted)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", MAPS)
def test_many_battles_keep_all_rules(name: str, seed: int) -> None:
    watch(made(name, 64, seed), random_play(seed))
    watch(made(name, 64, seed, heuristic_ai=True), scripted)
    watch(made(name, 64, seed, heuristic_ai=True, heuristic_rest=True), scripted)
    watch(made(name, 64, seed), brisk(seed))


@pytest.mark.slow
@pytest.mark.parametrize("name", MAPS)
def test_single_loops_keep_all_rules(name: str) -> None:
    """Steps of one game loop, so that nothing happens unseen."""
    env = made(name, 8, step_mul=1, heuristic_ai=True)
    witness = Witness(env)
    for _ in range(env.spec.episode_limit):
        witness.live["time"].clamp_(max=0)  # the limit counts steps, and these are short
        for _ in range(8):
            witness.step(scripted)


# ---------------------------------------------------------------- rows, seeds, states


def course(env: StarCraft2, steps: int, each: Callable[[int], None] | None = None) -> list[list[Tensor]]:
    """All that is shown and paid in each of the next steps, and the state after it; ``each`` may do something more."""
    told = []
    for t in range(steps):
        outcome = env.step(torch.zeros(env.n_envs, env.spec.n_agents, dtype=torch.long))
        if each:
            each(t)
        shown = [outcome.next.obs, outcome.next.state, outcome.next.avail, *outcome.next.extras.values()]
        paid = [outcome.reward, outcome.terminated, outcome.truncated, *outcome.info.values()]
        told.append(shown + paid + list(env.state_dict().values()))
    return told


def same(first: list[list[Tensor]], rows: list[int], second: list[list[Tensor]], its_rows: list[int]) -> bool:
    """Whether some rows of two courses are the same bit for bit."""
    pairs = zip(chain.from_iterable(first), chain.from_iterable(second), strict=True)
    return all(torch.equal(a[rows], b[its_rows]) for a, b in pairs)


@pytest.mark.parametrize("name", MAPS)
def test_a_battle_depends_on_its_seed_and_its_state_alone(name: str, steps: int = 14) -> None:
    env, twin, other = (made(name, 3, seed, heuristic_ai=True) for seed in (5, 5, 6))
    for each in (env, twin, other):
        each.reset()
    assert not torch.equal(other.state_dict()["pos"], env.state_dict()["pos"])
    begun, half = env.state_dict(), {}
    told = course(env, steps, lambda t: half.update(env.state_dict()) if t + 1 == steps // 2 else None)

    middle = torch.tensor([False, True, False])
    again = course(twin, steps, lambda t: twin.reset(middle) if t == 3 else None)
    assert same(told[:3], [0, 1, 2], again[:3], [0, 1, 2]), "the same seed, the same battle"
    assert same(told, [0, 2], again, [0, 2]), "the reset of one row leaves the others as they are"
    assert not same(told[4:], [1], again[4:], [1])

    other.load_state_dict(half)
    assert same(told[steps // 2 :], [0, 1, 2], course(other, steps - steps // 2), [0, 1, 2]), "a state is everything"

    alone = made(name, 1, 7, heuristic_ai=True)
    alone.load_state_dict({key: value[1:2] for key, value in begun.items()})
    assert same(told, [1], course(alone, steps), [0]), "a row among others is as a row alone"
