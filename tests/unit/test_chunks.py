"""Chunks of episodes, and the memories that they begin with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.specs import in_turn, valid_mask
from modules.chunks import Chunks, Trail, recall
from modules.critics.history import HistoryCritic
from modules.critics.ppo import PPOCritic
from modules.layers import RecurrentEncoder

LENGTH = torch.tensor([5, 2, 7, 4])


def test_chunks_by_hand() -> None:
    """Episodes of 5, 2, 7 and 4 steps in chunks of 3: no empty chunk, none that straddles two episodes."""
    chunks = Chunks.of(LENGTH, 3, "cpu")
    x = torch.arange(4 * 8).reshape(4, 8) + 1.0
    expected = [[1, 2, 3], [4, 5, 0], [9, 10, 0], [17, 18, 19], [20, 21, 22], [23, 0, 0], [25, 26, 27], [28, 0, 0]]
    assert chunks.cut(x).tolist() == expected
    assert chunks.length.tolist() == [3, 2, 2, 3, 3, 1, 3, 1]
    assert torch.equal(chunks.mask(), (chunks.cut(x) > 0).float())


def test_agents_stay_together_and_padding_is_zero() -> None:
    """T-39: whatever further axes there are, they are those of the same episode and time."""
    chunks = Chunks.of(LENGTH, 2, "cpu")
    place = torch.arange(4)[:, None, None] * 100 + torch.arange(7)[:, None] + torch.zeros(3)
    place = place.masked_fill((valid_mask(LENGTH, 7) == 0)[..., None], torch.nan)
    cut = chunks.cut(place)
    assert cut.shape == (3 + 1 + 4 + 2, 2, 3)
    assert (cut == cut[..., :1]).all() and cut.isfinite().all()
    flags = chunks.cut(torch.ones(4, 7, dtype=torch.bool))
    assert torch.equal(flags.float(), chunks.mask())


def test_whole_episodes_take_no_more_room_than_they_need() -> None:
    chunks = Chunks.of(LENGTH, 1000, "cpu")
    assert chunks.cut(torch.ones(4, 8)).shape == (4, 7)
    assert torch.equal(chunks.length, LENGTH)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 50])
def test_chunks_with_their_memories_equal_the_whole_unroll(size: int) -> None:
    torch.manual_seed(0)
    encoder, states = RecurrentEncoder(3, 6), LENGTH + 1
    x = torch.randn(4, 8, 2, 3).masked_fill((valid_mask(states, 8) == 0)[..., None, None], torch.nan)
    whole, _ = encoder(x, None, states)
    out, memory = recall(encoder, [x], torch.zeros(4, 2, 6), states, size)
    torch.testing.assert_close(out, whole)
    chunks = Chunks.of(LENGTH, size, "cpu")
    pieces, _ = encoder(chunks.cut(x), chunks.first(memory), chunks.length)
    torch.testing.assert_close(pieces, chunks.cut(whole))
    assert not out.requires_grad


def test_the_memory_is_that_of_the_step_before() -> None:
    """By hand: a network that counts its steps."""

    def count(x: Tensor, hidden: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        seen = hidden[:, None] + torch.arange(1, x.shape[1] + 1.0)[:, None, None]
        return seen, hidden + length[:, None, None]

    x = torch.zeros(4, 8, 1, 1)
    out, memory = recall(count, [x], torch.zeros(4, 1, 1), LENGTH + 1, 3)
    assert memory[:, :, 0, 0].tolist() == [[0, 3, 6], [0, 3, 3], [0, 3, 6], [0, 3, 5]]
    assert out[2, :, 0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    assert out[1, :, 0, 0].tolist() == [1, 2, 3, 0, 0, 0, 0, 0]


def test_a_trail_ends_where_nothing_is_wanted_any_more() -> None:
    """By hand: two chunks of three steps with two agents; what is not wanted in between is passed through."""
    wanted = torch.zeros(2, 3, 2, dtype=torch.bool)
    wanted[0, 2, 0] = wanted[0, 0, 1] = wanted[1, :2, 1] = True
    trail = Trail.of(wanted)
    assert trail.alive == [3, 2, 1]
    who = torch.tensor([[[100 * c + 10 * i + t for i in range(2)] for t in range(3)] for c in range(2)]).float()
    picked = trail.pick(who[..., None])
    assert picked[:, 0, 0].tolist() == [0, 110, 10, 1, 111, 2]
    memory = torch.tensor([[0.0, 10.0], [100.0, 110.0]])[..., None]
    assert trail.begin(memory)[:, 0, 0].tolist() == [0, 110, 10]
    back = trail.spread(-picked, who[..., None])[..., 0]
    places = torch.tensor([[[1, 1], [1, 0], [1, 0]], [[0, 1], [0, 1], [0, 0]]]).bool()
    assert torch.equal(back, torch.where(places, -who, who))


def test_a_trail_is_never_empty() -> None:
    assert Trail.of(torch.zeros(2, 3, 2, dtype=torch.bool)).alive == [1]


def test_steps_in_turn_by_hand() -> None:
    rows, alive, order = in_turn(torch.tensor([1, 3, 0, 3]), 3)
    assert order.tolist() == [1, 3, 0, 2] and alive == [3, 2, 2]
    assert rows.tolist() == [3, 9, 0, 4, 10, 5, 11]


@pytest.mark.parametrize("more", [{}, {"feature_norm": False}, {"mlp_layers": 1}, {"recurrent": False}])
def test_a_shared_state_meets_the_first_layer_once(more: dict[str, object]) -> None:
    """Values, memories and gradients of states with each agent's number, far from mean 0 and deviation 1."""
    torch.manual_seed(0)
    critic = PPOCritic(7 + 3, 2, 0, PPOCritic.Config(hidden_dim=8, **more)).double()
    with torch.no_grad():
        for p in critic.parameters():
            p.add_(0.2 * torch.randn_like(p))
    state = 3 * torch.randn(4, 7, 7, dtype=torch.double) + 5
    hidden, valid = torch.randn(4, 3, 8, dtype=torch.double), valid_mask(LENGTH, 7).bool()[..., None, None]
    state = state.masked_fill(~valid[..., 0], torch.nan)
    ways = [
        critic.encode_numbered(state, 3, hidden, LENGTH),
        HistoryCritic.encode_numbered(critic, state, 3, hidden, LENGTH),
    ]
    (one, memory), (other, wanted) = ways
    torch.testing.assert_close(one.where(valid, 0), other.where(valid, 0), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(memory, wanted, rtol=1e-9, atol=1e-9)
    used = list(critic.block.parameters())
    gradients = [torch.autograd.grad(x.where(valid, 0).square().sum(), used) for x, _ in ways]
    for got, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-8)
