"""The check as a whole: its programs are the paper's configs, its figures those of the plans."""

import json
from functools import cache

import pytest
from support.planner.hand_plans import CONFIGS, PAPER, paper_plans

from moe_jax.config import load_config, override
from moe_jax.planner.claims.report import ClaimsReport, check_claims, programs, report

#: paper_ep16 with everything but the devices made small.
SMALL = (
    "model.d_model=128",
    "model.vocab_size=512",
    "model.attention.heads=8",
    "model.attention.kv_heads=8",
    "model.attention.head_dim=64",
    "model.moe.d_ff=256",
    "data.sequence_length=256",
    "train.loss_chunk=64",
    "model.num_layers=8",
    "exchange.streams=2",
)


@cache
def hand_report() -> ClaimsReport:
    return report(PAPER, programs(PAPER), paper_plans())


def disagreements(found: ClaimsReport) -> list[str]:
    """Findings whose points are not what the plans' JSON says at their sources."""
    plans = {name: json.loads(json.dumps(plan.to_json())) for name, plan in found.plans.items()}
    wrong = []
    for claim in found.claims:
        for finding in claim.findings:
            if not finding.sources:
                continue
            values = [_at(plans[s.plan], s.key) for s in finding.sources]
            if "over TP=8" in claim.name:
                values = [values[0] / values[1]]
            if claim.name == "near-linear scaling":
                devices = [plans[s.plan]["target"] for s in finding.sources]
                sizes = [d["hosts"] * d["devices_per_host"] for d in devices]
                each = [v / n for v, n in zip(values, sizes, strict=True)]
                values = [v / each[0] for v in each]
            if [p.value for p in finding.points] != pytest.approx(values):
                wrong.append(f"{claim.name}: {finding.case}")
    return wrong


def _at(values, key):
    for name in key.split("."):
        values = values[name]
    return values


@pytest.mark.parametrize(
    ("plan", "file"),
    [
        ("paper_ep16.forward", "paper_ep16"),
        ("paper_ep16_experts_32.forward", "paper_ep32"),
        ("paper_ep16_experts_64.forward", "paper_ep64"),
        ("paper_ep16_experts_128.forward", "paper_ep128"),
        ("paper_ep16_replicas_128.forward", "paper_ep16_x8"),
    ],
)
def test_programs_are_those_of_the_paper_configs(plan, file):
    request = programs(PAPER).requests[plan]
    assert request.config.model_copy(update={"name": file}) == load_config(CONFIGS / f"{file}.toml")
    assert request.target.devices == request.config.mesh.data * request.config.mesh.expert
    assert request.mode == "forward"


def test_training_and_four_layers_are_compiled_too():
    found = programs(PAPER)
    assert found.requests[found.train].mode == "train"
    assert found.requests[found.other_layers].config.model.num_layers == 4
    assert len(found.requests) == 11


def test_baselines_are_compiled_in_both_modes():
    found = programs(PAPER)
    for (baseline, mode), name in found.baselines.items():
        file = {"naive": "paper_baseline_tp8_pp2", "tuned": "paper_baseline_tuned"}[baseline]
        assert found.requests[name].config == load_config(CONFIGS / f"{file}.toml")
        assert found.requests[name].mode == mode
        assert found.requests[name].target.devices == 16


def test_config_of_the_other_number_of_layers_is_compared_with_sixteen():
    found = programs(override(PAPER, ["model.num_layers=4"]))
    assert found.requests[found.other_layers].config.model.num_layers == 16


def test_every_claim_of_the_paper_is_checked():
    assert [claim.name for claim in hand_report().claims] == [
        "layers",
        "parameters",
        "input buffer",
        "memory per GPU",
        "throughput over TP=8, PP=2 (training step)",
        "latency over TP=8, PP=2 (forward of one batch)",
        "near-linear scaling",
        "network utilisation",
    ]


def test_findings_agree_with_the_json_of_their_plans():
    assert disagreements(hand_report()) == []
    assert sum(bool(f.sources) for c in hand_report().claims for f in c.findings) == 14


def test_what_fails_says_what_it_takes():
    for claim in hand_report().claims:
        for finding in claim.findings:
            assert finding.takes or finding.verdict != "fails", finding.case


def test_json_is_plain_and_names_the_plans():
    values = json.loads(json.dumps(hand_report().to_json()))
    assert values["plans"] == list(programs(PAPER).requests)
    layers = values["claims"][0]["findings"][0]
    assert layers["points"] == [{"at": "", "value": 12e9}]
    assert layers["sources"] == [{"plan": "paper_ep16.forward", "key": "memory.peak_bytes"}]
    assert layers["kind"] == "compiled"


def test_mesh_that_fills_no_host_is_refused():
    with pytest.raises(ValueError, match="hosts have 8 devices each and the mesh has 4"):
        programs(override(PAPER, ["mesh.expert=4", "train.global_batch=32"]))


@pytest.mark.compile_target
@pytest.mark.slow
def test_compiled_at_reduced_size_the_findings_agree_with_the_plans():
    found = check_claims(override(PAPER, SMALL))
    assert disagreements(found) == []
    assert {plan.config.mesh.expert for plan in found.plans.values()} == {1, 16, 32, 64, 128}
    kinds = {f.kind for claim in found.claims for f in claim.findings}
    assert kinds == {"compiled", "modelled"}
