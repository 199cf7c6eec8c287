"""RMSNorm and LayerNorm over the last dimension, computed in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.param import constant


class RMSNorm(nnx.Module):
    """y = x / sqrt(mean(x²) + eps) * scale (Zhang & Sennrich, 2019)."""

    def __init__(self, size: int, eps: float, precision: PrecisionConfig, axis: str = "norm"):
        self.scale = constant(1.0, (size,), (axis,), precision)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return y in the dtype of x."""
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x32), axis=-1, keepdims=True) + self.eps)
        return (x32 * inverse * self.scale[...].astype(jnp.float32)).astype(x.dtype)


class LayerNorm(nnx.Module):
    """y = (x - mean) / sqrt(var + eps) * scale + bias (Ba et al., 2016)."""

    def __init__(self, size: int, eps: float, precision: PrecisionConfig):
        self.scale = constant(1.0, (size,), ("norm",), precision)
        self.bias = constant(0.0, (size,), ("norm",), precision)
        self.eps = eps

    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        """Return y in the dtype of x."""
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(centred), axis=-1, keepdims=True) + self.eps)
        y = centred * inverse * self.scale[...].astype(jnp.float32)
        return (y + self.bias[...].astype(jnp.float32)).astype(x.dtype)


def make_norm(model: ModelConfig, precision: PrecisionConfig) -> RMSNorm | LayerNorm:
    """Return the norm that the config names, over d_model."""
    kind = {"rmsnorm": RMSNorm, "layernorm": LayerNorm}[model.norm]
    return kind(model.d_model, model.norm_eps, precision)
