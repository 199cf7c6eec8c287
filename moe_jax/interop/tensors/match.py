"""Checks a model's tensors against the pieces that our parameters need, before anything is read.

What the pieces are is `pieces.py`; reading them onto a mesh is `interop/load.py`, into a checkpoint
`interop/convert.py`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from moe_jax.errors import UserError
from moe_jax.interop.files.shard import Slices, TensorEntry
from moe_jax.interop.tensors.pieces import Piece

#: Tensors that hold nothing: rotary frequencies, which follow from config.json and were saved by
#: old versions of `transformers`.
DERIVED = r".*\.rotary_emb\.inv_freq"
#: How many tensors an error names before it only counts the rest.
NAMED = 5


class TensorSource(Protocol):
    """Tensors by name, read slice by slice: a `HfDirectory`, or what decodes one."""

    path: Path
    tensors: Mapping[str, TensorEntry]

    @property
    def bytes_read(self) -> int:
        """Tensor data read so far, in bytes."""
        ...

    def read(self, name: str, slices: Slices | None = None) -> np.ndarray:
        """Read a tensor, or the part of it that `slices` (one per dimension) cut out."""
        ...

    def entry(self, name: str) -> TensorEntry:
        """Return shape and dtype of a tensor; raise UserError where there is none."""
        ...


class LazyTensor:
    """One tensor of a source, read when it is sliced."""

    def __init__(self, source: TensorSource, name: str) -> None:
        self._source = source
        self._name = name

    def __getitem__(self, slices: Slices) -> np.ndarray:
        return self._source.read(self._name, slices)


def check_matches(
    source: TensorSource, pieces: Sequence[Piece], skipped: Sequence[str] = ()
) -> None:
    """Check that a source has all tensors of a model, as they must be, and no others.

    Args:
        source: the tensors.
        pieces: what the model needs of them.
        skipped: patterns of further names that are left alone.

    Raises:
        UserError: one is missing, left over or of another shape; names tensors and shapes.
    """
    for piece in pieces:
        entry = source.entry(piece.theirs)
        if entry.shape != piece.layout.theirs_shape:
            raise UserError(
                f"{source.path}: {piece.theirs} has shape {list(entry.shape)}, config.json makes "
                f"it {list(piece.layout.theirs_shape)}: one of them is of another model"
            )
        if not _is_number(entry.dtype):
            raise UserError(
                f"{source.path}: {piece.theirs} is {entry.dtype}, weights must be float32, "
                "float16 or bfloat16: this way of quantising is not supported"
            )
    used = {piece.theirs for piece in pieces}
    known = re.compile("|".join([DERIVED, *skipped]))
    unused = [name for name in source.tensors if name not in used and not known.fullmatch(name)]
    if unused:
        rest = f" and {len(unused) - NAMED} more" if len(unused) > NAMED else ""
        raise UserError(
            f"{source.path}: no part of the model that config.json describes uses "
            f"{', '.join(unused[:NAMED])}{rest}: left out, the model would compute something else"
        )


def _is_number(dtype: np.dtype) -> bool:
    return dtype in (np.float32, np.float16, np.float64) or dtype.name == "bfloat16"
