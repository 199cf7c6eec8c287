"""Configs on more devices: tokens per device stay, and only what the reading says changes."""

import pytest

from moe_jax.config import Config, check, override
from moe_jax.planner.search.scaling import ScalingCurve, ScalingPoint, scaled

BASE = override(
    Config(name="base"),
    ["mesh.expert=4", "mesh.data=2", "model.moe.num_experts=8", "train.global_batch=32"],
)


def test_experts_grow_with_the_cluster():
    bigger = scaled(BASE, 32, "experts")
    assert (bigger.mesh.expert, bigger.mesh.data) == (16, 2)
    assert bigger.model.moe.num_experts == 32
    assert bigger.train.global_batch == 128
    check(bigger, 32)


def test_replicas_leave_the_model_alone():
    bigger = scaled(BASE, 32, "replicas")
    assert (bigger.mesh.expert, bigger.mesh.data) == (4, 8)
    assert bigger.model == BASE.model
    assert bigger.train.global_batch == 128
    check(bigger, 32)


@pytest.mark.parametrize("by", ["experts", "replicas"])
def test_same_size_changes_nothing_but_the_name(by):
    same = scaled(BASE, 8, by)
    assert same.name == f"base_{by}_8"
    assert same.model_copy(update={"name": "base"}) == BASE


@pytest.mark.parametrize(
    ("devices", "by", "message"),
    [
        (7, "experts", "multiples of 2 devices"),
        (6, "replicas", "multiples of 4 devices"),
        (8, "wishes", "use experts or replicas"),
    ],
)
def test_impossible_sizes_are_refused(devices, by, message):
    with pytest.raises(ValueError, match=message):
        scaled(BASE, devices, by)


def test_batch_that_cannot_shrink_is_refused():
    odd = override(BASE, ["train.global_batch=9"])
    with pytest.raises(ValueError, match=r"train.global_batch \(9\) on 8 devices"):
        scaled(odd, 4, "replicas")


def test_efficiency_is_speed_per_device_over_the_first():
    first, last = ScalingPoint(16, 0.1, 1.0, 1600.0), ScalingPoint(32, 0.1, 1.0, 2400.0)
    curve = ScalingCurve("a", "compiled", "modelled", (first, last))
    assert curve.efficiency(first) == 1
    assert curve.efficiency(last) == pytest.approx(0.75)
