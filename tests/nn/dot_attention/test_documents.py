"""Packed documents: every one has a slot of a fitting length, however rows are packed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from moe_jax.nn.dot_attention.documents import (
    RATIO,
    LengthClass,
    find_documents,
    length_classes,
    over_documents,
)


def rows_of(*lengths: list[int]) -> jax.Array:
    """Rows of documents of these lengths, numbered from 1."""
    rows = [np.repeat(np.arange(1, len(row) + 1), row) for row in lengths]
    return jnp.asarray(np.stack(rows), jnp.int32)


def test_classes_end_at_quarters_of_the_row():
    assert length_classes(2, 4096) == (
        LengthClass(4096, 2, 3),
        LengthClass(1024, 8, 4),
        LengthClass(256, 32, 4),
    )
    assert length_classes(3, 256) == (LengthClass(256, 3, 4),)
    # What cannot be cut into even parts is served whole.
    assert length_classes(1, 1002) == (LengthClass(1002, 1, 4),)


@pytest.mark.parametrize("length", [130, 512, 1024, 8192, 10000])
def test_only_the_last_class_can_lack_slots(length):
    """So many documents of the shortest length that is not yet the next class's."""
    classes = length_classes(1, length)
    for kind, shorter in itertools.pairwise(classes):
        assert length // (shorter.longest + 1) <= kind.slots
        assert kind.longest == RATIO * shorter.longest


def test_every_document_has_its_place_and_length():
    documents = find_documents(rows_of([300, 12, 200], [512]))
    long, short = documents.slots(0), documents.slots(1)
    assert long.lengths_n.tolist() == [300, 200, 512, 0, 0, 0]
    assert long.begins_n.tolist() == [0, 312, 512, 1024, 1024, 1024]
    assert short.lengths_n.tolist() == [12] + [0] * 31
    assert short.begins_n.tolist() == [300] + [1024] * 31
    assert long.inside_bs.sum(1).tolist() == [500, 512]
    assert np.flatnonzero(np.asarray(short.inside_bs)).tolist() == list(range(300, 312))
    assert [int(long.slot_p[i]) for i in (0, 299, 312, 512)] == [0, 0, 1, 2]
    assert [int(long.within_p[i]) for i in (0, 299, 312, 1023)] == [0, 299, 0, 511]


def test_the_same_number_in_the_next_row_is_another_document():
    documents = find_documents(jnp.ones((3, 8), jnp.int32))
    assert documents.slots(0).lengths_n.tolist() == [8, 8, 8] + [0] * 9


def test_slots_carry_values_there_and_back():
    slots = find_documents(rows_of([300, 12, 200], [500, 12])).slots(0)
    values = jax.random.normal(jax.random.key(0), (2, 512, 3))
    per_slot = slots.per_slot(values)
    assert per_slot.shape == (6, 3, 512)
    np.testing.assert_array_equal(per_slot[1, :, :200].T, values[0, 312:])
    back = slots.per_token(per_slot)
    np.testing.assert_array_equal(back[slots.inside_bs], values[slots.inside_bs])


@pytest.mark.parametrize("longest", [1, 3, 20, 200, 256])
def test_every_token_is_served_whatever_the_lengths(longest):
    """With more documents than slots too: 4 slots serve a row of 256, in up to 64 rounds."""
    lengths = np.random.default_rng(longest).integers(1, longest + 1, 256)
    row = np.repeat(np.arange(len(lengths)), lengths)[:256]
    row = np.concatenate([row, np.full(256 - len(row), len(lengths))])
    segments = jnp.asarray(row[None], jnp.int32)

    def run(slots):
        sizes_n = slots.lengths_n.astype(jnp.float32)
        inside = jnp.where(slots.inside_bs, 1.0, jnp.nan)
        return (sizes_n[slots.slot_p].reshape(1, -1) * inside,)

    (found,) = jax.jit(lambda s: over_documents(s, run))(segments)
    sizes = np.bincount(row)
    np.testing.assert_array_equal(found[0], sizes[row])
