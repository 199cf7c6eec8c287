"""Granite-MoE: multipliers at both ends, in the residual stream and on attention's logits."""

from moe_jax.interop.families.common import (
    ALL_SPARSE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
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
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Count, OneOf, Same

_EXPERTS = f"{LAYER}.block_sparse_moe"

GRANITE_MOE = Family(
    model_type="granitemoe",
    architecture="GraniteMoeForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        Tensor("moe.router.w_de", f"{_EXPERTS}.router.layer.weight", "e d -> d e"),
        # All experts in one tensor, the gate's rows before the others.
        Tensor("moe.experts.w_gate_edf", f"{_EXPERTS}.input_linear.weight", "e (0/2 f) d -> e d f"),
        Tensor("moe.experts.w_up_edf", f"{_EXPERTS}.input_linear.weight", "e (1/2 f) d -> e d f"),
        Tensor("moe.experts.w_down_efd", f"{_EXPERTS}.output_linear.weight", "e d f -> e f d"),
    ),
    settings=(
        *SIZES,
        RMSNORM,
        KvHeads(),
        HeadDim(),
        Rope(),
        ATTENTION_BIAS,
        Same("embedding_multiplier", "embedding_scale"),
        Same("residual_multiplier", "residual_scale"),
        Same("logits_scaling", "logit_divisor"),
        Same("attention_multiplier", "attention.scale"),
        ALL_SPARSE,
        Count("num_local_experts", "moe.num_experts"),
        Count("intermediate_size", "moe.d_ff"),
        EXPERTS_PER_TOKEN,
        OneOf("hidden_act", ("moe.activation",), GATED),
        NORMALIZED_TOP_K,
    ),
    defaults=DEFAULTS
    | {
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "num_key_value_heads": None,
        "attention_bias": False,
        "embedding_multiplier": 1.0,
        "residual_multiplier": 1.0,
        "logits_scaling": 1.0,
        "attention_multiplier": 1.0,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
)
