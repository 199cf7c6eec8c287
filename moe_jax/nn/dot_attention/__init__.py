"""Attention of whole sequences: one contract, several implementations. See README.md."""

from moe_jax.nn.dot_attention.contract import Implementation, dot_attention

__all__ = ["Implementation", "dot_attention"]
