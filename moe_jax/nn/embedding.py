"""Token embedding, and the output projection to the vocabulary (tied or its own).

The vocabulary is split over the tensor axis: a device holds consecutive rows of the table.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.nn.param import weight
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.tensor import ONE, TensorAxis


class Embedding(nnx.Module):
    """Rows of a [vocab, d_model] table."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        shape = (model.vocab_size, model.d_model)
        self.w_vd = weight(rngs, shape, ("vocab", "embed"), precision, model.init_std)
        self.scale = model.embedding_scale
        self.dtype = jnp.dtype(precision.compute)

    def __call__(self, ids_bs: WholeBS, tensor: TensorAxis = ONE) -> BatchBSD:
        """Return this device's part of the sequence, from ids of whole sequences."""
        w_vd = self.w_vd[...]
        row_bs = ids_bs - tensor.index() * w_vd.shape[0]
        here_bs = (row_bs >= 0) & (row_bs < w_vd.shape[0])
        # Rows that other devices hold are zeros here; exactly one device adds something.
        x_bsd = jnp.take(w_vd, jnp.where(here_bs, row_bs, 0), axis=0).astype(self.dtype)
        x_bsd = tensor.leave(x_bsd * here_bs[..., None].astype(self.dtype))
        return x_bsd if self.scale == 1 else x_bsd * jnp.asarray(self.scale, self.dtype)

    def logits(self, x_bsd: BatchBSD) -> Float[Array, "b s v"]:
        """Return the logits of the rows held here, in float32: the tied output projection."""
        return _logits(x_bsd, self.w_vd[...])


class Unembedding(nnx.Module):
    """An output projection of its own."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        shape = (model.vocab_size, model.d_model)
        self.w_vd = weight(rngs, shape, ("vocab", "embed"), precision, model.init_std)
        self.dtype = jnp.dtype(precision.compute)

    def logits(self, x_bsd: BatchBSD) -> Float[Array, "b s v"]:
        """Return the logits of the rows held here, in float32."""
        return _logits(x_bsd, self.w_vd[...])


@jax.custom_vjp
def _logits(x_bsd: BatchBSD, w_vd: Float[Array, "v d"]) -> Float[Array, "b s v"]:
    """Return float32 logits whose gradient travels on in the dtype of what was multiplied.

    That is the dtype of the hidden states. JAX's own rule multiplies float32 gradients, at half the
    tensor cores' rate: 7 % of a step of four of the paper's layers on an H100 (measured).
    """
    w_vd = w_vd.astype(x_bsd.dtype)
    return jnp.einsum("bsd,vd->bsv", x_bsd, w_vd, preferred_element_type=jnp.float32)


def _logits_backward(saved: tuple[Array, Array], grad_bsv: Array) -> tuple[Array, Array]:
    """Return the gradients; that of a float32 table is one, never rounded on the way."""
    x_bsd, w_vd = saved
    grad_bsv = grad_bsv.astype(x_bsd.dtype)
    grad_x = jnp.einsum("bsv,vd->bsd", grad_bsv, w_vd.astype(x_bsd.dtype))
    return grad_x, jnp.einsum("bsv,bsd->vd", grad_bsv, x_bsd, preferred_element_type=w_vd.dtype)


_logits.defvjp(lambda x, w: (_logits(x, w), (x, w)), _logits_backward)
