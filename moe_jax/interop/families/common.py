"""Rows and entries that several families share.

Weights of Hugging Face are [out, in], ours [in, out].
"""

from typing import Any

from moe_jax.interop.table.family import Tensor
from moe_jax.interop.table.layers import SparseStep
from moe_jax.interop.table.setting import Always, Count, OneOf, Only, Same

LAYER = "model.layers.{layer}"
SELF_ATTENTION = f"{LAYER}.self_attn"

OUTSIDE_LAYERS = (
    Tensor("embedding.w_vd", "model.embed_tokens.weight", "v d -> v d"),
    Tensor("head.norm.scale", "model.norm.weight", "d -> d"),
    Tensor("head.output.w_vd", "lm_head.weight", "v d -> v d"),
)
NORMS = (
    Tensor("attention_norm.scale", f"{LAYER}.input_layernorm.weight", "d -> d"),
    Tensor("mlp_norm.scale", f"{LAYER}.post_attention_layernorm.weight", "d -> d"),
)
ATTENTION = (
    Tensor("attention.w_q_dhm", f"{SELF_ATTENTION}.q_proj.weight", "(h m) d -> d h m"),
    Tensor("attention.w_k_dgm", f"{SELF_ATTENTION}.k_proj.weight", "(g m) d -> d g m"),
    Tensor("attention.w_v_dgm", f"{SELF_ATTENTION}.v_proj.weight", "(g m) d -> d g m"),
    Tensor("attention.w_out_hmd", f"{SELF_ATTENTION}.o_proj.weight", "d (h m) -> h m d"),
)
QKV_BIASES = (
    Tensor("attention.b_q_hm", f"{SELF_ATTENTION}.q_proj.bias", "(h m) -> h m"),
    Tensor("attention.b_k_gm", f"{SELF_ATTENTION}.k_proj.bias", "(g m) -> g m"),
    Tensor("attention.b_v_gm", f"{SELF_ATTENTION}.v_proj.bias", "(g m) -> g m"),
)
ATTENTION_BIASES = (
    *QKV_BIASES,
    Tensor("attention.b_out_d", f"{SELF_ATTENTION}.o_proj.bias", "d -> d"),
)
HEAD_NORMS = (
    Tensor("attention.q_norm.scale", f"{SELF_ATTENTION}.q_norm.weight", "m -> m"),
    Tensor("attention.k_norm.scale", f"{SELF_ATTENTION}.k_norm.weight", "m -> m"),
)
MLP = (
    Tensor("mlp.w_up_df", f"{LAYER}.mlp.up_proj.weight", "f d -> d f"),
    Tensor("mlp.w_gate_df", f"{LAYER}.mlp.gate_proj.weight", "f d -> d f"),
    Tensor("mlp.w_down_fd", f"{LAYER}.mlp.down_proj.weight", "d f -> f d"),
)
#: Qwen, OLMoE and DeepSeek.
EXPERTS = (
    Tensor("moe.router.w_de", f"{LAYER}.mlp.gate.weight", "e d -> d e"),
    Tensor("moe.experts.w_up_edf", f"{LAYER}.mlp.experts.{{expert}}.up_proj.weight", "f d -> d f"),
    Tensor(
        "moe.experts.w_gate_edf", f"{LAYER}.mlp.experts.{{expert}}.gate_proj.weight", "f d -> d f"
    ),
    Tensor(
        "moe.experts.w_down_efd", f"{LAYER}.mlp.experts.{{expert}}.down_proj.weight", "d f -> f d"
    ),
)
#: Mixtral and Phi-3.5-MoE: w1 gates, w2 comes last, w3 is gated.
BLOCK_SPARSE_EXPERTS = (
    Tensor("moe.router.w_de", f"{LAYER}.block_sparse_moe.gate.weight", "e d -> d e"),
    Tensor(
        "moe.experts.w_gate_edf",
        f"{LAYER}.block_sparse_moe.experts.{{expert}}.w1.weight",
        "f d -> d f",
    ),
    Tensor(
        "moe.experts.w_down_efd",
        f"{LAYER}.block_sparse_moe.experts.{{expert}}.w2.weight",
        "d f -> f d",
    ),
    Tensor(
        "moe.experts.w_up_edf",
        f"{LAYER}.block_sparse_moe.experts.{{expert}}.w3.weight",
        "f d -> d f",
    ),
)
BASE = (*OUTSIDE_LAYERS, *NORMS, *ATTENTION)

GATED = (("silu", "swiglu"), ("gelu_pytorch_tanh", "geglu"), ("gelu_new", "geglu"))
ALL_OR_NONE = ((True, "all"), (False, "none"))
#: What a model of any family has.
SIZES = (
    Count("vocab_size", "vocab_size"),
    Count("hidden_size", "d_model"),
    Count("num_hidden_layers", "num_layers"),
    Count("num_attention_heads", "attention.heads"),
    Same("rms_norm_eps", "norm_eps"),
    Same("initializer_range", "init_std"),
    OneOf("tie_word_embeddings", ("tie_embeddings",), ((True, "tied"), (False, "untied"))),
)
RMSNORM = Always({"norm": "rmsnorm"})
#: Top k of a softmax, normalised or not.
SOFTMAX_TOP_K = (
    Always({"moe.router.score": "softmax"}),
    OneOf(
        "norm_topk_prob",
        ("moe.router.normalize_over",),
        ((True, "selected"), (False, "all")),
    ),
)
NORMALIZED_TOP_K = Always({"moe.router.score": "softmax", "moe.router.normalize_over": "selected"})
ATTENTION_BIAS = OneOf("attention_bias", ("attention.bias",), ALL_OR_NONE)
ALL_SPARSE = Always({"layers": ("moe",)})
ALL_DENSE = Always({"layers": ("dense",)})
#: Qwen: sparse and dense layers, each with a width of its own.
QWEN_LAYERS = (
    SparseStep(),
    Count("intermediate_size", "mlp.d_ff"),
    Count("moe_intermediate_size", "moe.d_ff"),
    OneOf("hidden_act", ("moe.activation", "mlp.activation"), GATED),
)
EXPERTS_PER_TOKEN = Count("num_experts_per_tok", "moe.top_k")

#: What absent fields mean in every family.
DEFAULTS: dict[str, Any] = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
}


def no_biases(*fields: str) -> tuple[Only, ...]:
    """Return entries that refuse biases which no published model of the family has."""
    return tuple(Only(name, False, "only layers without biases are known") for name in fields)
