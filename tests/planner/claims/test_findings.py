"""A finding as text, and the figures of plans it points to."""

import dataclasses

import pytest
from support.planner.hand_plans import paper_plans

from moe_jax.planner.claims.findings import Finding, Point, Source, show


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (10.486e9, "bytes", "10.5 GB"),
        (12e9, "bytes", "12.0 GB"),
        (390e9, "bytes", "390 GB"),
        (2.345, "times", "2.35x"),
        (0.284, "share", "28.4%"),
        (35.7e9, "parameters", "35.7 billion"),
        (16, "count", "16"),
    ],
)
def test_values_carry_their_unit(value, unit, text):
    assert show(value, unit) == text


def test_points_say_where_they_are():
    points = (Point("EP16", 1.0), Point("EP32", 0.5), Point("", 0.25))
    finding = Finding("", points, "share", "modelled", "fails", "")
    assert finding.result == "EP16 100.0%, EP32 50.0%, 25.0%"


def test_source_reads_what_the_json_has():
    plan = paper_plans()["paper_ep16.forward"]
    source = Source("paper_ep16.forward", "wire.nic.over_step")
    assert source.read(plan) == plan.to_json()["wire"]["nic"]["over_step"] == 0.2


def test_missing_figure_is_named():
    plan = dataclasses.replace(paper_plans()["paper_ep16.forward"], predicted=None)
    with pytest.raises(ValueError, match=r"paper_ep16\.forward has no predicted\.step_s"):
        Source("paper_ep16.forward", "predicted.step_s").read(plan)
