"""Llama (dense): the degenerate case, and a source for upcycling."""

from moe_jax.interop.families.common import ATTENTION_BIASES, BASE, MLP
from moe_jax.interop.family import Family, Tensor

LLAMA = Family(
    model_type="llama",
    architecture="LlamaForCausalLM",
    tensors=(
        *BASE,
        *ATTENTION_BIASES,
        *MLP,
        Tensor("mlp.b_up_f", "model.layers.{layer}.mlp.up_proj.bias", "f -> f"),
        Tensor("mlp.b_gate_f", "model.layers.{layer}.mlp.gate_proj.bias", "f -> f"),
        Tensor("mlp.b_down_d", "model.layers.{layer}.mlp.down_proj.bias", "d -> d"),
    ),
)
