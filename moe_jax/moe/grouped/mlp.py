"""The experts' gated MLP over grouped rows, as one operation with its own gradient rule.

What is kept for the backward pass: the rows, gate and up, in their dtype. The activated product is
computed again there; it is cheap, and as large as both.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.errors import UserError
from moe_jax.moe.grouped import products
from moe_jax.moe.grouped.choose import Chosen, Implementation, choose
from moe_jax.moe.grouped.matmul import no_gradient, require_shapes
from moe_jax.moe.grouped.products import Activate


def swiglu(gate: Array, up: Array) -> Array:
    """Return silu(gate) * up (Shazeer, 2020)."""
    return gate / (1 + jnp.exp(-gate)) * up


def gated_mlp(
    x_rd: Float[Array, "r d"],
    w_gate_ldf: Float[Array, "l d f"],
    w_up_ldf: Float[Array, "l d f"],
    w_down_lfd: Float[Array, "l f d"],
    sizes_l: Int[Array, "l"],
    *,
    activate: Activate = swiglu,
    implementation: Implementation = "auto",
) -> Float[Array, "r d"]:
    """Put each row through the gated MLP of its group.

        out_r = activate(x_r @ w_gate_l, x_r @ w_up_l) @ w_down_l    for rows r of group l

    Args:
        x_rd: rows, sorted by group.
        w_gate_ldf: weights, of any float dtype; rounded to the rows', as `grouped_matmul` does.
        w_up_ldf: likewise; its product is what the activated gate multiplies.
        w_down_lfd: likewise, of the hidden layer.
        sizes_l: int32 rows of each group; their sum is at most r.
        activate: (gate, up) -> hidden on float32, element by element, with activate(0, 0) = 0. On
            "mosaic" it becomes part of a kernel, so it must consist of what Pallas can lower.
        implementation: as `grouped_matmul` takes it.

    Returns:
        [r, d]; 0 in rows beyond the sizes' sum, which give and get no gradient.

    Raises:
        UserError: sizes that do not match, or an implementation that does not support them.
    """
    require_shapes(x_rd.shape, w_gate_ldf.shape, sizes_l.shape)
    require_mlp_shapes(w_gate_ldf.shape, w_up_ldf.shape, w_down_lfd.shape)
    dims = (*w_up_ldf.shape[1:], w_down_lfd.shape[2])
    chosen = choose(implementation, x_rd.dtype, dims)
    return _mlp(chosen, activate, x_rd, w_gate_ldf, w_up_ldf, w_down_lfd, sizes_l)


def require_mlp_shapes(gate: Sequence[int], up: Sequence[int], down: Sequence[int]) -> None:
    """Refuse weights that make no MLP.

    Args:
        gate: their shape, [l, d, f].
        up: the same.
        down: [l, f, d].

    Raises:
        UserError: they do not match.
    """
    if tuple(gate) != tuple(up) or (up[0], up[2]) != tuple(down[:2]):
        raise UserError(
            f"gate {tuple(gate)} and up {tuple(up)} must be [l, d, f] and down {tuple(down)} "
            "[l, f, d]"
        )


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _mlp(chosen: Chosen, activate: Activate, x_rd, w_gate, w_up, w_down, sizes_l) -> Array:
    return _mlp_fwd(chosen, activate, x_rd, w_gate, w_up, w_down, sizes_l)[0]


def _mlp_fwd(chosen: Chosen, activate: Activate, x_rd, w_gate, w_up, w_down, sizes_l):
    gate_w, up_w, down_w = (w.astype(x_rd.dtype) for w in (w_gate, w_up, w_down))
    gate, up, hidden = products.gated(chosen, x_rd, gate_w, up_w, sizes_l, activate)
    out = products.by_weights(chosen, [(hidden, down_w)], sizes_l)
    # Empty arrays carry the gradients' dtypes: residuals must be arrays.
    likes = [w[:0, :0, :0] for w in (w_gate, w_up, w_down)]
    return out, (x_rd, gate, up, gate_w, up_w, down_w, sizes_l, likes)


def _mlp_bwd(chosen: Chosen, activate: Activate, saved, grad_rd: Array):
    x_rd, gate, up, gate_w, up_w, down_w, sizes_l, likes = saved
    weights = functools.partial(products.by_gradients, chosen)
    grad_hidden = products.by_weights(chosen, [(grad_rd, down_w)], sizes_l, transposed=True)
    hidden, pull = jax.vjp(functools.partial(products.in_float32, activate), gate, up)
    grad_gate, grad_up = pull(grad_hidden)
    pairs = [(grad_gate, gate_w), (grad_up, up_w)]
    return (
        products.by_weights(chosen, pairs, sizes_l, transposed=True),
        weights(x_rd, grad_gate, sizes_l, likes[0].dtype),
        weights(x_rd, grad_up, sizes_l, likes[1].dtype),
        weights(hidden, grad_rd, sizes_l, likes[2].dtype),
        no_gradient(sizes_l),
    )


_mlp.defvjp(_mlp_fwd, _mlp_bwd)
