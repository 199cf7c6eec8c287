"""XLA options: the dot merger stays off, the CPU gets none, and XLA is asked what it knows."""

import jax
import jax.numpy as jnp
import pytest

from moe_jax.mesh import xla_options
from moe_jax.mesh.xla_options import (
    compiler_options,
    known,
    require_known,
    target_options,
    xla_flags,
)


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


# --- asking XLA ---

UNKNOWN = {"xla_no_such_option": True}


def test_an_unknown_name_is_left_out_and_the_others_stay():
    options = {"xla_backend_optimization_level": 0}
    assert known(options | UNKNOWN) == options
    assert known(UNKNOWN) == {}


def test_a_value_that_xla_cannot_read_is_left_out():
    assert known({"xla_gpu_enable_latency_hiding_scheduler": "maybe"}) == {}


def test_asking_does_not_depend_on_the_flags_of_this_process(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", xla_flags(UNKNOWN))
    flag = "--xla_gpu_autotune_level=0"
    assert xla_options._accepted.__wrapped__((flag,)) == {flag}


@pytest.mark.parametrize("moved", [("import xla_client", "import absent"), (".debug", ".absent")])
def test_jax_itself_answers_where_jaxlib_has_moved_its_names(moved, monkeypatch):
    monkeypatch.setattr(xla_options, "_ASK", xla_options._ASK.replace(*moved))
    flag = "--xla_gpu_autotune_level=0"
    assert xla_options._accepted.__wrapped__((xla_flags(UNKNOWN), flag)) == {flag}


def test_installed_xla_knows_every_option():
    assert known(target_options()) == target_options()


def test_gpu_programs_compile_without_an_unknown_option_and_say_so(monkeypatch, caplog):
    monkeypatch.setattr(xla_options, "_GPU", xla_options._GPU | UNKNOWN)
    monkeypatch.setattr(xla_options, "_known_of_gpu", xla_options._known_of_gpu.__wrapped__)
    assert compiler_options("gpu").items() < target_options().items()
    assert "does not know xla_no_such_option" in caplog.text


def test_what_cannot_do_without_an_option_says_which_and_where_it_is_known():
    with pytest.raises(ValueError, match=r"^planning needs XLA's xla_no_such_option.*JAX.*0\.12"):
        require_known(target_options() | UNKNOWN, "planning")


def test_flags_are_written_as_xla_reads_them():
    assert xla_flags({"a": True, "b": 2, "c": "d=e"}) == "--a=true --b=2 --c=d=e"
