"""Sizes of a config's run against numbers worked out by hand."""

import io

import jax
import pytest
from rich.console import Console
from support.places import CONFIGS

from moe_jax.cli.doctor.facts import (
    config_facts,
    device_bytes,
    parameter_table,
    summary_table,
)
from moe_jax.config import load_config, override
from moe_jax.mesh.build import build_mesh
from moe_jax.model.skeleton import Skeleton
from moe_jax.training.optimizer import make_optimizer
from moe_jax.training.state import init_state

QUICKSTART = load_config(CONFIGS / "quickstart.toml")
PAPER = load_config(CONFIGS / "paper_ep16.toml")


def text_of(table):
    console = Console(file=io.StringIO(), width=200, markup=False)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["optimizer.name=adamw"], id="adamw"),
        pytest.param(["optimizer.name=muon"], id="muon"),
        pytest.param(
            ["mesh.fsdp=2", "mesh.expert=2", "mesh.tensor=2", "sharding.dense=fsdp_expert"],
            id="fsdp over expert, tensor",
        ),
        pytest.param(
            [
                "mesh.pipe=2",
                "mesh.expert=4",
                "model.num_layers=5",
                "pipeline.microbatches=2",
                "sharding.optimizer=parameter",
            ],
            id="uneven pipeline without ZeRO",
        ),
    ],
)
def test_bytes_per_device_are_those_of_a_state_that_exists(overrides):
    config = override(QUICKSTART, overrides)
    facts = config_facts(config)
    skeleton = Skeleton(config)
    transformation = make_optimizer(config, skeleton.variables)
    state = init_state(skeleton, transformation, build_mesh(config.mesh))

    def on_first_device(tree):
        shards = [leaf.addressable_shards[0].data for leaf in jax.tree.leaves(tree)]
        return sum(shard.nbytes for shard in shards)

    assert facts.parameter_bytes == on_first_device(state.params) == device_bytes(state.params)
    assert facts.optimizer_bytes == on_first_device(state.opt_state)


def test_paper_model_per_device():
    facts = config_facts(PAPER)
    experts = 16 * 16 * 2 * 4096 * 16384
    held = facts.parameters - experts + experts // 16
    assert facts.parameter_bytes == 2 * held
    # AdamW's two moments in bfloat16 and a float32 master copy, of the dense part over all devices
    # but for norms, which have no embed dimension; two step counters.
    norms = (2 * 16 + 1) * 4096
    dense = held - experts // 16 - norms
    assert facts.optimizer_bytes == (2 + 2 + 4) * (experts // 16 + norms + dense // 16) + 8
    assert facts.tokens_per_step == 1_280_000


def test_summary_names_what_a_reader_checks():
    text = text_of(summary_table(PAPER))
    for part in ("expert 16: 16 devices", "top-2, 1 on each device", "1,280,000 tokens per step"):
        assert part in text
    for part in ("8 sequences per step", "35,696,807,936 (35.7 G)", "6.49 GiB", "16.62 GiB"):
        assert part in text


def rows_of(*overrides, config=PAPER):
    """Returns the summary's rows by name."""
    lines = text_of(summary_table(override(config, overrides))).splitlines()
    cut = max(line.find("16 devices") for line in lines)
    assert cut > 0
    pairs = (line.strip().split("   ", 1) for line in lines if "   " in line.strip())
    return {name.strip(): value.strip() for name, value in pairs}


def test_summary_of_a_pipeline_has_its_schedule():
    rows = rows_of("mesh.pipe=2", "mesh.expert=8", "pipeline.microbatches=4", "exchange.streams=2")
    assert rows["pipeline"] == "2 stages x 1 = 2 groups of 8 layers"
    # 128 sequences on 8 shards in 2 streams.
    assert rows["microbatches"] == "4 of 2 sequences per stream; 5 ticks, bubble 20.0%"
    assert "FSDP" not in rows
    assert "tensor parallelism" not in rows


def test_summary_counts_places_that_uneven_layers_leave_empty():
    rows = rows_of(
        "mesh.pipe=2",
        "mesh.expert=8",
        "pipeline.microbatches=4",
        "pipeline.virtual_stages=3",
        "train.remat=full",
        "exchange.streams=1",
    )
    assert rows["pipeline"] == "2 stages x 3 = 6 groups of 3 layers, 2 places empty"
    assert rows["microbatches"] == "4 of 4 sequences per stream; 13 ticks, bubble 7.7%"


def test_summary_says_what_tensor_and_fsdp_split():
    rows = rows_of("mesh.tensor=2", "mesh.fsdp=2", "mesh.expert=4", "sharding.dense=fsdp_expert")
    assert rows["FSDP"] == (
        "d_model of dense parameters / 8 (fsdp x expert), those of experts / 2 (fsdp); gathered "
        "for use"
    )
    assert rows["tensor parallelism"].startswith(
        "heads, key/value heads, experts' d_ff and vocabulary / 2; activations between matmuls "
        "split along the sequence, 5,000 tokens"
    )
    fewer = rows_of("mesh.tensor=4", "mesh.expert=4", "model.attention.kv_heads=2")
    assert "key/value heads whole on each device" in fewer["tensor parallelism"]


def test_bytes_follow_every_kind_of_split():
    """By hand: an expert matrix and attention's, with 16 layers unevenly in 6 groups."""
    layout = (
        "mesh.pipe=2",
        "mesh.fsdp=2",
        "mesh.expert=4",
        "sharding.dense=fsdp_expert",
        "pipeline.virtual_stages=3",
        "pipeline.microbatches=2",
        "train.remat=full",
        "exchange.streams=1",
    )
    lines = text_of(parameter_table(override(PAPER, layout))).splitlines()
    (expert,) = [line for line in lines if "experts.w_up_edf" in line]
    # 16 layers x 16 experts x 4096 x 16384 x 2 bytes = 32 GiB over 16 devices.
    assert "experts / 4 (expert), embed / 4 (fsdp x pipe)" in expert
    assert expert.rstrip().endswith("2 GiB")
    (query,) = [line for line in lines if "attention.w_q_dhm" in line]
    assert "embed / 16 (fsdp x expert x pipe)" in query
    # 16 x 4096 x 4096 x 2 bytes = 512 MiB over 16 devices.
    assert query.rstrip().endswith("32 MiB")
    in_order = text_of(
        parameter_table(override(PAPER, ["mesh.pipe=2", "mesh.expert=8", "exchange.streams=1"]))
    ).splitlines()
    (expert,) = [line for line in in_order if "experts.w_up_edf" in line]
    assert "layers / 2 (pipe), experts / 8 (expert)" in expert


def test_every_parameter_has_shape_axes_and_sharding():
    config = override(PAPER, ["model.moe.router.bias_update_rate=0.001"])
    lines = text_of(parameter_table(config)).splitlines()
    (expert,) = [line for line in lines if "moe.experts.w_up_edf" in line]
    assert "16 layers x 16 experts x 4096 embed x 16384 mlp" in expert
    assert "experts / 16 (expert)" in expert
    assert expert.rstrip().endswith("2 GiB")
    (router,) = [line for line in lines if "router.w_de" in line]
    assert "whole everywhere" in router
    (bias,) = [line for line in lines if "router.bias_e" in line]
    assert "(buffer)" in bias
    assert sum("stacks." in line for line in lines) == sum(
        name.startswith("stacks.") for name in Skeleton(config).variables
    )
