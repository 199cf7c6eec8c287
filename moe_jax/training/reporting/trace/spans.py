"""Sets of times: unions of intervals, how long they are, and how much two have in common."""

import numpy as np
from jaxtyping import Float


class Spans:
    """Intervals that do not touch, in order.

    Args:
        intervals: [n, 2] starts and ends, in any order and overlapping at will.
    """

    def __init__(self, intervals: Float[np.ndarray, "n 2"]):
        order = np.argsort(intervals[:, 0], kind="stable")
        starts, ends = intervals[order].T
        reached = np.maximum.accumulate(ends) if len(ends) else ends
        first = np.ones(len(starts), bool)
        first[1:] = starts[1:] > reached[:-1]
        last = np.append(first[1:], True)[: len(first)]
        self.starts, self.ends = starts[first], reached[last]
        self._before = np.concatenate([[0.0], np.cumsum(self.ends - self.starts)])

    @property
    def length(self) -> float:
        """Of all intervals together."""
        return float(self._before[-1])

    def up_to(self, at: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
        """Return how much of the set lies before each of some times."""
        nth = np.searchsorted(self.starts, at, side="right")
        inside = np.where(nth > 0, np.minimum(at, self._end(nth)) - self._start(nth), 0.0)
        return self._before[np.maximum(nth - 1, 0)] + inside

    def within(self, starts: np.ndarray, ends: np.ndarray) -> Float[np.ndarray, " m"]:
        """Return how much of the set lies within each of some intervals.

        Args:
            starts: of the intervals [m].
            ends: of the same.
        """
        return self.up_to(ends) - self.up_to(starts)

    def common(self, other: "Spans") -> float:
        """Return how long both last together."""
        return float(self.within(other.starts, other.ends).sum())

    def _start(self, nth: np.ndarray) -> np.ndarray:
        return np.append(self.starts, 0.0)[nth - 1]

    def _end(self, nth: np.ndarray) -> np.ndarray:
        return np.append(self.ends, 0.0)[nth - 1]
