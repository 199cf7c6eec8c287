"""Zeros are appended, and nothing where the width is right."""

import jax.numpy as jnp

from moe_jax.nn.dot_attention.widths import widened


def test_zeros_are_appended():
    assert widened(jnp.ones((1, 2)), 5).tolist() == [[1, 1, 0, 0, 0]]


def test_the_right_width_is_left_alone():
    x = jnp.ones((1, 2))
    assert widened(x, 2) is x
