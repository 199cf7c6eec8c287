"""What a config's mesh splits, in words; figures in tables are `test_facts.py`'s."""

from support.places import CONFIGS

from moe_jax.cli.doctor.layout import layout_rows, schedules
from moe_jax.config import load_config

PAPER = CONFIGS / "paper_ep16.toml"


def rows(*overrides):
    return dict(layout_rows(load_config(PAPER, overrides)))


def test_expert_parallelism_alone_splits_the_optimiser_only():
    assert set(rows("sharding.optimizer=zero", "sharding.dense=fsdp")) == {"ZeRO"}
    assert rows("sharding.optimizer=parameter", "sharding.dense=fsdp") == {}


def test_fsdp_names_the_axes_that_split_dense_parameters():
    text = rows("mesh.fsdp=2", "mesh.expert=8", "sharding.dense=fsdp")["FSDP"]
    assert text.startswith("d_model of dense parameters / 2 (fsdp), those of experts / 2 (fsdp)")


def test_a_dense_model_has_no_experts_to_split():
    text = rows("mesh.fsdp=2", "mesh.tensor=2", "model.layers=['dense']")
    assert "experts" not in text["FSDP"].replace("fsdp x expert", "")
    assert "MLPs' d_ff" in text["tensor parallelism"]
    assert "experts' d_ff" not in text["tensor parallelism"]


def test_activations_stay_whole_without_sequence_parallelism():
    text = rows("mesh.tensor=2", "mesh.expert=8", "sharding.sequence=whole")["tensor parallelism"]
    assert text.endswith("activations between matmuls whole on each device")


def test_schedules_are_those_of_pipelined_stacks():
    assert schedules(load_config(PAPER)) == []
    piped = ("mesh.pipe=2", "mesh.expert=8", "pipeline.microbatches=4", "exchange.streams=1")
    ((layers, schedule),) = schedules(load_config(PAPER, piped))
    assert (layers, schedule.stages, schedule.microbatches) == (1, 2, 4)
