"""XLA options: the dot merger stays off, the CPU gets none, and each GPU option is accepted."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.mesh.xla_options import compiler_options, target_options


@pytest.mark.parametrize("platform", ["gpu", "cuda"])
def test_gpu_keeps_streams_apart_and_schedules_for_latency(platform):
    options = compiler_options(platform)
    assert options["xla_gpu_dot_merger_threshold_mb"] == 0
    assert options["xla_gpu_enable_latency_hiding_scheduler"] is True


def test_cpu_options_compile_on_cpu():
    f = jax.jit(lambda x: x + 1, compiler_options=compiler_options("cpu"))
    assert f(jnp.ones(())) == 2


def test_deviceless_options_extend_the_gpu_options():
    assert compiler_options("gpu").items() < target_options().items()
    assert target_options()["xla_gpu_autotune_level"] == 0


def test_changing_a_result_does_not_change_the_next():
    compiler_options("gpu").clear()
    target_options().clear()
    assert compiler_options("gpu")
    assert target_options()


def test_unknown_platform_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'tpu'.*cpu, gpu, cuda"):
        compiler_options("tpu")
