"""Scaled dot-product attention behind one call: blockwise XLA, or cuDNN's fused kernel.

Projections, rotary positions and normalisation live in `attention.py`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

Implementation = Literal["xla", "cudnn"]


def dot_attention(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgm: Float[Array, "b s g m"],
    segments_bs: Int[Array, "b s"] | None,
    *,
    window: int,
    implementation: Implementation,
    query_block: int,
) -> Float[Array, "b s h m"]:
    """Causal attention; softmax(q kᵀ / sqrt(m)) v with h query heads on g key/value heads.

    Args:
        q_bshm, k_bsgm, v_bsgm: queries, keys, values; h must be a multiple of g.
        segments_bs: document of each token; tokens see only their own. None: no documents.
        window: tokens see at most this many positions, themselves included (0 = all).
        implementation: "cudnn" needs bfloat16 on an NVIDIA GPU and knows no documents.
        query_block: queries handled at a time by "xla"; bounds memory at block x s per head.

    Raises:
        ValueError: for documents under cuDNN.
    """
    if implementation == "xla":
        return _xla(q_bshm, k_bsgm, v_bsgm, segments_bs, window, query_block)
    if segments_bs is not None:
        raise ValueError(
            "model.attention.implementation='cudnn' cannot mask documents: set "
            "data.document_mask='none' or model.attention.implementation='xla'"
        )
    return jax.nn.dot_product_attention(
        q_bshm,
        k_bsgm,
        v_bsgm,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )


def _xla(q, k, v, segments, window: int, block: int):
    """Runs blocks of queries one after another, so that no [s, s] array exists for long s."""
    b, s, h, m = q.shape
    if s <= block:
        mask = _mask(jnp.arange(s), segments, segments, s, window)
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    blocks = -(-s // block)
    padding = blocks * block - s
    q = jnp.pad(q, ((0, 0), (0, padding), (0, 0), (0, 0)))
    q_blocks = q.reshape(b, blocks, block, h, m).swapaxes(0, 1)
    padded = None if segments is None else jnp.pad(segments, ((0, 0), (0, padding)))

    @jax.checkpoint
    def one(args):
        index, q_block = args
        rows = index * block + jnp.arange(block)
        own = None if padded is None else jnp.take(padded, rows, axis=1)
        mask = _mask(rows, own, segments, s, window)
        return jax.nn.dot_product_attention(q_block, k, v, mask=mask, implementation="xla")

    out = jax.lax.map(one, (jnp.arange(blocks), q_blocks))
    return out.swapaxes(0, 1).reshape(b, blocks * block, h, m)[:, :s]


def _mask(rows, own, segments, length: int, window: int) -> Bool[Array, "b 1 q s"]:
    """Which of `length` keys each query in `rows` may see. Padded rows see key 0, never nothing."""
    columns = jnp.arange(length)
    seen = columns[None, :] <= rows[:, None]
    if window:
        seen &= rows[:, None] - columns[None, :] < window
    seen = seen[None, None]
    if segments is not None:
        seen = seen & (own[:, None, :, None] == segments[:, None, None, :])
    return seen | ((rows >= length)[:, None] & (columns == 0)[None, :])[None, None]
