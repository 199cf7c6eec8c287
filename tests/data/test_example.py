"""Targets, positions and weights at document boundaries."""

import numpy as np

from moe_jax.data.example import make_example

END = 256
#               doc 1 (rest)   doc 2              doc 3
TOKENS = np.array([7, 8, END, 20, 21, 22, END, 30, 31])
SEGMENTS = np.array([1, 1, 1, 2, 2, 2, 2, 3, 3])


def test_segments_restart_positions_and_silence_targets_across_documents():
    example = make_example(TOKENS, SEGMENTS, "segments")
    assert example.tokens.tolist() == [7, 8, END, 20, 21, 22, END, 30]
    assert example.targets.tolist() == [8, END, 20, 21, 22, END, 30, 31]
    assert example.segments.tolist() == [1, 1, 1, 2, 2, 2, 2, 3]
    assert example.positions.tolist() == [0, 1, 2, 0, 1, 2, 3, 0]
    assert example.weights.tolist() == [1, 1, 0, 1, 1, 1, 0, 1]


def test_without_a_mask_the_window_is_one_document():
    example = make_example(TOKENS, SEGMENTS, "none")
    assert example.segments.tolist() == [1] * 8
    assert example.positions.tolist() == list(range(8))
    assert example.weights.tolist() == [1] * 8
    assert example.targets.tolist() == TOKENS[1:].tolist()


def test_arrays_are_int32_and_float32():
    example = make_example(TOKENS.astype(np.uint16), SEGMENTS, "segments")
    for name in ("tokens", "targets", "segments", "positions"):
        assert getattr(example, name).dtype == np.int32
    assert example.weights.dtype == np.float32
