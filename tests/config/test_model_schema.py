"""The model's section: ranges of its fields, and kinds that share a spelling."""

from typing import get_args

import pytest
from pydantic import ValidationError

from moe_jax.config import Config, ConfigError, override
from moe_jax.config.model_schema import (
    Activation,
    AttentionConfig,
    ExpertActivation,
    MlpConfig,
    ModelConfig,
    MoeConfig,
    RopeConfig,
)


@pytest.mark.parametrize(
    ("assignment", "rule"),
    [
        ("layers=[]", "at least 1 item"),
        ("attention.windows=[]", "at least 1 item"),
        ("attention.windows=[-1]", "greater than or equal to 0"),
        ("attention.rope.factor=0.5", "greater than or equal to 1"),
        ("attention.rope.short_factors=[0.0]", "greater than 0"),
        ("attention.clip_qkv=-1.0", "greater than or equal to 0"),
        ("moe.top_k=0", "greater than or equal to 1"),
        ("moe.router.scale=0.0", "greater than 0"),
        ("moe.router.score='top'", "'softmax', 'sigmoid' or 'sparsemixer'"),
        ("init_std=0.0", "greater than 0"),
    ],
)
def test_ranges_of_single_fields(assignment, rule):
    with pytest.raises(ConfigError, match=rule):
        override(Config(), [f"model.{assignment}"])


def test_experts_know_every_activation_and_one_more():
    assert {*get_args(Activation), "swiglu_clamped"} == set(get_args(ExpertActivation))
    assert MoeConfig(activation="swiglu_clamped").activation == "swiglu_clamped"
    with pytest.raises(ValidationError, match="Input should be 'gelu'"):
        MlpConfig(activation="swiglu_clamped")


def test_zero_and_none_are_what_is_off():
    attention, rope, moe = AttentionConfig(), RopeConfig(), MoeConfig()
    assert attention.windows == (0,)
    assert (attention.scale, attention.clip_qkv, attention.latent.q_rank) == (0, 0, 0)
    assert (rope.scaling, rope.attention_factor, rope.long_attention_factor) == ("none", 0, 0)
    assert (moe.shared_experts, moe.shared_d_ff, moe.router.z_weight) == (0, 0, 0)


def test_a_pattern_of_layers_keeps_its_order():
    assert ModelConfig(layers=("dense", "moe", "moe")).layers == ("dense", "moe", "moe")
