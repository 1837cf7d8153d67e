"""Episodes without padding: which states there are, in which order, and that networks make the same of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from controllers.base import encode_agent, unroll_agent
from core.registry import AGENTS
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from rl.masked import draw
from rl.returns import td_lambda

N, A, WIDTH = 2, 3, 4
LENGTH = torch.tensor([2, 4, 1, 4])
B, T = len(LENGTH), 4
SPEC = EnvSpec(actions=(ActionSpec(A),) * N, obs_dims=(WIDTH,) * N, state_dim=2, episode_limit=T)


def batch() -> EpisodeBatch:
    """Four episodes with NaN on padding, whose states say who they are: [episode, step]."""
    rng = torch.Generator().manual_seed(3)
    padding = valid_mask(LENGTH + 1, T + 1) == 0
    who = torch.stack(torch.meshgrid(torch.arange(B), torch.arange(T + 1), indexing="ij"), -1).float()
    obs = torch.randn(B, T + 1, N, WIDTH, generator=rng)
    return EpisodeBatch(
        action=torch.randint(A, (B, T, N), generator=rng),
        reward=torch.randn(B, T, generator=rng).masked_fill(valid_mask(LENGTH, T) == 0, torch.nan),
        terminated=torch.zeros(B, T, dtype=torch.bool),
        mask=valid_mask(LENGTH, T),
        length=LENGTH,
        obs=obs.masked_fill(padding[..., None, None], torch.nan),
        state=who.masked_fill(padding[..., None], torch.nan),
        avail=torch.ones(B, T + 1, N, A, dtype=torch.bool),
        extras={"seen": torch.ones(B, T + 1, 1, dtype=torch.bool), "noise": torch.zeros(B, T, 1)},
    )


def test_states_are_ordered_by_time_and_then_by_length():
    """The two episodes of four steps first, in their order; then those of two and of one."""
    states = batch().packed()
    order = [(1, 0), (3, 0), (0, 0), (2, 0), (1, 1), (3, 1), (0, 1), (2, 1), (1, 2), (3, 2), (0, 2)]
    order += [(1, 3), (3, 3), (1, 4), (3, 4)]
    assert states.state[:, 0].tolist() == [list(map(float, pair)) for pair in order]
    assert states.alive == [4, 4, 3, 2, 2]
    acted = [float(step < LENGTH[episode]) for episode, step in order]
    assert states.mask[:, 0].tolist() == acted and len(states) == len(order)


def test_what_belongs_to_steps_is_with_its_state():
    whole, states = batch(), batch().packed()
    episode, step = states.state[:, 0].long().T
    real = states.mask[:, 0] > 0
    for name in ("action", "reward", "terminated"):
        wanted = getattr(whole, name)[episode[real], step[real]]
        assert torch.equal(getattr(states, name)[real, 0], wanted)
        assert not getattr(states, name)[~real].any()
    assert torch.equal(states.obs[:, 0], whole.obs[episode, step])
    assert set(states.extras) == {"seen"}
    before = torch.where((step > 0)[:, None], whole.action[episode, (step - 1).clamp(min=0)], A)
    assert torch.equal(states.last_action(A)[:, 0], before)


def test_spreading_undoes_packing():
    whole, states = batch(), batch().packed()
    assert torch.equal(states.spread(states.state), whole.state.nan_to_num())
    x = torch.randn(len(states), 1, 2)
    assert torch.equal(states.pack(states.spread(x)), x)


def test_time_goes_on_within_episodes():
    """TD(λ) of packed values is that of the padded ones."""
    whole, states = batch(), batch().packed()
    value = torch.randn(B, T + 1, generator=torch.Generator().manual_seed(1))

    def backed_up(episodes, x):
        return td_lambda(episodes.reward, episodes.terminated, episodes.mask, x, 0.9, 0.7)

    made = states.over_time(backed_up, states.pack(value))
    assert torch.equal(states.spread(made)[:, :-1], whole.over_time(backed_up, value))
    assert not made[states.mask == 0].any()
    assert torch.equal(whole.steps(value), value[:, :-1]) and states.steps(made) is made


def test_draws_are_those_of_the_padded_episodes():
    whole, states = batch(), batch().packed()
    weight = torch.rand(B, T + 1, N, A, generator=torch.Generator().manual_seed(2))
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    padded, packed = draw(weight, whole.uniforms(rngs[0])), draw(states.pack(weight), states.uniforms(rngs[1]))
    assert torch.equal(states.pack(padded), packed)
    assert torch.equal(rngs[0].get_state(), rngs[1].get_state())


def test_states_of_changed_episodes_are_the_changed_states():
    whole, states = batch(), batch().packed()
    moved = states.map(lambda x: x.nan_to_num())
    assert torch.equal(moved.obs, states.obs) and moved.alive == states.alive
    twice = states.repeated(2)
    assert len(twice) == 2 * len(states) and twice.alive == [2 * k for k in states.alive]
    assert torch.equal(twice.spread(twice.obs)[B:], states.spread(states.obs)) and states.repeated(1) is states
    drawn = torch.full((B, T + 1, N), 2)
    assert torch.equal(states.completed(states.pack(drawn)), states.pack(whole.completed(drawn)))


@pytest.mark.parametrize("name", ["rnn", "mlp", "ppo"])
def test_networks_make_the_same_of_packed_states(name):
    """Also in double precision and their gradients; NaN on padding is never read."""
    torch.manual_seed(1)
    net = AGENTS[name](SPEC, AGENTS[name].Config(hidden_dim=5)).double()
    whole = dataclasses.replace(batch(), obs=batch().obs.double())
    whole = whole.map(lambda x: x.double() if x.is_floating_point() else x)
    states, weight = whole.packed(), torch.randn(sum(LENGTH + 1), 1, N, A, dtype=torch.double)
    padded, packed = states.pack(unroll_agent(net, whole, A)), unroll_agent(net, states, A)
    torch.testing.assert_close(packed, padded, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(encode_agent(net, states, A), states.pack(encode_agent(net, whole, A)))
    wanted, got = (torch.autograd.grad((x * weight).sum(), list(net.parameters())) for x in (padded, packed))
    for one, other in zip(wanted, got, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-10)


def test_what_is_known_of_all_but_the_first_states() -> None:
    whole, states = batch(), batch().packed()
    value = torch.arange(B * (T + 1) * N, dtype=torch.float).view(B, T + 1, N) + 1
    seen = []

    def doubled(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        seen.append(len(x.flatten(0, 1)))
        return (x + y).sum(-1)

    padded = whole.later(doubled, value, value)
    packed = states.later(doubled, states.pack(value), states.pack(value))
    assert torch.equal(padded, torch.cat([torch.zeros(B, 1), 2 * value[:, 1:].sum(-1)], 1))
    assert torch.equal(packed, states.pack(padded)) and seen == [B * T, int(LENGTH.sum())]


def test_who_acted_stands_first_at_each_time() -> None:
    states = batch().packed()
    rows = torch.cat([torch.arange(at.start, at.stop) for at in states.acting()])
    assert [at.stop - at.start for at in states.acting()] == [4, 3, 2, 2]
    assert rows.tolist() == states.mask[:, 0].nonzero()[:, 0].tolist()


def test_draws_for_steps_in_single_precision_are_those_of_the_padded_steps() -> None:
    whole, states = batch(), batch().packed()
    rngs = [torch.Generator().manual_seed(5) for _ in range(2)]
    padded = torch.rand(B, T, N, A, generator=rngs[0])
    packed = states.uniforms(rngs[1], torch.float, steps=True)(torch.Size([len(states), 1, N, A]))
    acted = states.mask[:, 0] > 0
    assert torch.equal(packed[acted], states.pack(torch.cat([padded, padded[:, :1]], 1))[acted])
    assert torch.equal(rngs[0].get_state(), rngs[1].get_state()) and whole.uniforms(rngs[0]) is rngs[0]


def test_several_draws_for_every_state_go_from_episode_to_episode() -> None:
    states = batch().packed()
    drawn = states.samples(torch.Generator().manual_seed(5))(torch.Size([3, len(states), 1, N]))
    plain = torch.rand(3, len(states), 1, N, generator=torch.Generator().manual_seed(5), dtype=torch.double)
    in_episodes = states.rows.argsort()
    assert torch.equal(drawn[:, in_episodes], plain)
