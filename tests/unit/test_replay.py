"""The replay against a plain list of episodes, and what it promises: order, limits, padding, types, exact state."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

import memory.replay
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from memory.past import past_of
from memory.replay import Replay

N, A, LIMIT = 2, 3, 6
SPEC = EnvSpec((ActionSpec(A),) * N, (2,) * N, 1, LIMIT, extras={"visible": (N, N)})
PER_STATE, PER_STEP = ("obs", "state", "avail", "visible"), ("action", "reward", "terminated", "prob")
ROW_BYTES = 4 * N * 2 + 4 + N * A + N * N + N + 4 + 1 + 4 * N
"""obs, state, avail, visible, action, reward, terminated, prob: what one row has to take, and no more."""


def episodes(lengths: list[int], first: int = 0, spread: int = 0) -> EpisodeBatch:
    """Episodes that all differ (``first`` is the number of the first one), ``spread`` further steps of padding.

    Whatever lies on padding is as bad as it can be: NaN, impossible actions, nothing available.
    """
    length, t = torch.tensor(lengths), max(lengths) + spread
    mark = first + torch.arange(len(lengths))[:, None] + torch.arange(t + 1) / 100
    over = (torch.arange(t) >= length[:, None]).unsqueeze(-1)
    past = (torch.arange(t + 1) > length[:, None]).unsqueeze(-1)

    def drawn(most: int, *shape: int) -> torch.Tensor:
        """Random integers below ``most`` that an episode's number alone decides."""
        rows = [torch.Generator().manual_seed(first + row) for row in range(len(lengths))]
        return torch.stack([torch.randint(most, (LIMIT + 2, *shape), generator=rng) for rng in rows])[:, : t + 1]

    terminated = (torch.arange(t) == length[:, None] - 1) & (length[:, None] % 2 == 0)
    return EpisodeBatch(
        action=drawn(A, N)[:, :t].masked_fill(over, 77),
        reward=mark[:, :t].masked_fill(over[..., 0], torch.nan),
        terminated=terminated | over[..., 0],
        mask=valid_mask(length, t),
        length=length,
        obs=mark[..., None, None].repeat(1, 1, N, 2).masked_fill(past.unsqueeze(-1), torch.nan),
        state=mark[..., None].masked_fill(past, torch.nan),
        avail=drawn(2, N, A).bool() & ~past.unsqueeze(-1),
        extras={
            "visible": drawn(2, N, N).bool() | past.unsqueeze(-1),
            "prob": mark[:, :t, None].repeat(1, 1, N).masked_fill(over, torch.nan),
        },
    )


def split(batch: EpisodeBatch) -> list[dict[str, torch.Tensor]]:
    """Every episode by itself, without padding."""
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch) if f.name not in ("extras", "mask")}
    fields |= batch.extras
    return [
        {k: fields[k][row, :n] for k in PER_STEP} | {k: fields[k][row, : n + 1] for k in PER_STATE}
        for row, n in enumerate(batch.length.tolist())
    ]


def same(got: EpisodeBatch, wanted: list[dict[str, torch.Tensor]]) -> None:
    """``got`` has exactly the episodes ``wanted`` in this order, and clean padding."""
    assert len(got) == len(wanted)
    for one, other in zip(split(got), wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            assert torch.equal(one[name], other[name]), name
            assert one[name].dtype == other[name].dtype, name
    clean(got)


def clean(got: EpisodeBatch) -> None:
    """Padding holds zeros, and every action is available there."""
    t = got.action.shape[1]
    assert t == got.length.max() and got.obs.shape[1] == t + 1
    assert torch.equal(got.mask, valid_mask(got.length, t))
    over, past = torch.arange(t) >= got.length[:, None], torch.arange(t + 1) > got.length[:, None]
    for x in (got.action, got.reward, got.terminated, got.extras["prob"]):
        assert not x[over].any()
    for x in (got.obs, got.state, got.extras["visible"]):
        assert not x[past].any()
    assert got.avail[past].all()


def replay(
    capacity: int = 4, max_bytes: int = 10**6, seed: int = 0, enough_steps: int | None = None, stored: str = "dense"
) -> Replay:
    return Replay(SPEC, capacity, max_bytes, "cpu", torch.Generator().manual_seed(seed), enough_steps, stored)


@pytest.fixture
def small_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring begins with three rows, so that it has to grow soon."""
    monkeypatch.setattr(memory.replay, "_FIRST_ROWS", 3)


class Oracle:
    """The replay as a list: the newest episodes that are within both limits."""

    def __init__(self, capacity: int, rows: int) -> None:
        self.capacity, self.rows, self.kept, self.added = capacity, rows, [], 0

    def add(self, batch: EpisodeBatch) -> None:
        for episode in split(batch):
            self.kept.append(episode)
            self.added += 1
            while len(self.kept) > self.capacity or sum(len(e["state"]) for e in self.kept) > self.rows:
                self.kept.pop(0)


@given(
    capacity=st.integers(1, 6),
    rows=st.integers(LIMIT + 1, 30),
    first_rows=st.sampled_from([1, 5, 4096]),
    adds=st.lists(st.lists(st.integers(1, LIMIT), min_size=1, max_size=3), min_size=1, max_size=10),
    reload_after=st.integers(0, 9),
)
@effort(max_examples=60, deadline=None)
def test_it_is_a_list_of_the_newest_episodes(capacity, rows, first_rows, adds, reload_after) -> None:
    """Whatever is added: growth, wrap-around, both kinds of eviction, and a round trip of the state on the way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.replay, "_FIRST_ROWS", first_rows)
        real, oracle = replay(capacity, rows * ROW_BYTES + ROW_BYTES // 2), Oracle(capacity, rows)
        for number, lengths in enumerate(adds):
            batch = episodes(lengths, oracle.added, spread=number % 2)
            real.add(batch)
            oracle.add(batch)
            assert (len(real), real.added) == (len(oracle.kept), oracle.added)
            assert real.nbytes <= rows * ROW_BYTES
            if number == reload_after:
                state, real = copy.deepcopy(real.state_dict()), replay(capacity, rows * ROW_BYTES, seed=9)
                real.load_state_dict(state)
        same(real.latest(len(real)), oracle.kept)
        same(real.latest(2), oracle.kept[-2:])


def test_it_grows_as_it_fills(small_start: None) -> None:
    one, sizes, stored = replay(capacity=10), [], []
    for number in range(8):
        batch = episodes([3], number)
        one.add(batch)
        stored += split(batch)
        sizes.append(one.nbytes // ROW_BYTES)
        same(one.latest(99), stored)
    assert sizes == [4, 8, 16, 16, 32, 32, 32, 32]


def test_it_never_takes_more_than_capacity_full_episodes(small_start: None) -> None:
    one = replay(capacity=2)
    for number in range(6):
        one.add(episodes([LIMIT], number))
    assert one.nbytes == 2 * (LIMIT + 1) * ROW_BYTES


def test_the_oldest_go_at_the_capacity() -> None:
    one = replay(capacity=3)
    one.add(episodes([2, 6, 1, 4, 3], spread=1))
    same(one.latest(3), split(episodes([2, 6, 1, 4, 3]))[2:])
    assert len(one) == 3 and one.added == 5


def test_the_oldest_go_at_the_limit_in_bytes() -> None:
    """Ten rows hold episodes of 3 + 1 and 5 + 1 steps, not another one of 1 + 1."""
    one = replay(capacity=50, max_bytes=10 * ROW_BYTES)
    one.add(episodes([3, 5]))
    assert len(one) == 2
    one.add(episodes([1], 2))
    same(one.latest(9), split(episodes([5], 1)) + split(episodes([1], 2)))
    assert one.nbytes == 10 * ROW_BYTES


def test_the_oldest_go_where_enough_steps_are_stored_without_them() -> None:
    """Seven are enough: of 3, 2 and 4 all stay, since 2 + 4 are too few; with 1 more, 3 may go; a long one is kept."""
    one = replay(capacity=50, enough_steps=7)
    one.add(episodes([3, 2, 4]))
    assert (len(one), one.steps) == (3, 9)
    one.add(episodes([1], 3))
    same(one.latest(9), split(episodes([2, 4], 1)) + split(episodes([1], 3)))
    short = replay(capacity=50, enough_steps=1)
    short.add(episodes([4, 6, 5]))
    same(short.latest(9), split(episodes([5], 2)))


def test_an_episode_may_wrap_around_the_end() -> None:
    """Ten rows: 3 + 1 and 4 + 1 fill nine; 5 + 1 makes both go, and takes the last row and the first five."""
    one = replay(capacity=50, max_bytes=10 * ROW_BYTES)
    one.add(episodes([3, 4]))
    one.add(episodes([5], 2))
    same(one.latest(9), split(episodes([5], 2)))
    one.add(episodes([2], 3))
    same(one.latest(9), split(episodes([5], 2)) + split(episodes([2], 3)))


def test_an_episode_larger_than_the_limit_is_refused() -> None:
    one = replay(max_bytes=4 * ROW_BYTES)
    one.add(episodes([3]))
    with pytest.raises(ValueError, match=rf"4 steps .* {5 * ROW_BYTES} bytes.* buffer_bytes={4 * ROW_BYTES}"):
        one.add(episodes([4], 1))


def test_latest_is_in_order_of_age() -> None:
    one = replay(capacity=5)
    for number in range(7):
        one.add(episodes([number % 3 + 1], number))
    assert one.latest(3).reward[:, 0].tolist() == [4, 5, 6]
    assert one.latest(99).reward[:, 0].tolist() == [2, 3, 4, 5, 6]


def test_a_batch_is_as_long_as_its_longest_episode() -> None:
    one = replay()
    one.add(episodes([1, 5, 2], spread=1))
    assert one.latest(1).reward.shape == (1, 2)
    assert one.latest(2).reward.shape == (2, 5)


def test_uniform_draws_without_replacement_and_evenly() -> None:
    """300 draws of 2 of 4: every pair is expected 50 times; fewer than 25 or more than 80 is one chance in 10^4."""
    one, pairs = replay(), Counter()
    one.add(episodes([1, 2, 3, 4]))
    wanted = split(episodes([1, 2, 3, 4]))
    for number in range(300):
        got = one.uniform(2)
        pairs[tuple(sorted(int(x) for x in got.reward[:, 0]))] += 1
        if number < 20:
            same(got, [wanted[n - 1] for n in got.length.tolist()])
    assert set(pairs) == set(itertools.combinations(range(4), 2))
    assert all(25 <= count <= 80 for count in pairs.values())


def test_uniform_depends_on_its_generator_only() -> None:
    batches = []
    for seed in (1, 1, 2):
        one = replay(capacity=20, seed=seed)
        one.add(episodes([1] * 20))
        torch.manual_seed(len(batches))
        batches.append([one.uniform(5).reward for _ in range(3)])
    assert all(torch.equal(x, y) for x, y in zip(batches[0], batches[1], strict=True))
    assert not all(torch.equal(x, y) for x, y in zip(batches[0], batches[2], strict=True))


def test_what_is_handed_out_is_a_copy() -> None:
    one = replay()
    one.add(episodes([3]))
    got = one.latest(1)
    for x in (got.obs, got.reward, got.action, got.extras["prob"]):
        x.fill_(5)
    same(one.latest(1), split(episodes([3])))


def test_what_is_added_is_copied() -> None:
    one, batch = replay(), episodes([3])
    one.add(batch)
    batch.obs.fill_(5)
    same(one.latest(1), split(episodes([3])))


def test_rows_are_compact() -> None:
    """Actions in one byte (two beyond 256 of them), booleans in one; whoever samples gets integers as before."""
    one = replay()
    one.add(episodes([4]))
    assert one.nbytes % ROW_BYTES == 0
    assert one.state_dict()["rows"]["action"].dtype == torch.uint8
    wide = dataclasses.replace(SPEC, actions=(ActionSpec(300),) * N)
    other = Replay(wide, 4, 10**6, "cpu", torch.Generator())
    batch = episodes([4])
    batch = dataclasses.replace(batch, action=batch.action + 290, avail=torch.ones(1, 5, N, 300, dtype=torch.bool))
    other.add(batch)
    assert other.state_dict()["rows"]["action"].dtype == torch.int16
    assert torch.equal(other.latest(1).action, batch.action)


def test_boxes_keep_their_actions() -> None:
    box = dataclasses.replace(SPEC, actions=(ActionSpec(2, -1.0, 1.0),) * N)
    one, batch = Replay(box, 4, 10**6, "cpu", torch.Generator()), episodes([2, 3])
    moves = torch.rand(2, 3, N, 2) * valid_mask(batch.length, 3)[..., None, None]
    one.add(dataclasses.replace(batch, action=moves, avail=torch.ones(2, 4, N, 2, dtype=torch.bool)))
    assert torch.equal(one.latest(2).action, moves)


def test_the_state_continues_exactly(small_start: None) -> None:
    """After a wrap and a growth: the same episodes, the same next draws, the same evictions."""
    one = replay(capacity=5, max_bytes=20 * ROW_BYTES)
    for number in range(7):
        one.add(episodes([number % 4 + 1], number))
    one.uniform(2)
    state = copy.deepcopy(one.state_dict())
    two = replay(capacity=5, max_bytes=20 * ROW_BYTES, seed=77)
    two.load_state_dict(state)
    for number in range(7, 15):
        a, b = one.uniform(3), two.uniform(3)
        same(a, split(b))
        for each in (one, two):
            each.add(episodes([number % 5 + 1], number))
        same(one.latest(9), split(two.latest(9)))
        assert (len(one), one.added) == (len(two), two.added)


def test_the_state_is_its_own() -> None:
    """What is saved does not change when the run goes on, and neither does the run when the saved state is used."""
    one = replay(capacity=2)
    one.add(episodes([2, 3]))
    state = one.state_dict()
    frozen = copy.deepcopy(state)
    two = replay(capacity=2)
    two.load_state_dict(state)
    for each in (one, two):
        each.add(episodes([6, 6], 5))
        each.uniform(1)
    torch.testing.assert_close(state["rows"], frozen["rows"], rtol=0, atol=0, equal_nan=True)
    assert state["lengths"] == frozen["lengths"] and torch.equal(state["rng"], frozen["rng"])


def test_an_empty_replay_has_a_state_too() -> None:
    one, two = replay(), replay()
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    two.add(episodes([2]))
    same(two.latest(1), split(episodes([2])))


def test_transitions_are_every_step_alike_with_what_came_of_it() -> None:
    """Ten steps are stored; each is expected 100 times, and is never seen fewer than 60 or more than 145 times."""
    one, seen = replay(capacity=4), Counter()
    for number in range(6):
        one.add(episodes([number % 4 + 1], number))
    stored = split(one.latest(4))
    steps = {
        (row, t): {k: episode[k][t : t + 1] for k in PER_STEP} | {k: episode[k][t : t + 2] for k in PER_STATE}
        for row, episode in enumerate(stored)
        for t in range(len(episode["reward"]))
    }
    assert one.steps == len(steps) == 10
    rewards = {float(step["reward"]): place for place, step in steps.items()}
    for number in range(10):
        got = one.transitions(100)
        places = [rewards[float(x)] for x in got.reward[:, 0]]
        seen.update(places)
        if number == 0:
            for single, place in zip(split(got), places, strict=True):
                assert all(torch.equal(single[k], steps[place][k]) for k in (*PER_STEP, *PER_STATE))
    assert set(seen) == set(steps)
    assert all(60 <= count <= 145 for count in seen.values())


def test_as_few_of_the_newest_episodes_as_have_so_many_steps() -> None:
    """Lengths 4, 1, 3, 2, newest last: 2 have the newest alone, 3 to 5 the newest two, 6 three, 7 to 10 all."""
    one = replay()
    one.add(episodes([4, 1, 3, 2]))
    assert [len(one.latest_steps(n)) for n in (1, 2, 3, 5, 6, 7, 10, 99)] == [1, 1, 2, 2, 3, 4, 4, 4]
    same(one.latest_steps(5), split(episodes([4, 1, 3, 2]))[2:])


def test_episodes_by_their_numbers() -> None:
    """Of six that were added the first two are gone."""
    one = replay(capacity=4)
    one.add(episodes([4, 1, 3, 2, 1, 5]))
    stored = split(episodes([4, 1, 3, 2, 1, 5]))
    same(one.numbered(2, 1), stored[2:3])
    same(one.numbered(3, 3), stored[3:])


# --- the steps before -------------------------------------------------------------------------------------------------

Step = tuple[torch.Tensor, torch.Tensor] | None


def steps_before(episode: dict[str, torch.Tensor], state: int, k: int) -> list[Step]:
    """What an agent saw and did in the ``k`` steps before a state, oldest first; None where nothing was."""
    return [(episode["obs"][t], episode["action"][t]) if t >= 0 else None for t in range(state - k, state)]


def same_steps(past: tuple[torch.Tensor, torch.Tensor, torch.Tensor], row: int, state: int, wanted: list[Step]) -> None:
    for slot, step in enumerate(wanted):
        obs, action, real = (x[row, state, slot] for x in past)
        assert bool(real) == (step is not None)
        assert torch.equal(obs, torch.zeros_like(obs) if step is None else step[0])
        assert torch.equal(action, torch.zeros_like(action) if step is None else step[1])


@given(
    lengths=st.lists(st.integers(1, LIMIT), min_size=1, max_size=12),
    rows=st.integers(LIMIT + 1, 30),
    k=st.integers(1, LIMIT + 2),
)
@effort(max_examples=30, deadline=None)
def test_single_steps_come_with_those_before_and_so_does_the_state_after(lengths, rows, k) -> None:
    """In a ring that wraps around: never a step of another episode, and the same draws as without."""
    one, plain = (replay(20, rows * ROW_BYTES) for _ in range(2))
    for each in (one, plain):
        for number, length in enumerate(lengths):
            each.add(episodes([length], number))
    got, wanted = one.transitions(10, past=k), plain.transitions(10)
    same(dataclasses.replace(got, extras={name: got.extras[name] for name in wanted.extras}), split(wanted))
    assert torch.equal(one.rng.get_state(), plain.rng.get_state())
    stored = {float(e["reward"][0]): e for e in split(one.latest(99))}
    past = past_of(got, k)
    assert past.action.dtype == got.action.dtype
    for row, reward in enumerate(got.reward[:, 0]):
        episode = stored[float(reward.floor())]
        step = int((episode["reward"] == reward).nonzero())
        for state in range(2):
            same_steps(past, row, state, steps_before(episode, step + state, k))


@given(lengths=st.lists(st.integers(1, LIMIT), min_size=1, max_size=4), k=st.integers(1, LIMIT + 2))
@effort(max_examples=40, deadline=None)
def test_whole_episodes_have_the_steps_before_every_state(lengths, k) -> None:
    """Whatever lies on padding."""
    batch = episodes(lengths, spread=1)
    past = past_of(batch, k)
    for row, episode in enumerate(split(batch)):
        for state in range(lengths[row] + 1):
            same_steps(past, row, state, steps_before(episode, state, k))
    step = torch.arange(batch.obs.shape[1])[:, None] + torch.arange(-k, 0)
    assert torch.equal(past.real, (step >= 0) & (step < batch.length[:, None, None])), "padding is never a step"


def test_steps_before_travel_with_the_batch() -> None:
    one = replay()
    one.add(episodes([4, 1, 3]))
    got = one.transitions(3, past=2)
    for moved in (got.to("cpu"), got.repeated(2)):
        for x, y in zip(past_of(moved, 2), past_of(got, 2), strict=True):
            assert torch.equal(x[:3], y) and torch.equal(x[-3:], y)


def test_another_number_of_steps_before_is_refused() -> None:
    one = replay()
    one.add(episodes([4]))
    with pytest.raises(ValueError, match="drawn with past=2, but 3 steps"):
        past_of(one.transitions(3, past=2), 3)


# --- how observations and states are kept -----------------------------------------------------------------------------


def thinned(batch: EpisodeBatch, seed: int) -> EpisodeBatch:
    """The batch with two thirds of all observations and states 0; whole states, and one whole episode's, among them."""
    rng = torch.Generator().manual_seed(seed)
    obs, state = (x * (torch.rand(x.shape, generator=rng) < 1 / 3) for x in (batch.obs, batch.state))
    obs[:, 1], state[0] = 0, 0
    return dataclasses.replace(batch, obs=obs, state=state)


@given(
    capacity=st.integers(1, 6),
    first_rows=st.sampled_from([1, 5, 4096]),
    adds=st.lists(st.lists(st.integers(1, LIMIT), min_size=1, max_size=3), min_size=1, max_size=10),
    reload_after=st.integers(0, 9),
)
@effort(max_examples=40, deadline=None)
def test_sparse_rows_are_exact(capacity, first_rows, adds, reload_after) -> None:
    """As the list of the newest episodes, through growth, wrap-around, eviction and a round trip of the state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory.replay, "_FIRST_ROWS", first_rows)
        real, oracle = replay(capacity, stored="sparse"), Oracle(capacity, 10**6)
        for number, lengths in enumerate(adds):
            batch = thinned(episodes(lengths, oracle.added, spread=number % 2), number)
            real.add(batch)
            oracle.add(batch)
            if number == reload_after:
                state, real = copy.deepcopy(real.state_dict()), replay(capacity, seed=9, stored="sparse")
                real.load_state_dict(state)
            same(real.latest(len(real)), oracle.kept)


def test_single_steps_of_sparse_rows_are_those_of_dense_ones() -> None:
    made = [replay(stored=stored) for stored in ("dense", "sparse")]
    batch = thinned(episodes([3, 1, LIMIT]), 1)
    for one in made:
        one.add(batch)
    dense, sparse = (one.transitions(20, past=2) for one in made)
    for name in ("obs", "state", "action"):
        assert torch.equal(getattr(dense, name), getattr(sparse, name))
    assert all(torch.equal(dense.extras[k], sparse.extras[k]) for k in dense.extras)


def test_sparse_rows_take_a_bit_per_entry_and_the_values() -> None:
    """Twelve bytes a row say where its values are, and how many."""
    dense, sparse = replay(), replay(stored="sparse")
    batch = thinned(episodes([3, 5]), 2)
    for one in (dense, sparse):
        one.add(batch)
    rows, widths = 10, (batch.obs[0, 0].numel(), batch.state[0, 0].numel())
    real = [x[row, : n + 1] for row, n in ((0, 3), (1, 5)) for x in (batch.obs, batch.state)]
    values = sum(int((x != 0).sum()) for x in real)
    other = dense.used_bytes - rows * 4 * sum(widths)
    assert dense.used_bytes == rows * ROW_BYTES
    assert sparse.used_bytes == other + rows * sum(-(-width // 8) + 12 for width in widths) + 4 * values
    assert sparse.nbytes >= sparse.used_bytes


def test_values_count_towards_the_limit_in_bytes() -> None:
    """Room for two full episodes without zeros: of three, the oldest goes; of three without values, none."""
    full, empty = episodes([LIMIT] * 3), episodes([LIMIT] * 3)
    full = dataclasses.replace(full, obs=torch.ones_like(full.obs), state=torch.ones_like(full.state))
    empty = dataclasses.replace(empty, obs=torch.zeros_like(empty.obs), state=torch.zeros_like(empty.state))
    one = replay(stored="sparse")
    one.add(full)
    limit = one.used_bytes * 5 // 6
    for batch, kept in ((full, 2), (empty, 3)):
        other = replay(max_bytes=limit, stored="sparse")
        other.add(batch)
        assert len(other) == kept and other.used_bytes <= limit


def test_half_rounds_observations_only() -> None:
    one, batch = replay(stored="half"), episodes([2, 4])
    batch = dataclasses.replace(batch, obs=batch.obs / 3, state=batch.state / 3)
    one.add(batch)
    for got, wanted in zip(split(one.latest(2)), split(batch), strict=True):
        assert got["obs"].dtype == torch.float32 and torch.equal(got["obs"], wanted["obs"].half().float())
        assert torch.equal(got["state"], wanted["state"])
    assert not torch.equal(split(one.latest(2))[1]["obs"], split(batch)[1]["obs"])
