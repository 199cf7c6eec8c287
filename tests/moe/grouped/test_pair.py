"""Two products of the same rows equal one and one, in values and gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.grouped_cases import IMPLEMENTATIONS, close, make

from moe_jax.errors import UserError
from moe_jax.moe.grouped import grouped_matmul, grouped_pair
from moe_jax.moe.grouped.pair import require_one_shape


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("case", ["random", "rows_of_nobody"])
def test_a_pair_is_two_products_with_the_sum_of_their_gradients(implementation, case):
    sizes, (x, w, grad) = make(case, jnp.bfloat16)
    sizes_l, other = jnp.asarray(sizes, jnp.int32), w[..., ::-1]

    def pair(x, w, other):
        return grouped_pair(x, w, other, sizes_l, implementation=implementation)

    def singles(x, w, other):
        return tuple(grouped_matmul(x, v, sizes_l, implementation="dense") for v in (w, other))

    wide = [a.astype(jnp.float32) for a in (x, w, other)]
    got, pull = jax.vjp(pair, x, w, other)
    want, wanted_pull = jax.vjp(singles, *wide)
    grads = pull((grad, -2 * grad))
    wanted_grads = wanted_pull((grad.astype(jnp.float32), -2 * grad.astype(jnp.float32)))
    for actual, wanted in zip((*got, *grads), (*want, *wanted_grads), strict=True):
        close(actual, np.asarray(wanted, np.float64), jnp.bfloat16)


def test_weights_of_two_shapes_are_refused_with_both():
    with pytest.raises(UserError, match=r"\(1, 2, 3\) and \(1, 2, 2\)"):
        require_one_shape((1, 2, 3), (1, 2, 2))
