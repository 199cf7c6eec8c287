"""Qwen3 (dense), Qwen2-MoE and Qwen3-MoE."""

from moe_jax.interop.families.common import (
    ALL_DENSE,
    ATTENTION_BIAS,
    ATTENTION_BIASES,
    BASE,
    DEFAULTS,
    EXPERTS,
    EXPERTS_PER_TOKEN,
    GATED,
    HEAD_NORMS,
    LAYER,
    MLP,
    QKV_BIASES,
    QWEN_LAYERS,
    RMSNORM,
    SIZES,
    SOFTMAX_TOP_K,
)
from moe_jax.interop.table.attention import HeadDim, KvHeads
from moe_jax.interop.table.family import Family, Tensor
from moe_jax.interop.table.layers import OneWindow, WindowedLayers
from moe_jax.interop.table.rope import Rope
from moe_jax.interop.table.setting import Always, Count, OneOf

_DEFAULTS = DEFAULTS | {
    "rms_norm_eps": 1e-6,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "decoder_sparse_step": 1,
    "mlp_only_layers": None,
    "norm_topk_prob": False,
    "attention_bias": False,
}
_HEADS = (KvHeads(), HeadDim(), Rope())

QWEN3 = Family(
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    tensors=(*BASE, *ATTENTION_BIASES, *HEAD_NORMS, *MLP),
    settings=(
        *SIZES,
        RMSNORM,
        *_HEADS,
        Always({"attention.qk_norm": "head"}),
        ATTENTION_BIAS,
        WindowedLayers(
            usual=lambda fields, layer: layer >= fields["max_window_layers"],
            further=("max_window_layers",),
            switch="use_sliding_window",
        ),
        ALL_DENSE,
        Count("intermediate_size", "mlp.d_ff"),
        OneOf("hidden_act", ("mlp.activation",), GATED),
    ),
    defaults=_DEFAULTS | {"num_key_value_heads": 32, "head_dim": 128},
)

QWEN2_MOE = Family(
    model_type="qwen2_moe",
    architecture="Qwen2MoeForCausalLM",
    tensors=(
        *BASE,
        *QKV_BIASES,
        *MLP,
        *EXPERTS,
        Tensor("moe.shared.w_up_df", f"{LAYER}.mlp.shared_expert.up_proj.weight", "f d -> d f"),
        Tensor("moe.shared.w_gate_df", f"{LAYER}.mlp.shared_expert.gate_proj.weight", "f d -> d f"),
        Tensor("moe.shared.w_down_fd", f"{LAYER}.mlp.shared_expert.down_proj.weight", "d f -> f d"),
        Tensor("moe.w_shared_gate_d", f"{LAYER}.mlp.shared_expert_gate.weight", "0/1 d -> d"),
    ),
    settings=(
        *SIZES,
        RMSNORM,
        *_HEADS,
        OneOf("qkv_bias", ("attention.bias",), ((True, "qkv"), (False, "none"))),
        WindowedLayers(
            usual=lambda fields, layer: layer % 2 == 0 and layer < fields["max_window_layers"],
            further=("max_window_layers",),
            switch="use_sliding_window",
        ),
        *QWEN_LAYERS,
        Count("num_experts", "moe.num_experts"),
        EXPERTS_PER_TOKEN,
        *SOFTMAX_TOP_K,
        Always({"moe.shared_experts": 1, "moe.shared_gate": "sigmoid"}),
        Count("shared_expert_intermediate_size", "moe.shared_d_ff"),
    ),
    defaults=_DEFAULTS
    | {
        "num_key_value_heads": 16,
        "qkv_bias": True,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
    },
)

QWEN3_MOE = Family(
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    tensors=(*BASE, *ATTENTION_BIASES, *HEAD_NORMS, *MLP, *EXPERTS),
    settings=(
        *SIZES,
        RMSNORM,
        *_HEADS,
        Always({"attention.qk_norm": "head"}),
        ATTENTION_BIAS,
        OneWindow(switch="use_sliding_window"),
        *QWEN_LAYERS,
        Count("num_experts", "moe.num_experts", aliases=("num_local_experts",)),
        EXPERTS_PER_TOKEN,
        *SOFTMAX_TOP_K,
    ),
    defaults=_DEFAULTS
    | {
        "num_key_value_heads": 4,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    # Published files have it; windows, where there are any, are on all layers.
    ignored=("max_window_layers",),
)
