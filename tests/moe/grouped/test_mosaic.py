"""The Hopper kernels become programs for CUDA on a machine without any GPU."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.moe.grouped import gated_mlp, grouped_matmul

R, L, D, F = 640, 3, 256, 192


def shape(*size, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(size, dtype)


def kernels(function, *arguments):
    """Names of the Mosaic kernels in the function's program, lowered for CUDA."""
    lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("cuda",))
    return sum("mosaic_gpu" in line for line in lowered.as_text().splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("weights", [jnp.bfloat16, jnp.float32])
def test_matmul_and_its_gradients_lower(weights):
    def run(x, w, sizes, grad):
        out, pull = jax.vjp(lambda *a: grouped_matmul(*a, sizes, implementation="mosaic"), x, w)
        return out, pull(grad)

    arguments = shape(R, D), shape(L, D, F, dtype=weights), shape(L, dtype=jnp.int32), shape(R, F)
    assert kernels(run, *arguments) >= 3
    out, (grad_x, grad_w) = jax.eval_shape(run, *arguments)
    assert (out.dtype, grad_x.dtype, grad_w.dtype) == (jnp.bfloat16, jnp.bfloat16, weights)


@pytest.mark.slow
def test_mlp_and_its_gradients_lower():
    def run(x, gate, up, down, sizes, grad):
        out, pull = jax.vjp(
            lambda *a: gated_mlp(*a, sizes, implementation="mosaic"), x, gate, up, down
        )
        return out, pull(grad)

    w_up, w_down, rows = shape(L, D, F), shape(L, F, D), shape(R, D)
    assert kernels(run, rows, w_up, w_up, w_down, shape(L, dtype=jnp.int32), rows) >= 7


def test_mlp_keeps_nothing_in_float32():
    """What waits for the backward pass: rows, gate and up, and the weights, all as they came."""
    w_up, w_down, rows = shape(L, D, F), shape(L, F, D), shape(R, D)

    def residuals(x, gate, up, down, sizes):
        _, pull = jax.vjp(
            lambda *a: gated_mlp(*a, sizes, implementation="blocks"), x, gate, up, down
        )
        return jax.tree.leaves(pull)

    kept = jax.eval_shape(residuals, rows, w_up, w_up, w_down, shape(L, dtype=jnp.int32))
    sizes = sorted(array.shape for array in kept if array.dtype == jnp.bfloat16 and array.size)
    assert sizes == sorted([(R, D), (R, F), (R, F), (L, D, F), (L, D, F), (L, F, D)])
    assert not any(array.dtype == jnp.float32 for array in kept)
