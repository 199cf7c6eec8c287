"""Playing a schedule again: unchanged costs change nothing, real attention costs move the rest."""

import pytest
from support.planner.hand_schedules import dump, one_collective

from moe_jax.planner.xla.overlap import overlap, own_times
from moe_jax.planner.xla.replay import play
from moe_jax.planner.xla.timeline import parse_timelines


def parse_one(text):
    (timeline,) = parse_timelines(text)
    return timeline


@pytest.mark.parametrize("hidden_us", [0, 500, 998])
def test_same_durations_give_the_same_figures(hidden_us):
    timeline = parse_one(one_collective(hidden_us))
    again = play(timeline, lambda i: i.duration_us, own_times([timeline]))
    assert overlap(again).exposed_us == pytest.approx(overlap(timeline).exposed_us)
    assert again.total_us == pytest.approx(timeline.total_us)


def attention_beside_a_collective():
    return parse_one(
        dump(
            ("attention", 0, 10),
            ("a2a-start.4", 10, 11),
            ("attention_backward", 11, 21),
            ("a2a-done.4", 1009, 1010),
            ("c", 1010, 1020),
        )
    )


def played(timeline, durations_us):
    """The schedule with other durations of the instructions named."""
    own = own_times([timeline])
    return play(timeline, lambda i: durations_us.get(i.name, i.duration_us), own)


def test_longer_attention_inside_a_window_shortens_the_wait():
    before = attention_beside_a_collective()
    after = played(before, {"attention": 100, "attention_backward": 600})
    assert overlap(before).exposed_us == pytest.approx(990)
    assert overlap(after).exposed_us == pytest.approx(400)
    # Only the forward call, before the window, makes the whole longer.
    assert after.total_us == pytest.approx(before.total_us + 90)


def test_attention_longer_than_the_collective_delays_its_done():
    after = played(attention_beside_a_collective(), {"attention_backward": 2000})
    assert overlap(after).exposed_us == pytest.approx(2)
    assert after.total_us == pytest.approx(10 + 1 + 2000 + 1 + 10)
