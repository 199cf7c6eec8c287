"""How a parameter is made: a value, its logical axes, its dtype. Layers use only this."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from moe_jax.config.schema import PrecisionConfig
from moe_jax.errors import UserError


def weight(
    rngs: nnx.Rngs,
    shape: Sequence[int],
    axes: Sequence[str],
    precision: PrecisionConfig,
    std: float,
) -> nnx.Param:
    """Return a normally distributed parameter of `shape`, one logical axis name per dimension."""
    value = std * jax.random.normal(rngs.params(), tuple(shape), jnp.float32)
    return _param(value, axes, precision)


def constant(
    value: float, shape: Sequence[int], axes: Sequence[str], precision: PrecisionConfig
) -> nnx.Param:
    """Return a parameter filled with `value` (biases, norm scales)."""
    return _param(jnp.full(tuple(shape), value, jnp.float32), axes, precision)


def _param(value: jax.Array, axes: Sequence[str], precision: PrecisionConfig) -> nnx.Param:
    if value.ndim != len(axes):
        raise UserError(f"parameter of shape {value.shape} needs {value.ndim} axes, got {axes}")
    return nnx.Param(value.astype(precision.params), axes=tuple(axes))
