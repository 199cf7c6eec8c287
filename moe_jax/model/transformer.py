"""The decoder-only transformer: embedding, stacks of layers, final norm, output projection."""

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import Config, PrecisionConfig
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import layer_runs
from moe_jax.model.stack import Stack
from moe_jax.model.unit import Ids, Streams
from moe_jax.moe.layer import MoeStats
from moe_jax.nn.embedding import Embedding, Unembedding
from moe_jax.nn.norm import make_norm
from moe_jax.nn.param import constant
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.regions import run_gathered
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.tensor import ONE, TensorAxis

IdsNBS = Int[Array, "n b s"]


class Head(nnx.Module):
    """Final norm and output projection: hidden states to logits.

    A device computes the logits of its part of the vocabulary, for the tokens of its tensor axis.
    """

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        self.norm = make_norm(model, precision)
        if model.tie_embeddings == "untied":
            self.output = Unembedding(model, precision, rngs=rngs)
        if model.head_bias == "per_token":
            self.b_v = constant(0.0, (model.vocab_size,), ("vocab",), precision)
        self.config = model

    def __call__(
        self, x_bsd: BatchBSD, embedding: Embedding | None, tensor: TensorAxis = ONE
    ) -> Float[Array, "b whole v"]:
        """Return the logits of this device's part of the vocabulary, for whole sequences.

        Args:
            x_bsd: hidden states, this device's part of the sequence.
            embedding: the table; only tied embeddings need it.
            tensor: the tensor axis.
        """
        output = self.output if hasattr(self, "output") else embedding
        assert output is not None, "tied embeddings need the table"
        logits_bsv = output.logits(tensor.enter(self.norm(x_bsd)))
        if self.config.head_bias == "per_token":
            logits_bsv = logits_bsv + self.b_v[...].astype(logits_bsv.dtype)
        return logits_bsv / self.config.logit_divisor


class Transformer(nnx.Module):
    """Holds the parameters; computes on streams of whole sequences."""

    def __init__(self, model: ModelConfig, precision: PrecisionConfig, *, rngs: nnx.Rngs):
        self.embedding = Embedding(model, precision, rngs=rngs)
        self.stacks = nnx.List(
            Stack(model, precision, layers, rngs=rngs) for layers in layer_runs(model)
        )
        self.head = Head(model, precision, rngs=rngs)

    def hidden(
        self,
        tokens: IdsNBS,
        positions: IdsNBS,
        segments: IdsNBS,
        parallel: Parallel,
        remat: str = "none",
    ) -> tuple[Streams, MoeStats | None]:
        """Return the hidden states of each stream before the head, and what layers counted.

        Args:
            tokens: int32 [streams, batch, seq], batch split over devices.
            positions: of each token in its document, likewise.
            segments: the document of each token, likewise.
            parallel: where this runs.
            remat: `train.remat`, what backward finds of a layer.

        Returns:
            Each stream's [batch, seq, d_model], and counts summed over streams and devices, whose
            leaves are [moe layers, ...]; None for a model without MoE layers.
        """
        streams = self.embed(tokens, parallel)
        per_stack = []
        for stack in self.stacks:
            streams, stats = stack(streams, tuple(positions), tuple(segments), parallel, remat)
            per_stack.append(_in_layer_order(stats))
        counted = [stats for stats in per_stack if stats is not None]
        if not counted:
            return streams, None
        per_layer = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *counted)
        return streams, jax.tree.map(lambda leaf: leaf.sum(axis=1), per_layer)

    def embed(self, tokens: IdsNBS, parallel: Parallel) -> Streams:
        """Return the embedded tokens of each stream, [batch, seq, d_model]."""

        def embed(embedding: Embedding, ids: Ids) -> Streams:
            # One lookup for all streams: its gradient is one scatter into the table.
            return tuple(jnp.split(embedding(jnp.concatenate(ids), parallel.tensor), len(ids)))

        return run_gathered(
            embed,
            parallel,
            self.embedding,
            tuple(tokens),
            in_specs=(BATCH,),
            out_specs=parallel.activations,
        )


def make_transformer(config: Config, seed: int) -> Transformer:
    """Return freshly initialised parameters on the default device."""
    return Transformer(config.model, config.precision, rngs=nnx.Rngs(params=seed))


def _in_layer_order(stats: list[MoeStats]) -> MoeStats | None:
    """Merge the unit's MoE layers, [repeats, devices, ...] each, into [layers, devices, ...]."""
    if not stats:
        return None

    def interleave(*leaves: Array) -> Array:
        stacked = jnp.stack(leaves, axis=1)
        return stacked.reshape(-1, *stacked.shape[2:])

    return jax.tree.map(interleave, *stats)
