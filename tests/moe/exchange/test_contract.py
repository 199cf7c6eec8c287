"""Capacity and load counts."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.moe.exchange.contract import capacity, load_per_expert, whole_rows


@pytest.mark.parametrize(
    ("tokens", "per_token", "groups", "factor", "sources", "rows"),
    [
        (64, 2, 8, 1.0, 1, 16),
        (64, 2, 8, 1.25, 1, 24),  # 20 rows, up to a multiple of 8
        (64, 2, 8, 1.25, 8, 20),  # 8 sources: 160 rows together are a multiple of 8 already
        (64, 2, 8, 1.3, 4, 22),  # 20.8 -> 21 -> even, for 88 together
        (64, 2, 8, 1.3, 6, 24),  # 6 sources: multiples of 4
        (5, 8, 8, 4.0, 1, 5),  # a token visits a group once
        (64, 1.5, 8, 1.0, 1, 16),  # 12 rows, up to a multiple of 8
        (1, 1, 64, 0.1, 64, 1),
    ],
)
def test_capacity_is_factor_times_mean_load_rounded_for_tensor_cores(
    tokens, per_token, groups, factor, sources, rows
):
    assert capacity(tokens, per_token, groups, factor, sources) == rows


@pytest.mark.parametrize(
    ("rows", "unit", "wanted"),
    [(16, 8, 16), (16.1, 8, 24), (0, 8, 8), (2.5, 2, 4), (3.0, 1, 3)],
)
def test_whole_rows_are_multiples_and_never_none(rows, unit, wanted):
    assert whole_rows(rows, unit) == wanted


def test_load_counts_choices_and_ignores_experts_out_of_range():
    experts_tk = jnp.array([[0, 2], [2, 1], [2, 3], [7, 2]], jnp.int32)
    np.testing.assert_array_equal(load_per_expert(experts_tk, 3), [1, 1, 4])
