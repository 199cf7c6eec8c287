"""What the kernels tell XLA's scheduler and the planner, in the program lowered for CUDA."""

import re

import jax
import jax.numpy as jnp
import pytest

from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.hardware.rates import rates_for
from moe_jax.moe.grouped.cost import cost_told

H100 = rates_for(gpu_by_name("h100"))


def shape(*size, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(size, dtype)


def told(flops, operands, results):
    """Return (ns, FLOPs) of what is called inside."""

    def function(x):
        with cost_told(flops, operands, results):
            return jnp.sin(x)

    text = jax.jit(function).lower(jnp.ones(3)).as_text()
    found = (re.search(rf'{n} = "(\d+)"', text) for n in ("latency_metadata", "moe_jax_flops"))
    return tuple(int(match[1]) for match in found if match)


def test_many_rows_take_the_time_of_their_arithmetic():
    flops = 2 * 16384 * 2048 * 1024
    ns, read = told(flops, [shape(16384, 2048), shape(32, 2048, 1024)], [shape(16384, 1024)])
    assert read == flops
    assert ns == pytest.approx(flops / H100.grouped_flops_per_s * 1e9, abs=1)


def test_few_rows_take_the_time_of_reading_the_weights():
    weights = 64 * 2048 * 1024
    ns, _ = told(2 * 8 * 2048 * 1024, [shape(64, 2048, 1024)], [shape(8, 1024)])
    nbytes = 2 * (weights + 8 * 1024)
    assert ns == pytest.approx(nbytes / H100.memory_bytes_per_s * 1e9, abs=1)
