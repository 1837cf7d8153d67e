"""Chunks of episodes, and the memories that they begin with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.specs import valid_mask
from modules.chunks import Chunks, recall
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
