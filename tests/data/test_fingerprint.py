"""Resuming with other data is refused, and the error says what is other."""

import json

import pytest

from moe_jax.data.fingerprint import require_same_data
from moe_jax.data.synthetic import SyntheticSequences


def test_same_data_passes_also_after_a_round_trip_through_json():
    saved = json.loads(json.dumps(SyntheticSequences(50, 8, seed=0).fingerprint()))
    require_same_data(saved, SyntheticSequences(50, 8, seed=0).fingerprint())


def test_every_differing_part_is_named_with_both_values():
    saved = SyntheticSequences(50, 8, seed=0).fingerprint()
    current = SyntheticSequences(50, 16, seed=7).fingerprint()
    message = r"\(seed was 0, is 7; sequence_length was 8, is 16\): restore the former data"
    with pytest.raises(ValueError, match=message):
        require_same_data(saved, current)


def test_part_that_only_one_side_has_is_a_difference():
    with pytest.raises(ValueError, match="tokenizer was 'bytes', is None"):
        require_same_data({"tokenizer": "bytes"}, {})
