"""The oracle: every row by every group's weights, masked. Costs groups times the work."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, DTypeLike, Float, Int


def multiply_rows(
    x_ri: Float[Array, "r i"],
    w_lio: Float[Array, "l a b"],
    sizes_l: Int[Array, "l"],
    *,
    transposed: bool = False,
) -> Float[Array, "r o"]:
    """Return x_r @ w_l for the rows r of each group l; weights are [l, o, i] if transposed."""
    products = "ri,loi->lro" if transposed else "ri,lio->lro"
    out_lro = jnp.einsum(products, x_ri, w_lio, preferred_element_type=jnp.float32)
    own_lr = _own(sizes_l, x_ri.shape[0])
    return jnp.where(own_lr[..., None], out_lro, 0).sum(0).astype(x_ri.dtype)


def multiply_weights(
    x_ri: Float[Array, "r i"],
    grad_ro: Float[Array, "r o"],
    sizes_l: Int[Array, "l"],
    dtype: DTypeLike,
) -> Float[Array, "l i o"]:
    """Return x^T grad over the rows of each group."""
    own_lr1 = _own(sizes_l, x_ri.shape[0])[..., None]
    x_lri, grad_lro = (jnp.where(own_lr1, rows, 0) for rows in (x_ri, grad_ro))
    product = jnp.einsum("lri,lro->lio", x_lri, grad_lro, preferred_element_type=jnp.float32)
    return product.astype(dtype)


def _own(sizes_l: Int[Array, "l"], rows: int) -> Bool[Array, "l r"]:
    ends = jnp.cumsum(sizes_l)[:, None]
    r = jnp.arange(rows, dtype=sizes_l.dtype)
    return (r < ends) & (r >= ends - sizes_l[:, None])
