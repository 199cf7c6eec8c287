"""Rows that several families share. Layer tensors of Hugging Face are [out, in], ours [in, out]."""

from moe_jax.interop.family import Tensor

OUTSIDE_LAYERS = (
    Tensor("embedding.w_vd", "model.embed_tokens.weight", "v d -> v d"),
    Tensor("head.norm.scale", "model.norm.weight", "d -> d"),
    Tensor("head.output.w_vd", "lm_head.weight", "v d -> v d"),
)
NORMS = (
    Tensor("attention_norm.scale", "model.layers.{layer}.input_layernorm.weight", "d -> d"),
    Tensor("mlp_norm.scale", "model.layers.{layer}.post_attention_layernorm.weight", "d -> d"),
)
ATTENTION = (
    Tensor("attention.w_q_dhm", "model.layers.{layer}.self_attn.q_proj.weight", "(h m) d -> d h m"),
    Tensor("attention.w_k_dgm", "model.layers.{layer}.self_attn.k_proj.weight", "(g m) d -> d g m"),
    Tensor("attention.w_v_dgm", "model.layers.{layer}.self_attn.v_proj.weight", "(g m) d -> d g m"),
    Tensor(
        "attention.w_out_hmd", "model.layers.{layer}.self_attn.o_proj.weight", "d (h m) -> h m d"
    ),
)
ATTENTION_QKV_BIASES = (
    Tensor("attention.b_q_hm", "model.layers.{layer}.self_attn.q_proj.bias", "(h m) -> h m"),
    Tensor("attention.b_k_gm", "model.layers.{layer}.self_attn.k_proj.bias", "(g m) -> g m"),
    Tensor("attention.b_v_gm", "model.layers.{layer}.self_attn.v_proj.bias", "(g m) -> g m"),
)
ATTENTION_BIASES = (
    *ATTENTION_QKV_BIASES,
    Tensor("attention.b_out_d", "model.layers.{layer}.self_attn.o_proj.bias", "d -> d"),
)
MLP = (
    Tensor("mlp.w_up_df", "model.layers.{layer}.mlp.up_proj.weight", "f d -> d f"),
    Tensor("mlp.w_gate_df", "model.layers.{layer}.mlp.gate_proj.weight", "f d -> d f"),
    Tensor("mlp.w_down_fd", "model.layers.{layer}.mlp.down_proj.weight", "d f -> f d"),
)
BASE = (*OUTSIDE_LAYERS, *NORMS, *ATTENTION)
