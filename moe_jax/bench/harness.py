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
) -> Timing:
    """Time `call`, which returns arrays that may not be ready yet.

    Args:
        call: dispatches the work; the first call may compile.
        repeats: batches that are timed.
        batch_s: seconds that a batch should take at least: the calls of a batch follow from it.
        calls: calls of a batch, where all processes of a job must make the same number of them.
        clock: seconds from anywhere.

    Raises:
        UserError: fewer than 2 repeats, which have no spread.
    """
    if repeats < 2:
        raise UserError(f"repeats = {repeats}: a spread needs 2 or more")
    jax.block_until_ready(call())
    if calls is None:
        calls = max(1, math.ceil(batch_s / max(_batch(call, 1, clock), 1e-6)))
    _batch(call, calls, clock)
    samples = [_batch(call, calls, clock) / calls for _ in range(repeats)]
    low, middle, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Timing(middle, high - low, repeats)


def _batch(call: Callable[[], Any], calls: int, clock: Callable[[], float]) -> float:
    # A GPU runs calls in order, so the last result is the last to be ready. The CPU backend may
    # run several at once.
    in_order = jax.default_backend() != "cpu"
    started = clock()
    for _ in range(calls):
        # The result before this one may be freed: only one is held at a time.
        result = call()
        if not in_order:
            jax.block_until_ready(result)
    jax.block_until_ready(result)
    return clock() - started
