"""Checks of the paper's speed over its baseline, on plans made by hand and the analytic model."""

import dataclasses
import re

import pytest
from support.planner.claims_evidence import evidence

from moe_jax.planner.claims.speedup import check_latency, check_throughput


@pytest.mark.parametrize("check", [check_throughput, check_latency])
def test_both_baselines_are_compiled_and_modelled_under_skew(check):
    findings = check(evidence()).findings
    assert [f.case for f in findings] == [
        "naive baseline, balanced routing, compiled schedules",
        "naive baseline, skewed routing",
        "tuned baseline, balanced routing, compiled schedules",
        "tuned baseline, skewed routing",
    ]
    # By hand, the naive one takes 4 times as long and the tuned one twice.
    assert [f.points[0].value for f in findings[::2]] == pytest.approx([4, 2])
    assert [f.verdict for f in findings[::2]] == ["holds", "fails"]
    assert all(bool(f.sources) == ("compiled" in f.case) for f in findings)


def test_throughput_compares_training_and_latency_forward():
    train, forward = (c(evidence()).findings[0].sources for c in (check_throughput, check_latency))
    assert [s.plan for s in train] == ["paper_baseline_tp8_pp2.train", "paper_ep16.train"]
    assert [s.plan for s in forward] == ["paper_baseline_tp8_pp2.forward", "paper_ep16.forward"]


def test_speedup_that_fails_says_how_slow_the_baseline_would_have_to_be():
    tuned = check_throughput(evidence()).findings[2]
    needed, found = map(float, re.findall(r"([\d.]+)% MFU instead of ([\d.]+)%", tuned.takes)[0])
    assert needed / found == pytest.approx(2 / 3.75, rel=0.01)


def test_baseline_that_does_not_fit_says_so():
    e = evidence()
    name = e.baselines["naive", "train"]
    large = dataclasses.replace(e.plans[name].memory, peak_bytes=446 * 10**9)
    plans = dict(e.plans) | {name: dataclasses.replace(e.plans[name], memory=large)}
    findings = check_throughput(dataclasses.replace(e, plans=plans)).findings
    assert findings[0].takes.endswith("(this one needs 446 GB: it does not fit)")
    assert "does not fit" not in findings[2].takes


def test_the_model_stands_beside_what_was_compiled():
    tuned = check_latency(evidence()).findings[2]
    said = [a for a in tuned.assumptions if "the model says" in a]
    assert [a.partition(",")[0] for a in said] == [
        "paper_baseline_tuned.forward",
        "paper_ep16.forward",
    ]
    assert sum("grouped matmul" in a for a in tuned.assumptions) == 1


def test_naive_baseline_says_why_it_takes_its_batch_in_parts():
    naive, _, tuned, _ = check_throughput(evidence()).findings
    (said,) = (a for a in naive.assumptions if "in 16 parts" in a)
    assert re.search(r"would need [3-5]\d\d GB \(train, modelled\)", said)
    assert not any("parts" in a for a in tuned.assumptions)


def test_assumptions_name_the_side_that_makes_them():
    skewed = check_throughput(evidence()).findings[3]
    assert any(a.startswith("tuned baseline: ") and "stages" in a for a in skewed.assumptions)
    assert any(a.startswith("EP16: ") and "streams" in a for a in skewed.assumptions)
    assert len([a for a in skewed.assumptions if "rates" in a]) == 1
