"""Heads of other widths than a kernel knows: zeros add nothing to a product."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def widened(x: Float[Array, "*b u"], width: int) -> Float[Array, "*b w"]:
    """Return `x` with zeros appended to its last dimension, up to `width`."""
    if x.shape[-1] == width:
        return x
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
