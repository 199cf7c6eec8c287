"""Qwen: dense and sparse layers of their own widths, a gated shared expert, norms per head."""

from support.hf.config_jsons import of, published


def test_qwen3_moe_as_published_is_read():
    model = published("Qwen3-30B-A3B")
    assert (model.moe.num_experts, model.moe.top_k, model.moe.d_ff) == (128, 8, 768)
    assert (model.attention.qk_norm, model.attention.bias) == ("head", "none")
    assert model.moe.router.normalize_over == "selected"
    assert model.attention.windows == (0,)


def test_qwen2_moe_as_published_has_a_gated_shared_expert():
    model = published("Qwen1.5-MoE-A2.7B")
    assert (model.moe.shared_experts, model.moe.shared_gate) == (1, "sigmoid")
    assert (model.moe.d_ff, model.moe.shared_d_ff) == (1408, 5632)
    assert model.attention.bias == "qkv"
    assert model.moe.router.normalize_over == "all"


def test_qwen3_is_dense():
    model = of("qwen3", head_dim=8)
    assert (model.layers, model.mlp.activation) == (("dense",), "swiglu")
    assert (model.attention.qk_norm, model.attention.head_dim) == ("head", 8)
