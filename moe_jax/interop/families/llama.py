"""Llama (dense): the degenerate case, and a source for upcycling."""

from moe_jax.interop.families.common import (
    ALL_DENSE,
    ALL_OR_NONE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
    DEFAULTS,
    GATED,
    LAYER,
    MLP,
    RMSNORM,
    SIZES,
)
from moe_jax.interop.table.attention import HeadDim, KvHeads
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Count, OneOf

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        *MLP,
        Tensor("mlp.b_up_f", f"{LAYER}.mlp.up_proj.bias", "f -> f"),
        Tensor("mlp.b_gate_f", f"{LAYER}.mlp.gate_proj.bias", "f -> f"),
        Tensor("mlp.b_down_d", f"{LAYER}.mlp.down_proj.bias", "d -> d"),
    ),
    settings=(
        *SIZES,
        RMSNORM,
        KvHeads(),
        HeadDim(),
        Rope(),
        ATTENTION_BIAS,
        ALL_DENSE,
        Count("intermediate_size", "mlp.d_ff"),
        OneOf("hidden_act", ("mlp.activation",), GATED),
        OneOf("mlp_bias", ("mlp.bias",), ALL_OR_NONE),
    ),
    defaults=DEFAULTS
    | {
        "num_key_value_heads": None,
        "head_dim": None,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 2048,
        "attention_bias": False,
        "mlp_bias": False,
    },
)
