"""One file that is either the old state or the new one, never half of either.

Layout: ``MAGIC``, the format's version, the length of a header and of all blobs (three little-endian unsigned 64-bit
numbers), the header (JSON: the state's structure), the tensors' bytes one after another, SHA-256 of all before.

Nothing is pickled: loading a foreign file cannot run code, and a replay of gigabytes is written and read tensor by
tensor without a second copy in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

MAGIC = b"COFACTOR"
VERSION = 1
_SIZES = struct.Struct("<QQQ")
_CHUNK = 1 << 24
_ADVICE = "Resume from another copy of the file, or delete it to start the run again from its first step."


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be written or used, and what to do about it."""


class _Encoder:
    """Turns a state into JSON and a list of tensors.

    Scalars and lists stand for themselves; everything else is an object with one key: ``d`` a mapping as pairs,
    ``t`` a tuple, ``x`` a tensor, ``n`` a NumPy array, ``b`` bytes (the last three by position of their blob).
    """

    def __init__(self) -> None:
        self.blobs: list[Tensor] = []

    def encode(self, value: Any, at: str) -> Any:
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Mapping):
            return {"d": [[self.encode(k, at), self.encode(v, f"{at}.{k}")] for k, v in value.items()]}
        if isinstance(value, list | tuple):
            items = [self.encode(v, f"{at}[{i}]") for i, v in enumerate(value)]
            return {"t": items} if isinstance(value, tuple) else items
        if isinstance(value, Tensor) and value.layout is torch.strided:
            return self.blob("x", value.detach())
        if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
            return self.blob("n", torch.from_numpy(np.array(value)))
        if isinstance(value, bytes):
            return self.blob("b", torch.from_numpy(np.frombuffer(value, np.uint8).copy()))
        raise TypeError(
            f"{at} is a {type(value).__name__}: a checkpoint holds tensors, numbers, text and containers only"
        )

    def blob(self, kind: str, tensor: Tensor) -> dict[str, Any]:
        self.blobs.append(tensor)
        return {kind: [len(self.blobs) - 1, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]}


def _decode(value: Any, blobs: Iterator[Tensor]) -> Any:
    """The inverse of ``_Encoder.encode``, blobs in the order in which they were written."""
    if isinstance(value, list):
        return [_decode(v, blobs) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "d":
        return {_decode(k, blobs): _decode(v, blobs) for k, v in content}
    if kind == "t":
        return tuple(_decode(v, blobs) for v in content)
    tensor = next(blobs)
    if kind == "x":
        return tensor
    return tensor.numpy() if kind == "n" else tensor.numpy().tobytes()


def _shapes(value: Any) -> Iterator[tuple[torch.dtype, list[int]]]:
    """Type and shape of every blob of a header, in order."""
    if isinstance(value, list):
        for v in value:
            yield from _shapes(v)
    elif isinstance(value, dict):
        ((kind, content),) = value.items()
        if kind in "xnb":
            yield getattr(torch, content[1]), content[2]
        else:
            yield from _shapes(content)


def _bytes(tensor: Tensor) -> memoryview:
    """A contiguous host tensor's memory."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def save(path: str | Path, state: Mapping[str, Any]) -> None:
    """Replaces the file at ``path`` by ``state``, atomically and durably.

    Args:
        path: the file; its folder exists.
        state: tensors of any device, NumPy arrays, numbers, text, bytes, None, and lists, tuples and mappings of them.
            Mappings come back as ``dict``, everything else as it was, tensors in host memory.

    Raises:
        CheckpointError: the disk is full or not writable; what was at ``path`` is still there.
        TypeError: the state holds something else, which is named.
    """
    encoder = _Encoder()
    header = json.dumps(encoder.encode(state, "state")).encode()
    try:
        with replacing(path) as file:
            _write(file, header, encoder.blobs)
    except OSError as error:
        raise CheckpointError(
            f"the checkpoint {path} could not be written: {error}. The one before is kept."
        ) from error


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """A new file that takes the place of ``path`` when the block ends well, and vanishes when it does not."""
    path = Path(path)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _write(file: BinaryIO, header: bytes, blobs: list[Tensor]) -> None:
    digest = hashlib.sha256()
    size = sum(b.numel() * b.element_size() for b in blobs)
    parts: Iterator[bytes | memoryview] = iter((MAGIC, _SIZES.pack(VERSION, len(header), size), header))
    for part in parts:
        file.write(part)
        digest.update(part)
    for blob in blobs:
        view = _bytes(blob.cpu().contiguous())
        file.write(view)
        digest.update(view)
    file.write(digest.digest())


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load(path: str | Path) -> dict[str, Any]:
    """The state that ``save`` has written.

    Raises:
        CheckpointError: there is no such file, or it is no checkpoint, one of another version, cut short or damaged.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return _read(file, path)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no checkpoint at {path}: the run was stopped before its first one") from error
    except OSError as error:
        raise CheckpointError(f"the checkpoint {path} cannot be read: {error}") from error


def _read(file: BinaryIO, path: Path) -> dict[str, Any]:
    start = file.read(len(MAGIC) + _SIZES.size)
    if not start or start[: len(MAGIC)] != MAGIC[: len(start)]:
        raise CheckpointError(f"{path} is not a checkpoint of this program. {_ADVICE}")
    if len(start) < len(MAGIC) + _SIZES.size:
        raise CheckpointError(f"the checkpoint {path} is cut short. {_ADVICE}")
    version, length, size = _SIZES.unpack(start[len(MAGIC) :])
    if version != VERSION:
        raise CheckpointError(
            f"the checkpoint {path} has format {version}, and this program reads format {VERSION}: "
            "resume it with the version of the program that wrote it (see the run's record.json)"
        )
    whole, found = len(start) + length + size + hashlib.sha256().digest_size, os.fstat(file.fileno()).st_size
    if whole != found:
        raise CheckpointError(f"the checkpoint {path} has {found} bytes instead of {whole}: it is cut short. {_ADVICE}")
    _verify(file, whole, path)
    file.seek(len(start))
    header = json.loads(file.read(length))
    state: dict[str, Any] = _decode(header, (_tensor(file, *blob) for blob in _shapes(header)))
    return state


def _verify(file: BinaryIO, whole: int, path: Path) -> None:
    """Compares the checksum before anything of the content is interpreted."""
    file.seek(0)
    digest = hashlib.sha256()
    left = whole - digest.digest_size
    while left:
        chunk = file.read(min(left, _CHUNK))
        digest.update(chunk)
        left -= len(chunk)
    if file.read() != digest.digest():
        raise CheckpointError(f"the checkpoint {path} is damaged: its checksum does not match. {_ADVICE}")


def _tensor(file: BinaryIO, dtype: torch.dtype, shape: list[int]) -> Tensor:
    tensor = torch.empty(shape, dtype=dtype)
    file.readinto(_bytes(tensor))  # type: ignore[attr-defined]
    return tensor
