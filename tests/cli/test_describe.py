"""Sizes of a config's run against numbers worked out by hand."""

import io
from pathlib import Path

import jax
import pytest
from rich.console import Console

from moe_jax.cli.describe import (
    binary,
    config_facts,
    decimal,
    device_bytes,
    parameter_table,
    summary_table,
)
from moe_jax.config import load_config, override
from moe_jax.mesh.build import build_mesh
from moe_jax.model.skeleton import Skeleton
from moe_jax.train.optimizer import make_optimizer
from moe_jax.train.state import init_state

CONFIGS = Path(__file__).parents[2] / "configs"
QUICKSTART = load_config(CONFIGS / "quickstart.toml")
PAPER = load_config(CONFIGS / "paper_ep16.toml")


def text_of(table):
    console = Console(file=io.StringIO(), width=160, markup=False)
    console.print(table)
    return console.file.getvalue()


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_bytes_per_device_are_those_of_a_state_that_exists(optimizer):
    config = override(QUICKSTART, [f"optimizer.name={optimizer}"])
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


@pytest.mark.parametrize(
    ("function", "value", "text"),
    [
        (binary, 1023, "1023 B"),
        (binary, 2**20 * 3 // 2, "1.5 MiB"),
        (binary, 26 * 2**30, "26 GiB"),
        (decimal, 950, "950"),
        (decimal, 35_696_807_936, "35.7 G"),
        (decimal, 4.7e16, "47 P"),
    ],
)
def test_units(function, value, text):
    assert function(value) == text
