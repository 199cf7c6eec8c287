"""Which mesh a model infers on, and what of its training is left."""

import jax
import pytest
from support.serving.engine_cases import EXPERT_8, session
from support.training_cases import small_config

from moe_jax.config.schema import MeshConfig, PipelineConfig
from moe_jax.errors import UserError
from moe_jax.inference.inference_config import (
    FREE_ROWS,
    choose_mesh,
    decoding_config,
    default_mesh,
    inference_config,
    mesh_config,
)
from moe_jax.mesh.build import build_mesh


@pytest.mark.parametrize(
    ("experts", "devices", "sizes"),
    [
        (8, 8, (1, 8)),
        (8, 4, (1, 4)),
        (4, 8, (2, 4)),
        (60, 8, (2, 4)),
        (7, 8, (8, 1)),
        (8, 1, (1, 1)),
    ],
)
def test_experts_go_to_as_many_devices_as_divide_them(experts, devices, sizes):
    model = small_config(f"model.moe.num_experts={experts}", "mesh.expert=1").model
    mesh = default_mesh(model, devices)
    assert (mesh.data, mesh.expert) == sizes


def test_a_dense_model_has_no_expert_axis():
    model = small_config("model.layers=['dense']", "mesh.expert=1").model
    assert default_mesh(model, 8) == MeshConfig(data=8)


def test_training_is_forgotten_and_a_pipeline_becomes_data(caplog):
    config = small_config(
        "mesh.pipe=2",
        "mesh.expert=4",
        "pipeline.microbatches=2",
        "train.global_batch=32",
        "train.accumulation=2",
        "exchange.streams=2",
        "exchange.overflow=drop",
    )
    with caplog.at_level("INFO"):
        found = inference_config(config, config.mesh)
    assert "mesh.pipe = 2 joins mesh.data = 1" in caplog.text
    assert found.mesh == MeshConfig(data=2, expert=4)
    assert found.pipeline == PipelineConfig()
    assert (found.exchange.streams, found.exchange.overflow) == (2, "rounds")
    # A sequence of each stream on each device.
    assert (found.train.accumulation, found.train.global_batch) == (1, 16)
    assert found.data.document_mask == "none"
    assert found.model == config.model


@pytest.mark.parametrize(
    ("slots", "factor"),
    [
        # Any of the 8 experts may be one of the 2 that every token visits.
        (FREE_ROWS, 8 / 2),
        (2 * FREE_ROWS, 0.75),
    ],
)
def test_one_round_takes_every_routing_while_rows_are_free(slots, factor):
    found = decoding_config(session(*EXPERT_8).config, slots)
    assert found.exchange.capacity_factor == factor
    assert found.sharding.sequence == "whole"


def test_an_expert_group_has_its_own_slots():
    config = session("mesh.data=2", "mesh.expert=4").config
    assert decoding_config(config, 2 * FREE_ROWS).exchange.capacity_factor == 4


def test_a_decode_step_is_one_token_of_each_slot_and_drops_none():
    config = small_config(
        "exchange.streams=2",
        "exchange.overflow=drop",
        "train.accumulation=2",
        "train.global_batch=32",
    )
    found = decoding_config(config, 40)
    assert (found.exchange.streams, found.exchange.overflow) == (1, "rounds")
    assert (found.train.accumulation, found.train.global_batch) == (1, 40)
    assert decoding_config(found, 40) == found


def test_a_mesh_that_does_not_fit_the_model_is_refused():
    with pytest.raises(ValueError, match="num_experts"):
        inference_config(small_config(), MeshConfig(expert=3))


def test_the_mesh_is_the_callers_then_the_configs_then_the_default():
    config = small_config("mesh.expert=4")
    assert choose_mesh(config, {"expert": 2}, fixed=True) == MeshConfig(expert=2)
    assert choose_mesh(config, MeshConfig(tensor=2), fixed=True) == MeshConfig(tensor=2)
    mesh = build_mesh(MeshConfig(data=2), jax.devices()[:2])
    assert choose_mesh(config, mesh, fixed=False) == MeshConfig(data=2)
    assert choose_mesh(config, None, fixed=True) == MeshConfig(expert=4)
    # 8 devices run here.
    assert choose_mesh(config, None, fixed=False) == MeshConfig(expert=8)
    whole = small_config("mesh.expert=2", "mesh.data=4")
    assert choose_mesh(whole, None, fixed=False) == whole.mesh


def test_an_unknown_axis_is_named():
    with pytest.raises(ValueError, match=r"\['experts'\] are not known: axes are pipe, data"):
        choose_mesh(small_config(), {"experts": 8}, fixed=False)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (4, r"mesh is 4: give axis sizes"),
        ({"expert": "4"}, r"mesh sizes .*'4'.* must be whole numbers"),
        ({"expert": 0}, r"must be whole numbers, 1 or more"),
        ({"experts": 4}, r"mesh axes \['experts'\] are not known"),
    ],
)
def test_a_mesh_that_is_none_is_refused(asked, said):
    with pytest.raises(UserError, match=said):
        mesh_config(asked)
