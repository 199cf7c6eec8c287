"""The three products of a grouped matmul, of one chosen implementation, without a gradient rule."""

from collections.abc import Callable, Sequence
from functools import reduce

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int

from moe_jax.moe.grouped import blocks, dense, mosaic_rows, mosaic_weights
from moe_jax.moe.grouped.choose import Chosen
from moe_jax.moe.grouped.tiles import tiles_for

#: (gate, up) -> hidden, element by element.
Activate = Callable[[Array, Array], Array]
_BY_WEIGHTS = {"blocks": blocks.multiply_rows, "dense": dense.multiply_rows}
_BY_GRADIENTS = {"blocks": blocks.multiply_weights, "dense": dense.multiply_weights}


def by_weights(
    chosen: Chosen,
    pairs: Sequence[tuple[Float[Array, "r _"], Float[Array, "l _ _"]]],
    sizes_l: Int[Array, "l"],
    *,
    transposed: bool = False,
) -> Float[Array, "r o"]:
    """Sum over pairs each row by its group's weights.

    Args:
        chosen: the implementation.
        pairs: rows and weights, [l, i, o], or [l, o, i] if transposed.
        sizes_l: rows of each group.
        transposed: whether the weights' last dim is contracted.
    """
    if chosen == "mosaic":
        inner, cols = sum(x.shape[1] for x, _ in pairs), pairs[0][1].shape[1 if transposed else 2]
        tiles = tiles_for("rows_transposed" if transposed else "rows", inner, cols)
        return mosaic_rows.multiply_rows(pairs, sizes_l, tiles, transposed=transposed)
    multiply = _BY_WEIGHTS[chosen]
    return reduce(jnp.add, (multiply(x, w, sizes_l, transposed=transposed) for x, w in pairs))


def gated(
    chosen: Chosen,
    x_rd: Float[Array, "r d"],
    w_gate_ldf: Float[Array, "l d f"],
    w_up_ldf: Float[Array, "l d f"],
    sizes_l: Int[Array, "l"],
    activate: Activate,
) -> tuple[Float[Array, "r f"], Float[Array, "r f"], Float[Array, "r f"]]:
    """Return gate, up and activate(gate, up), which is computed in float32."""
    if chosen == "mosaic":
        tiles = tiles_for("gated", *w_up_ldf.shape[1:])
        return mosaic_rows.multiply_gated(x_rd, w_gate_ldf, w_up_ldf, sizes_l, activate, tiles)
    gate, up = (by_weights(chosen, [(x_rd, w)], sizes_l) for w in (w_gate_ldf, w_up_ldf))
    return gate, up, in_float32(activate, gate, up)


def by_gradients(
    chosen: Chosen,
    x_ri: Float[Array, "r i"],
    grad_ro: Float[Array, "r o"],
    sizes_l: Int[Array, "l"],
    dtype: DTypeLike,
) -> Float[Array, "l i o"]:
    """Return x^T grad per group: the weights' gradient, in `dtype`, 0 for groups without rows."""
    if chosen == "mosaic":
        tiles = tiles_for("weights", x_ri.shape[1], grad_ro.shape[1])
        return mosaic_weights.multiply_weights(x_ri, grad_ro, sizes_l, tiles, dtype)
    return _BY_GRADIENTS[chosen](x_ri, grad_ro, sizes_l, dtype)


def in_float32(activate: Activate, gate: Array, up: Array) -> Array:
    """Activate in float32 between arrays of their own dtype."""
    return activate(gate.astype(jnp.float32), up.astype(jnp.float32)).astype(gate.dtype)
