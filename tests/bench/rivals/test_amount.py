"""How much a case is, and what that takes at best."""

import pytest
from support.rivals import make_task

from moe_jax.bench.rivals.amount import Amount, amount_of
from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.bench.rivals.steps.problem import parameters, step_config
from moe_jax.hardware.gpus import known_gpus
from moe_jax.model.flops import flops_per_token


def test_a_layer_is_as_much_as_its_problem():
    work = amount_of(make_task())("balanced")
    problem = layer_problem("tiny", 24, "float32")
    assert (work.flops, work.tokens, work.why_not) == (problem.flops, 24, "")
    assert "serve every token" in amount_of(make_task(shape="paper"))("skewed").why_not


def test_a_step_is_as_much_as_its_config():
    work = amount_of(make_task(what="step"))("3")
    config = step_config("tiny", 2, 3, 16, "float32")
    assert work.tokens == 48
    assert work.flops == 48 * flops_per_token(config).total_training
    assert work.least_bytes == 24 * parameters(config)


def test_the_bound_is_the_slower_of_compute_and_memory():
    gpu = known_gpus()["h100"]
    assert Amount(989.4e12, 1.0, 1).bound_s(gpu) == pytest.approx(1.0)
    assert Amount(1.0, 3.35232e12, 1).bound_s(gpu) == pytest.approx(1.0)
    assert Amount(1.0, 1.0, 1).bound_s(None) == 0
