"""DeepSeek: latent attention, groups of experts, and two ways to lay out rotated dimensions."""

import pytest
from support.hf.config_jsons import PUBLISHED, published, small

from moe_jax.interop.config_json import family_of, to_config


def test_deepseek_v3_as_published_is_read():
    config = to_config(PUBLISHED["DeepSeek-V3"]["config"])
    model = config.model
    assert model.layers == ("dense",) * 3 + ("moe",) * 58
    router, rope = model.moe.router, model.attention.rope
    assert (router.score, router.selection_bias, router.scale) == ("sigmoid", "always", 2.5)
    assert (router.groups, router.top_groups, router.group_score) == (8, 4, "top2_sum")
    assert (rope.scaling, rope.factor, rope.attention_factor) == ("yarn", 40, 1.0)
    # (0.1 ln 40 + 1)² over the square root of 192.
    assert model.attention.scale == pytest.approx(1.87385 / 192**0.5, rel=1e-5)
    assert config.data.sequence_length == 4096


def test_deepseek_v2_lite_has_one_group_and_full_queries():
    model = published("DeepSeek-V2-Lite")
    assert model.layers[:2] == ("dense", "moe")
    assert (model.attention.kind, model.attention.latent.q_rank) == ("latent", 0)
    assert (model.moe.router.score, model.moe.router.groups) == ("softmax", 1)
    assert model.moe.shared_experts == 2


def test_interleaved_and_half_split_rotations_are_two_families():
    interleaved = family_of(small("deepseek_v3"))
    halves = family_of(small("deepseek_v3", rope_interleave=False))
    assert (interleaved.model_type, interleaved.name) == ("deepseek_v3", "deepseek_v3")
    assert halves.model_type == "deepseek_v3"
    assert halves.name != interleaved.name
    layouts = [
        {row.ours: row.layout for row in family.tensors}["attention.w_k_rope_dp"]
        for family in (interleaved, halves)
    ]
    assert layouts[0] != layouts[1]
