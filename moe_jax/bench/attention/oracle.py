"""Attention written out, all logits at once: what every implementation is held against."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from moe_jax.bench.attention.cases import AttentionCase, Operands
from moe_jax.nn.dot_attention import Implementation, dot_attention

Attention = Callable[[Operands], Array]


def oracle(case: AttentionCase) -> Attention:
    """Return attention as a softmax over all positions, masked.

    Args:
        case: gives window and scale.
    """

    def attend(operands: Operands) -> Array:
        q, sinks = operands.q_bshm, operands.sinks_h
        groups = case.heads // case.kv_heads
        k, v = (jnp.repeat(x, groups, axis=2) for x in (operands.k_bsgm, operands.v_bsgn))
        logits_bhqs = jnp.einsum("bqhm,bshm->bhqs", q, k) * case.width**-0.5
        logits_bhqs = jnp.where(_seen(case, operands)[:, None], logits_bhqs, -jnp.inf)
        if sinks is not None:
            own = jnp.broadcast_to(sinks[None, :, None, None], (*logits_bhqs.shape[:3], 1))
            logits_bhqs = jnp.concatenate([logits_bhqs, own], axis=-1)
        weights_bhqs = jax.nn.softmax(logits_bhqs, axis=-1)[..., : case.length]
        return jnp.einsum("bhqs,bshn->bqhn", weights_bhqs, v)

    return attend


def _seen(case: AttentionCase, operands: Operands) -> Array:
    """Return which positions each one sees, [b, q, s] or [1, q, s]."""
    places = jnp.arange(case.length)
    distance_qs = places[:, None] - places[None, :]
    seen_bqs = (distance_qs >= 0)[None]
    if case.window:
        seen_bqs &= (distance_qs < case.window)[None]
    if (segments := operands.segments_bs) is not None:
        seen_bqs = seen_bqs & (segments[:, :, None] == segments[:, None, :])
    return seen_bqs


def attention_by(implementation: Implementation, case: AttentionCase) -> Attention:
    """Return `dot_attention` as models call it.

    Args:
        implementation: which one.
        case: gives the window.
    """

    def attend(operands: Operands) -> Array:
        return dot_attention(
            operands.q_bshm,
            operands.k_bsgm,
            operands.v_bsgn,
            operands.segments_bs,
            window=case.window,
            implementation=implementation,
            query_block=512,
            sinks_h=operands.sinks_h,
        )

    return attend


def with_gradients(attention: Attention) -> Callable[[Operands], dict[str, Any]]:
    """Return a function of the value and all gradients, by name; None where there is no sink."""

    def run(operands: Operands) -> dict[str, Any]:
        def of(q, k, v, sinks) -> Array:
            changed = {"q_bshm": q, "k_bsgm": k, "v_bsgn": v, "sinks_h": sinks}
            return attention(dataclasses.replace(operands, **changed))

        trained = (operands.q_bshm, operands.k_bsgm, operands.v_bsgn, operands.sinks_h)
        out, pull = jax.vjp(of, *trained)
        arrays = (out, *pull(operands.do_bshn))
        return dict(zip(("o", "dq", "dk", "dv", "dsinks"), arrays, strict=True))

    return run
