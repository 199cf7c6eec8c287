"""What a kernel says of its cost arrives in the program, and is read back."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.mesh.kernel_cost import KernelCost, told, told_cost

COST = KernelCost("matmul_grouped", 12345678901234)


def lowered(results):
    def function(x):
        with told(COST, 0.0012, results):
            return jnp.sin(x)

    return jax.jit(function).lower(jnp.ones(3)).as_text()


@pytest.mark.parametrize(("results", "ns"), [(1, 1_200_000), (3, 300_000)])
def test_time_is_told_in_ns_and_shared_with_what_picks_results_apart(results, ns):
    assert f'latency_metadata = "{ns}"' in lowered(results)


def test_work_is_read_back_as_hlo_prints_it():
    text = lowered(1)
    assert f'moe_jax_flops = "{COST.flops}"' in text
    assert f'moe_jax_kind = "{COST.kind}"' in text
    printed = (
        'custom_call_target="mosaic_gpu_v2", frontend_attributes={latency_metadata="1200000",'
        'moe_jax_flops="12345678901234",moe_jax_kind="matmul_grouped"}, metadata={op_name="x"}'
    )
    assert told_cost(printed) == COST


@pytest.mark.parametrize("attributes", ["", 'frontend_attributes={latency_metadata="7"}'])
def test_other_calls_say_nothing(attributes):
    assert told_cost(attributes) is None
