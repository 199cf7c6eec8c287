"""Attention in blocks of queries, as XLA compiles it: for every platform, type and shape."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from moe_jax.nn.dot_attention.widths import widened


def xla_attention(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgn: Float[Array, "b s g n"],
    segments_bs: Int[Array, "b s"] | None,
    sinks_h: Float[Array, " h"] | None,
    scale: float,
    window: int,
    block: int,
) -> Float[Array, "b s h n"]:
    """Run blocks of queries one after another, so that no [s, s] array exists for long s.

    Args:
        q_bshm: queries.
        k_bsgm: keys.
        v_bsgn: values.
        segments_bs: document of each token.
        sinks_h: a further logit per head.
        scale: of the logits.
        window: positions that a token sees at most (0 = all).
        block: queries of a block.
    """
    width, own = max(q_bshm.shape[-1], v_bsgn.shape[-1]), v_bsgn.shape[-1]
    q, k, v = (widened(x, width) for x in (q_bshm, k_bsgm, v_bsgn))
    return _blocks(q, k, v, segments_bs, sinks_h, scale, window, block)[..., :own]


def _blocks(q, k, v, segments, sinks, scale: float, window: int, block: int):
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


def _masked(q, k, v, mask, scale: float, sinks):
    bias = None
    if sinks is not None:
        # A key of zeros at the end, seen by all, whose logit is the sink and whose value is 0. (JAX
        # returns the softmax's denominator too, but passes no gradient through it.)
        one_more = ((0, 0), (0, 1), (0, 0), (0, 0))
        k, v = jnp.pad(k, one_more), jnp.pad(v, one_more)
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 0), (0, 1)), constant_values=True)
        last = jnp.arange(k.shape[1]) == k.shape[1] - 1
        bias = jnp.where(last, sinks.astype(jnp.float32)[:, None, None], 0.0)[None]
    return jax.nn.dot_product_attention(
        q, k, v, bias=bias, mask=mask, scale=scale, implementation="xla"
    )


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
