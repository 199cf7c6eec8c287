"""Whether two configs are one model."""

import pytest

from moe_jax.config import Config, override
from moe_jax.interop.same_model import differences

BASE = override(Config(), ["model.num_layers=4"])


def changed(*overrides: str) -> list[str]:
    return differences(BASE.model, override(BASE, overrides).model)


@pytest.mark.parametrize(
    "same",
    [
        ["model.layers=['moe', 'moe']"],
        ["model.attention.windows=[0, 0]"],
        ["model.mlp.d_ff=999"],
        ["model.moe.shared_d_ff=7"],
        ["model.attention.latent.kv_rank=9"],
        ["model.attention.rope.beta_fast=9.0"],
        ["model.moe.router.z_weight=0.5"],
        ["model.init_std=0.5"],
        ["mesh.expert=4"],
    ],
    ids=str,
)
def test_what_the_model_does_not_use_is_no_difference(same):
    assert changed(*same) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["model.layers=['dense', 'moe']"], "model.layers = ['moe', 'moe', 'moe', 'moe']"),
        (["model.attention.windows=[8]"], "model.attention.windows = [0, 0, 0, 0]"),
        (["model.moe.top_k=1"], "model.moe.top_k = 2"),
        (["model.attention.rope.theta=5.0"], "model.attention.rope.theta = 10000.0"),
    ],
    ids=str,
)
def test_a_difference_is_named_with_the_first_models_value(overrides, named):
    assert named in changed(*overrides)


def test_fields_of_a_scaling_count_only_for_it():
    scaled = override(
        BASE, ["model.attention.rope.scaling=linear", "model.attention.rope.factor=2.0"]
    )
    other = override(scaled, ["model.attention.rope.factor=4.0"])
    assert differences(scaled.model, other.model) == ["model.attention.rope.factor = 2.0"]
