"""Every implementation against one NumPy product per group: values, gradients, and odd sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import IMPLEMENTATIONS, as_float64, close, expected, grid, make

from moe_jax.errors import UserError
from moe_jax.moe.grouped import grouped_matmul
from moe_jax.moe.grouped.matmul import require_shapes


@pytest.mark.parametrize(("implementation", "case", "dtype"), [*grid()])
def test_values_and_gradients(implementation, case, dtype):
    sizes, (x, w, grad) = make(case, dtype)

    @jax.jit
    def run(x, w, grad, sizes_l):
        out, pull = jax.vjp(
            lambda x, w: grouped_matmul(x, w, sizes_l, implementation=implementation), x, w
        )
        return out, *pull(grad)

    out, grad_x, grad_w = run(x, w, grad, jnp.asarray(sizes, jnp.int32))
    wanted = expected(*as_float64((x, w, grad)), sizes)
    assert (out.dtype, grad_x.dtype, grad_w.dtype) == (dtype,) * 3
    for actual, want in zip((out, grad_x, grad_w), wanted, strict=True):
        close(actual, want, dtype)
    for group in np.flatnonzero(np.asarray(sizes) == 0):
        assert not np.asarray(grad_w[group], np.float32).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_garbage_in_rows_of_nobody_reaches_nothing(implementation):
    sizes, (x, w, grad) = make("rows_of_nobody", jnp.bfloat16)
    used = sum(sizes)
    x, grad = x.at[used:].set(jnp.nan), grad.at[used:].set(jnp.inf)
    out, pull = jax.vjp(
        lambda x, w: grouped_matmul(
            x, w, jnp.asarray(sizes, jnp.int32), implementation=implementation
        ),
        x,
        w,
    )
    for array in (out, *pull(grad)):
        assert np.isfinite(np.asarray(array, np.float32)).all()
    assert not np.asarray(out[used:], np.float32).any()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_float32_weights_get_float32_sums(implementation):
    sizes, (x, w, grad) = make("random", jnp.bfloat16)
    wide = w.astype(jnp.float32) + 1e-4  # what rounding takes away
    sizes_l = jnp.asarray(sizes, jnp.int32)
    _, pull = jax.vjp(lambda w: grouped_matmul(x, w, sizes_l, implementation=implementation), wide)
    (grad_w,) = pull(grad)
    assert grad_w.dtype == jnp.float32
    wanted = expected(*as_float64((x, w, grad)), sizes)[2]
    close(grad_w, wanted, jnp.float32)


@pytest.mark.parametrize(
    ("x", "w", "sizes", "message"),
    [
        ((4, 2), (3, 5, 1), (3,), "same i"),
        ((4, 2), (3, 2, 1), (2,), "one entry for each of the 3 groups"),
    ],
)
def test_shapes_that_do_not_match_are_refused(x, w, sizes, message):
    with pytest.raises(UserError, match=message):
        require_shapes(x, w, sizes)
