"""The baselines: same model and batch on another mesh, and what makes them slow."""

import pytest
from support.planner.hand_plans import CONFIGS, PAPER

from moe_jax.config import check, load_config, override
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.claims.baselines import (
    BASELINES,
    NAIVE,
    TUNED,
    baseline_config,
    most_microbatches,
)
from moe_jax.planner.compile.target import Target
from moe_jax.planner.modelled.estimate import estimate

TARGET = Target(gpu_by_name("h100"), 2, 8)


def step(baseline, *changes, mode="train", skew=0.0):
    config = baseline_config(PAPER, baseline, *changes)
    return estimate(config, TARGET, mode, skew=skew).step.total_s


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
def test_baselines_of_the_paper_are_the_files(baseline):
    made = baseline_config(PAPER, baseline)
    assert made == load_config(CONFIGS / f"{baseline.config}.toml")
    check(made, 16)


def test_more_devices_are_replicas():
    bigger = override(PAPER, ["mesh.expert=16", "mesh.data=4", "train.global_batch=512"])
    assert baseline_config(bigger, TUNED).mesh.data == 4


def test_a_model_of_few_layers_has_fewer_groups():
    four = override(PAPER, ["model.num_layers=4"])
    assert baseline_config(four, TUNED).pipeline.virtual_stages == 2
    check(baseline_config(four, NAIVE), 16)


@pytest.mark.parametrize("baseline", BASELINES, ids=lambda b: b.name)
def test_a_model_without_a_layer_for_each_stage_is_refused(baseline):
    with pytest.raises(ValueError, match=r"paper_ep16 has model\.num_layers = 1: compare a model"):
        baseline_config(override(PAPER, ["model.num_layers=1"]), baseline)


def test_devices_that_do_not_fill_the_baseline_are_refused():
    with pytest.raises(ValueError, match="multiple of 16 devices and paper_ep16 has 8"):
        baseline_config(override(PAPER, ["mesh.expert=8"]), NAIVE)


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_naive_baseline_is_slower_than_the_tuned_one_and_both_than_us(mode):
    ours = estimate(PAPER, TARGET, mode).step.total_s
    assert step(NAIVE, mode=mode) > step(TUNED, mode=mode) > ours


def test_microbatches_one_after_the_other_are_as_slow_as_one_and_fit():
    one = ("train.accumulation=1", "exchange.streams=8")
    assert step(NAIVE, *one) == pytest.approx(step(NAIVE), rel=0.05)
    whole, cut = (
        estimate(baseline_config(PAPER, NAIVE, *changes), TARGET, "train").memory
        for changes in (one, ())
    )
    assert cut.fits
    assert whole.peak_bytes > 4 * whole.capacity_bytes


def test_most_microbatches_is_the_last_number_that_is_slow_enough():
    limit = 1.5 * estimate(PAPER, TARGET, "train").step.total_s
    slow_enough = lambda theirs: theirs.step.total_s >= limit  # noqa: E731
    most = most_microbatches(PAPER, NAIVE, slow_enough, TARGET, "train")
    assert most in (1, 2, 4, 8, 16, 32, 64)

    def pipelined(microbatches):
        changes = (f"pipeline.microbatches={microbatches}", "train.accumulation=1")
        return step(NAIVE, *changes)

    assert pipelined(most) >= limit > pipelined(2 * most)


def test_speedup_that_no_number_of_microbatches_gives():
    assert most_microbatches(PAPER, TUNED, lambda theirs: False, TARGET, "train") is None
