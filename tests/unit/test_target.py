"""When and how target networks follow."""

import pytest
import torch
from torch import nn

from modules.target import Target


def pair(**how):
    """An online network of one weight, 0 so far, and its target."""
    online = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(online.weight)
    return online, Target(online, **how)


def advance(online, target, events=1):
    """The online weight grows by 1, then the target steps; its weight."""
    with torch.no_grad():
        online.weight += 1
    target.step(events)
    return target.slow.weight.item()


def test_copies_every_period():
    online, target = pair(period=3)
    assert [advance(online, target) for _ in range(7)] == [0, 0, 3, 3, 3, 6, 6]


def test_counts_events_not_calls():
    online, target = pair(period=10)
    assert [advance(online, target, events) for events in (4, 4, 4, 0, 7, 1, 25)] == [0, 0, 3, 3, 3, 6, 7]


def test_polyak():
    online, target = pair(tau=0.25)
    assert [advance(online, target) for _ in range(3)] == [0.25, 0.6875, 1.265625]


def test_polyak_copies_buffers():
    online = nn.BatchNorm1d(2)
    target = Target(online, tau=0.1)
    online(torch.randn(8, 2, generator=torch.Generator().manual_seed(0)))
    target.step()
    assert torch.equal(target.slow.running_mean, online.running_mean)
    assert target.slow.num_batches_tracked == 1


def test_gets_no_gradient_and_owns_its_parameters():
    online, target = pair(period=2)
    y = target(torch.ones(1, 1, requires_grad=True))
    assert not y.requires_grad
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in online.parameters())
    assert len(list(target.parameters())) == 1 and target.slow.weight is not online.weight


def test_state_round_trip_continues_the_count():
    online, target = pair(period=3)
    for _ in range(4):
        advance(online, target)
    other_online, other = pair(period=3)
    other.load_state_dict(target.state_dict())
    other_online.load_state_dict(online.state_dict())
    assert other.slow.weight.item() == 3.0
    assert [advance(other_online, other) for _ in range(2)] == [advance(online, target) for _ in range(2)] == [3, 6]


def test_state_survives_a_file(tmp_path):
    online, target = pair(period=3)
    advance(online, target)
    torch.save(target.state_dict(), tmp_path / "state.pt")
    _, other = pair(period=3)
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.count == 1


@pytest.mark.parametrize("how", [{}, {"period": 2, "tau": 0.1}, {"period": 0}, {"tau": 0.0}, {"tau": 1.5}])
def test_refuses_nonsense(how):
    with pytest.raises(ValueError, match=r"period|tau"):
        pair(**how)
