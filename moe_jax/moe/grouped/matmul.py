"""The grouped matmul with its gradients: rows sorted by group, groups' sizes as data."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from moe_jax.errors import UserError
from moe_jax.moe.grouped import products
from moe_jax.moe.grouped.choose import Chosen, Implementation, choose


def grouped_matmul(
    x_ri: Float[Array, "r i"],
    w_lio: Float[Array, "l i o"],
    sizes_l: Int[Array, "l"],
    *,
    implementation: Implementation = "auto",
) -> Float[Array, "r o"]:
    """Multiply each row by the weights of its group.

        out_r = x_r @ w_l    for rows r of group l

    Rows are sorted by group: the first sizes_l[0] belong to group 0, and so on. Costs what the rows
    cost, whatever the sizes. Accumulates in float32.

    Args:
        x_ri: rows; their dtype is what is multiplied.
        w_lio: weights, rounded to the rows' dtype. Their gradient has their own dtype and layout:
            float32 weights get the float32 sums.
        sizes_l: int32 rows of each group, 0 allowed; their sum is at most r.
        implementation: "mosaic" (Hopper GPUs), "blocks" (any device), "dense" (an oracle that costs
            l times the work), or "auto", the best of the first two for this device and shape.

    Returns:
        [r, o] in the rows' dtype; 0 in rows beyond the sizes' sum, which give and get no gradient.

    Raises:
        UserError: sizes that do not match, or an implementation that does not support them.

    Example:
        >>> import jax.numpy as jnp
        >>> x, w = jnp.ones((4, 2)), jnp.stack([jnp.ones((2, 1)), jnp.full((2, 1), 3.0)])
        >>> grouped_matmul(x, w, jnp.array([1, 2]))[:, 0].tolist()
        [2.0, 6.0, 6.0, 0.0]
    """
    require_shapes(x_ri.shape, w_lio.shape, sizes_l.shape)
    chosen = choose(implementation, x_ri.dtype, w_lio.shape[1:])
    return _matmul(chosen, x_ri, w_lio, sizes_l)


def require_shapes(x: Sequence[int], w: Sequence[int], sizes: Sequence[int]) -> None:
    """Refuse shapes that do not belong together.

    Args:
        x: of the rows, [r, i].
        w: of the weights, [l, i, o].
        sizes: of the groups' sizes, [l].

    Raises:
        UserError: they do not match.
    """
    if len(x) != 2 or len(w) != 3 or x[1] != w[1]:
        raise UserError(
            f"rows {tuple(x)} and weights {tuple(w)} must be [r, i] and [l, i, o] with the same i"
        )
    if tuple(sizes) != tuple(w[:1]):
        raise UserError(
            f"sizes {tuple(sizes)} must have one entry for each of the {w[0]} groups of the weights"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(chosen: Chosen, x_ri: Array, w_lio: Array, sizes_l: Array) -> Array:
    return _matmul_fwd(chosen, x_ri, w_lio, sizes_l)[0]


def _matmul_fwd(chosen: Chosen, x_ri: Array, w_lio: Array, sizes_l: Array):
    w = w_lio.astype(x_ri.dtype)
    # An empty array carries the gradient's dtype: residuals must be arrays.
    saved = (x_ri, w, sizes_l, w_lio[:0, :0, :0])
    return products.by_weights(chosen, [(x_ri, w)], sizes_l), saved


def _matmul_bwd(chosen: Chosen, saved, grad_ro: Array):
    x_ri, w_lio, sizes_l, like = saved
    grad_x = products.by_weights(chosen, [(grad_ro, w_lio)], sizes_l, transposed=True)
    grad_w = products.by_gradients(chosen, x_ri, grad_ro, sizes_l, like.dtype)
    return grad_x, grad_w, no_gradient(sizes_l)


def no_gradient(sizes_l: Array) -> np.ndarray:
    """Return what a gradient rule gives for integers."""
    return np.zeros(sizes_l.shape, jax.dtypes.float0)


_matmul.defvjp(_matmul_fwd, _matmul_bwd)
