"""Next-token cross-entropy, computed in chunks of the sequence.

The logits of a whole batch would be larger than the model (80,000 tokens x 32,000 words in
float32 are 10 GB), so a chunk's logits live only while it is being computed, also in backward.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from moe_jax.model.parallel import Parallel
from moe_jax.model.stack import Streams
from moe_jax.model.transformer import Head, Transformer, on_shards
from moe_jax.nn.embedding import Embedding
from moe_jax.shapes import IdsBS


def cross_entropy_sum(
    model: Transformer,
    streams: Streams,
    targets: Int[Array, "n b s"],
    weights: Float[Array, "n b s"],
    parallel: Parallel,
    chunk: int,
) -> Float[Array, ""]:
    """Returns sum(weights * -log p(target)) over all streams and devices, in nats.

    Args:
        model: provides the head.
        streams: hidden states before the head, [batch, seq, d_model] each.
        targets: token ids.
        weights: float32; 0 excludes a token.
        parallel: where to run.
        chunk: positions of each sequence whose logits exist at a time.
    """

    def local(modules: tuple[Head, Embedding], xs: Streams, ids: tuple, scales: tuple) -> Array:
        return _chunked(*modules, xs, ids, scales, chunk)[None]

    modules = (model.head, model.embedding)
    return on_shards(local, parallel, modules, streams, tuple(targets), tuple(weights)).sum()


def _chunked(
    head: Head,
    embedding: Embedding,
    xs: Streams,
    targets: tuple[IdsBS, ...],
    weights: tuple[Float[Array, "b s"], ...],
    chunk: int,
) -> Float[Array, ""]:
    """One scan over chunks for all streams: the head's gradient is accumulated once."""
    length = xs[0].shape[1]
    chunks = -(-length // chunk)
    size = -(-length // chunks)

    @jax.checkpoint
    def step(total: Array, index: Array) -> tuple[Array, None]:
        x, ids, scale = (
            jnp.concatenate([_slice(part, index * size, size, length) for part in parts])
            for parts in (xs, targets, weights)
        )
        # The last chunk starts early where it would pass the end; what it repeats counts once.
        fresh = jnp.arange(size) + jnp.minimum(index * size, length - size) >= index * size
        logits = head(x, embedding)
        picked = jnp.take_along_axis(logits, ids[..., None], axis=-1)[..., 0]
        losses = jax.nn.logsumexp(logits, axis=-1) - picked
        return total + (losses * scale * fresh.astype(jnp.float32)).sum(), None

    return jax.lax.scan(step, jnp.zeros((), jnp.float32), jnp.arange(chunks))[0]


def _slice(x: Array, start: Array, size: int, length: int) -> Array:
    return jax.lax.dynamic_slice_in_dim(x, jnp.minimum(start, length - size), size, axis=1)
