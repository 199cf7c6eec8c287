"""The paper's configs, compiled for the H100 clusters they are meant for.

Figures of the compiled program and of XLA's own timeline; nothing here is measured.
"""

from functools import cache
from pathlib import Path

import pytest

from moe_jax.config import check, load_config
from moe_jax.planner.async_pairs import require_async
from moe_jax.planner.compile import Compiled, Job, compile_for
from moe_jax.planner.hardware import gpu_by_name
from moe_jax.planner.overlap import layer_timelines, own_times, require_hidden
from moe_jax.planner.target import Target

CONFIGS = Path(__file__).parents[2] / "configs"
GIB = 2**30
PAPER = ("paper_ep16", "paper_ep32", "paper_ep64", "paper_ep128", "paper_ep16_x8")
STREAMS = 8

pytestmark = [pytest.mark.compile_target, pytest.mark.slow]


@cache
def compiled(name: str, program: str) -> Compiled:
    config = load_config(CONFIGS / f"{name}.toml")
    devices = config.mesh.data * config.mesh.expert
    check(config, devices)
    kwargs = {"config": config.model_dump(mode="json"), "devices_per_host": 8}
    job = Job(f"moe_jax.planner.programs:{program}", config.mesh, kwargs)
    return compile_for(Target(gpu_by_name("h100"), devices // 8, 8), job)


def test_forward_of_ep16_peaks_below_15_gib():
    config = load_config(CONFIGS / "paper_ep16.toml")
    assert config.exchange.overflow == "rounds"
    assert config.exchange.streams == STREAMS
    assert compiled("paper_ep16", "forward").peak_bytes <= 15 * GIB


def test_training_step_of_ep16_fits_76_gib():
    assert compiled("paper_ep16", "train_step").peak_bytes <= 76 * GIB


@pytest.mark.parametrize("name", PAPER[1:])
def test_larger_clusters_need_no_more_memory_than_ep16(name):
    # Up to 0.5 %: routers, logits and the tables that route rows grow with the experts.
    peak, ep16 = (compiled(n, "forward").peak_bytes for n in (name, "paper_ep16"))
    assert peak <= 1.005 * ep16


@pytest.mark.parametrize(("program", "exposed"), [("forward", 0.12), ("train_step", 0.12)])
def test_forward_layer_of_ep16_hides_its_exchange(program, exposed):
    timelines = compiled("paper_ep16", program).timelines
    (layer,) = layer_timelines(timelines).forward
    figures = require_hidden(layer, 1 - exposed, own=own_times(timelines))
    assert figures.count == 2 * STREAMS


def test_backward_layer_of_ep16_hides_its_exchange():
    timelines = compiled("paper_ep16", "train_step").timelines
    (layer,) = layer_timelines(timelines).backward
    # Per stream: the dispatch again, both gradients' rows, and the weights' gradient (scalars).
    assert require_hidden(layer, 0.98, own=own_times(timelines)).count == 4 * STREAMS


@pytest.mark.parametrize("program", ["forward", "train_step"])
def test_every_exchange_of_ep16_is_asynchronous_with_matmuls_inside(program):
    # The first dispatch and the last combine of a layer have no other stream's matmul to hide
    # behind: nothing came before, nothing comes after. A row is 8 KiB; weights' gradients, 4 bytes
    # per row, need no matmul to hide behind.
    pairs = require_async(compiled("paper_ep16", program).hlo_text, bare=2, min_bytes=GIB // 8)
    per_layer = {"forward": 2, "train_step": 2 + 3}[program]
    assert len(pairs) == per_layer * STREAMS
