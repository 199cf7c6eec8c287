"""A layer's cache is a ring of places; attention to it sees what a causal window sees."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.nn.cached_attention import cached_attention, visible, write

PLACES = 4


def written(positions, lengths, rows=(0, 1)) -> np.ndarray:
    """Writes each token's position (plus one) as its entry into layer 1 of an empty cache."""
    positions = jnp.asarray(positions, jnp.int32)
    entries = (positions + 1).astype(jnp.float32)[..., None]
    cache = jnp.zeros((2, 2, PLACES, 1))
    got = write(
        cache,
        jnp.int32(1),
        entries,
        jnp.asarray(rows, jnp.int32),
        positions,
        jnp.asarray(lengths, jnp.int32),
    )
    assert not got[0].any()
    return np.asarray(got[1, ..., 0])


def test_prompts_longer_than_the_ring_leave_their_last_tokens():
    positions = [list(range(7)), list(range(7))]
    np.testing.assert_array_equal(written(positions, [7, 3]), [[5, 6, 7, 4], [1, 2, 3, 0]])


def test_what_is_written_does_not_depend_on_the_order_of_a_scatter():
    positions = [list(range(6, -1, -1)), list(range(6, -1, -1))]
    np.testing.assert_array_equal(written(positions, [7, 3]), [[5, 6, 7, 4], [1, 2, 3, 0]])


def test_later_tokens_replace_the_oldest():
    np.testing.assert_array_equal(written([[5], [2]], [6, 3]), [[0, 6, 0, 0], [0, 0, 3, 0]])


def test_rows_beyond_the_cache_are_not_written():
    got = written([[0], [1]], [1, 2], rows=(2, 0))
    np.testing.assert_array_equal(got, [[0, 2, 0, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize(
    ("position", "seen"), [(0, [1, 0, 0, 0]), (2, [1, 1, 1, 0]), (5, [1, 1, 1, 1])]
)
def test_visible_places(position, seen):
    got = visible(jnp.array([position], jnp.int32), PLACES)
    np.testing.assert_array_equal(got[0], np.array(seen, bool))


def test_a_sink_takes_its_share_of_the_softmax():
    rng = np.random.default_rng(0)
    q, k, v = (
        rng.normal(size=s).astype(np.float32) for s in ((1, 2, 3), (1, 4, 1, 3), (1, 4, 1, 5))
    )
    seen = np.array([[True, True, False, True]])
    sinks = np.array([0.3, -1.0], np.float32)
    got = cached_attention(
        *map(jnp.asarray, (q, k, v, seen)), scale=0.5, sinks_h=jnp.asarray(sinks)
    )
    for head in range(2):
        logits = 0.5 * k[0, seen[0], 0] @ q[0, head]
        weights = np.exp(logits) / (np.exp(logits).sum() + np.exp(sinks[head]))
        np.testing.assert_allclose(got[0, head], weights @ v[0, seen[0], 0], rtol=1e-5)
