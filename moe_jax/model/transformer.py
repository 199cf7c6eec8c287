"""The decoder-only transformer: embedding, stacks of layers, final norm, output projection."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moe_jax.config.schema import Config, ModelConfig, PrecisionConfig
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import segments
from moe_jax.model.stack import Remat, Stack, Streams
from moe_jax.moe.layer import MoeStats
from moe_jax.nn.embedding import Embedding, Unembedding
from moe_jax.nn.norm import make_norm
from moe_jax.shapes import BatchBSD, IdsBS
from moe_jax.sharding.params import specs
from moe_jax.sharding.rules import BATCH, shard_spec
from moe_jax.sharding.spmd import on_batch_shards

IdsNBS = Int[Array, "n b s"]


class Head(nnx.Module):
    """Final norm and output projection: hidden states to logits."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(model, precision)
        if model.tie_embeddings == "untied":
            self.output = Unembedding(model, precision, rngs=rngs)

    def __call__(self, x_bsd: BatchBSD, embedding: Embedding) -> Float[Array, "b s v"]:
        output = self.output if hasattr(self, "output") else embedding
        return output.logits(self.norm(x_bsd))


class Transformer(nnx.Module):
    """Holds the parameters; computes on streams of whole sequences."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        self.embedding = Embedding(model, precision, rngs=rngs)
        self.stacks = nnx.List(
            Stack(model, precision, segment, rngs=rngs) for segment in segments(model)
        )
        self.head = Head(model, precision, rngs=rngs)

    def hidden(
        self,
        tokens: IdsNBS,
        positions: IdsNBS,
        segment_ids: IdsNBS,
        parallel: Parallel,
        remat: Remat = "none",
    ) -> tuple[Streams, MoeStats | None]:
        """Returns the hidden states of each stream before the head, and what layers counted.

        Args:
            tokens, positions, segment_ids: int32 [streams, batch, seq], batch split over devices.

        The counts are summed over streams and devices; leaves are [moe layers, ...]. None for a
        model without MoE layers.
        """
        streams = self._embed(tokens, parallel)
        per_stack = []
        for stack in self.stacks:
            streams, stats = stack(streams, tuple(positions), tuple(segment_ids), parallel, remat)
            per_stack.append(_in_layer_order(stats))
        found = [stats for stats in per_stack if stats is not None]
        if not found:
            return streams, None
        per_layer = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *found)
        return streams, jax.tree.map(lambda leaf: leaf.sum(axis=1), per_layer)

    def _embed(self, tokens: IdsNBS, parallel: Parallel) -> Streams:
        def embed(embedding: Embedding, ids: tuple[IdsBS, ...]) -> Streams:
            # One lookup for all streams: its gradient is one scatter into the table.
            return tuple(jnp.split(embedding(jnp.concatenate(ids)), len(ids)))

        return on_shards(embed, parallel, self.embedding, tuple(tokens))


def on_shards(function: Any, parallel: Parallel, module: Any, *args: Any) -> Any:
    """Runs `function(module, *args)` on each device's slice of the batch.

    The module (or tuple of them) enters whole; every array of `args` and of the result is split
    on dimension 0.
    """
    graphdef, state = nnx.split(module)
    mapped = on_batch_shards(
        lambda state, *args: function(nnx.merge(graphdef, state), *args),
        parallel.mesh,
        in_specs=(specs(state, shard_spec), *(_batch_specs(arg) for arg in args)),
        out_specs=BATCH,
    )
    return mapped(state, *args)


def make_transformer(config: Config, seed: int) -> Transformer:
    """Returns freshly initialised parameters on the default device."""
    return Transformer(config.model, config.precision, rngs=nnx.Rngs(params=seed))


def _batch_specs(tree: Any) -> Any:
    return jax.tree.map(lambda _: BATCH, tree)


def _in_layer_order(stats: list[MoeStats]) -> MoeStats | None:
    """Merges the unit's MoE layers, [repeats, devices, ...] each, into [layers, devices, ...]."""
    if not stats:
        return None

    def interleave(*leaves: Array) -> Array:
        stacked = jnp.stack(leaves, axis=1)
        return stacked.reshape(-1, *stacked.shape[2:])

    return jax.tree.map(interleave, *stats)
