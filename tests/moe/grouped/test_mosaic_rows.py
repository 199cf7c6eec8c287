"""The Hopper kernels become programs for CUDA on a machine without any GPU."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.moe.grouped import gated_mlp, grouped_matmul, mosaic_rows

R, L, D, F = 640, 3, 256, 192


def shape(*size, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(size, dtype)


def kernels(function, *arguments):
    """Count the Mosaic kernels in the function's program, lowered for CUDA."""
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
    # Gate's and up's gradients are one kernel, called twice.
    assert kernels(run, rows, w_up, w_up, w_down, shape(L, dtype=jnp.int32), rows) == 6


def test_bands_visit_every_tile_once():
    """Bands of 4 row tiles over 10 of them and 3 column tiles."""
    visited = [
        tuple(int(part) for part in mosaic_rows._pick(jnp.int32(10), 3, 4, jnp.int32(nth)))
        for nth in range(30)
    ]
    assert sorted(visited) == [(row, col) for row in range(10) for col in range(3)]
    assert visited[:5] == [(0, 0), (1, 0), (2, 0), (3, 0), (0, 1)]


def test_a_program_for_a_gpu_elsewhere_fills_an_h100():
    if jax.devices()[0].platform != "gpu":
        assert mosaic_rows.num_multiprocessors() == 132
