"""Which loops are layers, and that the parts of a step add up."""

import dataclasses

import pytest
from support.planner.hand_loops import CLUSTER, LOOPS, RATES

from moe_jax.planner.compiled.clock import Clock
from moe_jax.planner.compiled.phases import LayerLoop, layer_loops, make_step
from moe_jax.planner.xla.hlo import parse_hlo


def clock(text=LOOPS):
    return Clock(parse_hlo(text), (), RATES, CLUSTER)


def test_layer_loops_are_told_by_their_name_and_direction():
    assert layer_loops(clock()) == (LayerLoop("layer", 5, False), LayerLoop("layer", 5, True))


def test_microbatches_repeat_the_loops_inside():
    text = LOOPS.replace("jit(f)/jvp(layers)/while", "jit(f)/while").replace(
        "jit(f)/layers/while/body/searchsorted/while", "jit(f)/while/body/jvp(layers)/while"
    )
    assert LayerLoop("inner", 15, False) in layer_loops(clock(text))


def test_a_layer_is_its_share_of_the_unit():
    step = make_step(clock(), layers_per_unit=2)
    assert step.forward.layer.total_s == pytest.approx(13 / 2)
    assert step.forward.whole.total_s == pytest.approx(5 * 13)


def test_parts_add_up_to_the_step():
    step = make_step(clock(), layers_per_unit=1)
    whole = step.forward.whole + step.backward.whole + step.outside
    assert dataclasses.astuple(whole) == pytest.approx(dataclasses.astuple(step.total))


def test_model_too_short_to_be_scanned_has_no_layer():
    step = make_step(clock(LOOPS.replace("layers", "blocks")), layers_per_unit=1)
    assert step.forward.layer is None
    assert step.backward is None
    assert step.outside == step.total


def pipelined():
    """The backward loop as the ticks of a pipeline; in it a loop over three layers."""
    return LOOPS.replace(
        "jit(f)/layers/while/body/searchsorted/while",
        "jit(f)/transpose(jvp(layers))/shard_map/while/body/closed_call/checkpoint/while",
    ).replace(
        "jit(f)/transpose(jvp(layers))/while", "jit(f)/transpose(jvp(layers))/shard_map/while"
    )


def test_ticks_of_a_pipeline_hold_the_loops_over_layers():
    loops = layer_loops(clock(pipelined()))
    assert loops[1] == LayerLoop("layer", 5, True, (("inner", 3),))
    assert loops[1].units == 3


def test_layer_of_a_pipeline_is_without_what_a_tick_adds():
    step = make_step(clock(pipelined()), layers_per_unit=1, bubble=0.2)
    # A product each; attention is the tick's own here.
    assert step.backward.layer.total_s == pytest.approx(1)
    assert step.backward.whole.total_s == pytest.approx(5 * 13)
    assert step.bubble_s == pytest.approx(0.2 * 2 * 5 * 13)


def test_loop_that_lost_its_name_is_known_by_what_is_inside():
    text = LOOPS.replace('metadata={op_name="jit(f)/transpose(jvp(layers))/while"}, ', "")
    inside = 'metadata={op_name="jit(f)/transpose(jvp(layers))/while/body/attention"'
    text = text.replace('metadata={op_name="jit(f)/attention"', inside)
    assert layer_loops(clock(text))[1] == LayerLoop("layer", 5, True)
