"""Mixtral, and Phi-3.5-MoE, which differs in its norms, its biases and its router."""

from moe_jax.interop.families.common import (
    ALL_SPARSE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
    BLOCK_SPARSE_EXPERTS,
    DEFAULTS,
    EXPERTS_PER_TOKEN,
    GATED,
    LAYER,
    NORMALIZED_TOP_K,
    RMSNORM,
    SIZES,
)
from moe_jax.interop.table.attention import HeadDim, KvHeads
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.layers import OneWindow
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Always, Count, OneOf, Only, Same

_EXPERTS = (
    ALL_SPARSE,
    Count("num_local_experts", "moe.num_experts"),
    Count("intermediate_size", "moe.d_ff"),
    OneOf("hidden_act", ("moe.activation",), GATED),
)
_DEFAULTS = DEFAULTS | {
    "rope_theta": 1000000.0,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 131072,
    "sliding_window": None,
    "num_key_value_heads": 8,
    "num_experts_per_tok": 2,
}

MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    tensors=(*BASE, *BLOCK_SPARSE_EXPERTS),
    settings=(
        *SIZES,
        RMSNORM,
        KvHeads(),
        HeadDim(),
        Rope(),
        OneWindow(),
        *_EXPERTS,
        EXPERTS_PER_TOKEN,
        NORMALIZED_TOP_K,
    ),
    defaults=_DEFAULTS | {"num_local_experts": 8},
    ignored=("router_jitter_noise",),
)

PHIMOE = Family(
    model_type="phimoe",
    architecture="PhimoeForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        *BLOCK_SPARSE_EXPERTS,
        Tensor("attention_norm.bias", f"{LAYER}.input_layernorm.bias", "d -> d"),
        Tensor("mlp_norm.bias", f"{LAYER}.post_attention_layernorm.bias", "d -> d"),
        Tensor("head.norm.bias", "model.norm.bias", "d -> d"),
        Tensor("head.b_v", "lm_head.bias", "v -> v"),
    ),
    settings=(
        *SIZES,
        Always({"norm": "layernorm"}),
        KvHeads(),
        HeadDim(),
        Rope(mscales=True),
        OneWindow(),
        ATTENTION_BIAS,
        *_EXPERTS,
        Always({"moe.top_k": 2, "moe.router.normalize_over": "all"}),
        Always({"moe.router.score": "sparsemixer"}),
        Only("num_experts_per_tok", 2, "its router picks two experts one after the other"),
        Same("router_jitter_noise", "moe.router.sparsemixer_jitter"),
        OneOf("lm_head_bias", ("head_bias",), ((True, "per_token"), (False, "none"))),
    ),
    defaults=_DEFAULTS
    | {
        "num_local_experts": 16,
        "router_jitter_noise": 0.01,
        "attention_bias": False,
        "lm_head_bias": False,
    },
    ignored=("input_jitter_noise",),
)
