"""Times of computations: loops, branches, what XLA timed and what it did not."""

import pytest
from support.planner.hand_kernels import KERNELS
from support.planner.hand_loops import CLUSTER, LOOPS, RATES

from moe_jax.hardware.network import Group, collective_time
from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.timeline import Instruction, Timeline

MODULE = parse_hlo(LOOPS)
SUM_S = collective_time("all-reduce", 64 * 64 * 2, Group(2, 2), CLUSTER)


def clock(*timelines, calibrated=False):
    return Clock(MODULE, timelines, RATES, CLUSTER, calibrated=calibrated)


def instruction(name, opcode, start, end, kind="", role="", pair=""):
    target = "__cudnn$fmhaSoftmax" if name == "fmha" else ""
    signature = f"{kind} all" if kind else ""
    return Instruction(name, opcode, start, end, kind, role, signature, pair, target, "")


def test_loops_take_their_trips_and_branches_their_cheapest_side():
    times = clock().times("layer")
    assert times.matmul_s == pytest.approx(3)
    assert times.attention_s == pytest.approx(10)
    assert times.total_s == times.compute_s == pytest.approx(13)


def test_step_is_the_sum_of_its_loops():
    times = clock().times("main")
    assert times.attention_s == pytest.approx(10 * 10)
    assert times.comm_s == times.exposed_comm_s == pytest.approx(8 * SUM_S)
    assert times.total_s == pytest.approx(10 * 13 + 8 * SUM_S)
    assert times.total_s == pytest.approx(times.compute_s + times.exposed_comm_s)


def test_collective_that_xla_did_not_time_blocks_for_its_modelled_time():
    assert clock().own_s("chunk", "sum-start") == pytest.approx(SUM_S)
    assert not clock().is_timed("chunk", "sum-start")


def test_loops_of_unknown_length_are_named():
    assert clock().untold_loops == ("until_done",)


SCHEDULED = Timeline(
    "layer",
    ("while",),
    (
        instruction("q", "constant", 0, 0),
        instruction("fmha", "custom-call", 0, 10),
        instruction("search", "while", 10, 11),
        instruction("branch", "conditional", 11, 11),
        instruction("done", "copy", 11, 511),
    ),
)


def test_xlas_time_of_other_work_is_kept_and_loops_and_attention_replaced():
    times = clock(SCHEDULED).times("layer")
    assert times.other_s == pytest.approx(500e-6)
    assert times.total_s == pytest.approx(13 + 500e-6)


def test_a_calibration_replaces_xlas_times():
    assert clock(SCHEDULED, calibrated=True).times("layer").other_s == pytest.approx(0)


def chunk(start, wait_until):
    """An all-reduce with 40 µs of work beside it, whose done ends at `wait_until`."""
    return Timeline(
        "chunk",
        ("while",),
        (
            instruction("sum-start", "all-reduce-start", start, start + 1, "all-reduce", "start"),
            instruction("other", "fusion", start + 1, start + 41),
            instruction(
                "sum-done",
                "all-reduce-done",
                wait_until - 1,
                wait_until,
                "all-reduce",
                "done",
                "sum-start",
            ),
        ),
    )


def test_a_collective_that_is_waited_for_shows_its_time():
    told = clock(chunk(0, 1000))
    assert told.is_timed("chunk", "sum-start")
    assert told.own_s("chunk", "sum-start") == pytest.approx(1000e-6)


def test_a_collective_that_nothing_waits_for_takes_no_more_than_modelled():
    hidden = clock(chunk(0, 42))
    assert not hidden.is_timed("chunk", "sum-start")
    assert hidden.own_s("chunk", "sum-start") == pytest.approx(min(42e-6, SUM_S))


def test_unknown_collective_is_an_error():
    with pytest.raises(ValueError, match="nobody is not in the timeline of layer"):
        clock().own_s("layer", "nobody")


def test_a_start_and_done_that_xla_joined_after_scheduling_are_found_by_the_joined_name():
    joined = LOOPS.replace(
        "%sum-start = bf16[64,64]{1,0} all-reduce-start(%v), replica_groups={{0,1,2,3}}, "
        "to_apply=%none\n  %sum-done = bf16[64,64]{1,0} all-reduce-done(%sum-start)",
        "%sum-done = bf16[64,64]{1,0} all-reduce(%v), replica_groups={{0,1,2,3}}, "
        'to_apply=%none, metadata={scheduling_name="begun"}',
    )
    scheduled = Timeline(
        "chunk",
        ("while",),
        (
            instruction("begun", "async-start", 0, 1, "all-reduce", "start"),
            instruction("ended", "async-done", 40, 41, "all-reduce", "done", "begun"),
        ),
    )
    found = Clock(parse_hlo(joined), (scheduled,), RATES, CLUSTER)
    assert found.own_s("chunk", "sum-done") == pytest.approx(41e-6)
    assert found.times("chunk").exposed_comm_s == pytest.approx(40e-6, rel=0.1)


#: As XLA schedules them: with what the kernels told it, a share of it for what picks out a result.
KERNEL_TIMELINE = Timeline(
    "main",
    (),
    (
        instruction("down", "custom-call", 0, 250),
        instruction("gated", "custom-call", 250, 500),
        instruction("hidden", "get-tuple-element", 500, 750),
    ),
)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("timelines", [(), (KERNEL_TIMELINE,)])
def test_kernels_of_ours_take_the_rates_time_whatever_xla_was_told(timelines, calibrated):
    module = parse_hlo(KERNELS)
    kernels = Clock(module, timelines, RATES, CLUSTER, calibrated=calibrated)
    assert kernels.runs_grouped
    assert not clock().runs_grouped
    times = kernels.times("main")
    assert times.matmul_s == times.total_s == pytest.approx(2 + 4)
