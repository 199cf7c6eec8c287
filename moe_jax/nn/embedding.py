"""Token embedding, and the output projection to the vocabulary (tied or its own)."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moe_jax.config.schema import ModelConfig, PrecisionConfig
from moe_jax.nn.param import weight
from moe_jax.shapes import BatchBSD, IdsBS


class Embedding(nnx.Module):
    """Rows of a [vocab, d_model] table."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        shape = (model.vocab_size, model.d_model)
        self.w_vd = weight(rngs, shape, ("vocab", "embed"), precision, model.init_std)
        self.dtype = jnp.dtype(precision.compute)

    def __call__(self, ids_bs: IdsBS) -> BatchBSD:
        return jnp.take(self.w_vd[...], ids_bs, axis=0).astype(self.dtype)

    def logits(self, x_bsd: BatchBSD) -> Float[Array, "b s v"]:
        """The tied output projection, in float32."""
        return _logits(x_bsd, self.w_vd[...].astype(self.dtype))


class Unembedding(nnx.Module):
    """An output projection of its own."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        shape = (model.vocab_size, model.d_model)
        self.w_vd = weight(rngs, shape, ("vocab", "embed"), precision, model.init_std)
        self.dtype = jnp.dtype(precision.compute)

    def logits(self, x_bsd: BatchBSD) -> Float[Array, "b s v"]:
        return _logits(x_bsd, self.w_vd[...].astype(self.dtype))


def _logits(x_bsd: BatchBSD, w_vd: Float[Array, "v d"]) -> Float[Array, "b s v"]:
    return jnp.einsum("bsd,vd->bsv", x_bsd, w_vd, preferred_element_type=jnp.float32)
