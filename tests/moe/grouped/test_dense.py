"""The oracle against NumPy, group by group."""

import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import CASES, as_float64, close, expected, make

from moe_jax.moe.grouped import dense


@pytest.mark.parametrize("case", ["empty_groups", "rows_of_nobody", "one_row"])
def test_all_three_products(case):
    sizes, (x, w, grad) = make(case, jnp.float32, 8, 12)
    sizes_l = jnp.asarray(sizes, jnp.int32)
    out, grad_x, grad_w = expected(*as_float64((x, w, grad)), sizes)
    close(dense.multiply_rows(x, w, sizes_l), out, jnp.float32)
    close(dense.multiply_rows(grad, w, sizes_l, transposed=True), grad_x, jnp.float32)
    close(dense.multiply_weights(x, grad, sizes_l, jnp.float32), grad_w, jnp.float32)


def test_every_row_has_one_owner_or_none():
    for rows, sizes in CASES.values():
        owners = np.asarray(dense._own(jnp.asarray(sizes, jnp.int32), rows)).sum(0)
        assert owners.tolist() == [1] * sum(sizes) + [0] * (rows - sum(sizes))
