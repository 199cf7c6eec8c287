"""How often computations run: trips multiply, branches do not count."""

import pytest
from support.planner.hand_hlo import HLO
from support.planner.hand_loops import LOOPS

from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.loops import body_of, entry_of, executions, trip_count

MODULE = parse_hlo(LOOPS)


@pytest.mark.parametrize(
    ("computation", "times"),
    [("main", 1), ("layer", 10), ("inner", 30), ("gemm", 30), ("chunk", 8), ("many", 0)],
)
def test_trips_multiply_through_nested_loops_and_branches_count_0(computation, times):
    assert executions(MODULE)[computation] == times


def test_loop_without_known_trips_says_so():
    loops = MODULE["main"].by_name
    assert trip_count(loops["loss"]) == 7
    assert trip_count(loops["until_done"]) is None
    assert body_of(loops["loss"]) == "chunk"


def test_entry_is_what_nobody_calls():
    assert entry_of(MODULE) == "main"
    assert entry_of(parse_hlo(HLO)) == "main"
