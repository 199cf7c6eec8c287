"""A wrong array is found by its sample; bounds follow the dtype."""

import numpy as np
import pytest

from moe_jax.bench.rivals.sample import BOUNDS, excess, positions


@pytest.mark.parametrize("shape", [(1,), (3, 4), (700, 300)])
def test_positions_are_inside_and_the_same_every_time(shape):
    at = positions(shape)
    assert all((i >= 0).all() and (i < n).all() for i, n in zip(at, shape, strict=True))
    positions.cache_clear()
    np.testing.assert_array_equal(at, positions(shape))


def test_the_array_that_is_worst_for_its_bound_is_named():
    wanted = {"loss": np.array([10.0]), "y": np.ones(5)}
    actual = {"loss": np.array([10.1]), "y": np.full(5, 1.02)}
    name, error, bound = excess(actual, wanted, "bfloat16")
    assert (name, error, bound) == ("loss", pytest.approx(0.01), BOUNDS["bfloat16"] / 10)


def test_what_is_no_number_is_infinitely_wrong():
    name, error, _ = excess({"y": np.array([np.nan])}, {"y": np.ones(1)}, "float32")
    assert (name, error) == ("y", np.inf)
