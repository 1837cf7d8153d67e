"""The GRU over packed states against torch's own, and its backward pass against differences."""

import pytest
import torch

from modules.gru import Weights, packed_gru

ALIVE = [4, 4, 3, 1, 1]
WIDTH, H = 3, 5


def given(dtype=torch.double):
    rng = torch.Generator().manual_seed(1)
    sizes = [(sum(ALIVE), WIDTH), (ALIVE[0], H), (3 * H, WIDTH), (3 * H, H), (3 * H,), (3 * H,)]
    return [torch.randn(size, generator=rng, dtype=dtype).requires_grad_() for size in sizes]


def one_by_one(x, hidden, *weights):
    """Every sequence by itself, from torch's cell."""
    starts = [sum(ALIVE[:t]) for t in range(len(ALIVE))]
    rows = {}
    for k in range(ALIVE[0]):
        state = hidden[k]
        for start, alive in zip(starts, ALIVE, strict=True):
            if k < alive:
                state = rows[start + k] = torch.gru_cell(x[start + k][None], state[None], *weights)[0]
    return torch.stack([rows[i] for i in range(len(x))])


def ours(x, hidden, *weights):
    return packed_gru(x[None], hidden[None], Weights(*(w[None] for w in weights)), ALIVE)[0]


def test_several_networks_take_their_steps_together_and_alone():
    several = [given(), [x.detach().flip(0).requires_grad_() for x in given()], given()]
    stacked = [torch.stack(xs) for xs in zip(*several, strict=True)]
    together, alone = packed_gru(*stacked[:2], Weights(*stacked[2:]), ALIVE), [ours(*inputs) for inputs in several]
    weight = torch.randn(together.shape, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    for g, inputs in enumerate(several):
        torch.testing.assert_close(together[g], alone[g])
        got = torch.autograd.grad((together * weight).sum(), inputs, retain_graph=True)
        want = torch.autograd.grad((alone[g] * weight[g]).sum(), inputs)
        for mine, theirs in zip(got, want, strict=True):
            torch.testing.assert_close(mine, theirs)


def test_states_are_those_of_torchs_cells():
    inputs = given()
    want = one_by_one(*inputs)
    torch.testing.assert_close(ours(*inputs), want)
    with torch.no_grad():
        torch.testing.assert_close(ours(*inputs), want)


def test_gradients_are_those_of_differences():
    assert torch.autograd.gradcheck(ours, given())


@pytest.mark.parametrize("dtype", [torch.float, torch.double])
def test_gradients_are_those_of_torchs_cells(dtype):
    inputs = given(dtype)
    weight = torch.randn(sum(ALIVE), H, generator=torch.Generator().manual_seed(2), dtype=dtype)
    got, want = (torch.autograd.grad((f(*inputs) * weight).sum(), inputs) for f in (ours, one_by_one))
    for mine, theirs in zip(got, want, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-6)


def test_inputs_stay_as_they_are():
    inputs = given()
    before = [x.detach().clone() for x in inputs]
    ours(*inputs).square().sum().backward()
    with torch.no_grad():
        ours(*inputs)
    assert all(torch.equal(x, kept) for x, kept in zip(inputs, before, strict=True))


def test_second_derivatives_are_refused():
    """They would be wrong without a word."""
    x, *rest = given()
    (first,) = torch.autograd.grad(ours(x, *rest).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
