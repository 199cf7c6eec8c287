"""Grouped matmuls of two streams, compiled for 2 H100 that are not there: work, time, overlap.

The experts of an OLMoE layer on two devices; forward, backward, and the exchange around them.
"""

import pytest
from support.planner.compiles import compile_for

from moe_jax.config.schema import MeshConfig
from moe_jax.hardware.gpus import gpu_by_name
from moe_jax.hardware.rates import rates_for
from moe_jax.planner.compile.jobs import CompileJob
from moe_jax.planner.compile.target import Target
from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.xla.hlo import parse_hlo
from moe_jax.planner.xla.overlap import collective_windows
from moe_jax.planner.xla.work import work_of

pytestmark = [pytest.mark.compile_target, pytest.mark.slow]

H100 = gpu_by_name("h100")
RATES = rates_for(H100)
TARGET = Target(H100, hosts=1, devices_per_host=2)
ROWS, GROUPS, D, F = 16384, 32, 2048, 1024
#: Of one stream: gate, up and down, each with two products backward.
FLOPS = 9 * 2 * ROWS * D * F


@pytest.fixture(scope="module")
def compiled():
    sizes = {"rows": ROWS, "groups": GROUPS, "d": D, "f": F}
    build = "support.planner.grouped_streams:two_streams"
    return compile_for(TARGET, CompileJob(build, MeshConfig(expert=2), sizes))


@pytest.fixture(scope="module")
def clock(compiled):
    return Clock(parse_hlo(compiled.hlo_text), compiled.timelines, RATES, TARGET.topology)


def test_all_products_are_counted_and_take_the_rates_time(clock):
    body = clock.module[clock.entry]
    works = [work_of(i, body, clock.module) for i in body.instructions]
    kernels = [work for work in works if work.kind == "matmul_grouped"]
    assert len(kernels) == 2 * 7
    assert sum(kernel.flops for kernel in kernels) == 2 * FLOPS
    wanted = 2 * FLOPS / RATES.grouped_flops_per_s
    assert clock.times(clock.entry).matmul_s == pytest.approx(wanted, rel=1e-6)


def test_xla_schedules_by_what_the_kernels_tell_it(compiled):
    told = sum(
        i.duration_us
        for t in compiled.timelines
        for i in t.instructions
        if i.target.startswith("mosaic_gpu") or i.opcode == "get-tuple-element"
    )
    assert told == pytest.approx(2e6 * FLOPS / RATES.grouped_flops_per_s, rel=1e-2)


def test_every_all_to_all_with_a_kernel_to_hide_behind_hides(clock):
    """All but a forward's first, its last, and the first of the backward, which begins at once."""
    windows = collective_windows(clock.timeline(clock.entry))
    assert len(windows) == 8
    exposed = sorted(w.exposed_us / clock.own_us[w.signature] for w in windows)
    assert exposed[4] < 0.1
    assert exposed[5] > 0.5


def test_code_of_kernels_is_not_carried_around(compiled):
    assert len(compiled.hlo_text) < 10**6
    assert len(compiled.schedule_text) < 10**6
