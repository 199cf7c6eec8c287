"""Caches of earlier tokens on one device: writing to them, and attending to one.

A cache is [layers, rows, c, ...]: c places for each sequence, used as a ring: the token at
position p lies at place p % c. A layer with a sliding window needs no more places than its window.
Which arrays a layer keeps is the layer's business; how caches are spread over devices is in
`model/cache.py`.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def write(
    cache: Float[Array, "layers rows c *entry"],
    layer: Int[Array, ""],
    entry_bs: Float[Array, "b s *entry"],
    rows_b: Int[Array, " b"],
    positions_bs: Int[Array, "b s"],
    lengths_b: Int[Array, " b"],
) -> Float[Array, "layers rows c *entry"]:
    """Return the cache with a layer's entries of s consecutive tokens of b sequences.

    Args:
        cache: of stacked layers, so that a scan over them changes it in place.
        layer: which of them.
        entry_bs: what to keep of each token.
        rows_b: row of each sequence; one outside the cache is not written.
        positions_bs: of the tokens.
        lengths_b: tokens of each sequence so far, these included; later ones are padding.
    """
    places = cache.shape[2]
    ends_b1 = lengths_b[:, None]
    # Of several tokens for one place only the last may be written: scatter has no order.
    kept_bs = (positions_bs < ends_b1) & (positions_bs >= ends_b1 - places)
    place_bs = jnp.where(kept_bs, positions_bs % places, places)
    row_bs = jnp.broadcast_to(rows_b[:, None], place_bs.shape)
    return cache.at[layer, row_bs, place_bs].set(entry_bs.astype(cache.dtype), mode="drop")


def visible(positions_b: Int[Array, " b"], places: int) -> Bool[Array, "b c"]:
    """Return which places hold a token that the token at `positions_b` sees, itself included.

    Args:
        positions_b: of the newest token of each sequence, which is in the cache.
        places: of the ring; no more than a sliding window, so what it holds is in sight. Or the
            first ones of a ring, more than any position.
    """
    back_bc = (positions_b[:, None] - jnp.arange(places)) % places
    return back_bc <= positions_b[:, None]


def cached_attention(
    q_bhm: Float[Array, "b h m"],
    k_bcgm: Float[Array, "b c g m"],
    v_bcgv: Float[Array, "b c g v"],
    visible_bc: Bool[Array, "b c"],
    *,
    scale: float,
    sinks_h: Float[Array, " h"] | None = None,
) -> Float[Array, "b h v"]:
    """Return the attention of one new token per sequence to the cache, itself included.

    softmax in float32 over the visible places, and over the sink if there is one.

    Args:
        q_bhm: one query per head.
        k_bcgm: keys of c places; h must be a multiple of g.
        v_bcgv: their values.
        visible_bc: which places count.
        scale: of the logits.
        sinks_h: a further logit per head without a value; None for none.
    """
    b, h, m = q_bhm.shape
    g = k_bcgm.shape[2]
    q_bgnm = q_bhm.reshape(b, g, h // g, m)
    logits = jnp.einsum("bgnm,bcgm->bgnc", q_bgnm, k_bcgm, preferred_element_type=jnp.float32)
    logits = jnp.where(visible_bc[:, None, None, :], logits * scale, -jnp.inf)
    highest = logits.max(axis=-1, keepdims=True)
    if sinks_h is None:
        weights = jnp.exp(logits - highest)
        total = weights.sum(axis=-1, keepdims=True)
    else:
        sinks = sinks_h.astype(jnp.float32).reshape(1, g, h // g, 1)
        highest = jnp.maximum(highest, sinks)
        weights = jnp.exp(logits - highest)
        total = weights.sum(axis=-1, keepdims=True) + jnp.exp(sinks - highest)
    weights = (weights / total).astype(v_bcgv.dtype)
    return jnp.einsum("bgnc,bcgv->bgnv", weights, v_bcgv).reshape(b, h, -1)
