"""Constants that stay where they are used.

JAX moves what depends on no data out of a scan whose gradient is taken: constants of a layer become
arrays that all streams read. XLA fuses operations that read the same array, across streams, and a
stream's experts then wait for the other streams' tokens. So constants here seem to depend on data:
XLA's algebra knows that x * 0 is 0, and makes them constants again.
"""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Shaped


def iota(size: int, near: Shaped[Array, "..."]) -> Int[Array, " n"]:
    """Return 0, 1, ..., size - 1, as int32.

    Args:
        size: how many.
        near: integers or booleans of the same stream, at least one.
    """
    return jnp.arange(size, dtype=jnp.int32) + _zero(near)


def where(keep: Bool[Array, "..."], x: Array, otherwise: int) -> Array:
    """Return `jnp.where(keep, x, otherwise)`."""
    return jnp.where(keep, x, (_zero(keep) + otherwise).astype(x.dtype))


def _zero(near: Array) -> Int[Array, ""]:
    return near.reshape(-1)[0].astype(jnp.int32) * 0
