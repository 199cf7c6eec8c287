"""Who has a say in how many rounds there are."""

import jax
import jax.numpy as jnp
import numpy as np
from support.exchange.exchange_contract import make_mesh

from moe_jax.axes import EXPERT
from moe_jax.moe.exchange.wire import agreement
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards


def agreed(axes: tuple[str, ...]) -> np.ndarray:
    """What 2 groups of 2 devices agree on that want 0, 1, 2 and 3 rounds."""
    agree = agreement(axes, tensor=1)
    mapped = on_device_shards(agree, make_mesh(2, 2), in_specs=BATCH, out_specs=BATCH)
    return np.asarray(jax.jit(mapped)(jnp.arange(4, dtype=jnp.int32)))


def test_devices_that_send_to_each_other_run_the_most_that_one_needs():
    np.testing.assert_array_equal(agreed((EXPERT,)), [1, 1, 3, 3])


def test_nobody_else_has_a_say():
    np.testing.assert_array_equal(agreed(()), [0, 1, 2, 3])
