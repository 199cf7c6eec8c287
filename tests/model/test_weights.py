"""Parameters and buffers as one pytree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.checkpoint.tree import paths_of
from moe_jax.model.weights import Weights

WEIGHTS = Weights({"b": jnp.ones(2), "a": jnp.zeros(3)}, {"bias_e": jnp.full(4, 2.0)})


def test_a_checkpoint_finds_each_array_by_its_group_and_name():
    assert paths_of(WEIGHTS) == ["params/a", "params/b", "buffers/bias_e"]


def test_names_of_both_groups_are_one_dict():
    assert list(WEIGHTS.by_name) == ["b", "a", "bias_e"]
    assert WEIGHTS.by_name["bias_e"] is WEIGHTS.buffers["bias_e"]


def test_a_transformed_function_takes_and_returns_them():
    doubled = jax.jit(lambda weights: jax.tree.map(lambda x: 2 * x, weights))(WEIGHTS)
    assert isinstance(doubled, Weights)
    np.testing.assert_array_equal(doubled.buffers["bias_e"], np.full(4, 4.0))


def test_a_gradient_step_makes_new_ones_and_leaves_the_old():
    moved = dataclasses.replace(WEIGHTS, params={"b": jnp.zeros(2), "a": jnp.zeros(3)})
    assert moved.buffers is WEIGHTS.buffers
    np.testing.assert_array_equal(WEIGHTS.params["b"], np.ones(2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        WEIGHTS.params = {}  # type: ignore[misc]
