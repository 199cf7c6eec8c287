"""What-ifs: a schedule with faster collectives, and the search for how fast they must be."""

import dataclasses

import pytest
from support.planner.hand_plans import PAPER, hand_plan, paper_plans

from moe_jax.planner.claims.report import programs
from moe_jax.planner.claims.whatif import smallest, step_with_faster_collectives
from moe_jax.planner.xla.overlap import overlap


def test_same_speed_changes_nothing():
    plan = paper_plans()["paper_ep16.forward"]
    assert step_with_faster_collectives(plan, 1) == pytest.approx(plan.step.total.total_s)


def test_only_what_was_exposed_can_go_away():
    # A layer: 104 ms, of which 4 exposed; at twice the speed its 40 ms are 20 and all hidden.
    plan = paper_plans()["paper_ep16.forward"]
    assert plan.step.total.total_s == pytest.approx(16 * 0.104)
    assert step_with_faster_collectives(plan, 2) == pytest.approx(16 * 0.100)


def test_plan_without_timeline_is_refused():
    plan = dataclasses.replace(paper_plans()["paper_ep16.forward"], timelines=())
    with pytest.raises(ValueError, match="no timeline of a layer that exchanges"):
        step_with_faster_collectives(plan, 2)


def test_smallest_is_found_to_one_percent():
    found = smallest(lambda x: x >= 7, 1, 100)
    assert 7 <= found <= 7.07


def test_smallest_at_the_ends():
    assert smallest(lambda _: True, 1, 100) == 1
    assert smallest(lambda _: False, 1, 100) is None


def test_hand_made_plan_exposes_what_it_says():
    plan = hand_plan(programs(PAPER).requests["paper_ep16.forward"], exposed_ms=24)
    assert overlap(plan.timelines[0]).exposed_us == pytest.approx(24_000)
    assert plan.step.forward.layer.total_s == pytest.approx(0.124)
