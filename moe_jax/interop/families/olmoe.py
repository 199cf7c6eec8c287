"""OLMoE: norms over all heads together, and clipped queries, keys and values."""

from moe_jax.interop.families.common import (
    ALL_SPARSE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
    DEFAULTS,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    GATED,
    RMSNORM,
    SELF_ATTENTION,
    SIZES,
    SOFTMAX_TOP_K,
)
from moe_jax.interop.table.attention import HeadDim, KvHeads
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Always, Count, OneOf, Same

OLMOE = Family(
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        *EXPERTS,
        Tensor("attention.q_scale_hm", f"{SELF_ATTENTION}.q_norm.weight", "(h m) -> h m"),
        Tensor("attention.k_scale_gm", f"{SELF_ATTENTION}.k_norm.weight", "(g m) -> g m"),
    ),
    settings=(
        *SIZES,
        RMSNORM,
        KvHeads(),
        HeadDim(),
        Rope(),
        Always({"attention.qk_norm": "all_heads"}),
        Same("clip_qkv", "attention.clip_qkv", null=0.0),
        ATTENTION_BIAS,
        ALL_SPARSE,
        Count("num_experts", "moe.num_experts", aliases=("num_local_experts",)),
        Count("intermediate_size", "moe.d_ff"),
        EXPERTS_PER_TOKEN,
        OneOf("hidden_act", ("moe.activation",), GATED),
        *SOFTMAX_TOP_K,
    ),
    defaults=DEFAULTS
    | {
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "num_key_value_heads": None,
        "clip_qkv": None,
        "attention_bias": False,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "norm_topk_prob": False,
    },
)
