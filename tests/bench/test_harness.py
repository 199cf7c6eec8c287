"""Timing with a clock of our own: what is counted, what is not, and how results are summed up."""

import itertools

import jax.numpy as jnp
import pytest

from moe_jax.bench.harness import measure


class Work:
    """Calls that take what `seconds` says, on a clock that only they move."""

    def __init__(self, seconds):
        self.seconds, self.now, self.calls = iter(seconds), 0.0, 0

    def __call__(self):
        self.calls += 1
        self.now += next(self.seconds)
        return jnp.zeros(())

    def clock(self):
        return self.now


def test_the_first_calls_do_not_count():
    work = Work(itertools.chain([100.0, 50.0, 30.0], itertools.repeat(2.0)))
    timing = measure(work, repeats=4, batch_s=1.0, clock=work.clock)
    assert (timing.seconds, timing.spread_s, timing.repeats) == (2.0, 0.0, 4)
    assert work.calls == 3 + 4


def test_median_and_distance_between_quartiles():
    work = Work([9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 100.0])
    timing = measure(work, repeats=5, calls=1, clock=work.clock)
    assert (timing.seconds, timing.spread_s) == (3.0, 2.0)


def test_short_work_is_called_often_between_two_looks_at_the_clock():
    work = Work(itertools.repeat(0.01))
    timing = measure(work, repeats=3, batch_s=0.1, clock=work.clock)
    assert timing.seconds == pytest.approx(0.01)
    assert work.calls == 2 + 10 + 3 * 10


def test_a_given_number_of_calls_does_not_depend_on_time():
    work = Work(itertools.count(0.001, 0.5))
    measure(work, repeats=2, calls=3, clock=work.clock)
    assert work.calls == 1 + 3 + 2 * 3


def test_one_repeat_has_no_spread():
    with pytest.raises(ValueError, match="repeats = 1"):
        measure(lambda: jnp.zeros(()), repeats=1)


def test_another_frameworks_results_are_waited_for_by_its_own_means():
    work, waited = Work(itertools.repeat(1.0)), []
    timing = measure(work, repeats=2, calls=3, clock=work.clock, wait=waited.append)
    assert timing.seconds == 1.0
    assert len(waited) == 1 + 1 + 2
