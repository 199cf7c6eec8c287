"""A plan as values for machines, and as a page."""

import json

from support.planner.hand_plans import PAPER, hand_plan

from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile.target import Target
from moe_jax.planner.planning import Request

PLAN = hand_plan(Request(PAPER, Target(gpu_by_name("h100"), hosts=2), "forward"))


def test_json_holds_every_group_with_what_is_derived_from_it():
    found = json.loads(json.dumps(PLAN.to_json(), allow_nan=False))
    assert found["peak_bytes_per_device"] == PLAN.memory.peak_bytes
    assert found["memory"]["spare_bytes"] == PLAN.memory.spare_bytes
    assert found["wire"]["nic"]["inside_windows"] == 0.75
    assert found["step"]["backward"] is None
    assert (found["mode"], found["target"]["hosts"]) == ("forward", 2)
    assert "timelines" not in found


def test_the_page_says_of_which_kind_each_table_is_and_what_was_assumed():
    page = PLAN._repr_html_()
    for text in ("paper_ep16, forward, compiled for", "modelled", "made by hand", "Assumptions"):
        assert text in page
