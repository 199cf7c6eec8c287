"""cuDNN's attention as its custom calls describe it, in plain JAX: what ours ask it for, and get.

Everything is read from the operands and the description, nothing from our own code. What cuDNN
does not write is NaN here.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jax import Array

from moe_jax.nn.dot_attention import cudnn_calls


def install(monkeypatch) -> list[str]:
    """Put the emulation in the place of cuDNN; return the list that will name the calls."""
    calls: list[str] = []

    def call(name, operands, results, config, transposed):
        calls.append(name)
        found = (
            _forward(operands, config)
            if name == cudnn_calls.FORWARD
            else _backward(operands, config)
        )
        for actual, wanted in zip(found[:transposed], results, strict=False):
            b, h, s, m = wanted.shape
            assert (actual.shape, actual.dtype) == ((b, s, h, m), wanted.dtype)
        return found[: len(results)]

    monkeypatch.setattr(cudnn_calls, "_call", call)
    monkeypatch.setitem(cudnn_calls.ELEMENTS, "float32", "F32")
    return calls


@dataclass(frozen=True)
class _Sequences:
    """Places of the tokens of each sequence among all tokens, and which pairs see each other."""

    places_nl: Array
    inside_nl: Array
    seen_n1qs: Array
    scale: float

    def gather(self, x: Array, groups: int = 1) -> Array:
        tokens = jnp.repeat(x.reshape(-1, *x.shape[2:]), groups, axis=1)
        return tokens[jnp.minimum(self.places_nl, len(tokens) - 1)].astype(jnp.float32)

    def scatter(self, x_nlhm: Array, like: Array) -> Array:
        total = like.shape[0] * like.shape[1]
        into = jnp.where(self.inside_nl, self.places_nl, total).reshape(-1)
        flat = x_nlhm.reshape(-1, *x_nlhm.shape[2:])
        out = jnp.full((total, *flat.shape[1:]), jnp.nan).at[into].set(flat, mode="drop")
        return out.reshape(*like.shape[:2], *flat.shape[1:]).astype(like.dtype)


def _sequences(q: Array, k: Array, where: Sequence[Array], config: str) -> _Sequences:
    description = json.loads(config)["cudnn_fmha_backend_config"]
    rows, length, heads, width = q.shape
    per_row = description["max_seg_per_batch"]
    assert description["intermediate_tensor_shape"]["dimensions"] == [
        str(n) for n in (rows, heads, length, length)
    ]
    if per_row == 1:
        assert description["mask_type"] == "CAUSAL"
        assert not where
        begins = jnp.arange(rows) * length
        lengths = jnp.full(rows, length)
    else:
        assert description["mask_type"] == "PADDING_CAUSAL"
        lengths, kv_lengths, offsets, kv_offsets = where
        assert lengths.shape == kv_lengths.shape == (rows, per_row)
        assert offsets.shape == kv_offsets.shape == (rows, per_row + 1)
        lengths = lengths.reshape(-1)
        # Queries by their offsets, in elements; that those of keys agree, `gather` would not see.
        begins = offsets.reshape(-1)[: len(lengths)] // (heads * width)
        kv_begins = kv_offsets.reshape(-1)[: len(lengths)] // (k.shape[2] * k.shape[3])
        begins = jnp.where(begins == kv_begins, begins, -(10**6))
    places = jnp.arange(length)
    distance = places[:, None] - places[None, :]
    seen = (distance >= 0) & (places < lengths[:, None, None])
    if window := description["sliding_window_length"]:
        seen &= distance < window
    return _Sequences(
        begins[:, None] + places,
        places < lengths[:, None],
        seen[:, None],
        description["fmha_scale"],
    )


def _probabilities(s: _Sequences, q: Array, k: Array) -> Array:
    logits = jnp.einsum("nqhm,nshm->nhqs", q, k) * s.scale
    return jnp.where(s.seen_n1qs, logits, -jnp.inf)


def _forward(operands: Sequence[Array], config: str) -> list[Array]:
    q, k, v, *where = operands
    s, groups = _sequences(q, k, where, config), q.shape[2] // k.shape[2]
    logits = _probabilities(s, s.gather(q), s.gather(k, groups))
    stats_nhl = jnp.log(jnp.sum(jnp.exp(logits), axis=-1))
    weights = jnp.exp(logits - jnp.where(s.inside_nl[:, None], stats_nhl, 0.0)[..., None])
    out = jnp.einsum("nhqs,nshm->nqhm", weights, s.gather(v, groups))
    stats_nhl = jnp.where(s.inside_nl[:, None], stats_nhl, jnp.nan)
    like = jnp.zeros((*q.shape[:3], v.shape[3]), q.dtype)
    return [s.scatter(out, like), stats_nhl]


def _backward(operands: Sequence[Array], config: str) -> list[Array]:
    q, k, v, stats, do, o, *where = operands
    s, groups = _sequences(q, k, where, config), q.shape[2] // k.shape[2]
    q_n, k_n, v_n = s.gather(q), s.gather(k, groups), s.gather(v, groups)
    do_n, o_n = (jnp.where(s.inside_nl[..., None, None], s.gather(x), 0.0) for x in (do, o))
    stats = jnp.where(s.inside_nl[:, None], stats, 0.0)
    p = jnp.exp(_probabilities(s, q_n, k_n) - stats[..., None])
    dp = jnp.einsum("nqhm,nshm->nhqs", do_n, v_n)
    ds = p * (dp - jnp.einsum("nqhm,nqhm->nhq", do_n, o_n)[..., None]) * s.scale
    dq = jnp.einsum("nhqs,nshm->nqhm", ds, k_n)
    dk = jnp.einsum("nhqs,nqhm->nshm", ds, q_n)
    dv = jnp.einsum("nhqs,nqhm->nshm", p, do_n)

    def summed(x: Array, like: Array) -> Array:
        n, length, h, m = x.shape
        return s.scatter(x.reshape(n, length, h // groups, groups, m).sum(3), like)

    return [s.scatter(dq, q), summed(dk, k), summed(dv, v)]
