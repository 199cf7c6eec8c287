"""Lanes of a picture: everything that takes time is on one, and the sums are the overlap's."""

from itertools import pairwise

import pytest
from support.planner.hand_lanes import hand_lanes, timelines
from support.planner.hand_schedules import dump

from moe_jax.planner.pictures.lanes import layer_lanes
from moe_jax.planner.xla.overlap import overlap, own_times
from moe_jax.planner.xla.timeline import parse_timelines


def test_directions_are_told_apart():
    assert [lanes.title for lanes in hand_lanes()] == ["Forward layer", "Backward layer"]


def test_several_computations_of_a_direction_are_numbered():
    forward, _ = timelines()
    assert [lanes.title for lanes in layer_lanes([forward, forward])] == [
        "Forward layer (1 of 2)",
        "Forward layer (2 of 2)",
    ]


def test_sums_are_those_of_the_overlap():
    found = timelines()
    for lanes, timeline in zip(hand_lanes(), found, strict=True):
        figures = overlap(timeline, own=own_times(found))
        assert lanes.overlaps == (figures,)
        assert lanes.exposed_us == pytest.approx(figures.exposed_us)
        assert lanes.communication_us == pytest.approx(figures.own_us)
        assert lanes.compute_us == pytest.approx(figures.compute_us)
        assert lanes.total_us == figures.total_us


def test_collectives_of_one_lane_never_overlap_and_those_in_flight_together_have_two():
    forward, _ = hand_lanes()
    assert {f.lane for f in forward.flights} == {0, 1}
    for lane in (0, 1):
        mine = [f for f in forward.flights if f.lane == lane]
        assert all(a.end_us <= b.start_us for a, b in pairwise(mine))


def test_compute_is_sorted_by_what_it_is():
    forward, backward = hand_lanes()
    assert [(b.category, b.label, b.purpose) for b in forward.bars] == [
        ("matmul", "td,df->tf", ""),
        ("attention", "attention", ""),
        ("other", "td,df->tf", ""),
        ("other", "td,df->tf", ""),
    ]
    assert [b.purpose for b in backward.bars] == ["gradient"]
    assert forward.busy_us("attention") == 50


def test_what_a_collective_delivers_is_that_of_its_done():
    forward, _ = hand_lanes()
    # Every hand-made instruction returns bf16[8,4], unless it says otherwise.
    assert [(f.delivers, f.bytes) for f in forward.flights] == 4 * [("bf16[8,4]", 64)]


def test_program_without_exchange_has_nothing_to_draw():
    with pytest.raises(ValueError, match="exchanges no tokens"):
        layer_lanes(parse_timelines(dump(("x", 0, 1))))
