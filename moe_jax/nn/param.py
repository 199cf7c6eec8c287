"""How a parameter is made: a value, its logical axes, its dtype. Layers use only this."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from moe_jax.config.schema import DType, PrecisionConfig
from moe_jax.errors import UserError


def weight(
    rngs: nnx.Rngs,
    shape: Sequence[int],
    axes: Sequence[str],
    precision: PrecisionConfig,
    std: float,
    *,
    used_in: DType | None = None,
) -> nnx.Param:
    """Return a normally distributed parameter of `shape`, one logical axis name per dimension.

    Args:
        rngs: source of randomness.
        shape: its dimensions.
        axes: their logical names.
        precision: the dtype that it is stored in.
        std: standard deviation.
        used_in: dtype that its layer rounds it to before it computes; None: `precision.compute`.
    """
    value = std * jax.random.normal(rngs.params(), tuple(shape), jnp.float32)
    return _param(value, axes, precision, used_in or precision.compute)


def constant(
    value: float, shape: Sequence[int], axes: Sequence[str], precision: PrecisionConfig
) -> nnx.Param:
    """Return a parameter filled with `value` (biases, norm scales)."""
    filled = jnp.full(tuple(shape), value, jnp.float32)
    return _param(filled, axes, precision, precision.params)


def _param(
    value: jax.Array, axes: Sequence[str], precision: PrecisionConfig, used_in: DType
) -> nnx.Param:
    if value.ndim != len(axes):
        raise UserError(f"parameter of shape {value.shape} needs {value.ndim} axes, got {axes}")
    return nnx.Param(value.astype(precision.params), axes=tuple(axes), used_in=used_in)
