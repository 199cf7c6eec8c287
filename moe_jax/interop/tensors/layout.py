"""How one tensor of another library holds a slab of ours, as text; NumPy only.

`"(h m) d -> d h m"` reads as in einops: rows of theirs are heads x head width, ours are
dimensions of their own. Three more signs on their side:

- `0/2` is one of several that are interwoven: `"e d (f 0/2) -> e d f"` reads even columns,
  `"e (1/2 f) d -> e d f"` the second half of the rows.
- `n+r` are parts of any widths one after the other, last in their dimension; ours is one of them:
  `"(h n+r) d -> d h r"`.
- a number is an axis of that size: `"(i 2) d -> d (2 i)"` turns interleaved pairs into halves.

Which tensors there are is in `pieces.py`; files are read and written elsewhere.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from moe_jax.errors import UserError
from moe_jax.interop.tensors.layout_text import Axis, Dim, Part, Pick, parse_layout
from moe_jax.interop.tensors.tiles import copy_tiled

Slices = tuple[slice, ...]
Ranges = dict[str, tuple[int, int]]


class Layout:
    """A tensor of theirs, or a share of it, against a slab of ours.

    Args:
        text: "theirs -> ours", see the module.
        ours_shape: shape of our slab.
        sizes: sizes of axes by name, where the slab does not tell them.

    Raises:
        UserError: the text is malformed, or does not fit the sizes.
    """

    def __init__(self, text: str, ours_shape: Sequence[int], **sizes: int):
        self.text = text
        self.ours_shape = tuple(ours_shape)
        self._theirs, self._ours = parse_layout(text, self.ours_shape, sizes)
        self.theirs_shape = tuple(_length(dim) for dim in self._theirs)

    def __repr__(self) -> str:
        return f"Layout({self.text!r}, {self.ours_shape})"

    def to_theirs(self, slab: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """Write our slab to its share of their whole tensor, and return that tensor.

        Args:
            slab: of `ours_shape`.
            out: their tensor, C-contiguous; a new one of zeros if None.
        """
        out = np.zeros(self.theirs_shape, slab.dtype) if out is None else out
        if slab.shape != self.ours_shape or out.shape != self.theirs_shape:
            raise UserError(
                f"{self} takes slabs of {self.ours_shape} and tensors of {self.theirs_shape}, got "
                f"{slab.shape} and {out.shape}"
            )
        view = self._view(out, self._theirs)
        assert np.may_share_memory(view, out), f"{self} must write to the tensor, not to a copy"
        copy_tiled(view, slab.reshape(view.shape))
        return out

    def read(self, source: Any, ours: Slices) -> np.ndarray:
        """Return a part of our slab.

        Of the source no more is read than needed: an axis that comes first in its dimension of
        theirs is read in part, others whole.

        Args:
            source: their tensor, or what gives its slices, such as a tensor in an open file.
            ours: one slice of step 1 per dimension of our slab.
        """
        ranges = self._ranges(ours)
        narrowed = [_narrowed(dim, ranges) for dim in self._theirs]
        part = np.asarray(source[tuple(taken for taken, _ in narrowed)])
        view = self._view(part, tuple(dim for _, dim in narrowed))
        sizes = dict(zip([name for dim in self._ours for name in dim], view.shape, strict=True))
        slab = view.reshape([math.prod(sizes[name] for name in dim) for dim in self._ours])
        read_in_part = {dim[0].name for _, dim in narrowed if dim and isinstance(dim[0], Axis)}
        return slab[
            tuple(
                slice(None) if len(dim) == 1 and dim[0] in read_in_part else cut
                for dim, cut in zip(self._ours, ours, strict=True)
            )
        ]

    def _ranges(self, ours: Slices) -> Ranges:
        """Return the range of each axis that is a dimension of ours by itself."""
        ranges: Ranges = {}
        for dim, size, cut in zip(self._ours, self.ours_shape, ours, strict=True):
            start, stop, step = cut.indices(size)
            if step != 1:
                raise UserError(f"slices of a slab must have step 1, got {cut}")
            if len(dim) == 1:
                ranges[dim[0]] = (start, max(start, stop))
        return ranges

    def _view(self, tensor: np.ndarray, dims: tuple[Dim, ...]) -> np.ndarray:
        """Return a view with one dimension per axis, in the order of ours."""
        factors = [factor for dim in dims for factor in dim]
        whole = tensor.reshape([factor.span for factor in factors])
        share = whole[tuple(factor.index for factor in factors)]
        axes = [axis for factor in factors for axis in factor.axes]
        place = {axis.name: i for i, axis in enumerate(axes)}
        split = share.reshape([axis.size for axis in axes])
        return split.transpose([place[name] for dim in self._ours for name in dim])


def _narrowed(dim: Dim, ranges: Ranges) -> tuple[slice, Dim]:
    """Return what to read of a dimension, and what is then left to take apart."""
    start, length = 0, _length(dim)
    while dim:
        head, rest = dim[0], dim[1:]
        if isinstance(head, Pick):
            length //= head.span
            start, dim = start + head.index * length, rest
        elif isinstance(head, Part):
            length = head.size
            start, dim = start + head.start, head.axes
        else:
            length //= head.size
            low, high = ranges.get(head.name, (0, head.size))
            taken = slice(start + low * length, start + high * length)
            return taken, (replace(head, size=high - low), *rest)
    return slice(start, start + length), ()


def _length(dim: Dim) -> int:
    return math.prod(factor.span for factor in dim)
