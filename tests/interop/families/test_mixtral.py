"""Mixtral and Phi-3.5-MoE: alike in their experts, apart in norms, biases and router."""

import pytest
from support.hf.config_jsons import of, published


def test_mixtral_as_published_is_read():
    model = published("Mixtral-8x7B")
    assert (model.moe.num_experts, model.moe.top_k, model.norm) == (8, 2, "rmsnorm")
    assert (model.moe.router.score, model.moe.router.normalize_over) == ("softmax", "selected")


def test_phi_as_published_is_read():
    model = published("Phi-3.5-MoE")
    assert (model.norm, model.attention.bias, model.head_bias) == (
        "layernorm",
        "all",
        "per_token",
    )
    assert (model.moe.router.score, model.moe.router.normalize_over) == ("sparsemixer", "all")


def test_phi_picks_two_experts():
    assert of("phimoe", router_jitter_noise=0.2).moe.router.sparsemixer_jitter == 0.2
    with pytest.raises(ValueError, match="two experts one after the other"):
        of("phimoe", num_experts_per_tok=4)
