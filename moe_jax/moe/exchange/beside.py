"""What travels beside tokens: float32 numbers, in spare rows of the same message.

A second message for a few bytes per token would cost each collective's latency once more, and XLA,
which keeps one in flight, lets it hold up the tokens of other streams. So each group's block of
[c, d_model] rows has some more, which hold the numbers of its c tokens. In bfloat16 a number is
three values whose sum it is, exactly: their bits are those of tokens, finite, for whoever
multiplies these rows by a weight of 0.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

#: Explicit bits of a bfloat16's mantissa.
_MANTISSA = 7


def parts_of(dtype: DTypeLike) -> int:
    """Return how many values of a dtype a float32 number is the sum of."""
    return 1 if jnp.dtype(dtype) == jnp.float32 else 3


def spare_rows(places: int, numbers: int, width: int, dtype: DTypeLike) -> int:
    """Return the rows that hold the numbers of a block.

    Args:
        places: tokens of the block.
        numbers: of each token.
        width: of a row, d_model.
        dtype: of a row.
    """
    return math.ceil(places * numbers * parts_of(dtype) / width)


def write_beside(rows_gcd: Float[Array, "g c d"], numbers_gpn: Float[Array, "g p n"]) -> Array:
    """Return the blocks with the numbers of their p tokens in the last c - p rows.

    Args:
        rows_gcd: blocks of groups.
        numbers_gpn: float32.
    """
    groups, all_rows, width = rows_gcd.shape
    places = numbers_gpn.shape[1]
    flat = jnp.concatenate(_split(numbers_gpn, rows_gcd.dtype), axis=-1).reshape(groups, -1)
    spare = (all_rows - places) * width
    flat = jnp.pad(flat, ((0, 0), (0, spare - flat.shape[1])))
    spare_gcd = flat.reshape(groups, -1, width)
    return jax.lax.dynamic_update_slice_in_dim(rows_gcd, spare_gcd, places, axis=1)


def read_beside(rows_gcd: Float[Array, "g c d"], places: int, numbers: int) -> Array:
    """Return the float32 numbers [g, places, numbers] that `write_beside` wrote."""
    groups, parts = rows_gcd.shape[0], parts_of(rows_gcd.dtype)
    flat = rows_gcd[:, places:].reshape(groups, -1)[:, : places * numbers * parts]
    values = flat.reshape(groups, places, parts, numbers).astype(jnp.float32)
    # Large ones first: every partial sum is exact.
    total = values[:, :, 0]
    for part in range(1, parts):
        total = total + values[:, :, part]
    return total


def _split(x: Float[Array, "g p n"], dtype: DTypeLike) -> list[Array]:
    """Return values whose sum is x, exactly, each exact in `dtype`.

    `reduce_precision`, since XLA may leave out a conversion there and back.
    """
    found = []
    for _ in range(parts_of(dtype) - 1):
        part = jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=_MANTISSA)
        found.append(part.astype(dtype))
        x = x - part
    return [*found, x.astype(dtype)]
