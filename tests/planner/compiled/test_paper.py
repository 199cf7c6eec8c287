"""The paper's configs, compiled for the H100 clusters they are meant for.

Figures of the compiled program and of XLA's own timeline; nothing here is measured. That plans
follow from their config is tested on a small model, in `test_plan.py`.
"""

import pytest
from support.planner.compiles import require_async
from support.planner.paper_programs import CONFIGS, compiled, planned

from moe_jax.config import load_config
from moe_jax.planner.modelled.estimate import estimate
from moe_jax.planner.xla.overlap import layer_timelines, own_times, require_hidden

GIB = 2**30
PAPER = ("paper_ep16", "paper_ep32", "paper_ep64", "paper_ep128", "paper_ep16_x8")
STREAMS = 8

pytestmark = [pytest.mark.compile_target, pytest.mark.slow]


@pytest.mark.parametrize("name", PAPER)
def test_forward_peaks_within_the_papers_15_gb(name):
    """On any cluster; below that XLA's scheduler takes memory for hidden values that it delays."""
    config = load_config(CONFIGS / f"{name}.toml")
    assert config.exchange.overflow == "rounds"
    assert config.exchange.streams == STREAMS
    assert compiled(name, "forward").peak_bytes <= 15e9


def test_training_step_of_ep16_fits_76_gib():
    assert compiled("paper_ep16", "train").peak_bytes <= 76 * GIB


@pytest.mark.parametrize(
    ("name", "mode", "exposed"),
    [
        # Only the last combine of a layer has nothing to hide behind.
        ("paper_ep16", "forward", 0.06),
        ("paper_ep64", "forward", 0.06),
        ("paper_ep128", "forward", 0.06),
        ("paper_ep16_x8", "forward", 0.06),
        # Routing joins the streams again where constants of other parts are shared: half of the
        # first dispatch is exposed too.
        ("paper_ep16", "train", 0.09),
    ],
)
def test_forward_layer_hides_its_exchange(name, mode, exposed):
    timelines = compiled(name, mode).timelines
    (layer,) = layer_timelines(timelines).forward
    figures = require_hidden(layer, 1 - exposed, own=own_times(timelines))
    assert figures.count == 2 * STREAMS


def test_backward_layer_of_ep16_hides_its_exchange():
    timelines = compiled("paper_ep16", "train").timelines
    (layer,) = layer_timelines(timelines).backward
    # Per stream: the dispatch again, and both gradients' rows; those of weights travel beside them.
    assert require_hidden(layer, 0.98, own=own_times(timelines)).count == 3 * STREAMS


@pytest.mark.parametrize(("mode", "bare"), [("forward", 1), ("train", 2)])
def test_every_exchange_of_ep16_is_asynchronous_with_matmuls_inside(mode, bare):
    # The last combine of a layer (training: and the first dispatch) has no other stream's matmul
    # to hide behind. A row is 8 KiB.
    pairs = require_async(compiled("paper_ep16", mode).hlo_text, bare=bare, min_bytes=GIB // 8)
    per_layer = {"forward": 2, "train": 2 + 3}[mode]
    assert len(pairs) == per_layer * STREAMS


def test_plan_of_ep16_sends_what_its_capacity_says():
    wire = planned("paper_ep16", "forward").wire
    rows = 16 * 1563  # 1.25 x 10,000 tokens x 2 / 16 experts = 1562.5 per source and expert
    assert wire.rows.filled + wire.rows.padded == 16 * STREAMS * rows
    # Both ways, half of 2 hosts' rows; beside 1,563 rows go their weights, in 2 more.
    crossing = 2 * 16 * STREAMS * 16 * (1563 + 2) * 4096 * 2 / 2
    assert crossing <= wire.inter_host_bytes < crossing * 1.001
    assert 0.9 < crossing / wire.inter_host_lower_bound_bytes / (1.25 / 0.767) < 1.1


@pytest.mark.parametrize("mode", ["forward", "train"])
def test_plan_of_ep16_fits_and_hides(mode):
    plan = planned("paper_ep16", mode)
    assert plan.fits
    for direction in (plan.step.forward, plan.step.backward):
        if direction:
            assert direction.layer.hidden_comm_s > 0.85 * direction.layer.comm_s
    assert 0.3 < plan.predicted.mfu < 0.6


def test_more_streams_hide_more():
    shares = []
    for streams in (1, STREAMS):
        overrides = () if streams == STREAMS else (f"exchange.streams={streams}",)
        layer = planned("paper_ep16", "forward", *overrides).step.forward.layer
        shares.append(layer.hidden_comm_s / layer.comm_s)
    one, eight = shares
    assert one < 0.1
    assert eight > 0.85


@pytest.mark.parametrize(
    ("name", "ticks"),
    # Microbatches through groups of layers, and one tick more to fill two stages.
    [("paper_baseline_tp8_pp2", 16 * (1 + 1)), ("paper_baseline_tuned", 16 * 4 + 1)],
)
def test_baselines_fit_and_their_plans_read_the_pipeline(name, ticks):
    plan = planned(name, "forward")
    assert plan.fits
    step = plan.step
    groups = {"paper_baseline_tp8_pp2": 1, "paper_baseline_tuned": 4}[name]
    layers = ticks * (8 // groups) * step.forward.layer.total_s
    # A tick is its layers, a send, and taking the right microbatch.
    assert layers < step.forward.whole.total_s < 1.15 * layers
    idle = {"paper_baseline_tp8_pp2": 16, "paper_baseline_tuned": 1}[name]
    assert step.bubble_s == pytest.approx(step.forward.whole.total_s * idle / ticks)
    assert step.outside.total_s < 0.1 * step.total.total_s
    modelled = estimate(plan.config, plan.target, "forward")
    assert modelled.step.total_s == pytest.approx(plan.predicted.step_s, rel=0.15)
    assert modelled.memory.peak_bytes == pytest.approx(plan.memory.peak_bytes, rel=0.15)
