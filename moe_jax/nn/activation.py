"""The activation functions of MLPs and experts, plain and gated."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_jax.config.model_schema import Activation, ExpertActivation, MoeConfig

_FUNCTIONS = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swiglu": jax.nn.silu,
    "geglu": jax.nn.gelu,
}
_GATED = ("swiglu", "geglu", "swiglu_clamped")


def is_gated(activation: ExpertActivation) -> bool:
    """Return whether the MLP has a third matrix whose output gates the hidden layer."""
    return activation in _GATED


def activate(
    activation: Activation,
    up: Float[Array, "*rows f"],
    gate: Float[Array, "*rows f"] | None,
) -> Float[Array, "*rows f"]:
    """act(up), or act(gate) * up for the gated kinds (Shazeer, 2020)."""
    function = _FUNCTIONS[activation]
    return function(up) if gate is None else function(gate) * up


def activate_experts(
    moe: MoeConfig, up: Float[Array, "*rows f"], gate: Float[Array, "*rows f"] | None
) -> Float[Array, "*rows f"]:
    """`activate` with the activation of experts, which may be clamped.

    Args:
        moe: names the activation, and its limits.
        up: what the up projection gave.
        gate: what the gate gave; None for kinds without one.

    swiglu_clamped: (clip(up, -limit, limit) + 1) * g * sigmoid(alpha * g), g = min(gate, limit)
    (gpt-oss model card, OpenAI, 2025).
    """
    if moe.activation != "swiglu_clamped":
        return activate(moe.activation, up, gate)
    assert gate is not None, "swiglu_clamped is gated"
    up = jnp.clip(up, -moe.clamp_limit, moe.clamp_limit)
    gate = jnp.minimum(gate, moe.clamp_limit)
    return (up + 1) * gate * jax.nn.sigmoid(moe.clamp_alpha * gate)
