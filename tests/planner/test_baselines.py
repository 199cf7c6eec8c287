"""The baselines: same model and batch on another mesh, and what makes them slow."""

from dataclasses import replace

import pytest
from hand_plans import PAPER

from moe_jax.config import override
from moe_jax.planner.baselines import FAIR, NAIVE, baseline_config, compare, most_microbatches
from moe_jax.planner.hardware import gpu_by_name
from moe_jax.planner.target import Target

TARGET = Target(gpu_by_name("h100"), 2, 8)


def test_baseline_has_the_same_model_and_batch():
    theirs = baseline_config(PAPER)
    assert (theirs.mesh.tensor, theirs.mesh.pipe, theirs.mesh.expert) == (8, 2, 1)
    assert theirs.model == PAPER.model
    assert theirs.train.global_batch == PAPER.train.global_batch


def test_more_devices_are_replicas():
    bigger = override(PAPER, ["mesh.expert=16", "mesh.data=4", "train.global_batch=512"])
    assert baseline_config(bigger).mesh.data == 4


def test_devices_that_do_not_fill_the_baseline_are_refused():
    with pytest.raises(ValueError, match="multiple of 16 devices and paper_ep16 has 8"):
        baseline_config(override(PAPER, ["mesh.expert=8"]))


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_naive_baseline_is_slower_than_the_fair_one_and_both_than_us(mode):
    naive, fair = (compare(PAPER, TARGET, mode, b).speedup for b in (NAIVE, FAIR))
    assert naive > fair > 1


def test_skew_costs_expert_parallelism_more_than_a_baseline_without_it():
    balanced, skewed = (compare(PAPER, TARGET, "train", FAIR, skew=s).speedup for s in (0, 1))
    assert skewed < balanced


def test_most_microbatches_is_the_last_number_that_is_slow_enough():
    how = {"target": TARGET, "mode": "train", "baseline": NAIVE}
    most = most_microbatches(PAPER, 2.0, **how)
    assert most in (1, 2, 4, 8, 16, 32, 64)

    def speedup(microbatches):
        layout = replace(NAIVE.layout, microbatches=microbatches)
        return compare(PAPER, TARGET, "train", replace(NAIVE, layout=layout)).speedup

    assert speedup(most) >= 2.0 > speedup(2 * most)


def test_speedup_that_no_number_of_microbatches_gives():
    how = {"target": TARGET, "mode": "train", "baseline": FAIR}
    assert most_microbatches(PAPER, 100.0, **how) is None
