"""Results compared with float32 by a sample: whole gradients would be gigabytes in a file."""

import functools
from collections.abc import Mapping

import numpy as np

_SAMPLED = 2**16
#: Relative errors that rounding explains, with room: of bfloat16 about a third of it was seen.
BOUNDS = {"bfloat16": 3e-2, "float32": 1e-3}
#: A loss is a mean over all tokens, most of which is the logarithm of the vocabulary.
SHARES = {"loss": 0.1}


@functools.cache
def positions(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Return where an array of a shape is looked at: an int64 array per dimension."""
    size = int(np.prod(shape))
    rng = np.random.default_rng(size)
    flat = np.arange(size) if size <= _SAMPLED else rng.integers(0, size, _SAMPLED)
    return tuple(np.unravel_index(flat, shape))


def excess(
    actual: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], dtype: str
) -> tuple[str, float, float]:
    """Return the array that is farthest beyond its bound: its name, relative error and bound.

    Args:
        actual: samples by name.
        wanted: of the same names, computed in float32.
        dtype: of compute.
    """
    assert actual.keys() == wanted.keys(), (actual.keys(), wanted.keys())
    found = [
        (name, _error(actual[name], wanted[name]), BOUNDS[dtype] * SHARES.get(name, 1.0))
        for name in wanted
    ]
    return max(found, key=lambda entry: entry[1] / entry[2])


def _error(actual: np.ndarray, wanted: np.ndarray) -> float:
    wanted = wanted.astype(np.float64)
    error = np.linalg.norm(actual - wanted) / max(float(np.linalg.norm(wanted)), 1e-30)
    return float(np.nan_to_num(error, nan=np.inf))
