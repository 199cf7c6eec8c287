"""Every contestant's layer computes what the float32 layer does: values and all gradients."""

import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS
from moe_jax.bench.rivals.layers.oracle import oracle
from moe_jax.bench.rivals.layers.ours import layer_config, our_layer
from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.bench.rivals.sample import excess


@pytest.mark.parametrize("routing", ROUTINGS)
def test_our_layer_computes_it_and_counts_its_rows(routing):
    problem = layer_problem("tiny", 24, "float32")
    run = our_layer(problem, routing, [])
    _, error, bound = excess(run.values(), oracle(problem, routing).values(), "float32")
    assert error < bound
    assert run.counts()["dropped"] == 0


def test_a_changed_layer_is_not_the_oracles_and_drops_nothing():
    problem = layer_problem("tiny", 64, "float32")
    run = our_layer(problem, "balanced", ["model.moe.router.scale=0.5"])
    _, error, bound = excess(run.values(), oracle(problem, "balanced").values(), "float32")
    assert error > bound
    assert run.counts()["dropped"] == 0


def test_the_config_is_the_problems_and_changes_are_kept():
    problem = layer_problem("olmoe", 512, "bfloat16")
    config = layer_config(problem, ["exchange.capacity_factor=1.5"])
    assert config.model.moe.num_experts == 64
    assert config.model.moe.router.normalize_over == "all"
    assert config.precision.compute == "bfloat16"
    assert config.exchange.capacity_factor == 1.5
