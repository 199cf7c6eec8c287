"""A transformer that remembers: prefill reads whole prompts, decode adds a token to each sequence.

Both run the layers of `transformer.py` and fill the cache of `cache.py`. A stack is one
`on_device_shards` region around a scan that carries the cache, so that it changes in place. There
is no pipeline here: the pipe axis has size 1. Choosing tokens is in `inference/`.

A decode step takes as long as its weights take to be read, and a scan copies each layer's before it
uses them (XLA fuses no dynamic slice into a product): a step of OLMoE-1B-7B takes 14.6 ms with it
and 8.8 ms without (measured on one H100, JAX 0.11.2). So decode's scan is unrolled, unless layers
gather parameters, which might then all be there at once.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from moe_jax.axes import TENSOR
from moe_jax.model.block import Block
from moe_jax.model.cache import Cache, entry_shapes
from moe_jax.model.parallel import Parallel
from moe_jax.model.stack import Stack
from moe_jax.model.transformer import IdsNBS, Transformer
from moe_jax.model.unit import Streams
from moe_jax.nn.cached_attention import visible, write
from moe_jax.nn.self_attention import Entry
from moe_jax.scopes import LAYERS
from moe_jax.shapes import BatchBSD
from moe_jax.sharding.params import Variables, gather, gathers_anything
from moe_jax.sharding.regions import run_gathered, run_stored
from moe_jax.sharding.rules import BATCH


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Prompts:
    """What prefill knows of the sequences of one stream.

    Attributes:
        lengths_b: tokens of each prompt; later positions are padding.
        rows_b: row of each in its device's part of the cache; beyond it: not kept.
    """

    lengths_b: Int[Array, " b"]
    rows_b: Int[Array, " b"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Newest:
    """What decode knows of the token of each cache row.

    Attributes:
        positions_b: of the token in its sequence.
        valid_b: whether there is one; other rows are left as they are.
        reads: above every position; what a cache holds beyond is not read.
    """

    positions_b: Int[Array, " b"]
    valid_b: Bool[Array, " b"]
    reads: int = field(metadata={"static": True})


def prefill(
    model: Transformer,
    tokens: IdsNBS,
    lengths: Int[Array, "n b"],
    rows: Int[Array, "n b"],
    cache: Cache,
    parallel: Parallel,
) -> tuple[Float[Array, "nb v"], Cache]:
    """Read prompts into cache rows; return the logits after each one's last token.

    Args:
        model: the transformer.
        tokens: int32 [streams, batch, seq], padded at the end, batch split over devices.
        lengths: of `Prompts`, [streams, batch].
        rows: likewise.
        cache: what the rows held is overwritten.
        parallel: where this runs.

    Returns:
        Logits [streams * batch, vocab], vocabulary split over the tensor axis; and the cache.
    """
    streams = model.embed(tokens, parallel)
    prompts = tuple(Prompts(*pair) for pair in zip(lengths, rows, strict=True))
    streams, cache = _through(model, _prefill_block, streams, prompts, cache, parallel)
    last = [
        jnp.take_along_axis(x, (one.lengths_b - 1)[:, None, None], axis=1)
        for x, one in zip(streams, prompts, strict=True)
    ]
    return _logits(model, jnp.concatenate(last), parallel), cache


def decode(
    model: Transformer,
    tokens: Int[Array, " b"],
    positions: Int[Array, " b"],
    valid: Bool[Array, " b"],
    cache: Cache,
    parallel: Parallel,
    *,
    reads: int,
) -> tuple[Float[Array, "b v"], Cache]:
    """Add one token to every valid cache row; return the logits after it.

    Args:
        model: the transformer.
        tokens: int32, one per cache row.
        positions: of `Newest`.
        valid: likewise.
        cache: of the tokens before.
        parallel: where this runs.
        reads: of `Newest`.

    Returns:
        Logits [batch, vocab], vocabulary split over the tensor axis; and the cache.
    """
    assert not parallel.tensor.splits_tokens, "one position cannot be split along the sequence"
    streams = model.embed(tokens[None, :, None], parallel)
    newest = (Newest(positions, valid, reads),)
    (x_b1d,), cache = _through(model, _decode_block, streams, newest, cache, parallel)
    return _logits(model, x_b1d, parallel), cache


#: (block, x, what is known of its tokens, cache, layer, parallel) -> (x, cache)
Step = Callable[[Block, BatchBSD, Any, Entry, Array, Parallel], tuple[BatchBSD, Entry]]


def _through(
    model: Transformer, step: Step, streams: Streams, known: tuple, cache: Cache, parallel: Parallel
) -> tuple[Streams, Cache]:
    new = []
    for stack, part in zip(model.stacks, cache, strict=True):
        streams, part = _through_stack(stack, step, streams, known, part, parallel)
        new.append(part)
    return streams, tuple(new)


def _through_stack(
    stack: Stack, step: Step, streams: Streams, known: tuple, cache: Any, parallel: Parallel
) -> tuple[Streams, Any]:
    graphdefs, states = stack.divide(parallel)
    unroll = step is _decode_block and not gathers_anything(states)

    def local(states: Variables, streams: Streams, known: tuple, cache: Any) -> Any:
        def layer(carry: Any, item: Any) -> tuple[Any, None]:
            streams, cache = carry
            index, layer_states = item
            new = []
            for graphdef, state, entry in zip(graphdefs, gather(layer_states), cache, strict=True):
                block, outs = nnx.merge(graphdef, state), []
                for x, one in zip(streams, known, strict=True):
                    x, entry = step(block, x, one, entry, index, parallel)
                    outs.append(x)
                streams = tuple(outs)
                new.append(entry)
            return (streams, tuple(new)), None

        layers = (jnp.arange(stack.layers.repeats), states)
        return jax.lax.scan(layer, (streams, cache), layers, unroll=unroll)[0]

    attention = stack.unit.blocks[0].attention.config
    entry = tuple(shape.spec for shape in entry_shapes(attention, parallel.tensor.size))
    spread = (entry,) * len(stack.layers.unit)
    with jax.named_scope(LAYERS):
        return run_stored(
            local,
            parallel,
            states,
            streams,
            known,
            cache,
            in_specs=(parallel.activations, BATCH, spread),
            out_specs=(parallel.activations, spread),
        )


def _prefill_block(
    block: Block, x: BatchBSD, prompts: Prompts, cache: Entry, layer: Array, parallel: Parallel
) -> tuple[BatchBSD, Entry]:
    tensor, (batch, length) = parallel.tensor, x.shape[:2]
    places = jnp.arange(length * tensor.token_shards, dtype=jnp.int32)
    positions = jnp.broadcast_to(places, (batch, places.size))
    q, entry = block.attention.project(block.attention_norm(x), positions, tensor)
    cache = tuple(
        write(into, layer, new, prompts.rows_b, positions, prompts.lengths_b)
        for into, new in zip(cache, entry, strict=True)
    )
    attended = block.attention.attend(q, entry, None, parallel.attention)
    x = block.add(x, block.attention.output(attended, tensor))
    valid = tensor.own(positions < prompts.lengths_b[:, None])
    return block.mix(x, parallel, valid)[0], cache


def _decode_block(
    block: Block, x: BatchBSD, newest: Newest, cache: Entry, layer: Array, parallel: Parallel
) -> tuple[BatchBSD, Entry]:
    tensor, positions = parallel.tensor, newest.positions_b
    q, entry = block.attention.project(block.attention_norm(x), positions[:, None], tensor)
    slots, places = cache[0].shape[1:3]
    rows = jnp.where(newest.valid_b, jnp.arange(slots, dtype=jnp.int32), slots)
    cache = tuple(
        write(into, layer, new, rows, positions[:, None], positions + 1)
        for into, new in zip(cache, entry, strict=True)
    )
    # Before the last place is filled the ring is a list, whose end may be left unread.
    reads = min(places, newest.reads)
    read = tuple(c[layer, :, :reads] for c in cache)
    attended = block.attention.attend_cached(q[:, 0], read, visible(positions, reads))
    x = block.add(x, block.attention.output(attended[:, None], tensor))
    return block.mix(x, parallel, newest.valid_b[:, None])[0], cache


def _logits(
    model: Transformer, x_b1d: Float[Array, "b 1 d"], parallel: Parallel
) -> Float[Array, "b v"]:
    # One position of each sequence, which no device of the tensor axis has a part of.
    whole = replace(parallel.tensor, sequence="whole")
    logits_b1v = run_gathered(
        lambda modules, x: modules[0](x, modules[1], whole),
        parallel,
        (model.head, model.embedding),
        x_b1d,
        in_specs=(BATCH,),
        out_specs=PartitionSpec(*BATCH, None, TENSOR),
    )
    return logits_b1v[:, 0]
