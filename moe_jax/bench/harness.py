"""Timing of asynchronous work: warm-up, repeats, median and spread. What is timed is beside it.

Method: compile and warm up first; enough calls between two looks at the clock that neither the
clock nor dispatch counts; wait for the device before the clock is read; report the median and the
distance between the quartiles, below which a difference is noise.
"""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from moe_jax.errors import UserError


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median of `repeats` batches of calls, and between their quartiles."""

    seconds: float
    spread_s: float
    repeats: int


def measure(
    call: Callable[[], Any],
    *,
    repeats: int = 9,
    batch_s: float = 0.1,
    calls: int | None = None,
    clock: Callable[[], float] = time.perf_counter,
    wait: Callable[[Any], Any] | None = None,
) -> Timing:
    """Time `call`, which returns arrays that may not be ready yet.

    Args:
        call: dispatches the work; the first call may compile.
        repeats: batches that are timed.
        batch_s: seconds that a batch should take at least: the calls of a batch follow from it.
        calls: calls of a batch, where all processes of a job must make the same number of them.
        clock: seconds from anywhere.
        wait: returns when a call's result is ready, and those of all calls before it; None: the
            result is JAX's.

    Raises:
        UserError: fewer than 2 repeats, which have no spread.
    """
    if repeats < 2:
        raise UserError(f"repeats = {repeats}: a spread needs 2 or more")
    run = _Calls(call, clock, wait)
    run.batch(1)
    if calls is None:
        calls = max(1, math.ceil(batch_s / max(run.batch(1), 1e-6)))
    run.batch(calls)
    samples = [run.batch(calls) / calls for _ in range(repeats)]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, high - low, repeats)


@dataclass(frozen=True)
class _Calls:
    call: Callable[[], Any]
    clock: Callable[[], float]
    wait: Callable[[Any], Any] | None

    def batch(self, calls: int) -> float:
        """Return the seconds of so many calls."""
        # A GPU runs calls in order, so the last result is the last to be ready. JAX's CPU backend
        # may run several at once.
        in_order = self.wait is not None or jax.default_backend() != "cpu"
        wait = self.wait or jax.block_until_ready
        result, started = None, self.clock()
        for _ in range(calls):
            # The result before this one is let go first: only one is held at a time.
            result = None
            result = self.call()
            if not in_order:
                wait(result)
        wait(result)
        return self.clock() - started
