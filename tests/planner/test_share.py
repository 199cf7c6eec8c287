"""Counts per device under any mesh, by hand and against the model's own."""

from pathlib import Path

import pytest

from moe_jax.config import load_config, override
from moe_jax.model.flops import total_parameters
from moe_jax.model.pattern import LayerSpec
from moe_jax.planner.share import Layout, Share

CONFIGS = Path(__file__).parents[2] / "configs"
MOE = LayerSpec("moe", 0)


def share(*changes, mode="train", **layout):
    config = override(load_config(CONFIGS / "paper_ep16.toml"), changes)
    return Share(config, mode, Layout(**layout))


def test_paper_ep16_by_hand():
    found = share()
    assert (found.tokens, found.stream_tokens, found.transport) == (80_000, 10_000, "all_to_all")
    # 16 sources send 1,563 rows each: 10,000 tokens x 2 / 16 experts x 1.25, rounded up.
    assert found.rows == 16 * 1563
    assert found.layers == {MOE: 16}
    assert found.parameters.experts[MOE] == 2 * 4096 * 16384


@pytest.mark.parametrize(
    "mesh",
    [
        {"expert": 16},
        {"data": 2, "expert": 8},
        {"fsdp": 2, "expert": 8},
        {"tensor": 8, "data": 2},
        {"pipe": 2, "tensor": 8},
    ],
)
def test_devices_together_hold_the_model_and_its_copies(mesh):
    axes = {"pipe": 1, "data": 1, "fsdp": 1, "expert": 1, "tensor": 1} | mesh
    found = share(*(f"mesh.{axis}={size}" for axis, size in axes.items()))
    each, stages = found.parameters, axes["pipe"]
    split = axes["fsdp"] * axes["tensor"]
    dense = each.dense[MOE] * found.layers[MOE] * stages * split
    experts = each.experts[MOE] * found.layers[MOE] * stages * split * axes["expert"]
    # The final norm is left out: 4,096 elements.
    whole = dense + experts + each.ends * split
    assert whole == pytest.approx(total_parameters(found.config), abs=4096)


def test_microbatches_share_the_batch():
    assert share("train.accumulation=2").tokens == 40_000
    assert share(microbatches=4).tokens == 20_000


def test_batch_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"global_batch \(128\) .* multiple of 256 .*\(16\)$"):
        _ = share(microbatches=16).tokens


def test_grouped_experts_compute_the_rows_there_are():
    assert share(experts="grouped").rows == 20_000
    local = share("mesh.expert=1", "mesh.tensor=8", "mesh.pipe=2", "exchange.transport='local'")
    assert local.rows == pytest.approx(1.25 * 2 * local.stream_tokens, rel=1e-3)


def test_a_busy_expert_costs_rounds_or_waiting():
    assert [share().rounds(skew) for skew in (0, 0.25, 0.3, 2)] == [1, 1, 2, 3]
    assert share("exchange.overflow='drop'").rounds(2) == 1
    assert share().straggling(1) == 1
    assert share(experts="grouped").straggling(1) == 2
    # Of 4 experts on a device one is busy.
    mesh = ("mesh.expert=4", "mesh.data=4")
    assert share(*mesh, experts="grouped").straggling(1) == 1.25


def test_sequence_parallelism_splits_activations():
    mesh = ("mesh.expert=1", "mesh.tensor=8", "mesh.pipe=2")
    assert share(*mesh).sequence_tensor == 8
    assert share(*mesh, sequence_parallel="off").sequence_tensor == 1


def test_decode_serves_one_token_per_sequence_from_a_cache():
    found = share(mode="decode")
    assert found.tokens == 8
    assert found.cache_values(MOE) == 8 * 10_000 * 2 * 4096


def test_senseless_layout_is_refused():
    with pytest.raises(ValueError, match="virtual_stages"):
        Layout(virtual_stages=0)
