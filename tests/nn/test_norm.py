"""Norms against their formulas in float64."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.config import Config, override
from moe_jax.nn.norm import LayerNorm, RMSNorm, make_norm

X = np.random.default_rng(0).normal(loc=0.5, scale=3.0, size=(2, 3, 8)).astype(np.float32)
SCALE = np.linspace(0.5, 2.0, 8, dtype=np.float32)
PRECISION = Config().precision


def rms(x: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def standard(x: np.ndarray, eps: float) -> np.ndarray:
    x = x.astype(np.float64)
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + eps)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_rmsnorm_follows_its_formula(eps):
    norm = RMSNorm(8, eps, PRECISION)
    norm.scale[...] = jnp.asarray(SCALE)
    np.testing.assert_allclose(norm(jnp.asarray(X)), rms(X, eps) * SCALE, rtol=1e-5)


@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_layernorm_follows_its_formula(eps):
    norm = LayerNorm(8, eps, PRECISION)
    norm.scale[...] = jnp.asarray(SCALE)
    norm.bias[...] = jnp.asarray(-SCALE)
    wanted = standard(X, eps) * SCALE - SCALE
    np.testing.assert_allclose(norm(jnp.asarray(X)), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_bfloat16_input_is_normalised_in_float32(kind):
    """256 equal entries would lose their mean square to bfloat16's 8 bits."""
    x = jnp.full((1, 256), 3.0, jnp.bfloat16).at[0, 0].set(-3.0)
    y = kind(256, 1e-6, PRECISION)(x)
    reference = {RMSNorm: rms, LayerNorm: standard}[kind](np.asarray(x, np.float32), 1e-6)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float32), reference, rtol=5e-3)


@pytest.mark.parametrize(("name", "kind"), [("rmsnorm", RMSNorm), ("layernorm", LayerNorm)])
def test_config_names_the_norm(name, kind):
    model = override(Config(), [f"model.norm={name}", "model.d_model=32"]).model
    norm = make_norm(model, PRECISION)
    assert type(norm) is kind
    assert norm.scale.shape == (32,)
