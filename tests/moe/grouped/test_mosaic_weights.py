"""The weights' gradient's Hopper kernel becomes a program for CUDA without any GPU."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.moe.grouped import mosaic_weights
from moe_jax.moe.grouped.tiles import Tiles


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_it_lowers_also_for_rows_that_no_load_divides(dtype):
    def run(x, grad, sizes):
        return mosaic_weights.multiply_weights(x, grad, sizes, Tiles(cols=64), dtype)

    shapes = [jax.ShapeDtypeStruct((333, cols), jnp.bfloat16) for cols in (256, 192)]
    traced = jax.jit(run).trace(*shapes, jax.ShapeDtypeStruct((3,), jnp.int32))
    assert "mosaic_gpu" in traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize(
    ("dtype", "late", "panel"), [("bfloat16", True, 64), ("float32", False, 32)]
)
def test_a_panel_is_128_bytes_and_wide_results_are_written_at_once(dtype, late, panel):
    refs = mosaic_weights._Refs(None, None, None, None, out=jax.ShapeDtypeStruct((1, 1, 1), dtype))
    assert mosaic_weights._panel(dtype) == panel
    assert mosaic_weights._late(refs) is late


def test_steps_are_the_loads_that_reach_a_groups_end():
    def steps(first, end):
        tile = mosaic_weights._Tile(0, jnp.int32(first), jnp.int32(end), 0, 0, 0, 0)
        return int(tile.steps)

    assert [steps(0, 0), steps(0, 64), steps(3, 65), steps(7, 128)] == [0, 1, 2, 2]
