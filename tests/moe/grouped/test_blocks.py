"""Groups in blocks of rows: sizes of blocks, borders, and what the program holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import CASES

from moe_jax.moe.grouped import blocks, dense, grouped_matmul


@pytest.mark.parametrize(
    ("rows", "groups", "block"), [(4096, 4, 256), (1 << 20, 4, 512), (100, 50, 8), (5, 1, 5)]
)
def test_a_block_is_a_quarter_of_a_group_within_bounds(rows, groups, block):
    assert blocks._block_rows(rows, groups) == block


@pytest.mark.parametrize("transposed", [False, True])
def test_a_last_block_that_is_moved_back_computes_no_row_twice(transposed):
    """Rows and groups that leave a partial block at every border."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(29, 6)), jnp.float32)
    w = jnp.asarray(rng.normal(size=(3, 4, 6) if transposed else (3, 6, 4)), jnp.float32)
    sizes = jnp.array([13, 0, 16], jnp.int32)
    actual = blocks.multiply_rows(x, w, sizes, transposed=transposed)
    wanted = dense.multiply_rows(x, w, sizes, transposed=transposed)
    np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-5)


def test_weights_gradients_sum_in_float32_whatever_their_dtype():
    ones = jnp.ones((1024, 1), jnp.bfloat16)
    sizes = jnp.array([1000, 24], jnp.int32)
    assert blocks.multiply_weights(ones, ones, sizes, jnp.float32).ravel().tolist() == [1000, 24]


def test_shapes_of_the_hard_cases_have_blocks_that_fit():
    for rows, sizes in CASES.values():
        assert 1 <= blocks._block_rows(rows, len(sizes)) <= rows


def test_blocks_cost_what_the_rows_cost():
    """128 groups, as many rows as one of 4 groups: the loops' bodies hold no product of all."""
    x, w = jnp.ones((256, 8)), jnp.ones((128, 8, 8))
    text = (
        jax.jit(lambda x, w, s: grouped_matmul(x, w, s, implementation="blocks"))
        .lower(x, w, jnp.full(128, 2, jnp.int32))
        .as_text()
    )
    products = [line for line in text.splitlines() if "dot_general" in line]
    assert products
    assert all("tensor<8x8xf32>, tensor<8x8xf32>" in line for line in products)
