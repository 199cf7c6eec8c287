"""What the config leaves to "auto" is decided once, from the mesh and the platform."""

from types import SimpleNamespace

import pytest
from support.model_cases import configured, parallel_of

from moe_jax.model.parallel import (
    check_stages,
    grouped_implementation,
    placement_of,
    resolve_parallel,
)


def resolve(platform: str, *overrides: str):
    config = configured("mesh.expert=2", *overrides)
    mesh = parallel_of(configured("mesh.expert=2")).mesh
    return resolve_parallel(config, mesh, platform=platform, hosts=(0, 0), batch_tokens=64)


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (("precision.compute=bfloat16", "model.moe.d_ff=256"), "mosaic"),
        (("precision.compute=float32", "model.moe.d_ff=256"), "blocks"),
        (("precision.compute=bfloat16", "model.moe.d_ff=96"), "blocks"),
        # Each of two devices multiplies half of the hidden size.
        (("precision.compute=bfloat16", "model.moe.d_ff=64", "mesh.tensor=2"), "blocks"),
    ],
)
def test_grouped_matmuls_are_chosen_for_the_device_that_is_planned(overrides, wanted):
    config = configured("model.d_model=64", "model.vocab_size=32", *overrides)
    hopper = SimpleNamespace(platform="gpu", compute_capability="9.0")
    assert grouped_implementation(config, hopper) == wanted
    assert grouped_implementation(config, SimpleNamespace(platform="cpu")) == "blocks"


def test_spec_follows_config_and_mesh():
    parallel = resolve("cpu", "exchange.overflow=drop", "exchange.transport=all_gather")
    spec = parallel.exchange_spec
    assert (spec.transport.name, spec.overflow, spec.devices) == ("all_gather", "drop", 2)
    assert spec.experts_per_device == 4
    assert parallel.batch_shards == 2
    assert parallel.documents
    assert parallel.grouped == "blocks"
    assert not resolve("cpu", "data.document_mask=none").documents


LEADING = (
    "model.num_layers=7",
    'model.layers=["dense", "moe", "moe", "moe", "moe", "moe", "moe"]',
    "model.attention.heads=6",
    "model.attention.kv_heads=6",
    "mesh.pipe=3",
    "pipeline.microbatches=3",
    "train.global_batch=36",
)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("mesh.pipe=4", "pipeline.microbatches=4"), r"= 4 groups .* it has 2 of 1 layers"),
        (LEADING, r"stacks of 1 layers in 3 groups .* d_model \(16\).*multiple of 3"),
    ],
    ids=["too few layers", "a leading layer that cannot be split"],
)
def test_layers_that_do_not_fill_the_pipe_axis_are_refused(overrides, message):
    config = configured(*overrides)
    with pytest.raises(ValueError, match=message):
        check_stages(config.model, placement_of(config))


def test_attention_is_resolved_for_the_platform():
    fits = ("precision.compute=bfloat16", "model.attention.head_dim=64")
    assert resolve("gpu", *fits).attention == "cudnn"
    assert resolve("cpu", *fits).attention == "xla"
