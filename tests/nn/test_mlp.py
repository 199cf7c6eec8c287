"""The dense MLP, plain and gated, with and without biases."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.nn.mlp import Mlp

SIZE, HIDDEN = 6, 10
X = np.random.default_rng(0).normal(size=(2, 3, SIZE)).astype(np.float32)


def make_mlp(activation: str, bias: str) -> Mlp:
    config = override(Config(), [f"model.d_model={SIZE}", "model.init_std=0.5"])
    mlp = Mlp(
        config.model,
        config.precision,
        d_ff=HIDDEN,
        activation=activation,
        bias=bias,
        rngs=nnx.Rngs(0),
    )
    if bias == "all":
        mlp.b_up_f[...] = jnp.linspace(-1, 1, HIDDEN)
        mlp.b_down_d[...] = jnp.linspace(1, 2, SIZE)
    return mlp


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("bias", ["none", "all"])
@pytest.mark.parametrize("activation", ["silu", "swiglu", "relu"])
def test_equals_its_formula(activation, bias):
    mlp = make_mlp(activation, bias)
    up = X.astype(np.float64) @ np.asarray(mlp.w_up_df[...])
    if bias == "all":
        up = up + np.linspace(-1, 1, HIDDEN)
    hidden = silu(up) if activation == "silu" else np.maximum(up, 0)
    if activation == "swiglu":
        hidden = silu(X @ np.asarray(mlp.w_gate_df[...])) * up
    wanted = hidden @ np.asarray(mlp.w_down_fd[...])
    if bias == "all":
        wanted = wanted + np.linspace(1, 2, SIZE)
    np.testing.assert_allclose(mlp(jnp.asarray(X)), wanted, rtol=1e-4, atol=1e-5)


def test_plain_mlps_have_two_matrices_and_gated_ones_three():
    matrices = {
        kind: sorted(name for name in vars(make_mlp(kind, "none")) if name.startswith("w_"))
        for kind in ("gelu", "geglu")
    }
    assert matrices == {
        "gelu": ["w_down_fd", "w_up_df"],
        "geglu": ["w_down_fd", "w_gate_df", "w_up_df"],
    }
