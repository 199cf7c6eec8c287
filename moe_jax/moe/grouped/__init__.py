"""Grouped matmuls: rows sorted by expert, the experts' counts as data. See README.md."""

from moe_jax.moe.grouped.choose import Implementation
from moe_jax.moe.grouped.matmul import grouped_matmul
from moe_jax.moe.grouped.mlp import gated_mlp, swiglu
from moe_jax.moe.grouped.pair import grouped_pair

__all__ = ["Implementation", "gated_mlp", "grouped_matmul", "grouped_pair", "swiglu"]
