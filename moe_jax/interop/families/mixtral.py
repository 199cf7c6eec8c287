"""Mixtral: top-k experts in every layer, w1 gate, w3 up, w2 down."""

from moe_jax.interop.families.common import BASE
from moe_jax.interop.family import Family, Tensor

#: Phi-3.5-MoE has the same.
MIXTRAL_EXPERTS = (
    Tensor("moe.router.w_de", "model.layers.{layer}.block_sparse_moe.gate.weight", "e d -> d e"),
    Tensor(
        "moe.experts.w_gate_edf",
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",
        "f d -> d f",
    ),
    Tensor(
        "moe.experts.w_down_efd",
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",
        "d f -> f d",
    ),
    Tensor(
        "moe.experts.w_up_edf",
        "model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",
        "f d -> d f",
    ),
)
MIXTRAL = Family(
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    tensors=(*BASE, *MIXTRAL_EXPERTS),
)
