"""Scaled dot-product attention behind one call: blockwise XLA, or cuDNN's fused kernel.

Projections, rotary positions and normalisation live in `attention.py` and `latent_attention.py`;
attention to cached tokens in `cached_attention.py`.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe_jax.errors import UserError

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
    scale: float | None = None,
    sinks_h: Float[Array, " h"] | None = None,
) -> Float[Array, "b s h m"]:
    """Return causal attention: softmax(scale q kᵀ) v with h query heads on g key/value heads.

    Args:
        q_bshm: queries; h must be a multiple of g.
        k_bsgm: keys.
        v_bsgm: values.
        segments_bs: document of each token; tokens see only their own. None: no documents.
        window: tokens see at most this many positions, themselves included (0 = all).
        implementation: "cudnn" needs bfloat16 on an NVIDIA GPU and knows no documents or sinks.
        query_block: queries handled at a time by "xla"; bounds memory at block x s per head.
        scale: of the logits; None: one over the square root of m.
        sinks_h: a further logit per head in every softmax, without a value (Xiao et al., 2023).

    Raises:
        UserError: for documents or sinks under cuDNN.
    """
    if implementation == "xla":
        return _xla(q_bshm, k_bsgm, v_bsgm, segments_bs, window, query_block, scale, sinks_h)
    if segments_bs is not None:
        raise UserError(
            "model.attention.implementation='cudnn' cannot mask documents: set "
            "data.document_mask='none' or model.attention.implementation='xla'"
        )
    if sinks_h is not None:
        raise UserError(
            "model.attention.implementation='cudnn' knows no attention sinks: set it to 'xla'"
        )
    return jax.nn.dot_product_attention(
        q_bshm,
        k_bsgm,
        v_bsgm,
        scale=scale,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )


def _xla(q, k, v, segments, window: int, block: int, scale: float | None, sinks):
    """Run blocks of queries one after another, so that no [s, s] array exists for long s."""
    b, s, h, m = q.shape
    if s <= block:
        mask = _mask(jnp.arange(s), segments, segments, s, window)
        return _masked(q, k, v, mask, scale, sinks)
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
        return _masked(q_block, k, v, mask, scale, sinks)

    out = jax.lax.map(one, (jnp.arange(blocks), q_blocks))
    return out.swapaxes(0, 1).reshape(b, blocks * block, h, m)[:, :s]


def _masked(q, k, v, mask, scale: float | None, sinks):
    if sinks is None:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, scale=scale, implementation="xla")
    out, logsumexp_bsh = jax.nn.dot_product_attention(
        q, k, v, mask=mask, scale=scale, implementation="xla", return_residual=True
    )
    # exp(l) / (exp(l) + exp(sink)): the share of the softmax that the sink leaves.
    share_bsh = jax.nn.sigmoid(logsumexp_bsh.astype(jnp.float32) - sinks.astype(jnp.float32))
    return out * share_bsh[..., None].astype(out.dtype)


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
