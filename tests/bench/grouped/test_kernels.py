"""Which kernels and tiles are timed, what is kept of it, and how times read."""

import jax.numpy as jnp

from moe_jax.bench.grouped import kernels
from moe_jax.bench.grouped.shapes import SHAPES, Shape, group_sizes, random_operands
from moe_jax.moe.grouped.tiles import TABLE, Tiles


def test_kernels_add_up_to_a_forward_and_a_backward_pass():
    """Nine products: up counts as gate does, and as the weights' gradient of gate."""
    named = {operation.name: operation for operation in kernels.operations(SHAPES["olmoe"])}
    assert sum(o.products for o in named.values()) + named["grad gate"].products == 9
    assert {o.key for o in named.values()} == set(TABLE)


def test_candidates_divide_the_columns():
    for operation in kernels.operations(SHAPES["qwen3"]):
        tiles = list(kernels.candidates(operation))
        assert tiles
        assert all(operation.key[2] % t.cols == 0 for t in tiles)


def test_the_fastest_tiles_enter_the_table(monkeypatch):
    shape, lines = SHAPES["tiny"], []
    monkeypatch.setattr(kernels, "TABLE", {})
    slow, fast = (2.0, Tiles(band=2)), (1.0, Tiles(band=8))
    monkeypatch.setattr(kernels, "_timed", lambda operation, operands, sizes: [slow, fast])
    sizes = jnp.asarray(group_sizes(shape, "random"))
    kernels.tune(shape, random_operands(shape), sizes, lines.append)
    assert set(kernels.TABLE.values()) == {fast[1]}
    assert "1000.000 ms" in lines[0]


def test_every_routing_is_timed_forward_and_with_gradients():
    shape = Shape(2, 16, 8, 64)
    times = list(kernels.time_mlp(shape, random_operands(shape), "blocks", repeats=2, batch_s=1e-4))
    assert [time.routing for time in times] == ["balanced", "random", "skewed"]
    assert all(time.forward_s > 0 and time.both_s > 0 for time in times)


def test_rates_count_the_rows_work():
    time = kernels.MlpTime(Shape(1, 1000, 1000, 500_000), "balanced", 0.01, 0.02)
    assert "10.000 ms ( 300 TFLOP/s)" in time.line()
    assert "20.000 ms ( 450 TFLOP/s)" in time.line()
