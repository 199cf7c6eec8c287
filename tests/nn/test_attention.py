"""The attention module: projections, biases and QK-norm around the dot product."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.nn.attention import Attention
from moe_jax.nn.dot_attention import dot_attention
from moe_jax.nn.rope import rotate

SIZE, HEADS, KV_HEADS, HEAD_DIM, LENGTH = 12, 4, 2, 6, 7
X = jax.random.normal(jax.random.key(0), (2, LENGTH, SIZE))
POSITIONS = jnp.tile(jnp.arange(LENGTH, dtype=jnp.int32), (2, 1))


def make_attention(*settings: str, window: int = 0) -> Attention:
    config = override(
        Config(),
        [
            f"model.d_model={SIZE}",
            f"model.attention.heads={HEADS}",
            f"model.attention.kv_heads={KV_HEADS}",
            f"model.attention.head_dim={HEAD_DIM}",
            "model.init_std=0.5",
            *settings,
        ],
    )
    return Attention(config.model, config.precision, window, rngs=nnx.Rngs(1))


def run(attention: Attention, x: jax.Array = X) -> jax.Array:
    return jax.jit(lambda x: attention(x, POSITIONS, None, "xla"))(x)


def by_hand(attention: Attention, normed: bool = False) -> np.ndarray:
    def project(name: str, bias: str) -> jax.Array:
        y = jnp.einsum("bsd,dhm->bshm", X, getattr(attention, name)[...])
        return y + getattr(attention, bias)[...] if hasattr(attention, bias) else y

    q, k, v = (project(f"w_{n}_d{h}m", f"b_{n}_{h}m") for n, h in ("qh", "kg", "vg"))
    if normed:
        q, k = (y / jnp.sqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6) for y in (q, k))
    rope = attention.config.rope
    o = dot_attention(
        rotate(q, POSITIONS, rope),
        rotate(k, POSITIONS, rope),
        v,
        None,
        window=attention.window,
        implementation="xla",
        query_block=LENGTH,
    )
    y = jnp.einsum("bshm,hmd->bsd", o, attention.w_out_hmd[...])
    return np.asarray(y + attention.b_out_d[...] if hasattr(attention, "b_out_d") else y)


@pytest.mark.parametrize("window", [0, 2])
def test_projects_rotates_attends_and_projects_back(window):
    attention = make_attention(window=window)
    np.testing.assert_allclose(run(attention), by_hand(attention), rtol=1e-4, atol=1e-5)


def test_qk_norm_normalises_each_head():
    attention = make_attention("model.attention.qk_norm=head")
    wanted = by_hand(attention, normed=True)
    np.testing.assert_allclose(run(attention), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "names"), [("none", 0), ("qkv", 3), ("all", 4)])
def test_biases_exist_as_configured_and_are_added(kind, names):
    attention = make_attention(f"model.attention.bias={kind}")
    biases = [name for name in vars(attention) if name.startswith("b_")]
    assert len(biases) == names
    before = run(attention)
    for name in biases:
        bias = getattr(attention, name)
        bias[...] = jnp.linspace(-1, 1, bias.size).reshape(bias.shape)
    np.testing.assert_allclose(run(attention), by_hand(attention), rtol=1e-4, atol=1e-5)
    assert (np.abs(run(attention) - before).max() > 1e-3) == bool(names)


def test_a_token_never_sees_later_ones():
    attention = make_attention()
    changed = X.at[:, 4:].add(1.0)
    np.testing.assert_array_equal(run(attention)[:, :4], run(attention, changed)[:, :4])
