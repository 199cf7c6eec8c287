"""Every contestant's layer computes what the float32 layer does: values and all gradients."""

import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS
from moe_jax.bench.rivals.layers.jax_kernels import ragged_dot_layer
from moe_jax.bench.rivals.layers.oracle import oracle
from moe_jax.bench.rivals.problem import layer_problem
from moe_jax.bench.rivals.sample import excess


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_layer_on_ragged_dot_computes_it(routing):
    problem = layer_problem("tiny", 24, "float32")
    run = ragged_dot_layer(problem, routing)
    _, error, bound = excess(run.values(), oracle(problem, routing).values(), "float32")
    assert error < bound
    assert "FLOPs times experts" in run.note
