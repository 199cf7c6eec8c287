"""What a model keeps of the tokens it has seen: shapes, shardings and an empty cache.

One tuple of arrays [repeats, slots, places, heads, width] per layer of each stack's unit. Slots
(sequences) are split over the batch axes, key/value heads over the tensor axis. What is written
and read is in `nn/cached_attention.py`, when in `model/decoding.py`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec

from moe_jax.axes import BATCH_AXES, TENSOR
from moe_jax.config.model_schema import AttentionConfig
from moe_jax.config.schema import Config
from moe_jax.model.pattern import layer_runs
from moe_jax.model.skeleton import AnyMesh
from moe_jax.nn.self_attention import Entry

#: Per stack, per layer of its unit.
Cache = tuple[tuple[Entry, ...], ...]
#: The same of ShapeDtypeStructs.
AbstractCache = Any


@dataclass(frozen=True)
class EntryShape:
    """One array of a layer's cache: per token [heads, width], and what splits the heads."""

    heads: int
    width: int
    axis: str | None

    @property
    def spec(self) -> PartitionSpec:
        """Where [repeats, slots, places, heads, width] lives."""
        return PartitionSpec(None, BATCH_AXES, None, self.axis, None)


def entry_shapes(attention: AttentionConfig, tensor: int) -> tuple[EntryShape, ...]:
    """Return the arrays of one layer.

    Where key/value heads are fewer than the tensor axis, each device keeps the one head it reads.

    Args:
        attention: of every layer.
        tensor: devices of the tensor axis.
    """
    if attention.kind == "latent":
        return (EntryShape(1, attention.latent.kv_rank + attention.latent.rope_head_dim, None),)
    one = EntryShape(max(attention.kv_heads, tensor), attention.head_dim, TENSOR)
    return (one, one)


def abstract_cache(config: Config, mesh: AnyMesh, *, slots: int, context: int) -> AbstractCache:
    """Return the cache as ShapeDtypeStructs with shardings.

    Args:
        config: of the model.
        mesh: where the cache lives.
        slots: sequences; a multiple of the devices that the batch is split over.
        context: tokens of a sequence; layers with a smaller sliding window keep only that.
    """
    model, dtype = config.model, jnp.dtype(config.precision.compute)
    entries = entry_shapes(model.attention, dict(mesh.shape)[TENSOR])

    def array(entry: EntryShape, repeats: int, window: int) -> jax.ShapeDtypeStruct:
        places = min(window or context, context)
        shape = (repeats, slots, places, entry.heads, entry.width)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, entry.spec))

    return tuple(
        tuple(
            tuple(array(entry, run.repeats, spec.window) for entry in entries) for spec in run.unit
        )
        for run in layer_runs(model)
    )


def empty_cache(abstract: AbstractCache) -> Cache:
    """Return the cache of which `abstract` tells, created in place on its mesh."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, abstract)

    def create() -> Cache:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)

    return jax.jit(create, out_shardings=shardings)()
