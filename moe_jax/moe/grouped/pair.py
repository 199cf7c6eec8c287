"""Two grouped matmuls of the same rows, whose gradients meet in one product: gate and up."""

import functools
from collections.abc import Sequence

import jax
from jaxtyping import Array, Float, Int

from moe_jax.errors import UserError
from moe_jax.moe.grouped import products
from moe_jax.moe.grouped.choose import Chosen, Implementation, choose
from moe_jax.moe.grouped.matmul import no_gradient, require_shapes


def grouped_pair(
    x_ri: Float[Array, "r i"],
    w_gate_lio: Float[Array, "l i o"],
    w_up_lio: Float[Array, "l i o"],
    sizes_l: Int[Array, "l"],
    *,
    implementation: Implementation = "auto",
) -> tuple[Float[Array, "r o"], Float[Array, "r o"]]:
    """Return (`grouped_matmul` by the one weights, by the others).

    The rows' gradient is the sum of two products; here it is one, which is stored once.

    Args:
        x_ri: as `grouped_matmul` takes it, and so on.
        w_gate_lio: weights of the first result.
        w_up_lio: of the second, of the same shape.
        sizes_l: int32 rows of each group.
        implementation: as `grouped_matmul` takes it.

    Raises:
        UserError: sizes that do not match, or an implementation that does not support them.
    """
    require_shapes(x_ri.shape, w_gate_lio.shape, sizes_l.shape)
    require_one_shape(w_gate_lio.shape, w_up_lio.shape)
    chosen = choose(implementation, x_ri.dtype, w_up_lio.shape[1:])
    return _pair(chosen, x_ri, w_gate_lio, w_up_lio, sizes_l)


def require_one_shape(gate: Sequence[int], up: Sequence[int]) -> None:
    """Refuse two weights of different shapes.

    Args:
        gate: the one's shape, [l, i, o].
        up: the other's.

    Raises:
        UserError: they differ.
    """
    if tuple(gate) != tuple(up):
        raise UserError(f"weights {tuple(gate)} and {tuple(up)} must have one shape")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _pair(chosen: Chosen, x_ri: Array, w_gate: Array, w_up: Array, sizes_l: Array):
    return _pair_fwd(chosen, x_ri, w_gate, w_up, sizes_l)[0]


def _pair_fwd(chosen: Chosen, x_ri: Array, w_gate: Array, w_up: Array, sizes_l: Array):
    rounded = [w.astype(x_ri.dtype) for w in (w_gate, w_up)]
    # Empty arrays carry the gradients' dtypes: residuals must be arrays.
    likes = [w[:0, :0, :0] for w in (w_gate, w_up)]
    both = tuple(products.by_weights(chosen, [(x_ri, w)], sizes_l) for w in rounded)
    return both, (x_ri, rounded, likes, sizes_l)


def _pair_bwd(chosen: Chosen, saved, grads: tuple[Array, Array]):
    x_ri, rounded, likes, sizes_l = saved
    pairs = list(zip(grads, rounded, strict=True))
    return (
        products.by_weights(chosen, pairs, sizes_l, transposed=True),
        *(
            products.by_gradients(chosen, x_ri, grad, sizes_l, like.dtype)
            for grad, like in zip(grads, likes, strict=True)
        ),
        no_gradient(sizes_l),
    )


_pair.defvjp(_pair_fwd, _pair_bwd)
