"""Battles dealt out to threads: everybody's share, faults, and that nothing depends on the number of threads."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from envs.sc2 import StarCraft2
from envs.skirmish.crew import deal, n_slices, side_by_side, spread


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_every_row_is_dealt_once() -> None:
    for rows, slices in ((1, 1), (7, 3), (8, 4), (1000, 7)):
        shares = deal(rows, slices)
        assert [row for first, share in shares for row in range(first, first + share)] == list(range(rows))
        assert max(n for _, n in shares) - min(n for _, n in shares) <= 1


def test_as_many_threads_as_torch_may_use_but_no_more_than_there_is_work_for() -> None:
    torch.set_num_threads(1)
    assert n_slices(1024, 57) == 1
    torch.set_num_threads(3)
    assert n_slices(1024, 57) == 3
    assert n_slices(2, 57) == 2, "a row is not divided"
    assert n_slices(8, 6) == 1, "too little to wake somebody for"
    assert n_slices(57, 6) == 2


def test_tasks_run_at_once_and_a_fault_of_any_is_told() -> None:
    meeting = threading.Barrier(3, timeout=20)
    side_by_side([meeting.wait] * 3)

    def fail() -> None:
        raise ValueError("a slice")

    for tasks in ([fail, lambda: None], [lambda: None, fail], [fail]):
        with pytest.raises(ValueError, match="a slice"):
            side_by_side(tasks)


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system cannot fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    side_by_side([lambda: None] * 2)
    child = multiprocessing.get_context("fork").Process(target=side_by_side, args=([lambda: None] * 2,))
    child.start()
    child.join(20)
    ended = child.exitcode
    child.kill()
    assert ended == 0


def course(name: str, threads: int) -> list[Tensor]:
    """All that is shown and paid, and the last state, of random battles with resets of single rows."""
    torch.set_num_threads(threads)
    env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name=name), 37, "cpu", 5)
    rng = torch.Generator().manual_seed(0)
    shown, told = env.reset(), []
    assert n_slices(37, env.spec.n_agents + env.battle.map.n_enemies) == threads
    for t in range(45):
        outcome = env.step(torch.multinomial(shown.avail.flatten(0, 1).float(), 1, generator=rng).view(37, -1))
        over = outcome.terminated | outcome.truncated
        over[t % 37] = True
        shown = env.reset(over)
        told += [shown.obs, shown.state, shown.avail, shown.extras["visible"], outcome.reward, outcome.terminated]
    return told + list(env.battle.state_dict().values())


@pytest.mark.parametrize("name", ["2s3z", "so_many_baneling"])
def test_battles_do_not_depend_on_the_number_of_threads(name: str) -> None:
    alone, together = course(name, 1), course(name, 3)
    assert all(map(torch.equal, alone, together))


def test_the_same_fault_is_told_whatever_the_number_of_threads() -> None:
    for threads in (1, 3):
        torch.set_num_threads(threads)
        env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name="2s3z"), 40, "cpu", 5)
        env.reset()
        action = torch.ones(40, 5, dtype=torch.long)
        action[3, 1] = action[30, 2] = 0
        with pytest.raises(ValueError, match="row 30, agent 2"):
            env.step(action)


def test_a_step_that_is_not_observed_renews_the_masks_and_is_shown_later() -> None:
    config = StarCraft2.Config(engine="skirmish", map_name="3m")
    seen, unseen = StarCraft2(config, 8, "cpu", 0), StarCraft2(config, 8, "cpu", 0)
    shown = seen.reset()
    unseen.reset()
    rng, live = torch.Generator().manual_seed(0), unseen.battle.live
    before = live["obs"].clone()
    for t in range(30):
        action = torch.multinomial(shown.avail.flatten(0, 1).float(), 1, generator=rng).view(8, -1)
        shown = seen.step(action).next
        unseen.battle.step(action, observe=False)
        assert torch.equal(live["avail"].bool(), shown.avail)
        if t % 10 == 9:
            again = torch.arange(8) < 3
            shown = seen.reset(again)
            unseen.battle.reset(again, observe=False)
            assert torch.equal(live["avail"].bool(), shown.avail)
    assert torch.equal(live["obs"], before)
    unseen.battle.reset(torch.zeros(8, dtype=torch.bool))
    assert torch.equal(live["obs"], shown.obs)
    assert torch.equal(live["state"], shown.state)


def test_copies_are_whole_and_on_their_own_whoever_makes_them() -> None:
    for threads, battles in ((1, 2), (1, 300), (3, 2), (3, 300)):
        torch.set_num_threads(threads)
        env = StarCraft2(StarCraft2.Config(engine="skirmish", map_name="8m"), battles, "cpu", 0)
        env.reset()
        env.step(torch.ones(battles, 8, dtype=torch.long))
        live = env.battle.live
        assert spread([live["obs"]]) == (threads > 1 and battles > 2)
        made = env.battle.copies("obs", "state", "avail", "visible")
        for name, tensor in made.items():
            assert torch.equal(tensor, live[name].to(tensor.dtype))
            assert tensor.dtype in (torch.float32, torch.bool)
            live[name].fill_(1)
            assert not (tensor == 1).all()
