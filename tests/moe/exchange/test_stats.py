"""Which groups are near: the device itself, and those on its host."""

import numpy as np

from moe_jax.moe.exchange.all_to_all import AllToAll
from moe_jax.moe.exchange.contract import ExchangeSpec
from moe_jax.moe.exchange.stats import _reach


def test_devices_of_a_group_lie_in_order():
    """Two groups of two devices; the second group spans both hosts."""
    spec = ExchangeSpec(AllToAll(), 4, 2, 1.0, "rounds", 0.125, hosts=(0, 0, 0, 1))
    own_pg, near_pg = _reach(spec)
    np.testing.assert_array_equal(own_pg, [[1, 0], [0, 1], [1, 0], [0, 1]])
    np.testing.assert_array_equal(near_pg, [[1, 1], [1, 1], [1, 0], [0, 1]])
