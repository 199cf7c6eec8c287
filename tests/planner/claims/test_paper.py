"""What counts as holding, and the evidence that checks read from."""

import pytest
from support.planner.claims_evidence import evidence
from support.planner.hand_plans import PAPER

from moe_jax.config import override
from moe_jax.planner.claims.findings import Source
from moe_jax.planner.claims.paper import at_least, at_most, other_layers, within


@pytest.mark.parametrize(
    ("value", "verdict"),
    [(11.3, "fails"), (11.5, "holds"), (13, "holds"), (15.7, "holds"), (15.8, "fails")],
)
def test_claims_hold_within_five_percent(value, verdict):
    assert within(value, 12, 15) == verdict


def test_one_sided_claims():
    assert (at_most(1, 15), at_most(16, 15)) == ("holds", "fails")
    assert (at_least(3.6, 3.75), at_least(3.5, 3.75)) == ("holds", "fails")


def test_the_other_number_of_layers_is_the_one_that_is_not_there():
    assert other_layers(PAPER) == 4
    assert other_layers(override(PAPER, ["model.num_layers=4"])) == 16


def test_the_smallest_cluster_is_what_others_are_compared_with():
    e = evidence()
    assert (e.label, e.forward) == ("EP16", "paper_ep16.forward")
    assert e.ours("train") == "paper_ep16.train"
    assert e.ours("forward") == e.forward


def test_figures_come_with_their_source():
    e = evidence()
    value, source = e.read(e.train, "memory.peak_bytes")
    assert (value, source) == (70e9, Source(e.train, "memory.peak_bytes"))
    points, sources = e.series(e.experts, "memory.peak_bytes")
    assert [point.at for point in points] == ["EP16", "EP32", "EP64", "EP128"]
    assert [source.plan for source in sources] == list(e.experts.values())
