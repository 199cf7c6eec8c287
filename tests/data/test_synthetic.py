"""Synthetic sequences: determinism, range, uniformity."""

import numpy as np
import pytest

from moe_jax.data.synthetic import SyntheticSequences


def test_sequence_depends_on_seed_stream_and_index_only():
    def tokens(seed=0, stream=0, index=0):
        return SyntheticSequences(1000, 64, seed, stream).example(index).tokens.tolist()

    assert tokens() == tokens()
    assert len({tuple(t) for t in (tokens(), tokens(1), tokens(0, 1), tokens(0, 0, 1))}) == 4


def test_ids_cover_the_vocabulary_evenly():
    sequences = SyntheticSequences(16, 1000, seed=0)
    ids = np.concatenate([sequences.example(i).tokens for i in range(16)])
    counts = np.bincount(ids, minlength=16)
    assert len(counts) == 16
    assert counts.min() > 850
    assert counts.max() < 1150


def test_every_target_counts_and_follows_its_input():
    example = SyntheticSequences(50, 8, seed=0).example(3)
    assert example.weights.tolist() == [1] * 8
    assert example.positions.tolist() == list(range(8))
    assert example.targets[:-1].tolist() == example.tokens[1:].tolist()


def test_negative_index_is_refused():
    with pytest.raises(ValueError, match="sequence index -1 is negative"):
        SyntheticSequences(50, 8, seed=0).example(-1)


def test_fingerprint_changes_with_the_vocabulary():
    assert (
        SyntheticSequences(50, 8, seed=0).fingerprint()
        != SyntheticSequences(51, 8, seed=0).fingerprint()
    )
