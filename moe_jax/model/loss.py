"""Next-token cross-entropy, computed in chunks of the sequence.

The logits of a whole batch would be larger than the model (80,000 tokens x 32,000 words in
float32 are 10 GB), so a chunk's logits live only while it is being computed, also in backward.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.model.parallel import Parallel
from moe_jax.model.transformer import Head, Transformer
from moe_jax.model.unit import Streams
from moe_jax.nn.embedding import Embedding
from moe_jax.shapes import IdsBS, WholeBS
from moe_jax.sharding.regions import run_gathered
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.tensor import TensorAxis


def cross_entropy_sum(
    model: Transformer,
    streams: Streams,
    targets: Int[Array, "n b s"],
    weights: Float[Array, "n b s"],
    parallel: Parallel,
    chunk: int,
) -> Float[Array, ""]:
    """Return sum(weights * -log p(target)) over all streams and devices, in nats.

    Args:
        model: provides the head.
        streams: hidden states before the head, [batch, seq, d_model] each.
        targets: token ids.
        weights: float32; 0 excludes a token.
        parallel: where to run.
        chunk: positions of each sequence whose logits exist at a time.
    """

    def local(modules: tuple[Head, Embedding], xs: Streams, ids: tuple, scales: tuple) -> Array:
        return _chunked(*modules, xs, ids, scales, chunk, parallel.tensor)[None]

    return run_gathered(
        local,
        parallel,
        (model.head, model.embedding),
        streams,
        tuple(targets),
        tuple(weights),
        in_specs=(parallel.activations, BATCH, BATCH),
        out_specs=BATCH,
    ).sum()


def _chunked(
    head: Head,
    embedding: Embedding,
    xs: Streams,
    targets: tuple[WholeBS, ...],
    weights: tuple[Float[Array, "b whole"], ...],
    chunk: int,
    tensor: TensorAxis,
) -> Float[Array, ""]:
    """One scan over chunks for all streams: the head's gradient is accumulated once.

    A chunk is a range of the positions that each device of the tensor axis holds.
    """
    length = xs[0].shape[1]
    chunks = -(-length * tensor.token_shards // chunk)
    size = -(-length // chunks)

    @jax.checkpoint
    def step(total: Array, index: Array) -> tuple[Array, None]:
        start = jnp.minimum(index * size, length - size)
        x = jnp.concatenate([_slice(part, start, size) for part in xs])
        ids, scale = (
            jnp.concatenate([_slice_of_each(part, start, size, tensor) for part in parts])
            for parts in (targets, weights)
        )
        # The last chunk starts early where it would pass the end; what it repeats counts once.
        fresh = jnp.tile(start + jnp.arange(size) >= index * size, tensor.token_shards)
        losses = _cross_entropy(head(x, embedding, tensor), ids, tensor)
        return total + (losses * scale * fresh.astype(jnp.float32)).sum(), None

    return jax.lax.scan(step, jnp.zeros((), jnp.float32), jnp.arange(chunks))[0]


def _cross_entropy(
    logits_bsv: Float[Array, "b s v"], ids_bs: IdsBS, tensor: TensorAxis
) -> Float[Array, "b s"]:
    """logsumexp(logits) - logits[id], over a vocabulary split over the tensor axis."""
    highest = tensor.max(logits_bsv.max(axis=-1))
    total = tensor.sum(jnp.exp(logits_bsv - highest[..., None]).sum(axis=-1))
    row_bs = ids_bs - tensor.index() * logits_bsv.shape[-1]
    here_bs = (row_bs >= 0) & (row_bs < logits_bsv.shape[-1])
    own = jnp.where(here_bs, row_bs, 0)[..., None]
    picked = jnp.take_along_axis(logits_bsv, own, axis=-1)[..., 0]
    return jnp.log(total) + highest - tensor.sum(jnp.where(here_bs, picked, 0))


def _slice(x: Array, start: Array, size: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis=1)


def _slice_of_each(x: Array, start: Array, size: int, tensor: TensorAxis) -> Array:
    """Return the same range of every device's part of [batch, whole], joined."""
    batch = x.shape[0]
    parts = x.reshape(batch, tensor.token_shards, -1)
    return jax.lax.dynamic_slice_in_dim(parts, start, size, axis=2).reshape(batch, -1)
