"""Next-token cross-entropy, computed in chunks of the sequence.

The logits of a whole batch would be larger than the model (80,000 tokens x 32,000 words in
float32 are 10 GB), so a chunk's logits live only while it is being computed. The loss is a sum, so
its gradients are known up to one factor as soon as a chunk's logits are: they are computed beside
it, and backward multiplies by the factor instead of computing logits again.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moe_jax.model.chunks import Chunks, Hidden, Targets, Weights
from moe_jax.model.parallel import Parallel
from moe_jax.model.transformer import Head, Transformer
from moe_jax.model.unit import Streams
from moe_jax.nn.cross_entropy import cross_entropy, cross_entropy_with_gradient
from moe_jax.nn.embedding import Embedding
from moe_jax.sharding.regions import run_gathered
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.tensor import TensorAxis

#: The head, and the embedding where its table is the output projection too.
Modules = tuple[Head, Embedding | None]


def cross_entropy_sum(
    model: Transformer,
    streams: Streams,
    targets: Int[Array, "n b s"],
    weights: Float[Array, "n b s"],
    parallel: Parallel,
    chunk: int,
) -> Float[Array, ""]:
    """Return sum(weights * -log p(target)) over all streams and devices, in nats.

    Its gradient is that by the model and the streams. Targets and their weights are data: nothing
    flows back to them.

    Args:
        model: provides the head.
        streams: hidden states before the head, [batch, seq, d_model] each.
        targets: token ids.
        weights: float32; 0 excludes a token.
        parallel: where to run.
        chunk: positions of each sequence whose logits exist at a time.
    """

    def local(modules: Modules, xs: Streams, ids: Targets, scales: Weights) -> Array:
        graphdef, state = nnx.split(modules)
        dtypes = jax.tree.map(lambda p: p.dtype, state)
        chunks = Chunks(xs[0].shape[1], chunk, parallel.tensor.token_shards)
        loss = _Loss(graphdef, dtypes, chunks, parallel.tensor)
        summed = jax.custom_vjp(loss.value)
        summed.defvjp(loss.with_gradients, loss.scaled)
        return summed(state, xs, ids, scales)[None]

    tied = model.head.config.tie_embeddings == "tied"
    return run_gathered(
        local,
        parallel,
        (model.head, model.embedding if tied else None),
        streams,
        tuple(targets),
        tuple(weights),
        in_specs=(parallel.activations, BATCH, BATCH),
        out_specs=BATCH,
    ).sum()


@dataclass(frozen=True)
class _Loss:
    """The weighted sum on one device's shards as a function of arrays, and its gradients.

    All streams take part in one scan over chunks: the head's gradient is accumulated once.

    Attributes:
        graphdef: of the head and, where its table is tied, the embedding.
        dtypes: of their parameters.
        chunks: of the sequences.
        tensor: the tensor axis.
    """

    graphdef: Any
    dtypes: Any
    chunks: Chunks
    tensor: TensorAxis

    def value(self, state: Any, xs: Streams, targets: Targets, weights: Weights) -> Array:
        """Return the sum alone."""
        state = _multiplied(state, xs[0].dtype)

        def step(total: Array, index: Array) -> tuple[Array, None]:
            ids, scale = self.chunks.targets(targets, weights, index)
            logits = self._logits(state, self.chunks.hidden(xs, index))
            return total + (cross_entropy(logits, ids, self.tensor) * scale).sum(), None

        return jax.lax.scan(step, jnp.zeros((), jnp.float32), jnp.arange(self.chunks.count))[0]

    def with_gradients(
        self, state: Any, xs: Streams, targets: Targets, weights: Weights
    ) -> tuple[Array, tuple[Any, Streams]]:
        """Return the sum; gradients of the parameters in float32; those of `xs` in its dtype."""
        state = _multiplied(state, xs[0].dtype)

        def step(carry: tuple[Array, Any, Streams], index: Array) -> tuple[Any, None]:
            total, grads, grad_xs = carry
            ids, scale = self.chunks.targets(targets, weights, index)
            x = self.chunks.hidden(xs, index)
            logits, pull = jax.vjp(self._logits, _float32(state), x)
            losses, grad = cross_entropy_with_gradient(logits, ids, scale, self.tensor)
            more, grad_x = pull(grad)
            grads = jax.tree.map(jnp.add, grads, more)
            grad_xs = self.chunks.added(grad_xs, grad_x, index)
            return (total + (losses * scale).sum(), grads, grad_xs), None

        nothing = jax.tree.map(jnp.zeros_like, (jnp.float32(0), _float32(state), xs))
        (total, *grads), _ = jax.lax.scan(step, nothing, jnp.arange(self.chunks.count))
        return total, tuple(grads)

    def scaled(self, grads: tuple[Any, Streams], grad: Array) -> tuple[Any, Streams, None, None]:
        """Return the gradients for that of the sum; targets and weights have none."""
        # What was summed over the tensor axis has a gradient that is summed over it.
        grad, (of_state, of_xs) = self.tensor.sum(grad), grads

        def times(g: Array, dtype: Any) -> Array:
            return (grad * g.astype(jnp.float32)).astype(dtype)

        of_state = jax.tree.map(times, of_state, self.dtypes)
        return of_state, tuple(times(g, g.dtype) for g in of_xs), None, None

    def _logits(self, state: Any, x: Hidden) -> Float[Array, "rows chunk v"]:
        head, embedding = nnx.merge(self.graphdef, state)
        return head(x, embedding, self.tensor)


def _multiplied(state: Any, dtype: Any) -> Any:
    """Return parameters with matrices in the dtype of products: cast once, not for each chunk."""
    return jax.tree.map(lambda p: p.astype(dtype) if p.ndim == 2 else p, state)


def _float32(state: Any) -> Any:
    """Return parameters as float32: so are their gradients, of which many are added up."""
    return jax.tree.map(lambda p: p.astype(jnp.float32), state)
