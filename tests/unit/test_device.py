"""What is sent to a GPU without waiting; the GPU is a pretended one."""

from __future__ import annotations

import copy

import pytest
import torch

from core.config import ConfigError
from core.device import Lane, roomy, sent
from core.specs import ActionSpec, EnvSpec, EpisodeBatch, valid_mask
from memory.replay import Replay
from pretended_gpu import CUDA, MAIN, DeviceTensor, Waits, pretended_gpu
from run import replay_device

SPEC = EnvSpec((ActionSpec(3),) * 2, (4,) * 2, 5, 6, extras={"visible": (2, 2)})


def episodes(lengths: list[int]) -> EpisodeBatch:
    rng, length = torch.Generator().manual_seed(0), torch.tensor(lengths)
    b, t = len(lengths), max(lengths)
    return EpisodeBatch(
        action=torch.randint(3, (b, t, 2), generator=rng),
        reward=torch.randn(b, t, generator=rng),
        terminated=torch.zeros(b, t, dtype=torch.bool),
        mask=valid_mask(length, t),
        length=length,
        obs=torch.randn(b, t + 1, 2, 4, generator=rng),
        state=torch.randn(b, t + 1, 5, generator=rng),
        avail=torch.ones(b, t + 1, 2, 3, dtype=torch.bool),
        extras={"visible": torch.rand(b, t + 1, 2, 2, generator=rng) < 0.5},
    )


def test_what_is_sent_is_pinned_and_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(3)
    with pretended_gpu(monkeypatch):
        there = sent(x, CUDA)
        assert isinstance(there, DeviceTensor) and torch.equal(there.held, x)
        assert sent(there, CUDA).device == CUDA
        with pytest.raises(Waits, match="pinned"):
            x.to(CUDA, non_blocking=True)
        with pytest.raises(Waits, match="to the host"):
            sent(there, "cpu")
    assert sent(x, "cpu") is x


def test_what_comes_by_a_lane_is_waited_for_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pretended_gpu(monkeypatch):
        lane = Lane(CUDA)
        with torch.cuda.stream(lane._stream):
            early = sent(torch.ones(2), CUDA)
        with pytest.raises(Waits, match="another stream"):
            early + 1
        x, y = lane(lambda copied: (copied(torch.ones(2)), copied(torch.zeros(2))))
        assert torch.equal((x + y).held, torch.ones(2))
        assert x.used_by == y.used_by == {MAIN}


@pytest.mark.parametrize("stored", ["dense", "sparse", "half"])
def test_a_replay_in_host_memory_hands_out_the_same(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Replay(SPEC, 9, 10**6, "cpu", torch.Generator().manual_seed(0), None, stored)
    plain.add(episodes([2, 6, 1, 4]))
    with pretended_gpu(monkeypatch):
        made = Replay(SPEC, 9, 10**6, "cpu", torch.Generator().manual_seed(0), None, stored, CUDA)
        made.load_state_dict(copy.deepcopy(plain.state_dict()))
        draws = [lambda replay: replay.uniform(3), lambda replay: replay.transitions(5, past=2)]
        for draw in draws:
            here, there = draw(plain), draw(made)
            assert torch.equal(here.length, there.length)
            for name in ("action", "reward", "terminated", "mask", "obs", "state", "avail"):
                x = getattr(there, name)
                assert isinstance(x, DeviceTensor) and torch.equal(x.held, getattr(here, name)), name
            assert here.extras.keys() == there.extras.keys()
            assert all(torch.equal(x.held, here.extras[name]) for name, x in there.extras.items())


def test_a_replay_goes_where_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    assert roomy(CUDA, 50) and not roomy(CUDA, 51) and roomy("cpu", 10**15)
    assert replay_device("auto", CUDA, 50) == replay_device("cuda", CUDA, 51) == CUDA
    assert replay_device("auto", CUDA, 51).type == replay_device("cpu", CUDA, 1).type == "cpu"
    with pytest.raises(ConfigError, match="buffer_device=auto"):
        replay_device("cuda", torch.device("cpu"), 1)
