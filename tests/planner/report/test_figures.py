"""Figures that add up."""

from moe_jax.planner.report.figures import NO_TIME, Memory, MemoryPart, Times


def test_times_add_up_and_scale_part_by_part():
    times = Times(5.0, 4.0, 2.0, 1.0, 1.0, 3.0, 1.0)
    assert times + NO_TIME == times
    assert (times + times) == times * 2
    assert times.hidden_comm_s == 2.0


def test_nothing_hides_where_waiting_is_longer_than_the_collectives():
    assert Times(5.0, 4.0, 4.0, 0.0, 0.0, comm_s=1.0, exposed_comm_s=1.5).hidden_comm_s == 0


def test_what_is_spare_is_negative_where_it_does_not_fit():
    memory = Memory("compiled", 90, 80, 85, (MemoryPart("parameters", 90),))
    assert (memory.fits, memory.spare_bytes) == (False, -5)
