"""Which experts are near: on the device itself, and on its host."""

import numpy as np

from moe_jax.moe.exchange.all_to_all import AllToAll
from moe_jax.moe.exchange.contract import ExchangeSpec
from moe_jax.moe.exchange.stats import _reach


def test_experts_of_a_group_lie_in_order_on_its_devices():
    """Two groups of two devices with two experts each; the second group spans both hosts."""
    spec = ExchangeSpec(AllToAll(), 4, 2, 1.0, "rounds", hosts=(0, 0, 0, 1))
    on_device, on_host = _reach(spec)
    np.testing.assert_array_equal(
        on_device, [[1, 1, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]]
    )
    np.testing.assert_array_equal(on_host, [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
