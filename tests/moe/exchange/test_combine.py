"""The hand-written gradient of the way back, where it differs from the contract's cases."""

import jax
import jax.numpy as jnp
import numpy as np

from moe_jax.moe.exchange.combine import combine
from moe_jax.moe.exchange.local import STAY
from moe_jax.moe.exchange.rows import make_queues, window

EXPERTS_TK = jnp.array([[0, 1], [1, 0], [1, 2]], jnp.int32)
OUT_LRD = jnp.arange(3 * 2 * 2, dtype=jnp.float32).reshape(3, 2, 2) + 1
AT = window(make_queues(EXPERTS_TK, 3), 0, 2)


def value(out_lrd, weights_tk):
    return combine(STAY, 2, out_lrd, weights_tk, AT).sum()


def test_weight_gradient_is_the_dot_product_with_the_row_and_0_beyond_capacity():
    weights_tk = jnp.array([[0.5, 2.0], [-1.0, 0.25], [3.0, 1.0]])
    grad_tk = jax.jit(jax.grad(value, argnums=1))(OUT_LRD, weights_tk)
    # Rows of expert 0: tokens 0, 1; of expert 1: tokens 1, 2 (first choices), no place for 0.
    np.testing.assert_allclose(grad_tk, [[3, 0], [11, 7], [15, 19]], rtol=1e-6)


def test_weight_of_exactly_0_takes_no_row_and_gets_gradient_0():
    weights_tk = jnp.array([[0.5, 2.0], [0.0, 0.25], [3.0, 1.0]])
    grad_lrd, grad_tk = jax.jit(jax.grad(value, argnums=(0, 1)))(OUT_LRD, weights_tk)
    assert float(grad_tk[1, 0]) == 0
    np.testing.assert_array_equal(grad_lrd[1, 0], 0)
    assert np.isfinite(grad_tk).all()
