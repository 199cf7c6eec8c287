"""A contest's result tells where it was taken, and compares with ours."""

from support.rivals import make_task

from moe_jax.bench.rivals.result import Contest
from moe_jax.bench.rivals.row import Row

ROWS = [
    Row("moe_jax", "random", "timed", seconds=0.5, device="NVIDIA H100 80GB HBM3"),
    Row("torch", "random", "timed", seconds=1.0),
    Row("torch", "skewed", "timed", seconds=1.0),
    Row("jax", "random", "failed", "no kernel"),
]


def test_times_are_compared_with_ours_in_the_same_case():
    contest = Contest.of(make_task(), ROWS)
    assert [contest.ratio(row) for row in ROWS] == [1.0, 2.0, 0.0, 0.0]


def test_a_result_says_what_it_was_taken_on_and_with():
    values = Contest.of(make_task(), ROWS).to_json()
    assert (values["device"], values["kind"]) == ("NVIDIA H100 80GB HBM3", "measured")
    assert {"moe-jax", "jax", "torch"} <= values["versions"].keys()
    assert values["rows"][1]["ratio"] == 2.0
    assert values["task"]["shape"] == "tiny"
