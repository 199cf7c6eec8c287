"""Reading XLA's schedule dump: times, collectives, who calls whom."""

import pytest
from support.planner.hand_schedules import dump, one_collective

from moe_jax.planner.xla.timeline import parse_timelines, starts


def parse_one(text):
    (timeline,) = parse_timelines(text)
    return timeline


def test_times_are_in_microseconds_whatever_the_cycle_rate():
    timeline = parse_one(dump(("a", 0, 2.5), ("b", 2.5, 4), rate=1000))
    assert [(i.name, i.start_us, i.end_us) for i in timeline.instructions] == [
        ("a", 0, 2.5),
        ("b", 2.5, 4),
    ]
    assert timeline.total_us == 4


def test_done_knows_its_start_and_both_what_they_run():
    timeline = parse_one(one_collective(hidden_us=10))
    (start,) = starts(timeline, "all-to-all")
    done = next(i for i in timeline.instructions if i.role == "done")
    assert (start.role, start.name, done.pair) == ("start", "a2a-start.64", "a2a-start.64")
    assert start.signature == done.signature
    assert [i.collective for i in timeline.instructions if not i.role] == ["", "", ""]


def test_signatures_tell_shapes_and_groups_apart():
    def signature(rows, groups):
        timeline = parse_one(
            dump((f"a2a-start.{rows}", 0, 1), (f"a2a-done.{rows}", 1, 2), groups=groups)
        )
        return next(starts(timeline, "all-to-all")).signature

    near, far = ((0, 1), (2, 3)), ((0, 2), (1, 3))
    assert len({signature(4, near), signature(8, near), signature(4, far)}) == 3
    assert signature(4, near) == signature(4, near)


def test_blocking_collective_is_no_compute():
    timeline = parse_one(dump(("sync", 0, 5)))
    assert timeline.instructions[0].role == "sync"
    assert timeline.instructions[0].collective == "all-to-all"


@pytest.mark.parametrize("caller", ["while", "conditional"])
def test_context_names_the_caller(caller):
    timeline = parse_one(dump(("a", 0, 1), caller=caller))
    assert (timeline.computation, timeline.context) == ("body", (caller,))


def test_transposed_work_marks_the_backward_pass():
    assert not parse_one(dump(("a", 0, 1), op_name="jit(f)/jvp()/dot")).is_backward
    assert parse_one(dump(("a", 0, 1), op_name="jit(f)/transpose(jvp())/dot")).is_backward


def test_nothing_scheduled_is_no_timeline():
    assert parse_timelines("") == ()


def test_other_text_is_refused():
    with pytest.raises(ValueError, match="not a schedule dump"):
        parse_timelines("HloModule jit_f, is_scheduled=true")


def test_a_done_delivers_its_shape_and_a_tuple_all_its_arrays():
    events = (("a2a-start.4", 0, 1), ("a2a-done.4", 9, 10))
    text = dump(*events)
    (timeline,) = parse_timelines(text)
    assert [i.delivers for i in timeline.instructions] == ["", "bf16[8,4]"]
    before, done, after = text.partition('name: "a2a-done.4"')
    array = "        element_type: BF16\n        dimensions: 8\n        dimensions: 4\n"
    arrays = "        element_type: TUPLE\n" + array + "        element_type: S32\n"
    (timeline,) = parse_timelines(before + done + after.replace(array, arrays, 1))
    assert timeline.instructions[1].delivers == "(bf16[8,4], s32[])"
