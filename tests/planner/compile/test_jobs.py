"""Real compiles for 2 x 8 H100 that are not there: what streams need, and what takes it away."""

import json
import subprocess
import sys

import pytest
from support.planner.compiles import collectives, compile_for, require_async

from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.planner.compile import jobs
from moe_jax.planner.compile.jobs import (
    CompileFailed,
    CompileJob,
    PlanExtraMissing,
    compile_all,
    require_plan_extra,
)
from moe_jax.planner.compile.target import Target
from moe_jax.planner.xla.async_pairs import async_pairs, hideable
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.overlap import OverlapLost, layer_timelines, require_hidden

EP16 = MeshConfig(expert=16)
TARGET = Target(gpu_by_name("h100"), hosts=2, devices_per_host=8)

TOY = "support.planner.toy_streams"


@pytest.fixture(scope="module")
def compiled():
    """The two streams with XLA options as we set them, and with the dot merger on again."""
    job = CompileJob(f"{TOY}:two_streams", EP16)
    merged = CompileJob(job.build, EP16, options={"xla_gpu_dot_merger_threshold_mb": 1 << 20})
    return compile_all(TARGET, [job, merged, CompileJob(f"{TOY}:no_collective", EP16)])


@pytest.mark.compile_target
@pytest.mark.slow
def test_streams_hide_each_others_all_to_alls(compiled):
    streams = compiled[0]
    assert len(require_async(streams.hlo_text)) == 4
    (layer,) = layer_timelines(streams.timelines).forward
    assert require_hidden(layer, 0.95).count == 4


@pytest.mark.compile_target
@pytest.mark.slow
def test_dot_merger_takes_the_overlap_away_and_is_caught(compiled):
    merged = compiled[1]
    with pytest.raises(OverlapLost, match="of 4 all-to-all have no matmul beside them"):
        require_async(merged.hlo_text)
    (layer,) = layer_timelines(merged.timelines).forward
    with pytest.raises(OverlapLost, match="must be hidden"):
        require_hidden(layer, 0.5)


@pytest.mark.compile_target
@pytest.mark.slow
def test_memory_and_collectives_are_per_device(compiled):
    streams = compiled[0]
    x, w = 512 * 16384 * 2, 16384 * 16384 * 2
    assert streams.argument_bytes == 2 * x + 3 * w
    assert streams.output_bytes == pytest.approx(2 * x, rel=1e-3)
    assert streams.peak_bytes >= streams.argument_bytes
    moved = [c for c in collectives(streams.hlo_text) if c.kind == "all-to-all"]
    assert [c.operand_bytes for c in moved] == [x] * 4
    assert {c.groups for c in moved} == {(tuple(range(16)),)}


@pytest.mark.compile_target
@pytest.mark.slow
def test_gpu_that_xla_cannot_time_gives_memory_and_order_but_no_timeline():
    a100 = Target(gpu_by_name("a100-80gb"), hosts=2)
    streams = compile_for(a100, CompileJob(f"{TOY}:two_streams", EP16))
    assert len(require_async(streams.hlo_text)) == 4
    (exchange,) = hideable(async_pairs(parse_hlo(streams.hlo_text)))
    assert (exchange.count, exchange.share) == (4, 1.0)
    with pytest.raises(ValueError, match="no times for hosts of 8 x a100-80gb"):
        _ = streams.timelines


@pytest.mark.compile_target
@pytest.mark.slow
def test_each_job_has_its_own_schedule(compiled):
    assert compiled[0].schedule_text != compiled[1].schedule_text
    assert layer_timelines(compiled[2].timelines).forward == ()


@pytest.mark.compile_target
@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (f"{TOY}:broken", "RuntimeError: cannot be built on 16 devices"),
        (
            f"{TOY}:dies",
            rf"worker died \(exit code 3\) at {TOY}:dies",
        ),
        (
            f"{TOY}:absent",
            f"{TOY} has no function 'absent'",
        ),
    ],
)
def test_failure_in_the_worker_is_told(build, message):
    with pytest.raises(CompileFailed, match=message):
        compile_for(TARGET, CompileJob(build, EP16))


def test_mesh_of_another_size_is_refused_before_anything_starts():
    with pytest.raises(ValueError, match=r"expert=8.*has 8 devices, the target 2 hosts x 8 = 16"):
        compile_for(TARGET, CompileJob(f"{TOY}:two_streams", MeshConfig(expert=8)))


def test_missing_extra_names_the_install_line(monkeypatch):
    monkeypatch.setattr(jobs, "_installed", lambda module: False)
    with pytest.raises(PlanExtraMissing, match=r"plugin and cuDNN.*pip install 'moe-jax\[plan\]'"):
        require_plan_extra()


def test_worker_sees_none_of_the_callers_jax_settings(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "somewhere")
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=3")
    environment = jobs._environment(TARGET, tmp_path)
    assert "JAX_COMPILATION_CACHE_DIR" not in environment
    assert "force_host" not in environment["XLA_FLAGS"]
    assert environment["PYTHONPATH"].split(":")[-1] == sys.path[-1]


@pytest.mark.parametrize(
    ("message", "remedy"),
    [("INTERNAL: libdevice not found at ./libdevice.10.bc", True), ("out of memory", False)],
)
def test_missing_toolkit_is_told_with_its_remedy(tmp_path, message, remedy):
    report = {"job": 0, "message": message, "traceback": "Traceback"}
    (tmp_path / "error.json").write_text(json.dumps(report))
    done = subprocess.CompletedProcess([], 1, "", "")
    told = jobs._failure([CompileJob(f"{TOY}:two_streams", EP16)], tmp_path, done)
    assert message in told
    assert ("ptxas and libdevice are missing" in told) == remedy
