"""Rates and shares follow from times."""

from moe_jax.bench.rivals.row import Row


def test_rates_follow_from_the_time():
    row = Row("moe_jax", "random", "timed", seconds=0.5, flops=3e12, bound_s=0.2, tokens=100)
    assert (row.tflops, row.of_bound, row.tokens_per_s) == (6.0, 0.4, 200.0)
    assert row.to_json()["tflops"] == 6.0


def test_what_was_not_timed_has_no_rates():
    row = Row("moe_jax", "random", "out of memory", flops=3e12, bound_s=0.2, tokens=100)
    assert (row.tflops, row.of_bound, row.tokens_per_s) == (0, 0, 0)
