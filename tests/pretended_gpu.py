"""A GPU that is none: tensors that say they are on CUDA, calculate in host memory, and refuse whatever waits.

On a GPU the host only hands out work, until it asks for something that the device has not calculated yet: a number, a
size that depends on values, a copy that must have arrived. Here each such operation raises ``Waits``, so that a test
on a machine without a GPU finds it. The numbers are real, so that programs end as they would elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

from run import Session

CUDA = torch.device("cuda", 0)
_HOST = torch.device("cpu")
_READS = ("_local_scalar_dense", "equal", "is_nonzero", "allclose")
"""Hand a value to the host."""
_SIZES = ("nonzero", "masked_select", "unique", "bincount", "unique_dim", "unique_consecutive", "argwhere")
"""Make a tensor whose size is a value."""
_CHECKS = ("multinomial", "linalg_inv", "linalg_solve", "linalg_cholesky", "linalg_eigh")
"""Look on the host at what they are given, or at how it went."""
_ASKS_SHAPE = ("_unique2", "repeat_interleave")


class Waits(RuntimeError):
    """The host would have waited for the device."""


class Stream:
    """An order of work on the device. What was made on another one must be waited for, or it may not be there yet."""

    present: ClassVar[Stream]

    def __init__(self, device: torch.device = CUDA) -> None:
        self.device = device
        self._ticks = 0
        self._waited: dict[Stream, int] = {}

    def tick(self) -> int:
        """The number of the work that is handed out now."""
        self._ticks += 1
        return self._ticks

    def wait_stream(self, other: Stream) -> None:
        self._waited |= other._waited | {other: other._ticks}

    def knows(self, made_at: tuple[Stream, int]) -> bool:
        """Whether what was made there and then is there."""
        stream, tick = made_at
        return stream is self or self._waited.get(stream, 0) >= tick

    @classmethod
    @contextmanager
    def entered(cls, stream: Stream) -> Iterator[None]:
        before, cls.present = cls.present, stream
        try:
            yield
        finally:
            cls.present = before


class DeviceTensor(Tensor):
    """Says that it is on CUDA; ``held`` is where its numbers are."""

    held: Tensor
    made_at: tuple[Stream, int]
    used_by: set[Stream]
    """The other streams that the allocator has been told of."""
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> DeviceTensor:
        assert not isinstance(held, DeviceTensor)
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            requires_grad=False,
        )
        made.held = held.detach()
        made.made_at, made.used_by = (Stream.present, Stream.present.tick()), set()
        return made

    def __init__(self, held: Tensor) -> None:
        """See ``__new__``."""

    @property
    def device(self) -> torch.device:
        return CUDA

    @property
    def is_cuda(self) -> bool:
        return True

    def record_stream(self, stream: Any) -> None:
        self.used_by.add(stream)

    def cpu(self, *_: Any, **__: Any) -> Tensor:
        raise Waits("a copy from the device to the host")

    def to(self, *args: Any, **kwargs: Any) -> Tensor:
        asked = torch._C._nn._parse_to(*args, **kwargs)[0]
        return self.cpu() if asked is not None and asked.type == "cpu" else super().to(*args, **kwargs)

    def __repr__(self, **_: Any) -> str:
        return f"DeviceTensor({self.held})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return calculated(func, args, kwargs or {})


def calculated(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The result of an operation that touches the device.

    Raises:
        Waits: the host waits for it.
        RuntimeError: tensors of host and device are mixed as CUDA forbids it.
    """
    name = func._schema.name.partition("::")[2].removesuffix("_")
    if name in ("_to_copy", "copy"):
        return _moved(func, name, args, kwargs)
    if name == "_pin_memory":
        raise RuntimeError("only host memory is pinned")
    if not all(Stream.present.knows(x.made_at) for x in tree_leaves((args, kwargs)) if isinstance(x, DeviceTensor)):
        raise Waits(f"aten::{name} of a tensor that is made on another stream")
    _refuse(name, args, kwargs)
    _same_device(name, args, kwargs)
    plain_args, plain = tree_map_only(DeviceTensor, lambda x: x.held, (args, kwargs))
    if "device" in plain:
        plain |= {"device": _HOST, "pin_memory": False} if "pin_memory" in plain else {"device": _HOST}
    out = tree_map_only(Tensor, DeviceTensor, func(*plain_args, **plain))
    return return_and_correct_aliasing(func, args, kwargs, out)


def _refuse(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    if name in _READS or name in _SIZES or name in _CHECKS:
        raise Waits(f"aten::{name} of a tensor on the device")
    if name in _ASKS_SHAPE and kwargs.get("output_size") is None:
        raise Waits(f"aten::{name} without the size of its result")
    masks = name in ("index", "index_put", "_index_put_impl") and any(
        isinstance(x, Tensor) and x.dtype in (torch.bool, torch.uint8) for x in args[1]
    )
    if masks and not (name != "index" and args[2].dim() == 0 and not isinstance(args[2], DeviceTensor)):
        raise Waits(f"aten::{name} by a mask")


def _same_device(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    """CUDA takes numbers of the host beside its own tensors, but no tensors with axes; indices it fetches, waiting."""
    if any(isinstance(x, Tensor) and not isinstance(x, DeviceTensor) and x.dim() for x in tree_leaves((args, kwargs))):
        if name in ("index", "index_put", "_index_put_impl"):
            raise Waits(f"aten::{name} by an index in host memory")
        raise RuntimeError(f"aten::{name} of tensors of host and device")


def _moved(func: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """A copy: within the device, or between it and the host."""
    target, source = (args[0], args[1]) if name == "copy" else (None, args[0])
    if target is None:
        asked = kwargs.get("device")
        on_device = isinstance(source, DeviceTensor) if asked is None else asked.type == "cuda"
    else:
        on_device = isinstance(target, DeviceTensor)
    non_blocking = kwargs.get("non_blocking", False) or (name == "copy" and len(args) > 2 and args[2])
    if isinstance(source, DeviceTensor) and not on_device:
        raise Waits("a copy from the device to the host")
    if on_device and not isinstance(source, DeviceTensor):
        number = target is not None and source.dim() == 0  # filled in as an argument of the kernel
        if not number and not (non_blocking and id(source) in Pretended.pinned):
            raise Waits("a copy of host memory to the device that is not both pinned and non_blocking")
    plain_args, plain = tree_map_only(DeviceTensor, lambda x: x.held, (args, kwargs))
    if "device" in plain:
        plain |= {"device": _HOST}
    out = func(*plain_args, **plain)
    if target is not None:
        return target
    return DeviceTensor(out) if on_device else out


MAIN = Stream.present = Stream()


class Pretended(TorchDispatchMode):
    """While it is entered, tensors asked for on CUDA are made as ``DeviceTensor``."""

    pinned: ClassVar[dict[int, Tensor]] = {}
    """What has been pinned, by identity, kept alive."""
    sealed = False
    """While True, nothing may come from the host: what is done is recorded."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name == "_pin_memory":
            if self.sealed:
                raise Waits("a recording reads host memory")
            pinned = args[0].clone()
            self.pinned[id(pinned)] = pinned
            return pinned
        if name == "is_pinned":
            return id(args[0]) in self.pinned
        asked = kwargs.get("device")
        on_device = asked is not None and asked.type == "cuda"
        if on_device or any(isinstance(x, DeviceTensor) for x in tree_leaves((args, kwargs))):
            return calculated(func, args, kwargs)
        return func(*args, **kwargs)


def on_device(x: Any) -> bool:
    """Whether ``x``, below what ``torch.func`` wraps around it, is a tensor on the device."""
    while isinstance(x, Tensor) and torch._C._functorch.is_functorch_wrapped_tensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return isinstance(x, DeviceTensor)


class Surface(TorchFunctionMode):
    """What torch decides before it asks the tensors, by the memory in which their numbers really are.

    That is where tensors inside of ``vmap`` are, one-hots (for tensors of kinds that it does not know torch makes them
    in pieces, one of them in host memory), and sequences of unlike lengths.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == Tensor.device.__get__ and on_device(args[0]):
            return CUDA
        if func is one_hot and on_device(args[0]):
            number, n = args[0], args[1]
            return torch.zeros(*number.shape, n, dtype=torch.long, device=CUDA).scatter(-1, number.unsqueeze(-1), 1)
        if func is torch._C._nn.pad_sequence and on_device(args[0][0]):
            return DeviceTensor(func([x.held for x in args[0]], *args[1:]))
        return func(*args, **(kwargs or {}))


class DeviceGenerator(torch.Generator):
    """Says that it is on CUDA."""

    @property
    def device(self) -> torch.device:
        return CUDA


def _grouped(lists: list[list[Tensor | None]], with_indices: bool = False) -> dict[Any, Any]:
    """What optimisers use to handle many tensors at once, by the device that tensors say they are on."""
    groups: dict[Any, Any] = {}
    for i, first in enumerate(lists[0]):
        assert first is not None
        group, numbers = groups.setdefault((first.device, first.dtype), ([[] for _ in lists], []))
        numbers.append(i)
        for own, each in zip(group, lists, strict=True):
            own.extend(each[i : i + 1])
    return groups


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Programs inside find a GPU that refuses to be waited for."""
    with monkeypatch.context() as patched, Pretended(), Surface():
        patched.setattr(torch.cuda, "_lazy_init", lambda: None)
        patched.setattr(torch._C, "_group_tensors_by_device_and_dtype", _grouped)
        patched.setattr(Pretended, "pinned", {})
        patched.setattr(torch.cuda, "Stream", Stream)
        patched.setattr(torch.cuda, "stream", Stream.entered)
        patched.setattr(torch.cuda, "current_stream", lambda _=None: Stream.present)
        yield


def placed(x: Tensor) -> DeviceTensor:
    """A copy of ``x`` that has been on the device from the start."""
    return DeviceTensor(x.detach().clone())


def move_module(module: nn.Module) -> None:
    """Every parameter and buffer now says that it is on CUDA, under its old identity."""
    recurrent = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
    for part in recurrent:
        part._flat_weight_refs = []  # what is referred to weakly cannot change its kind
    for part in module.modules():
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = placed(buffer)
    for parameter in module.parameters():
        torch.utils.swap_tensors(parameter, nn.Parameter(placed(parameter), parameter.requires_grad))
    for part in recurrent:
        part._init_flat_weights()


def draw_apart(session: Session, rng: torch.Generator) -> None:
    """``rng`` goes on for the learner where its generator is; what the host must know comes from another one."""
    rng.set_state(session.learner.rng.get_state())
    session.learner.rng = rng


def move(session: Session) -> None:
    """Networks, stored episodes and the learner's generator go to the pretended GPU; the environment stays."""
    learner, replay = session.learner, session.replay
    move_module(learner)
    draw_apart(session, DeviceGenerator())
    for optimiser in learner._optimisers.values():
        for state in optimiser.state.values():
            state |= {name: placed(x) for name, x in state.items() if isinstance(x, Tensor)}
    replay.device, replay._own = CUDA, placed(replay._own)
    for name, rows in replay._rows.items():
        if isinstance(rows, Tensor):
            replay._rows[name] = placed(rows)
        else:
            vars(rows).update(
                {key: placed(x) for key, x in vars(rows).items() if key in ("_bits", "_values", "_powers")}
            )
