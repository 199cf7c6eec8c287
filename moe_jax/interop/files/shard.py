"""One safetensors file: its header, checked, and slices of its tensors read by position.

Which files a model consists of, and which paths may be opened at all, is `directory.py`. The format
is that of https://huggingface.co/docs/safetensors: 8 bytes of header length, a JSON header, data.
Files are read by position rather than mapped: a mapped file counts as resident memory.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from moe_jax.errors import UserError

#: The format's names of the dtypes that weights come in; 8-bit floats are left encoded.
DTYPES: Mapping[str, np.dtype] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
#: The format's own limit on a header, in bytes.
HEADER_LIMIT = 100_000_000
LENGTH_BYTES = 8
METADATA = "__metadata__"
#: Blocks up to this many bytes (a page: disks read no less) are read whole and cut in memory.
PAGE = 4096

Slices = Sequence[slice]


@dataclass(frozen=True)
class TensorEntry:
    """One tensor as a header describes it.

    Attributes:
        name: in the file.
        shape, dtype: of the whole tensor; bfloat16 and 8-bit floats are ml_dtypes'.
        begin: where its bytes start, counted from the beginning of the file.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    begin: int

    @property
    def size(self) -> int:
        """Bytes of its values."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> dict[str, TensorEntry]:
    """Read what a file holds; no tensor data.

    Raises:
        UserError: the file is no safetensors file, cut short, or its tensors overlap; names the
            file and, where it is one tensor's fault, the tensor.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        if size < LENGTH_BYTES or length > min(HEADER_LIMIT, size - LENGTH_BYTES):
            raise UserError(
                f"{path}: its header would take {length} of the file's {size} bytes: it is cut "
                "short or not a safetensors file; fetch it again"
            )
        text = file.read(length)
    try:
        header = json.loads(text.decode(), object_pairs_hook=_without_repeats)
        if not isinstance(header, dict):
            raise UserError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: its header is corrupt ({error}): fetch it again") from error
    data = LENGTH_BYTES + length
    entries = [
        _entry(path, name, fields, data) for name, fields in header.items() if name != METADATA
    ]
    _check_extents(path, entries, data, size)
    return {entry.name: entry for entry in entries}


def read_slice(path: Path, entry: TensorEntry, slices: Slices | None = None) -> np.ndarray:
    """Read part of a tensor.

    Args:
        path: the file whose header has `entry`.
        entry: the tensor.
        slices: one per dimension, without steps; None for all of it.

    Returns:
        An array of the slice's own; no other bytes of the tensor are read, but for blocks of less
        than a page, which are read whole.

    Raises:
        UserError: the slices do not fit the tensor, or the file has shrunk meanwhile.
    """
    ranges = _ranges(path, entry, slices)
    cut = _contiguous_from(entry, ranges)
    read = [*ranges[: cut + 1], *(range(n) for n in entry.shape[cut + 1 :])]
    out = np.empty([len(r) for r in read], entry.dtype)
    if out.size:
        _read_runs(path, entry, read, cut, out)
    inside = (slice(r.start, r.stop) for r in ranges[cut + 1 :])
    result = out[(*(slice(None) for _ in read[: cut + 1]), *inside)]
    return np.ascontiguousarray(result).reshape([len(r) for r in ranges])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    header = dict(pairs)
    if len(header) != len(pairs):
        raise UserError("a name appears twice")
    return header


def _entry(path: Path, name: str, fields: Any, data: int) -> TensorEntry:
    try:
        dtype, shape, (begin, end) = fields["dtype"], fields["shape"], fields["data_offsets"]
        if not isinstance(dtype, str):
            raise TypeError("not the name of a dtype")
        if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
            raise UserError("not whole numbers")
    except (TypeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path}: {name}: its header entry {fields!r:.200} lacks a dtype, shape or "
            "data_offsets of whole numbers: fetch the file again"
        ) from error
    if dtype not in DTYPES:
        raise UserError(f"{path}: {name} is of dtype {dtype}: known are {', '.join(DTYPES)}")
    entry = TensorEntry(name, tuple(shape), DTYPES[dtype], data + begin)
    if end - begin != entry.size:
        raise UserError(
            f"{path}: {name}: {dtype}{shape} takes {entry.size} bytes, its header gives it "
            f"{end - begin}: the file is damaged, fetch it again"
        )
    return entry


def _check_extents(path: Path, entries: list[TensorEntry], data: int, size: int) -> None:
    """Raise UserError unless the tensors lie one after the other inside the file."""
    position = data
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.size)):
        if entry.begin < position:
            raise UserError(f"{path}: {entry.name} overlaps another tensor: the file is damaged")
        position = entry.begin + entry.size
        if position > size:
            raise UserError(
                f"{path}: cut short within {entry.name}, which ends at byte {position} of a file "
                f"of {size} bytes: fetch it again"
            )


def _ranges(path: Path, entry: TensorEntry, slices: Slices | None) -> list[range]:
    if slices is None:
        return [range(n) for n in entry.shape]
    fits = len(slices) == len(entry.shape) and all(
        part.step in (None, 1) and (part.stop is None or part.stop <= n)
        for part, n in zip(slices, entry.shape, strict=True)
    )
    if not fits:
        raise UserError(f"{path}: {entry.name} has shape {entry.shape}, no slice {list(slices)}")
    return [range(*part.indices(n)) for part, n in zip(slices, entry.shape, strict=True)]


def _contiguous_from(entry: TensorEntry, ranges: Sequence[range]) -> int:
    """Return the dimension whose range, with all that is inside it, is one run of bytes.

    -1 if that is the whole tensor.
    """
    block = entry.dtype.itemsize
    for dim in reversed(range(len(ranges))):
        block *= entry.shape[dim]
        if len(ranges[dim]) != entry.shape[dim] and block > PAGE:
            return dim
    return -1


def _read_runs(
    path: Path, entry: TensorEntry, ranges: Sequence[range], cut: int, out: np.ndarray
) -> None:
    strides = [math.prod(entry.shape[dim + 1 :]) for dim in range(len(entry.shape))]
    flat = out.reshape(-1).view(np.uint8)
    outer = ranges[: max(cut, 0)]
    first = ranges[cut].start * strides[cut] if cut >= 0 else 0
    run = len(flat) // math.prod(len(r) for r in outer)
    with path.open("rb", buffering=0) as file:
        for number, index in enumerate(product(*outer)):
            element = first + sum(i * stride for i, stride in zip(index, strides, strict=False))
            begin = entry.begin + element * entry.dtype.itemsize
            _fill(file.fileno(), path, entry, begin, flat[number * run : (number + 1) * run])


def _fill(handle: int, path: Path, entry: TensorEntry, begin: int, out: np.ndarray) -> None:
    view, done = out.data, 0
    while done < len(view):
        count = os.preadv(handle, [view[done:]], begin + done)
        if not count:
            raise UserError(f"{path}: cut short within {entry.name} while it was read")
        done += count
