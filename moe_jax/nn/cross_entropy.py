"""Cross-entropy of float32 logits, and its gradient, in as few passes over them as XLA can make.

Logits are the largest arrays of a step, and each pass costs as much as a tenth of the product that
made them. So the gradient is written by hand: one expression that XLA fuses with the cast to what
the products read. JAX's own writes float32 three times over: it scatters the target's share.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from moe_jax.shapes import IdsBS
from moe_jax.sharding.tensor import TensorAxis

LogitsBSV = Float[Array, "b s v"]
LossesBS = Float[Array, "b s"]


def cross_entropy(logits_bsv: LogitsBSV, ids_bs: IdsBS, tensor: TensorAxis) -> LossesBS:
    """Return logsumexp(logits) - logits[id], in nats.

    Args:
        logits_bsv: float32, of this device's part of a vocabulary split over the tensor axis.
        ids_bs: targets, in the whole vocabulary.
        tensor: the tensor axis.
    """
    return _losses(logits_bsv, ids_bs, tensor)[0]


def cross_entropy_with_gradient(
    logits_bsv: LogitsBSV, ids_bs: IdsBS, weights_bs: LossesBS, tensor: TensorAxis
) -> tuple[LossesBS, LogitsBSV]:
    """Return losses, and the gradient of their weighted sum by this device's logits.

        gradient = weights * (softmax(logits) - onehot(id))

    Args:
        logits_bsv: as of `cross_entropy`, and so are the next.
        ids_bs: targets.
        weights_bs: float32, of each loss.
        tensor: the tensor axis.
    """
    losses_bs, normaliser_bs = _losses(logits_bsv, ids_bs, tensor)
    softmax_bsv = jnp.exp(logits_bsv - normaliser_bs[..., None])
    is_target_bsv = _row(logits_bsv, ids_bs, tensor)[..., None] == jnp.arange(logits_bsv.shape[-1])
    gradient_bsv = softmax_bsv - is_target_bsv.astype(jnp.float32)
    return losses_bs, weights_bs[..., None] * gradient_bsv


def _losses(logits_bsv: LogitsBSV, ids_bs: IdsBS, tensor: TensorAxis) -> tuple[LossesBS, LossesBS]:
    """Return losses and logsumexp(logits)."""
    own_bs, total_bs = _highest_and_total(logits_bsv)
    highest_bs = tensor.max(own_bs)
    total_bs = tensor.sum(total_bs * jnp.exp(own_bs - highest_bs))
    normaliser_bs = jnp.log(total_bs) + highest_bs
    row_bs = _row(logits_bsv, ids_bs, tensor)
    here_bs = (row_bs >= 0) & (row_bs < logits_bsv.shape[-1])
    own_bs = jnp.where(here_bs, row_bs, 0)[..., None]
    picked_bs = jnp.take_along_axis(logits_bsv, own_bs, axis=-1)[..., 0]
    return normaliser_bs - tensor.sum(jnp.where(here_bs, picked_bs, 0)), normaliser_bs


def _highest_and_total(logits_bsv: LogitsBSV) -> tuple[LossesBS, LossesBS]:
    """Return max(logits) and sum(exp(logits - max))."""
    highest_bs = logits_bsv.max(axis=-1)
    return highest_bs, jnp.exp(logits_bsv - highest_bs[..., None]).sum(axis=-1)


def _row(logits_bsv: LogitsBSV, ids_bs: IdsBS, tensor: TensorAxis) -> IdsBS:
    """Return where the targets stand in this device's part of the vocabulary, or would."""
    return ids_bs - tensor.index() * logits_bsv.shape[-1]
