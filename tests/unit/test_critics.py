"""Centralised critics: what they compute, and who may use them."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot, relu

from core.config import ConfigError, Settings
from core.registry import CRITICS
from core.specs import ActionSpec, EnvSpec
from modules.critics.base import JointHistoryCritic, build_critic
from modules.mixers.base import Mixer

B, T, N, A, H, S = 4, 3, 3, 4, 5, 7
SPEC = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(6,) * N, state_dim=S, episode_limit=T)


def qtran(**keys):
    torch.manual_seed(2)
    return CRITICS["qtran"](SPEC, H, CRITICS["qtran"].Config(**keys))


def central(**keys):
    torch.manual_seed(2)
    return CRITICS["central"](SPEC, CRITICS["central"].Config(**keys))


def inputs():
    """Features, utilities, states and joint actions."""
    rng = torch.Generator().manual_seed(0)
    h, q, state = (torch.randn(B, T, *shape, generator=rng) for shape in ((N, H), (N,), (S,)))
    return h, q, state, one_hot(torch.randint(A, (B, T, N), generator=rng), A).float()


def by_hand(net, x):
    """An MLP's layers one after another, ReLU between them."""
    layers = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    for layer in layers[:-1]:
        x = relu(layer.weight @ x + layer.bias)
    return layers[-1].weight @ x + layers[-1].bias


def test_qtran_by_the_formula():
    critic, (h, _, state, joint) = qtran(), inputs()
    got, value = critic(h, state, joint), critic.value(state)
    layers = {name: len(net) // 2 + 1 for name, net in critic.named_children()}
    assert layers == {"encoder": 2, "q": 3, "v": 3}
    for b, t in ((0, 0), (3, 2)):
        encoded = sum(by_hand(critic.encoder, torch.cat([h[b, t, i], joint[b, t, i]])) for i in range(N))
        torch.testing.assert_close(got[b, t], by_hand(critic.q, torch.cat([state[b, t], encoded]))[0])
        torch.testing.assert_close(value[b, t], by_hand(critic.v, state[b, t])[0])


def test_qtran_sees_who_does_what_but_not_in_which_order():
    """Agents may change places together with their histories; actions alone may not."""
    critic, (h, _, state, joint) = qtran(), inputs()
    turned = [2, 0, 1]
    whole = critic(h, state, joint)
    torch.testing.assert_close(critic(h[:, :, turned], state, joint[:, :, turned]), whole)
    moved = (joint != joint[:, :, turned]).any(-1).any(-1)
    assert ((critic(h, state, joint[:, :, turned]) - whole).abs() > 1e-6)[moved].all() and moved.any()


def test_central_by_the_formula():
    critic, (_, q, state, _) = central(central_mixing_embed_dim=6), inputs()
    assert (len(critic.net), len(critic.v)) == (7, 3)  # three hidden layers, and one
    got = critic(q, state)
    for b, t in ((0, 0), (3, 2)):
        want = by_hand(critic.net, torch.cat([q[b, t], state[b, t]])) + by_hand(critic.v, state[b, t])
        torch.testing.assert_close(got[b, t], want[0])


def test_central_need_not_rise():
    critic, (_, q, state, _) = central(), inputs()
    slope = torch.autograd.grad(critic(q.requires_grad_(), state).sum(), q)[0]
    assert (slope < 0).any() and (slope > 0).any()


@pytest.mark.parametrize("name", ["qtran", "central"])
def test_steps_do_not_mix_and_all_parameters_learn(name):
    critic, (h, q, state, joint) = qtran() if name == "qtran" else central(), inputs()

    def values():
        return torch.stack([critic(h, state, joint), critic.value(state)] if name == "qtran" else [critic(q, state)])

    whole = values()
    whole.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in critic.parameters())
    for x in (h, q, state, joint):
        x[1, 2] = torch.nan
    got = values()
    assert got[:, 1, 2].isnan().all()
    got[:, 1, 2] = whole[:, 1, 2]
    assert torch.equal(got, whole)


@pytest.mark.parametrize(
    ("name", "kind", "fits"), [("qtran", Mixer, "central"), ("central", JointHistoryCritic, "qtran")]
)
def test_the_wrong_kind_is_refused_with_the_right_one(name, kind, fits):
    with pytest.raises(ConfigError, match=f"critic '{name}' does not fit learner 'some'. Choose one of: .*{fits}"):
        build_critic(Settings({"critic": name, "learner": "some"}), kind, SPEC)
