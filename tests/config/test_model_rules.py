"""Rules of the model: each broken one is named with its values and a remedy that works."""

import pytest
from support.config_problems import problems

from moe_jax.config.model_rules import divisors_around, either, multiples_around

CUDNN = (
    "model.attention.implementation=cudnn",
    "precision.compute=bfloat16",
    "data.document_mask=none",
)
SPARSEMIXER = ["model.moe.router.score=sparsemixer", "model.moe.router.normalize_over=all"]
LONGROPE = [
    "model.attention.rope.scaling=longrope",
    "model.attention.rope.original_context=256",
    f"model.attention.rope.short_factors={[1.0] * 16}",
    f"model.attention.rope.long_factors={[4.0] * 16}",
]
CASES = {
    "experts": (["model.moe.num_experts=63"], ["63", "(8)", "7 or 9", "56 or 64"]),
    "top_k": (["model.moe.top_k=9"], ["top_k (9)", "num_experts (8)", "8 or less"]),
    "groups": (["model.moe.router.groups=3"], ["groups (3)", "(8)", "2 or 4"]),
    "top_groups": (
        ["model.moe.router.groups=2", "model.moe.router.top_groups=3"],
        ["top_groups (3)", "groups (2)", "2 or less"],
    ),
    "top_k_in_groups": (
        ["model.moe.router.groups=4", "model.moe.top_k=5", "model.moe.router.top_groups=2"],
        ["top_k (5)", "top_groups (2)", "per group (2)", "to 3 or more", "to 4 or less"],
    ),
    "top2_sum": (
        ["model.moe.router.groups=8", "model.moe.router.top_groups=2"],
        ["top2_sum", "there is 1", "group_score=max", "groups to 4"],
    ),
    "kv_heads": (["model.attention.kv_heads=3"], ["heads (8)", "(3)", "2 or 4"]),
    "head_dim": (["model.attention.head_dim=33"], ["(33)", "even", "34"]),
    "llama3": (
        ["model.attention.rope.scaling=llama3", "model.attention.rope.low_freq_factor=4.0"],
        ["low_freq_factor (4.0)", "high_freq_factor (4.0)"],
    ),
    "yarn": (
        ["model.attention.rope.scaling=yarn", "model.attention.rope.beta_fast=1.0"],
        ["beta_slow (1.0)", "beta_fast (1.0)", "1 and 32"],
    ),
    "layers": (
        ["model.num_layers=1", "model.layers=['moe','dense']"],
        ["model.layers has 2", "(1)", "num_layers to 2"],
    ),
    "windows": (
        ["model.num_layers=1", "model.attention.windows=[0,8]"],
        ["windows has 2", "(1)", "num_layers to 2"],
    ),
    "cudnn_head_dim": (
        [*CUDNN, "model.attention.head_dim=264"],
        ["at most 256", "264 wide", "=xla"],
    ),
    "cudnn_latent": (
        [*CUDNN, "model.attention.kind=latent", "model.attention.latent.value_head_dim=320"],
        ["at most 256", "320 wide", "=xla"],
    ),
    "latent_norm": (
        ["model.attention.kind=latent", "model.attention.qk_norm=head"],
        ["qk_norm = head", "kind = latent", "qk_norm=none"],
    ),
    "latent_heads": (
        ["model.attention.kind=latent", "model.attention.kv_heads=1"],
        ["kv_heads = 1", "kind = latent"],
    ),
    "latent_odd": (
        ["model.attention.kind=latent", "model.attention.latent.rope_head_dim=5"],
        ["latent.rope_head_dim (5)", "even", "6"],
    ),
    "sparsemixer_top_k": (
        [*SPARSEMIXER, "model.moe.top_k=1"],
        ["top_k = 1", "sparsemixer", "top_k=2"],
    ),
    "sparsemixer_normalised": (
        [*SPARSEMIXER, "model.moe.router.normalize_over=selected"],
        ["normalize_over = selected", "normalize_over=all"],
    ),
    "shared_clamped": (
        ["model.moe.shared_experts=1", "model.moe.activation=swiglu_clamped"],
        ["swiglu_clamped", "shared_experts is 1", "activation=swiglu"],
    ),
    "shared_gate_of_none": (
        ["model.moe.shared_gate=sigmoid"],
        ["shared_gate = sigmoid", "shared_experts=1"],
    ),
    "longrope_lengths": (
        [*LONGROPE, "model.attention.rope.long_factors=[1.0]"],
        ["long_factors has 1 entries", "16"],
    ),
    "longrope_beyond": (
        [*LONGROPE, "data.sequence_length=512"],
        ["(512)", "original_context (256)", "factors=long"],
    ),
    "cudnn_odd": ([*CUDNN, "data.sequence_length=255"], ["(255)", "even", "256", "=xla"]),
    "cudnn_dtype": ([*CUDNN, "precision.compute=float32"], ["compute=bfloat16", "=xla"]),
}
FINE = {
    "latent": ["model.attention.kind=latent"],
    "sparsemixer": SPARSEMIXER,
    "longrope": LONGROPE,
    "longrope_long": [*LONGROPE, "data.sequence_length=512", "model.attention.rope.factors=long"],
    "sigmoid_raw_scores": [
        "model.moe.router.score=sigmoid",
        "model.moe.router.normalize_over=all",
        "model.moe.router.bias_update_rate=0.001",
    ],
    "groups": ["model.moe.router.groups=4", "model.moe.router.top_groups=2"],
    "one_expert_per_group_by_max": [
        "model.moe.router.groups=8",
        "model.moe.router.top_groups=2",
        "model.moe.router.group_score=max",
    ],
    "dense_model_ignores_expert_count": ["model.layers=['dense']", "model.moe.num_experts=3"],
    "weight_without_balance_loss": ["model.moe.router.balance_loss=none"],
    "cudnn": [*CUDNN, "model.attention.head_dim=128"],
    "cudnn_wide": [*CUDNN, "model.attention.head_dim=256"],
    "cudnn_documents": [*CUDNN, "data.document_mask=segments"],
    "cudnn_sinks": [*CUDNN, "model.attention.sinks=per_head"],
    "cudnn_latent": [*CUDNN, "model.attention.kind=latent"],
}
BROKEN = pytest.mark.parametrize(("changes", "expected"), CASES.values(), ids=CASES)
ALLOWED = pytest.mark.parametrize("changes", FINE.values(), ids=FINE)


@BROKEN
def test_broken_rule_names_values_and_remedy(changes, expected):
    (problem,) = problems(changes)
    for part in expected:
        assert part in problem


@ALLOWED
def test_consistent_config_passes(changes):
    assert not problems(changes)


@pytest.mark.parametrize(
    ("value", "unit", "around"), [(63, 8, [56, 64]), (3, 8, [8]), (64, 8, [64, 72])]
)
def test_multiples_around_are_positive(value, unit, around):
    assert multiples_around(value, unit) == around


@pytest.mark.parametrize(
    ("value", "near", "around"), [(63, 8, [7, 9]), (7, 2, [1, 7]), (8, 9, [8]), (6, 0, [1])]
)
def test_divisors_around_lie_on_either_side(value, near, around):
    assert divisors_around(value, near) == around


def test_alternatives_are_one_text():
    assert (either([7, 9]), either([8])) == ("7 or 9", "8")
