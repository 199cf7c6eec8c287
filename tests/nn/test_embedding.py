"""Embedding lookup and the output projection, in their dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from support.exchange.jaxprs import equations_of

from moe_jax.config import Config, override
from moe_jax.nn.embedding import Embedding, Unembedding

CONFIG = override(
    Config(), ["model.vocab_size=11", "model.d_model=4", "precision.compute=bfloat16"]
)


def test_lookup_takes_rows_in_the_compute_dtype():
    embedding = Embedding(CONFIG.model, CONFIG.precision, rngs=nnx.Rngs(0))
    ids = jnp.array([[3, 3, 10]], jnp.int32)
    x_bsd = embedding(ids)
    assert x_bsd.dtype == jnp.bfloat16
    np.testing.assert_array_equal(
        x_bsd[0], embedding.w_vd[...][jnp.array([3, 3, 10])].astype(x_bsd.dtype)
    )


@pytest.mark.parametrize("kind", [Embedding, Unembedding])
def test_logits_are_float32_products_with_every_row(kind):
    module = kind(CONFIG.model, CONFIG.precision, rngs=nnx.Rngs(0))
    x_bsd = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 4)), jnp.bfloat16)
    logits = module.logits(x_bsd)
    table = np.asarray(module.w_vd[...].astype(jnp.bfloat16), np.float64)
    assert logits.dtype == jnp.float32
    wanted = np.asarray(x_bsd, np.float64) @ table.T
    np.testing.assert_allclose(logits, wanted, rtol=1e-3, atol=1e-5)


def test_gradients_of_logits_are_products_in_the_compute_dtype():
    module = Unembedding(CONFIG.model, CONFIG.precision, rngs=nnx.Rngs(0))
    graphdef, state = nnx.split(module)
    rng = np.random.default_rng(0)
    x_bsd = jnp.asarray(rng.normal(size=(1, 2, 4)), jnp.bfloat16)
    up_bsv = jnp.asarray(rng.normal(size=(1, 2, 11)), jnp.float32)

    def weighted(x, state):
        return (nnx.merge(graphdef, state).logits(x) * up_bsv).sum()

    gradient = jax.grad(weighted, argnums=(0, 1))
    dots = [
        eqn.invars
        for eqn in equations_of(jax.make_jaxpr(gradient)(x_bsd, state))
        if str(eqn.primitive) == "dot_general"
    ]
    assert len(dots) == 3
    assert {v.aval.dtype for operands in dots for v in operands} == {jnp.dtype(jnp.bfloat16)}
    got_x, got_state = gradient(x_bsd, state)
    table = np.asarray(module.w_vd[...].astype(jnp.bfloat16), np.float64)
    up, x = np.asarray(up_bsv, np.float64), np.asarray(x_bsd, np.float64)
    np.testing.assert_allclose(np.float64(got_x), up @ table, rtol=2e-2, atol=2e-3)
    wanted = np.einsum("bsv,bsd->vd", up, x)
    np.testing.assert_allclose(got_state["w_vd"][...], wanted, rtol=2e-2, atol=2e-2)
