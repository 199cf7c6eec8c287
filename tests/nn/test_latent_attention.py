"""Latent attention against its formula, head by head and token by token."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from moe_jax.config import Config, override
from moe_jax.nn.latent_attention import LatentAttention
from moe_jax.nn.rope import rotate

TOKENS, SIZE, HEADS, M, P, V, RANK = 4, 6, 2, 4, 2, 5, 3


def made(*settings: str) -> LatentAttention:
    config = override(
        Config(),
        [
            f"model.d_model={SIZE}",
            "model.init_std=0.5",
            "model.attention.kind=latent",
            f"model.attention.heads={HEADS}",
            f"model.attention.kv_heads={HEADS}",
            f"model.attention.head_dim={M}",
            f"model.attention.latent.kv_rank={RANK}",
            f"model.attention.latent.rope_head_dim={P}",
            f"model.attention.latent.value_head_dim={V}",
            *settings,
        ],
    )
    return LatentAttention(config.model, config.precision, 0, rngs=nnx.Rngs(0))


def by_hand(layer: LatentAttention, x: np.ndarray, scale: float) -> np.ndarray:
    names = ("w_kv_down_dr", "w_k_rope_dp", "w_q_ihm", "w_q_rope_ihp", "w_k_rhm", "w_v_rhv")
    down, k_rope, w_q, w_q_rope, w_k, w_v = (np.asarray(getattr(layer, n)[...]) for n in names)
    w_out = np.asarray(layer.w_out_hvd[...])
    positions = jnp.arange(TOKENS, dtype=jnp.int32)[None]

    def turned(y: np.ndarray) -> np.ndarray:
        return np.asarray(rotate(jnp.asarray(y)[None], positions, layer.config.rope))[0]

    latent = x @ down
    latent = latent / np.sqrt((latent**2).mean(-1, keepdims=True) + 1e-6)
    shared = turned((x @ k_rope)[:, None])[:, 0]
    q_rope = turned(np.einsum("sd,dhp->shp", x, w_q_rope))
    y = np.zeros_like(x)
    for head in range(HEADS):
        q = np.concatenate([x @ w_q[:, head], q_rope[:, head]], -1)
        k = np.concatenate([latent @ w_k[:, head], shared], -1)
        values = latent @ w_v[:, head]
        for t in range(TOKENS):
            weights = np.exp(scale * k[: t + 1] @ q[t])
            mean = weights @ values[: t + 1] / weights.sum()
            y[t] += mean @ w_out[head]
    return y


@pytest.mark.parametrize(
    ("setting", "scale"),
    [("model.attention.scale=0.0", (M + P) ** -0.5), ("model.attention.scale=0.9", 0.9)],
)
def test_keys_have_a_part_of_their_own_and_one_that_heads_share(setting, scale):
    layer = made(setting)
    x = np.random.default_rng(0).normal(size=(TOKENS, SIZE)).astype(np.float32)
    positions = jnp.arange(TOKENS, dtype=jnp.int32)[None]
    got = layer(jnp.asarray(x)[None], positions, None, "xla")
    np.testing.assert_allclose(got[0], by_hand(layer, x, scale), rtol=1e-4, atol=1e-5)
