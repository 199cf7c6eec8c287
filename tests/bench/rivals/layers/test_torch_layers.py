"""Every contestant's layer computes what the float32 layer does: values and all gradients."""

import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS
from moe_jax.bench.rivals.layers.oracle import oracle
from moe_jax.bench.rivals.layers.torch_layers import plain_layer, transformers_layer
from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.bench.rivals.sample import excess


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_plain_layer_computes_it(routing):
    problem = layer_problem("tiny", 24, "float32")
    run = plain_layer(problem, routing, "cpu")
    _, error, bound = excess(run.values(), oracle(problem, routing).values(), "float32")
    assert error < bound


@pytest.mark.parametrize("experts", ["eager", "grouped_mm"])
def test_transformers_block_computes_it(experts):
    problem = layer_problem("tiny", 24, "bfloat16")
    run = transformers_layer(problem, "random", "cpu", experts)
    _, error, bound = excess(run.values(), oracle(problem, "random").values(), "bfloat16")
    assert error < bound
