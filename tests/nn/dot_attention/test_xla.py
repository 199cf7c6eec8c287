"""Blockwise attention against a softmax written out per query."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.nn.dot_attention import dot_attention

BATCH, LENGTH, HEADS, KV_HEADS, HEAD_DIM = 2, 11, 4, 2, 8
SEGMENTS = np.array([[1] * 4 + [2] * 5 + [3] * 2, [1] * 11], np.int32)


def inputs(kv_heads: int = KV_HEADS) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    heads = (HEADS, kv_heads, kv_heads)
    return [rng.normal(size=(BATCH, LENGTH, h, HEAD_DIM)).astype(np.float32) for h in heads]


def may_see(query: int, key: int, window: int, documents: np.ndarray | None) -> bool:
    if key > query or (window and query - key >= window):
        return False
    return documents is None or documents[query] == documents[key]


def by_hand(q, k, v, segments: np.ndarray | None, window: int) -> np.ndarray:
    """Head h attends with key/value head h // (heads per group)."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    group = q.shape[2] // k.shape[2]
    out = np.zeros_like(q)
    for b, s, h in itertools.product(range(BATCH), range(LENGTH), range(HEADS)):
        documents = None if segments is None else segments[b]
        keys = [t for t in range(LENGTH) if may_see(s, t, window, documents)]
        scores = k[b, keys, h // group] @ q[b, s, h] / np.sqrt(HEAD_DIM)
        weights = np.exp(scores - scores.max())
        out[b, s, h] = (weights / weights.sum()) @ v[b, keys, h // group]
    return out


def attend(q, k, v, segments, window: int, block: int):
    ids = None if segments is None else jnp.asarray(segments)
    return dot_attention(q, k, v, ids, window=window, implementation="xla", query_block=block)


@pytest.mark.parametrize("block", [512, 11, 4, 5], ids=lambda b: f"block{b}")
@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("segments", [None, SEGMENTS], ids=["plain", "documents"])
def test_equals_the_naive_softmax(block, window, segments):
    q, k, v = inputs()
    out = jax.jit(lambda *qkv: attend(*qkv, segments, window, block))(q, k, v)
    np.testing.assert_allclose(out, by_hand(q, k, v, segments, window), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_any_number_of_key_value_heads(kv_heads):
    q, k, v = inputs(kv_heads)
    out = jax.jit(lambda *qkv: attend(*qkv, None, 0, 4))(q, k, v)
    np.testing.assert_allclose(out, by_hand(q, k, v, None, 0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [0, 3])
def test_gradients_do_not_depend_on_the_block(window):
    q, k, v = inputs()
    scale = np.random.default_rng(1).normal(size=q.shape).astype(np.float32)

    def gradients(block):
        def loss(*qkv):
            return (attend(*qkv, SEGMENTS, window, block) * scale).sum()

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    whole = gradients(512)
    for a, b in zip(gradients(4), whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert all(np.isfinite(g).all() for g in whole)


def test_gradient_equals_finite_differences():
    q, k, v = inputs()
    rng = np.random.default_rng(2)
    steps = [rng.normal(size=a.shape).astype(np.float32) for a in (q, k, v)]
    scale = rng.normal(size=q.shape)

    def value(h: float) -> float:
        moved = [a + h * step for a, step in zip((q, k, v), steps, strict=True)]
        return float((by_hand(*moved, SEGMENTS, 3) * scale).sum())

    def loss(*qkv):
        return (attend(*qkv, SEGMENTS, 3, 4) * jnp.asarray(scale, jnp.float32)).sum()

    grads = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)
    slope = sum(float((g * step).sum()) for g, step in zip(grads, steps, strict=True))
    numeric = (value(1e-3) - value(-1e-3)) / 2e-3
    assert slope == pytest.approx(numeric, rel=1e-3)


def test_blocks_bound_memory():
    """No array over all queries and all keys exists when the sequence is cut into blocks."""
    q, k, v = inputs()
    text = jax.jit(lambda *qkv: attend(*qkv, None, 0, 4)).lower(q, k, v).as_text()
    assert "4x11x" in text or "x4x11" in text
    assert f"x{LENGTH}x{LENGTH}x" not in text
