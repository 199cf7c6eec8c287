"""Unions of intervals against counting grid points."""

import numpy as np
import pytest

from moe_jax.training.reporting.trace.spans import Spans


def points(intervals):
    """Returns the unit cells that intervals with whole ends cover."""
    return {cell for start, end in intervals for cell in range(int(start), int(end))}


@pytest.mark.parametrize("seed", range(4))
def test_lengths_and_what_is_common_are_those_of_sets_of_cells(seed):
    rng = np.random.default_rng(seed)
    starts = rng.integers(0, 60, (2, 12)).astype(float)
    first, second = (np.stack([s, s + rng.integers(0, 9, 12)], 1) for s in starts)
    assert Spans(first).length == len(points(first))
    assert Spans(first).common(Spans(second)) == len(points(first) & points(second))
    within = Spans(first).within(second[:, 0], second[:, 1])
    assert within.tolist() == [len(points(first) & points([one])) for one in second]


def test_nothing_is_as_long_as_nothing():
    nothing = Spans(np.zeros((0, 2)))
    assert (nothing.length, nothing.common(Spans(np.array([[0.0, 5.0]])))) == (0, 0)
    assert Spans(np.array([[0.0, 5.0]])).common(nothing) == 0
