"""Writes safetensors shards and their index, tensor by tensor, in any order.

Shapes are known beforehand, so headers are written first and every tensor has its place from the
start: no more than one is ever held. What the tensors are called and hold is others' business, and
so is making the directory appear at once (`staging.py`).
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from moe_jax.errors import UserError
from moe_jax.interop.files.directory import INDEX, SINGLE
from moe_jax.interop.files.shard import DTYPES, LENGTH_BYTES, METADATA
from moe_jax.interop.files.staging import flush

#: What `transformers` asks for before it loads a file.
PYTORCH = {"format": "pt"}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class TensorSpec:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def parse_size(text: str) -> int:
    """Return the bytes that "5GB", "500MiB" or "1000000" mean.

    Raises:
        UserError: it is none of these, or zero.
    """
    digits = text.strip().rstrip("KMGIBkmgib")
    unit = text.strip()[len(digits) :].upper()
    if not digits.strip().isdecimal() or unit not in ("", *_UNITS) or not int(digits):
        raise UserError(f"{text!r} is no size: write 5GB, 500MiB or a number of bytes")
    return int(digits) * _UNITS.get(unit, 1)


def divide(specs: Sequence[TensorSpec], most: int) -> list[list[TensorSpec]]:
    """Cut tensors, in their order, into shards of at most `most` bytes; one at least in each."""
    shards: list[list[TensorSpec]] = [[]]
    room = most
    for spec in specs:
        if shards[-1] and spec.size > room:
            shards.append([])
            room = most
        shards[-1].append(spec)
        room -= spec.size
    return shards


class ShardWriter:
    """A model's weights in `folder`: one file, or shards with an index, named as is usual.

    A context manager; leaving it without an error checks that every tensor was written, flushes
    the files and writes the index.

    Args:
        folder: where; an empty directory.
        specs: every tensor, in the order of the shards.
        most: bytes of tensors in a shard; a larger tensor has one of its own.
    """

    def __init__(self, folder: Path, specs: Sequence[TensorSpec], most: int) -> None:
        self._folder = folder
        shards = divide(specs, most)
        names = [SINGLE] if len(shards) == 1 else list(_shard_names(len(shards)))
        self._specs = {spec.name: spec for spec in specs}
        assert len(self._specs) == len(specs), "a tensor is to be written twice"
        self._files = dict(zip(names, shards, strict=True))
        self._begins: dict[str, tuple[Path, int]] = {}
        for name, shard in self._files.items():
            self._begin(folder / name, shard)
        self._missing = set(self._specs)

    def write(self, name: str, tensor: np.ndarray) -> None:
        """Write one tensor, whole.

        Args:
            name: of one of the specs.
            tensor: of that spec's shape and dtype.

        Raises:
            UserError: it was written before, or is not of the announced shape and dtype.
        """
        spec = self._specs[name]
        if name not in self._missing or (tensor.shape, tensor.dtype) != (spec.shape, spec.dtype):
            raise UserError(
                f"{self._folder}: {name} should be written once, as {spec.dtype}{spec.shape}; got "
                f"{tensor.dtype}{tensor.shape}"
            )
        path, begin = self._begins[name]
        with path.open("r+b") as file:
            file.seek(begin)
            file.write(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
        self._missing.remove(name)

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()

    def _begin(self, path: Path, specs: list[TensorSpec]) -> None:
        # Widest first, so that each begins at a multiple of its width.
        ordered = sorted(specs, key=lambda spec: -spec.dtype.itemsize)
        header: dict[str, object] = {METADATA: PYTORCH}
        begins, position = {}, 0
        for spec in ordered:
            begins[spec.name] = position
            header[spec.name] = {
                "dtype": _NAMES[spec.dtype],
                "shape": list(spec.shape),
                "data_offsets": [position, position + spec.size],
            }
            position += spec.size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % LENGTH_BYTES)
        with path.open("xb") as file:
            file.write(len(text).to_bytes(LENGTH_BYTES, "little") + text)
            file.truncate(LENGTH_BYTES + len(text) + position)
        data = LENGTH_BYTES + len(text)
        self._begins |= {name: (path, data + begin) for name, begin in begins.items()}

    def _finish(self) -> None:
        if self._missing:
            raise UserError(f"{self._folder}: never written: {', '.join(sorted(self._missing))}")
        if len(self._files) > 1:
            self._write_index()
        for path in self._folder.iterdir():
            flush(path)

    def _write_index(self) -> None:
        weight_map = {spec.name: name for name, shard in self._files.items() for spec in shard}
        size = sum(spec.size for spec in self._specs.values())
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shard_names(count: int) -> Iterable[str]:
    return (f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1))
