"""Copies between arrays that lie across each other, such as a matrix and its transpose.

NumPy alone walks one of the two against its rows, and waits for memory at nearly every element.
"""

from itertools import product

import numpy as np

#: Elements of a side of a tile: two tiles of 4-byte elements stay in a core's own cache.
TILE = 128


def copy_tiled(target: np.ndarray, source: np.ndarray) -> None:
    """Do `target[...] = source`, tile by tile where their innermost dimensions differ.

    Args:
        target: of any strides; converts to its dtype.
        source: of the same shape.
    """
    assert target.shape == source.shape, f"{source.shape} copied to {target.shape}"
    inner = {_innermost(target), _innermost(source)}
    steps = [TILE if dim in inner else max(1, n) for dim, n in enumerate(target.shape)]
    if len(inner) == 1:
        target[...] = source
        return
    starts = (range(0, n, step) for n, step in zip(target.shape, steps, strict=True))
    for corner in product(*starts):
        tile = tuple(slice(i, i + step) for i, step in zip(corner, steps, strict=True))
        target[tile] = source[tile]


def _innermost(array: np.ndarray) -> int:
    """Return the dimension whose neighbours are nearest in memory; -1 without any."""
    strides = [(s, dim) for dim, s in enumerate(array.strides) if array.shape[dim] > 1]
    return min(strides)[1] if strides else -1
