"""gpt-oss: attention sinks, alternating windows, a clamped activation, biases everywhere."""

from moe_jax.interop.families.common import (
    ALL_SPARSE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
    DEFAULTS,
    EXPERTS_PER_TOKEN,
    LAYER,
    NORMALIZED_TOP_K,
    RMSNORM,
    SELF_ATTENTION,
    SIZES,
)
from moe_jax.interop.table.attention import HeadDim, KvHeads
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.layers import WindowedLayers
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Always, Count, Only, Same

_EXPERTS = f"{LAYER}.mlp.experts"

GPT_OSS = Family(
    model_type="gpt_oss",
    architecture="GptOssForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        Tensor("attention.sink_h", f"{SELF_ATTENTION}.sinks", "h -> h"),
        Tensor("moe.router.w_de", f"{LAYER}.mlp.router.weight", "e d -> d e"),
        Tensor("moe.router.b_e", f"{LAYER}.mlp.router.bias", "e -> e"),
        # All experts in one tensor, [in, out], columns of gate and up by turns.
        Tensor("moe.experts.w_gate_edf", f"{_EXPERTS}.gate_up_proj", "e d (f 0/2) -> e d f"),
        Tensor("moe.experts.w_up_edf", f"{_EXPERTS}.gate_up_proj", "e d (f 1/2) -> e d f"),
        Tensor("moe.experts.b_gate_ef", f"{_EXPERTS}.gate_up_proj_bias", "e (f 0/2) -> e f"),
        Tensor("moe.experts.b_up_ef", f"{_EXPERTS}.gate_up_proj_bias", "e (f 1/2) -> e f"),
        Tensor("moe.experts.w_down_efd", f"{_EXPERTS}.down_proj", "e f d -> e f d"),
        Tensor("moe.experts.b_down_ed", f"{_EXPERTS}.down_proj_bias", "e d -> e d"),
    ),
    settings=(
        *SIZES,
        RMSNORM,
        KvHeads(),
        HeadDim(),
        Rope(),
        ATTENTION_BIAS,
        Always({"attention.sinks": "per_head"}),
        WindowedLayers(usual=lambda fields, layer: layer % 2 == 0),
        ALL_SPARSE,
        Count("num_local_experts", "moe.num_experts"),
        Count("intermediate_size", "moe.d_ff"),
        EXPERTS_PER_TOKEN,
        NORMALIZED_TOP_K,
        Always({"moe.activation": "swiglu_clamped", "moe.bias": "all"}),
        Always({"moe.router.bias": "per_expert"}),
        Only("hidden_act", "silu", "its activation is the clamped one"),
        Same("swiglu_alpha", "moe.clamp_alpha"),
        Same("swiglu_limit", "moe.clamp_limit"),
    ),
    defaults=DEFAULTS
    | {
        "rope_theta": 150000.0,
        "rope_parameters": {
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 131072,
        "head_dim": 64,
        "num_key_value_heads": 8,
        "sliding_window": 128,
        "attention_bias": True,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "swiglu_alpha": 1.702,
        "swiglu_limit": 7.0,
    },
    # What transformers reads stands under other names, too.
    ignored=("experts_per_token", "initial_context_length"),
)
