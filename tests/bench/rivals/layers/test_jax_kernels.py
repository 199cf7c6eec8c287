"""Every contestant's layer computes what the float32 layer does: values and all gradients."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from moe_jax.bench.grouped.shapes import ROUTINGS
from moe_jax.bench.rivals.layers import jax_kernels
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


@pytest.mark.slow
def test_the_layer_on_mosaic_kernels_lowers_for_a_gpu(monkeypatch):
    problem = layer_problem("tiny", 256, "bfloat16")
    # The kernels ask the device that is there how many processors it has.
    monkeypatch.setattr(jax, "devices", lambda *_: [SimpleNamespace(core_count=132)])
    product = jax_kernels._mosaic_product()
    dtype, (e, d, f) = jnp.bfloat16, (problem.experts, problem.d, problem.f)
    shapes = {"gate_edf": (e, d, f), "up_edf": (e, d, f), "down_efd": (e, f, d)}
    weights = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape in shapes.items()}
    router, x_td = (jax.ShapeDtypeStruct(s, dtype) for s in ((d, e), (problem.tokens, d)))

    def both(weights, router_de, x_td):
        operands = (weights, router_de, x_td)
        y_td, pull = jax.vjp(lambda *o: jax_kernels._layer(problem, product, *o), *operands)
        return y_td, pull(y_td)

    # JAX's own kernels mix dtypes as our code may not.
    with jax.numpy_dtype_promotion("standard"):
        traced = jax.jit(both).trace(weights, router, x_td)
        lowered = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Three products forward; of each, two backward.
    assert lowered.count("custom_call @mosaic_gpu") == 9
