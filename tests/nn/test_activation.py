"""Clamped gated activation, against the formula of gpt-oss."""

import jax.numpy as jnp
import numpy as np

from moe_jax.config.model_schema import MoeConfig
from moe_jax.nn.activation import activate, activate_experts

UP = np.array([-9.0, -1.0, 0.5, 9.0], np.float32)
GATE = np.array([9.0, -9.0, 0.25, 3.0], np.float32)


def test_clamped_swiglu_clips_up_on_both_sides_and_the_gate_from_above():
    moe = MoeConfig(activation="swiglu_clamped", clamp_alpha=1.5, clamp_limit=2.0)
    got = activate_experts(moe, jnp.asarray(UP), jnp.asarray(GATE))
    up, gate = np.clip(UP, -2, 2), np.minimum(GATE, 2)
    np.testing.assert_allclose(got, (up + 1) * gate / (1 + np.exp(-1.5 * gate)), rtol=1e-5)


def test_other_activations_of_experts_are_those_of_mlps():
    for name in ("swiglu", "geglu"):
        got = activate_experts(MoeConfig(activation=name), jnp.asarray(UP), jnp.asarray(GATE))
        np.testing.assert_array_equal(got, activate(name, jnp.asarray(UP), jnp.asarray(GATE)))
