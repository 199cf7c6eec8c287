"""Every layout is there once, with the choices that matter on its mesh and no others."""

from math import prod

import pytest
from support.places import CONFIGS

from moe_jax.axes import AXES
from moe_jax.config import load_config, override
from moe_jax.config.schema import PipelineConfig
from moe_jax.planner.search.layouts import describe, layouts, meshes

PAPER = load_config(CONFIGS / "paper_ep16.toml")


def on(config, mode="train", **mesh):
    """The layouts of 8 devices on one mesh."""
    sizes = dict.fromkeys(AXES, 1) | mesh
    found = layouts(config, 8, mode)
    return [c for c in found if c.mesh.model_dump() == sizes]


def test_every_mesh_of_8_devices_is_there_once():
    found = list(meshes(8))
    assert all(prod(getattr(mesh, axis) for axis in AXES) == 8 for mesh in found)
    # Three factors of 2 over five axes.
    assert len(found) == len(set(found)) == 35


def test_every_choice_is_combined_and_the_configs_own_are_among_them():
    own = ("exchange.capacity_factor=1.1", "exchange.streams=3", "mesh.expert=8")
    config = override(PAPER, own)
    found = on(config, expert=8)
    assert config in found
    # Streams, capacity factors (1.1 and the 1.0 that is enough), rematerialisation, accumulation,
    # and what splits dense parameters.
    assert len(found) == len(set(found)) == 6 * 2 * 5 * 5 * 2
    # Without gradients there is nothing to rematerialise or to accumulate.
    assert len(on(config, "forward", expert=8)) == 6 * 2 * 2


def test_capacity_beyond_what_spares_a_round_is_not_tried():
    factors = {c.exchange.capacity_factor for c in layouts(PAPER, 2, "forward", skew=0.2)}
    assert factors == {1.0, 1.25}


def test_decode_varies_nothing_that_its_program_ignores():
    """64 rows are free for an expert: one round takes every routing, and no position is split."""
    found = on(PAPER, "decode", tensor=8)
    assert {c.exchange for c in found} == {PAPER.exchange.model_copy(update={"streams": 1})}
    assert len({c.sharding.sequence for c in found}) == 1
    many = override(PAPER, ["train.global_batch=4096"])
    assert len({c.exchange.capacity_factor for c in on(many, "decode", expert=8)}) > 1


def test_pipelines_cut_the_batch_into_microbatches_and_nothing_else_does():
    cuts = {(c.train.accumulation, c.pipeline) for c in on(PAPER, pipe=2, data=4)}
    assert {accumulation for accumulation, _ in cuts} == {1}
    assert {p.microbatches for _, p in cuts} == {2, 4, 8, 16}
    assert {p.virtual_stages for _, p in cuts} == {1, 2, 4}
    assert {c.pipeline for c in on(PAPER, data=8)} == {PipelineConfig()}


def test_a_pipelined_configs_own_cut_is_among_them():
    own = ("mesh.pipe=2", "mesh.expert=4", "pipeline.microbatches=6", "train.accumulation=3")
    config = override(PAPER, own)
    assert config in on(config, pipe=2, expert=4)


@pytest.mark.parametrize(
    ("mesh", "sequences"),
    [({"tensor": 8}, {"split", "whole"}), ({"tensor": 2, "expert": 4}, {"split"})],
)
def test_activations_are_whole_only_where_tokens_stay(mesh, sequences):
    assert {c.sharding.sequence for c in on(PAPER, **mesh)} == sequences


def test_a_layout_is_described_by_what_was_varied():
    line = describe(override(PAPER, ["mesh.data=2", "mesh.expert=4"]))
    assert line == "data=2 expert=4, streams=8, capacity_factor=1.25, remat=full, accumulation=1"
    tuned = describe(load_config(CONFIGS / "paper_baseline_tuned.toml"))
    assert tuned.endswith("microbatches=16, virtual_stages=4, sequence=split")
