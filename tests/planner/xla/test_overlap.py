"""Exposed and hidden communication, on hand-made schedules."""

import pytest
from support.planner.hand_schedules import dump, one_collective

from moe_jax.planner.xla.overlap import (
    OverlapLost,
    collective_windows,
    exposed_spans,
    layer_timelines,
    overlap,
    own_times,
    require_hidden,
)
from moe_jax.planner.xla.timeline import parse_timelines


def parse_one(text):
    (timeline,) = parse_timelines(text)
    return timeline


@pytest.mark.parametrize(
    ("hidden_us", "share"), [(998, 0.002), (0, 1.0), (500, 0.5)], ids=["hidden", "exposed", "half"]
)
def test_share_is_the_part_of_the_window_without_compute(hidden_us, share):
    timeline = parse_one(one_collective(hidden_us))
    assert overlap(timeline).exposed_share == pytest.approx(share)


def test_a_wait_counts_wherever_in_the_window_it_stands():
    early = dump(("a2a-start.4", 0, 1), ("c", 600, 999), ("a2a-done.4", 999, 1000))
    late = dump(("a2a-start.4", 0, 1), ("c", 1, 400), ("a2a-done.4", 999, 1000))
    (a,), (b,) = collective_windows(parse_one(early)), collective_windows(parse_one(late))
    assert a.exposed_us == pytest.approx(601)
    assert a.exposed_us == pytest.approx(b.exposed_us)
    assert a.hidden_us == pytest.approx(399)


def test_share_is_of_the_own_time_not_of_a_done_that_comes_late():
    # The first takes 1000 µs and is waited for; the second's done stands 4000 µs after its start.
    timeline = parse_one(
        dump(
            ("a2a-start.4", 0, 1),
            ("a2a-done.4", 999, 1000),
            ("a2a-start.4.b", 1000, 1001),
            ("c", 1001, 4999),
            ("a2a-done.4.b", 4999, 5000),
        )
    )
    assert overlap(timeline).own_us == pytest.approx(2000)
    assert overlap(timeline).exposed_share == pytest.approx(0.501)


def test_windows_that_overlap_count_a_wait_once():
    timeline = parse_one(
        dump(
            ("a2a-start.4", 0, 1),
            ("a2a-start.8", 1, 2),
            ("a2a-done.4", 99, 100),
            ("a2a-done.8", 100, 101),
        )
    )
    figures = overlap(timeline)
    assert figures.exposed_us == pytest.approx(101)
    assert figures.own_us == pytest.approx(200)


def test_exposed_spans_are_the_gaps_of_compute_inside_windows():
    timeline = parse_one(
        dump(
            ("before", 0, 10),
            ("a2a-start.4", 10, 11),
            ("x", 20, 30),
            ("y", 30, 40),
            ("a2a-done.4", 49, 50),
            ("after", 60, 70),
            ("sync", 70, 75),
        )
    )
    assert exposed_spans(timeline) == ((10, 20), (40, 50), (70, 75))
    assert exposed_spans(timeline, ["all-gather"]) == ()
    assert sum(b - a for a, b in exposed_spans(timeline)) == overlap(timeline).exposed_us


def test_blocking_collective_is_all_exposed():
    assert overlap(parse_one(dump(("c", 0, 5), ("sync", 5, 9)))).exposed_share == pytest.approx(1)


def test_compute_outside_the_window_hides_nothing():
    figures = overlap(parse_one(one_collective(0)))
    assert figures.compute_us == pytest.approx(900)
    assert figures.total_us == pytest.approx(1900)
    assert figures.exposed_us == pytest.approx(1000)


def test_own_time_of_another_computation_of_the_module_is_used():
    waited, hidden = parse_one(one_collective(0)), parse_one(one_collective(3998, own_us=4000))
    own = own_times([hidden, waited])
    assert overlap(hidden, own=own).own_us == pytest.approx(1000)


def test_require_hidden_returns_figures_or_names_the_worst():
    half = parse_one(one_collective(500))
    assert require_hidden(half, 0.49).count == 1
    with pytest.raises(OverlapLost, match=r"50\.0%.*at least 51\.0% .*a2a-start\.64 0\.50 ms"):
        require_hidden(half, 0.51)


def test_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match="body has no all-gather"):
        overlap(parse_one(one_collective(0)), "all-gather")


def test_layers_are_told_apart_and_branches_left_out():
    events = (("x", 0, 1), ("a2a-start.4", 1, 2), ("a2a-done.4", 2, 3))
    forward = parse_one(dump(*events))
    backward = parse_one(dump(*events, op_name="jit(f)/transpose(jvp())/dot"))
    rounds = parse_one(dump(*events, caller="conditional"))
    plain = parse_one(dump(("x", 0, 1)))
    layers = layer_timelines([plain, forward, rounds, backward])
    assert (layers.forward, layers.backward) == ((forward,), (backward,))
