"""Checks of the paper's scaling and use of the network, on plans made by hand."""

import dataclasses
import re

import pytest
from support.planner.claims_evidence import evidence

from moe_jax.planner.claims.speed import check_scaling, check_utilisation


def test_scaling_is_speed_per_device_over_the_smallest_cluster():
    experts, replicas = check_scaling(evidence()).findings
    assert [p.at for p in experts.points] == ["EP16", "EP32", "EP64", "EP128"]
    assert [p.value for p in experts.points] == pytest.approx([1, 1, 1, 104 / 124])
    assert [p.at for p in replicas.points] == ["EP16", "EP16 x 8"]
    assert experts.verdict == "fails"


def test_scaling_that_fails_says_how_fast_the_network_would_have_to_be():
    experts, _ = check_scaling(evidence()).findings
    factor = float(re.match(r"collectives ([\d.]+) times as fast", experts.takes)[1])
    # 40 ms / f each: EP16 hides all of it, EP128 exposes 40 / f - 16, at most a ninth of 100 ms.
    assert factor == pytest.approx(40 / (100 / 9 + 16), rel=0.03)


def test_scaling_that_holds_needs_nothing():
    e = evidence()
    level = {name: dataclasses.replace(e.plans[e.forward]) for name in e.experts.values()}
    speeds = {
        name: dataclasses.replace(
            plan, target=e.plans[name].target, predicted=_scaled(plan, e, name)
        )
        for name, plan in level.items()
    }
    experts, _ = check_scaling(dataclasses.replace(e, plans=dict(e.plans) | speeds)).findings
    assert (experts.verdict, experts.takes) == ("holds", "")


def _scaled(plan, e, name):
    devices = e.plans[name].target.devices / plan.target.devices
    return dataclasses.replace(plan.predicted, tokens_per_s=plan.predicted.tokens_per_s * devices)


def test_network_use_in_both_definitions():
    inside, inside_train, over, over_train = check_utilisation(evidence()).findings
    assert (inside.verdict, inside_train.verdict, inside.takes) == ("holds", "holds", "")
    assert (over.verdict, over_train.verdict) == ("fails", "fails")
    assert over.takes == "the same bytes in 31% of the time, where it is lowest"  # 0.2 / 0.65
