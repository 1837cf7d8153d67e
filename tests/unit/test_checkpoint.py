"""Checkpoints: what is saved comes back bit for bit, and nothing else passes for one."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from core import checkpoint
from core.checkpoint import CheckpointError

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
    torch.uint8, torch.bool, torch.complex64,
]  # fmt: skip


def there_and_back(path: Path, state: Any) -> Any:
    checkpoint.save(path / "c.pt", {"it": state})
    return checkpoint.load(path / "c.pt")["it"]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3, 4)], ids=str)
def test_tensors(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = (torch.randn(shape) * 50).to(dtype)
    back = there_and_back(tmp_path, tensor)
    assert back.dtype == dtype and back.shape == shape and torch.equal(back, tensor)


def test_views_cost_only_what_they_show(tmp_path: Path) -> None:
    memory = torch.arange(1_000_000.0).reshape(1000, 1000)
    back = there_and_back(tmp_path, {"slice": memory[2:4, ::10], "turned": memory[:3, :5].T})
    assert torch.equal(back["slice"], memory[2:4, ::10]) and torch.equal(back["turned"], memory[:3, :5].T)
    assert (tmp_path / "c.pt").stat().st_size < 5_000


def test_plain_values_keep_their_types(tmp_path: Path) -> None:
    state = {
        "none": None, "yes": True, "one": 1, "large": 2**127 + 1, "float": 0.1, "tiny": 5e-324, "text": "ä\n\udc80",
        "bytes": b"\0\xff", "list": [1, [2.0, "3"]], "tuple": (1, (2,), []), 7: "int key", (1, 2): "tuple key", None: 0,
        "inf": float("inf"), "x": {"d": 1}, "order": {"b": 1, "a": 2},
    }  # fmt: skip
    back = there_and_back(tmp_path, state)
    assert back == state
    assert str(back) == str(state)  # 1 == 1.0 == True, but they do not print alike
    assert np.isnan(there_and_back(tmp_path, float("nan")))


def test_numpy_generators(tmp_path: Path) -> None:
    for kind in (np.random.PCG64, np.random.MT19937, np.random.SFC64):
        rng = np.random.Generator(kind(5))
        rng.random(3)
        other = np.random.Generator(kind(6))
        other.bit_generator.state = there_and_back(tmp_path, rng.bit_generator.state)
        assert np.array_equal(rng.random(10), other.random(10))
    back = there_and_back(tmp_path, {"float": np.float64(1.5), "array": np.arange(3, dtype=np.int16)})
    assert type(back["float"]) is float and back["array"].dtype == np.int16


def test_module_and_optimiser(tmp_path: Path) -> None:
    def train(net: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        for _ in range(3):
            optimiser.zero_grad()
            net(torch.ones(4, 3)).square().mean().backward()
            optimiser.step()

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    optimiser = torch.optim.Adam(net.parameters())
    train(net, optimiser)
    back = there_and_back(tmp_path, {"net": net.state_dict(), "optimiser": optimiser.state_dict()})
    copy = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 1))
    again = torch.optim.Adam(copy.parameters())
    copy.load_state_dict(back["net"])
    again.load_state_dict(back["optimiser"])
    train(net, optimiser)
    train(copy, again)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), copy.parameters(), strict=True))


def test_loaded_tensors_are_ones_own(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    checkpoint.save(tmp_path / "c.pt", {"a": tensor, "b": tensor})
    state = checkpoint.load(tmp_path / "c.pt")
    state["a"] += 1
    assert torch.equal(state["b"], torch.zeros(3)) and torch.equal(tensor, torch.zeros(3))


@pytest.mark.parametrize(
    "value",
    [{1, 2}, object(), nn.Linear(1, 1), np.array(["text"]), torch.eye(2).to_sparse()],
    ids=["set", "object", "module", "array of text", "sparse"],
)
def test_what_cannot_be_saved_is_named(tmp_path: Path, value: Any) -> None:
    checkpoint.save(tmp_path / "c.pt", {"old": 1})
    with pytest.raises(TypeError, match=r"state\.learner\.parts\[1\] is a "):
        checkpoint.save(tmp_path / "c.pt", {"learner": {"parts": [0, value]}})
    assert checkpoint.load(tmp_path / "c.pt") == {"old": 1}


def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"old": torch.ones(2)})

    def fail(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(CheckpointError, match=r"No space left.*The one before is kept"):
        checkpoint.save(path, {"new": 1})
    assert torch.equal(checkpoint.load(path)["old"], torch.ones(2))
    assert os.listdir(tmp_path) == ["c.pt"]


def test_a_crash_before_the_swap_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.pt"
    checkpoint.save(path, {"old": 1})
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, {"new": 1})
    monkeypatch.undo()
    assert checkpoint.load(path) == {"old": 1}
    (tmp_path / "c.pt.part").write_bytes(b"left by a killed process")
    checkpoint.save(path, {"new": 1})
    assert checkpoint.load(path) == {"new": 1}


def saved(path: Path) -> bytes:
    checkpoint.save(path, {"a": torch.arange(4), "b": [1, None]})
    return path.read_bytes()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    whole = saved(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut short|not a checkpoint"):
            checkpoint.load(path)


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    whole = saved(path)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(path)


def test_added_bytes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    path.write_bytes(saved(path) + b"x")
    with pytest.raises(CheckpointError, match="bytes instead of"):
        checkpoint.load(path)


def test_foreign_files_are_refused_and_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.mkdir, (str(tmp_path / "evil"),)

    path = tmp_path / "c.pt"
    for content in (b"", b"PK\x03\x04", pickle.dumps(Evil()), b"COFACTOS" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"not a checkpoint of this program.*delete it"):
            checkpoint.load(path)
    torch.save({"a": 1}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        checkpoint.load(path)
    assert not (tmp_path / "evil").exists()


def test_another_version_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "c.pt"
    whole = saved(path)
    path.write_bytes(whole[:8] + bytes([2]) + whole[9:])
    with pytest.raises(CheckpointError, match=r"has format 2, and this program reads format 1: resume it with"):
        checkpoint.load(path)


def test_no_file_and_no_access(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        checkpoint.load(tmp_path / "c.pt")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load(tmp_path)


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(max_size=20)
keys = st.text() | st.integers() | st.booleans() | st.none() | st.tuples(st.integers(), st.text())
states = st.recursive(scalars, lambda s: st.lists(s) | st.tuples(s, s) | st.dictionaries(keys, s), max_leaves=20)


@settings(max_examples=25, deadline=None)
@given(state=states)
def test_any_state_comes_back(tmp_path_factory: pytest.TempPathFactory, state: Any) -> None:
    assert str(there_and_back(tmp_path_factory.getbasetemp(), state)) == str(state)
