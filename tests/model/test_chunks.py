"""Chunks of sequences: every position once, on one device and on two."""

import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.model.chunks import Chunks

BATCH, WHOLE = 2, 10


@pytest.mark.parametrize("shards", [1, 2])
@pytest.mark.parametrize("most", [1, 3, 4, 5, 1024])
def test_every_position_counts_once_and_no_chunk_is_larger_than_asked(shards, most):
    chunks = Chunks(WHOLE // shards, most, shards)
    assert chunks.size * shards <= max(most, shards)
    ids = tuple(jnp.arange(BATCH * WHOLE).reshape(BATCH, WHOLE) + 100 * n for n in range(2))
    ones = tuple(jnp.ones(i.shape) for i in ids)
    counted = dict.fromkeys(np.concatenate([i.ravel() for i in ids]).tolist(), 0.0)
    for index in range(chunks.count):
        found, scales = chunks.targets(ids, ones, jnp.asarray(index))
        for target, scale in zip(found.ravel().tolist(), scales.ravel().tolist(), strict=True):
            counted[target] += scale
    assert set(counted.values()) == {1.0}


def test_hidden_states_of_a_chunk_are_those_of_its_targets():
    """A device of two holds positions 5 to 9; its hidden states say which they are."""
    chunks = Chunks(5, 4, 2)
    positions = jnp.broadcast_to(jnp.arange(WHOLE), (BATCH, WHOLE))
    xs = tuple(positions[:, 5:, None].astype(jnp.float32) for _ in range(2))
    for index in map(jnp.asarray, range(chunks.count)):
        ids, _ = chunks.targets((positions, positions), (jnp.ones((BATCH, WHOLE)),) * 2, index)
        own = ids[:, chunks.size :]
        np.testing.assert_array_equal(chunks.hidden(xs, index)[..., 0], own)


def test_values_are_added_where_they_stand():
    chunks = Chunks(7, 3, 1)
    xs = tuple(jnp.full((BATCH, 7, 1), 10.0 * n) for n in range(2))
    sums = xs
    for index in map(jnp.asarray, range(chunks.count)):
        part = jnp.ones((2 * BATCH, chunks.size, 1))
        sums = chunks.added(sums, part, index)
    # Chunks start at 0, 3 and 4: the last repeats two positions.
    wanted = np.array([1, 1, 1, 1, 2, 2, 1], np.float32)
    for x, got in zip(xs, sums, strict=True):
        np.testing.assert_array_equal(got - x, np.broadcast_to(wanted[None, :, None], x.shape))
