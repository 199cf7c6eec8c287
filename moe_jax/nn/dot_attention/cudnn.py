"""Attention by cuDNN, with documents and sinks, and its gradient.

A sink is one more logit in a softmax, without a value: the softmax without it, made smaller.

    l' = log(exp(l) + exp(sink)),  o' = o exp(l - l'),  p' = p exp(l - l')

The backward pass of attention (Dao, 2023, algorithm 2) needs of the forward pass only l and o: it
computes the probabilities again as exp(logits - l), and each row's sum of p dp as <o, do>. With l'
and o' it computes p' and the sum over what has a value, so its gradients of q, k and v are those
with a sink. The sink's own is that of a logit whose value is 0: -exp(sink - l') <o', do'>.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from moe_jax.nn.dot_attention.cudnn_calls import call_backward, call_forward
from moe_jax.nn.dot_attention.documents import Slots, over_documents
from moe_jax.nn.dot_attention.widths import widened
from moe_jax.nn.names import ATTENDED

#: Widths of heads are multiples of this, in elements.
STEP = 8
#: Widths of keys and values that cuDNN serves though they differ: DeepSeek's.
UNEQUAL = (192, 128)


def cudnn_attention(
    q_bshm: Float[Array, "b s h m"],
    k_bsgm: Float[Array, "b s g m"],
    v_bsgn: Float[Array, "b s g n"],
    segments_bs: Int[Array, "b s"] | None,
    sinks_h: Float[Array, " h"] | None,
    scale: float,
    window: int,
) -> Float[Array, "b s h n"]:
    """Return attention as `contract.dot_attention` describes it, on an NVIDIA GPU.

    Args:
        q_bshm: queries, bfloat16 or float16.
        k_bsgm: keys.
        v_bsgn: values.
        segments_bs: document of each token.
        sinks_h: a further logit per head.
        scale: of the logits.
        window: positions that a token sees at most (0 = all).
    """
    own = v_bsgn.shape[-1]
    keys, values = served_widths(q_bshm.shape[-1], own, packed=segments_bs is not None)
    q, k, v = widened(q_bshm, keys), widened(k_bsgm, keys), widened(v_bsgn, values)
    o: Array = _attention(q, k, v, segments_bs, sinks_h, scale, window)
    return o[..., :own]


def served_widths(keys: int, values: int, *, packed: bool) -> tuple[int, int]:
    """Return the widths of keys and values, zeros included, that cuDNN is asked for.

    Args:
        keys: width of a head's queries and keys.
        values: of its values.
        packed: whether there are documents: keys and values then share their offsets.
    """
    if (keys, values) == UNEQUAL and not packed:
        return UNEQUAL
    width = -(-max(keys, values) // STEP) * STEP
    return width, width


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attention(q, k, v, segments, sinks, scale: float, window: int):
    o, _ = _forward(q, k, v, segments, sinks, scale, window, with_lse=sinks is not None)
    return o


def _attention_fwd(q, k, v, segments, sinks, scale: float, window: int):
    done = _forward(q, k, v, segments, sinks, scale, window, with_lse=True)
    o, lse_bsh = cast(tuple[Array, Array], checkpoint_name(done, ATTENDED))
    return o, (q, k, v, segments, sinks, o, lse_bsh)


def _attention_bwd(scale: float, window: int, saved: Any, do):
    q, k, v, segments, sinks, o, lse_bsh = saved

    def gradients(slots: Slots | None) -> tuple[Array, Array, Array]:
        stats = lse_bsh.swapaxes(1, 2) if slots is None else slots.per_slot(lse_bsh)
        return call_backward(q, k, v, stats, o, do, slots, scale, window)

    dq, dk, dv = gradients(None) if segments is None else over_documents(segments, gradients)
    return dq, dk, dv, None, _sinks_gradient(sinks, o, do, lse_bsh)


_attention.defvjp(_attention_fwd, _attention_bwd)


def _forward(q, k, v, segments, sinks, scale: float, window: int, *, with_lse: bool):
    """Return attention [b, s, h, n], and the denominators' logarithms [b, s, h], sinks included."""

    def attend(slots: Slots | None) -> tuple[Array, ...]:
        o, stats = call_forward(q, k, v, slots, scale, window, with_stats=with_lse)
        if stats is None:
            return (o,)
        return o, stats.swapaxes(1, 2) if slots is None else slots.per_token(stats)

    o, *rest = attend(None) if segments is None else over_documents(segments, attend)
    if sinks is None:
        return o, rest[0] if with_lse else None
    lse_bsh = rest[0]
    with_sink_bsh = jnp.logaddexp(lse_bsh, sinks.astype(jnp.float32))
    share_bsh1 = jnp.exp(lse_bsh - with_sink_bsh)[..., None]
    return (o.astype(jnp.float32) * share_bsh1).astype(o.dtype), with_sink_bsh


def _sinks_gradient(sinks, o, do, lse_bsh):
    if sinks is None:
        return None
    products_bsh = jnp.sum(o.astype(jnp.float32) * do.astype(jnp.float32), axis=-1)
    probability_bsh = jnp.exp(sinks.astype(jnp.float32) - lse_bsh)
    return -jnp.sum(probability_bsh * products_bsh, axis=(0, 1)).astype(sinks.dtype)
