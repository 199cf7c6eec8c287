"""Sums of products, the gated pair, and dtypes: what the gradient rules are made of."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import make

from moe_jax.moe.grouped import dense, products, swiglu


@pytest.mark.parametrize("chosen", ["blocks", "dense"])
def test_pairs_are_summed(chosen):
    sizes, (x, w, _) = make("rows_of_nobody", jnp.float32, 8, 12)
    sizes_l = jnp.asarray(sizes, jnp.int32)
    actual = products.by_weights(chosen, [(x, w), (x, 2 * w)], sizes_l)
    wanted = 3 * dense.multiply_rows(x, w, sizes_l)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_activation_is_computed_in_float32_of_what_was_rounded():
    seen = []

    def activate(gate, up):
        seen.append((gate.dtype, up.dtype))
        return swiglu(gate, up)

    sizes, (x, w, _) = make("balanced", jnp.bfloat16, 8, 12)
    gate, up, hidden = products.gated("dense", x, w, w, jnp.asarray(sizes, jnp.int32), activate)
    assert seen == [(jnp.float32, jnp.float32)]
    assert {gate.dtype, up.dtype, hidden.dtype} == {jnp.dtype(jnp.bfloat16)}
    wanted = swiglu(gate.astype(jnp.float32), up.astype(jnp.float32)).astype(jnp.bfloat16)
    assert (hidden == wanted).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_gradient_has_the_dtype_asked_for(dtype):
    sizes, (x, _, grad) = make("empty_groups", jnp.bfloat16, 8, 12)
    out = products.by_gradients("blocks", x, grad, jnp.asarray(sizes, jnp.int32), dtype)
    assert out.dtype == dtype
    assert not np.asarray(out[0], np.float32).any()
