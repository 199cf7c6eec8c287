"""The way back: experts' outputs travel to their tokens and are summed with combine weights.

    y_t = sum_k weights_tk * out[row of choice tk]

The gradient is written by hand to send less. JAX's own would need the returned rows again for the
weights' gradient, so a rematerialised layer would send them a second time. Here the experts'
devices compute it from what they hold: they receive weights_tk * dy_t anyway (the gradient of
their outputs), and

    d weights_tk = <dy_t, out_r> = <weights_tk * dy_t, out_r> / weights_tk

so one scalar per row travels instead of one row. A weight of exactly 0 gets gradient 0, which is
what a saturated softmax or sigmoid passes on.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moe_jax.moe.exchange.rows import Window, from_rows, scalars_from_rows, weighted_to_rows
from moe_jax.moe.exchange.wire import Wire
from moe_jax.shapes import RowsLRD, TokensTD, WeightsTK


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def combine(
    wire: Wire, capacity: int, out_lrd: RowsLRD, weights_tk: WeightsTK, at: Window
) -> TokensTD:
    """Return y_t for the choices in the window, summed in float32.

    Args:
        wire: how rows travel.
        capacity: rows per expert and source.
        out_lrd: outputs of this device's experts.
        weights_tk: float32 combine weights of this device's tokens.
        at: which rows belong to which choices.
    """
    returned_ecd = wire.to_sources(out_lrd)
    return from_rows(returned_ecd.reshape(-1, out_lrd.shape[-1]), weights_tk, at)


def _forward(wire: Wire, capacity: int, out_lrd: RowsLRD, weights_tk: WeightsTK, at: Window):
    return combine(wire, capacity, out_lrd, weights_tk, at), (out_lrd, weights_tk, at)


def _backward(
    wire: Wire, capacity: int, saved: tuple[RowsLRD, WeightsTK, Window], grad_td: TokensTD
) -> tuple[RowsLRD, WeightsTK, None]:
    out_lrd, weights_tk, at = saved
    grad_ecd = weighted_to_rows(grad_td, weights_tk, at).reshape(-1, capacity, grad_td.shape[-1])
    grad_lrd = wire.to_experts(grad_ecd)
    dots_lr = jnp.einsum("lrd,lrd->lr", grad_lrd, out_lrd, preferred_element_type=jnp.float32)
    dots_tk = scalars_from_rows(wire.to_sources(dots_lr).reshape(-1), at)
    return grad_lrd, _over(dots_tk, weights_tk), None


def _over(dots: Array, weights: Array) -> Array:
    used = weights != 0
    return jnp.where(used, dots / jnp.where(used, weights, 1), 0)


combine.defvjp(_forward, _backward)
