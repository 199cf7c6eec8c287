"""Grouped products on any device: one group after another, its rows in blocks.

Work and memory follow the rows: a group costs its rows, rounded up to a block, and one slice of its
weights is alive at a time. Exact everywhere; meant for CPUs, and for GPUs without a kernel.
"""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, DTypeLike, Float, Int

SMALLEST, LARGEST = 8, 512


def multiply_rows(
    x_ri: Float[Array, "r i"],
    w_lio: Float[Array, "l a b"],
    sizes_l: Int[Array, "l"],
    *,
    transposed: bool = False,
) -> Float[Array, "r o"]:
    """Return x_r @ w_l for the rows r of each group l; weights are [l, o, i] if transposed."""
    rows, block = x_ri.shape[0], _block_rows(x_ri.shape[0], w_lio.shape[0])
    contract = (((1,), (1 if transposed else 0,)), ((), ()))
    cols = w_lio.shape[1 if transposed else 2]

    def group(out_ro, group):
        w_io, start, size = group

        def one(nth, out_ro):
            first, at = _block(start, nth, block, rows)
            x = lax.dynamic_slice_in_dim(x_ri, at, block)
            y = lax.dot_general(x, w_io, contract, preferred_element_type=jnp.float32)
            own = _own(at, block, first, start + size)
            kept = lax.dynamic_slice_in_dim(out_ro, at, block)
            kept = jnp.where(own, y.astype(out_ro.dtype), kept)
            return lax.dynamic_update_slice_in_dim(out_ro, kept, at, 0)

        return lax.fori_loop(0, _count(size, block), one, out_ro), None

    out_ro = jnp.zeros((rows, cols), x_ri.dtype)
    out_ro, _ = lax.scan(group, out_ro, (w_lio, *_bounds(sizes_l)))
    return out_ro


def multiply_weights(
    x_ri: Float[Array, "r i"],
    grad_ro: Float[Array, "r o"],
    sizes_l: Int[Array, "l"],
    dtype: DTypeLike,
) -> Float[Array, "l i o"]:
    """Return x^T grad over the rows of each group, accumulated in float32."""
    rows, block = x_ri.shape[0], _block_rows(x_ri.shape[0], sizes_l.shape[0])

    def group(bounds):
        start, size = bounds

        def one(nth, sum_io):
            first, at = _block(start, nth, block, rows)
            own = _own(at, block, first, start + size)
            x, grad = (
                jnp.where(own, lax.dynamic_slice_in_dim(whole, at, block), 0)
                for whole in (x_ri, grad_ro)
            )
            rows_by_rows = (((0,), (0,)), ((), ()))
            return sum_io + lax.dot_general(
                x, grad, rows_by_rows, preferred_element_type=jnp.float32
            )

        sum_io = jnp.zeros((x_ri.shape[1], grad_ro.shape[1]), jnp.float32)
        return lax.fori_loop(0, _count(size, block), one, sum_io).astype(dtype)

    return lax.map(group, _bounds(sizes_l))


def _block_rows(rows: int, groups: int) -> int:
    """Return a quarter of the mean group as a power of 2: rounding up to it costs an eighth."""
    quarter = max(rows // max(groups, 1) // 4, SMALLEST)
    return min(1 << (quarter.bit_length() - 1), LARGEST, rows)


def _bounds(sizes_l: Int[Array, "l"]) -> tuple[Array, Array]:
    return jnp.cumsum(sizes_l) - sizes_l, sizes_l


def _count(size: Int[Array, ""], block: int) -> Int[Array, ""]:
    return (size + block - 1) // block


def _block(start: Array, nth: Array, block: int, rows: int) -> tuple[Array, Array]:
    """Return the first row that is new, and that of the slice: moved back at the array's end."""
    first = start + nth.astype(start.dtype) * block
    return first, jnp.minimum(first, rows - block)


def _own(at: Array, block: int, first: Array, end: Array) -> Array:
    row = at + jnp.arange(block, dtype=at.dtype)
    return ((row >= first) & (row < end))[:, None]
