"""Encoders against torch's own GRU and against padding; the inputs of agents; stacked layers."""

import pytest
import torch
from torch import nn

from core.specs import ActionSpec, EnvSpec
from modules.layers import (
    FeedForwardEncoder,
    GroupLinear,
    RecurrentEncoder,
    StateValue,
    agent_inputs,
    heads,
    input_dim,
    last_actions,
    mlp,
)

B, T, N, WIDTH, H = 6, 9, 3, 5, 7
LENGTH = torch.tensor([3, 9, 1, 6, 6, 2])
VALID = torch.arange(T) < LENGTH[:, None]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def built(cls, *args):
    torch.manual_seed(3)
    return cls(*args).double()


def inputs():
    x = torch.randn(B, T, N, WIDTH, generator=rng(1), dtype=torch.double)
    return x, torch.randn(B, N, H, generator=rng(2), dtype=torch.double)


def gradients(encoder, x, hidden, length):
    """Of all parameters and of the first hidden state, for a loss that weighs every feature differently."""
    hidden = hidden.clone().requires_grad_()
    features, last = encoder(x, hidden, length)
    weight = torch.randn(features.shape, generator=rng(4), dtype=torch.double)
    loss = (features * weight)[VALID].sum() + last.square().sum()
    return torch.autograd.grad(loss, [hidden, *encoder.parameters()])


def test_recurrent_encoder_is_a_gru_over_each_history():
    encoder, (x, hidden) = built(RecurrentEncoder, WIDTH, H), inputs()
    features, last = encoder(x, hidden)
    for b in range(2):
        for n in range(N):
            want, end = encoder.rnn(encoder.embed(x[b, :, n]), hidden[b, n][None])
            torch.testing.assert_close(features[b, :, n], want)
            torch.testing.assert_close(last[b, n], end[0])


@pytest.mark.parametrize("cls", [RecurrentEncoder, FeedForwardEncoder])
class TestEncoders:
    def test_with_lengths_as_without_on_valid_steps(self, cls):
        encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
        features, last = encoder(x, hidden, LENGTH)
        want, _ = encoder(x, hidden)
        torch.testing.assert_close(features[VALID], want[VALID])
        assert (features[~VALID] == 0).all()
        if cls is RecurrentEncoder:  # the state after each episode's own last step
            torch.testing.assert_close(last, want[torch.arange(B), LENGTH - 1])
        else:
            assert torch.equal(last, hidden)

    def test_gradients_with_lengths_as_without(self, cls):
        encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
        ragged, together = encoder(x, hidden, LENGTH)[0], gradients(encoder, x, hidden, LENGTH)
        single = []  # every episode by itself, without padding
        for b in range(B):
            h = hidden[b : b + 1].clone().requires_grad_()
            features, last = encoder(x[b : b + 1, : LENGTH[b]], h)
            weight = torch.randn(B, T, N, H, generator=rng(4), dtype=torch.double)[b : b + 1, : LENGTH[b]]
            loss = (features * weight).sum() + last.square().sum()
            single.append(torch.autograd.grad(loss, [h, *encoder.parameters()]))
            torch.testing.assert_close(ragged[b, : LENGTH[b]], features[0])
        want = [torch.cat([g[0] for g in single]), *(sum(gs) for gs in zip(*(g[1:] for g in single), strict=True))]
        for got, expected in zip(together, want, strict=True):
            torch.testing.assert_close(got, expected)

    @pytest.mark.parametrize("fill", [torch.nan, torch.inf])
    def test_padding_is_never_read(self, cls, fill):
        encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
        poisoned = torch.where(VALID[..., None, None], x, fill)
        for clean, dirty in zip(encoder(x, hidden, LENGTH), encoder(poisoned, hidden, LENGTH), strict=True):
            assert torch.equal(clean, dirty)
        clean, dirty = gradients(encoder, x, hidden, LENGTH), gradients(encoder, poisoned, hidden, LENGTH)
        assert all(torch.equal(a, b) for a, b in zip(clean, dirty, strict=True))

    def test_order_of_episodes_does_not_matter(self, cls):
        encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
        order = torch.tensor([4, 2, 0, 5, 1, 3])
        torch.testing.assert_close(
            encoder(x, hidden, LENGTH)[0][order], encoder(x[order], hidden[order], LENGTH[order])[0]
        )

    def test_in_steps_as_at_once(self, cls):
        encoder, (x, _) = built(cls, WIDTH, H), inputs()
        want, end = encoder(x)
        hidden, steps = None, []
        for t in range(T):
            features, hidden = encoder(x[:, t : t + 1], hidden)
            steps.append(features)
        torch.testing.assert_close(torch.cat(steps, 1), want)
        torch.testing.assert_close(hidden, end)

    def test_no_hidden_state_means_zeros(self, cls):
        encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
        for length in (None, LENGTH):
            got, want = encoder(x, None, length), encoder(x, torch.zeros_like(hidden), length)
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_depth_of_the_feed_forward_encoder():
    kinds = [type(m) for m in FeedForwardEncoder(WIDTH, H, layers=2).modules() if not list(m.children())]
    assert kinds == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU]


def test_inputs_of_agents_by_hand():
    obs = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    last = torch.tensor([[[[0.0, 0.0, 1.0], [0.0, 1.0, 0.0]]]])
    assert agent_inputs(obs, last).tolist() == [[[[1, 2, 0, 0, 1, 1, 0], [3, 4, 0, 1, 0, 0, 1]]]]
    assert input_dim(EnvSpec(actions=(ActionSpec(3),) * 2, obs_dims=(2, 1), state_dim=1, episode_limit=1)) == 7


def test_last_actions_by_hand():
    assert last_actions(torch.tensor([[[1, 0], [0, 1]]]), 2).tolist() == [
        [[[0, 0], [0, 0]], [[0, 1], [1, 0]], [[1, 0], [0, 1]]]
    ]


def test_mlp_and_state_value_shapes():
    assert [type(m) for m in mlp(2, 3, 4)] == [nn.Linear, nn.ReLU, nn.Linear]
    value = StateValue(4)
    assert value(torch.zeros(2, 3, 4)).shape == (2, 3)
    assert value.net[0].out_features == 64


def test_group_linear_is_one_layer_per_group():
    layer, x = built(GroupLinear, 3, 4, 2), torch.randn(5, 6, 3, 4, generator=rng(), dtype=torch.double)
    y = layer(x)
    for k in range(3):
        torch.testing.assert_close(y[..., k, :], x[..., k, :] @ layer.weight[k] + layer.bias[k])
    bound = 4**-0.5  # nn.Linear's, by the number of inputs of one group
    assert layer.weight.abs().max() <= bound and layer.weight.abs().max() > 0.7 * bound


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_heads_are_independent(layers):
    net = built(lambda: heads(3, 4, 2, layers=layers, hidden_dim=8))
    x = torch.randn(5, 4, generator=rng(), dtype=torch.double)
    before = net(x)
    with torch.no_grad():
        for p in net.parameters():  # change everything that belongs to head 1
            (p[1] if p.shape[0] == 3 else p.unflatten(0, (3, -1))[1]).add_(1.0)
    changed = (net(x) != before).any(0).any(-1)
    assert before.shape == (5, 3, 2) and changed.tolist() == [False, True, False]


def test_accelerators_take_another_path_to_the_same_result():
    encoder, (x, hidden) = built(RecurrentEncoder, WIDTH, H), inputs()
    poisoned = torch.where(VALID[..., None, None], x, torch.nan)
    both = [path(poisoned, hidden, LENGTH) for path in (encoder._ragged, encoder._padded)]
    torch.testing.assert_close(*both)
    gradients = [torch.autograd.grad(y.square().sum(), list(encoder.parameters())) for y in both]
    torch.testing.assert_close(*gradients)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("cls", [RecurrentEncoder, FeedForwardEncoder])
def test_on_a_gpu_as_on_the_host(cls):
    encoder, (x, hidden) = built(cls, WIDTH, H), inputs()
    poisoned = torch.where(VALID[..., None, None], x, torch.nan)
    want = encoder(poisoned, hidden, LENGTH)
    got = encoder.cuda()(poisoned.cuda(), hidden.cuda(), LENGTH)
    torch.testing.assert_close([y.cpu() for y in got], list(want))


@pytest.mark.parametrize("length", [torch.ones(B, dtype=torch.long), torch.full((B,), T)])
def test_shortest_and_longest_episodes(length):
    encoder, (x, _) = built(RecurrentEncoder, WIDTH, H), inputs()
    features, last = encoder(x, None, length)
    want, _ = encoder(x[:, : length[0]])
    torch.testing.assert_close(features[:, : length[0]], want)
    torch.testing.assert_close(last, want[:, -1])
