"""The activation functions of MLPs and experts, plain and gated."""

import jax
from jaxtyping import Array, Float

from moe_jax.config.schema import Activation

_FUNCTIONS = {
    "gelu": jax.nn.gelu,
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "swiglu": jax.nn.silu,
    "geglu": jax.nn.gelu,
}
_GATED = ("swiglu", "geglu")


def is_gated(activation: Activation) -> bool:
    """Returns whether the MLP has a third matrix whose output gates the hidden layer."""
    return activation in _GATED


def activate(
    activation: Activation,
    up: Float[Array, "*rows f"],
    gate: Float[Array, "*rows f"] | None,
) -> Float[Array, "*rows f"]:
    """act(up), or act(gate) * up for the gated kinds (Shazeer, 2020)."""
    function = _FUNCTIONS[activation]
    return function(up) if gate is None else function(gate) * up
