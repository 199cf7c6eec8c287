"""Prefill, then decode: at every position the logits of a forward pass over the whole text."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.model_cases import LENGTH, arrays, configured, logits_of, parallel_of, sequences

from moe_jax.axes import BATCH_AXES
from moe_jax.model.cache import abstract_cache, empty_cache
from moe_jax.model.decoding import decode, prefill
from moe_jax.model.parallel import Parallel
from moe_jax.model.skeleton import Skeleton

SLOTS = 8
HALF = LENGTH // 2
WHOLE = ("data.document_mask=none", "train.global_batch=8", "model.vocab_size=32")
#: One set of overrides per attention kind, and what else changes a layer.
LATENT = (
    "model.attention.kind=latent",
    "model.attention.kv_heads=2",
    "model.attention.latent.kv_rank=6",
    "model.attention.latent.q_rank=5",
    "model.attention.latent.rope_head_dim=4",
    "model.attention.latent.value_head_dim=10",
)
KINDS = {
    "grouped": (),
    "window": ("model.attention.windows=[3]",),
    "windows alternate": ("model.attention.windows=[3,0]", "model.layers=['dense','moe']"),
    "sinks": (
        "model.attention.sinks=per_head",
        "model.attention.windows=[0,2]",
        "model.attention.bias=all",
    ),
    "norm of all heads": (
        "model.attention.qk_norm=all_heads",
        "model.attention.clip_qkv=0.5",
        "model.attention.scale=0.2",
    ),
    "latent": LATENT,
    "latent, queries from the input": (*LATENT, "model.attention.latent.q_rank=0"),
}
LAYOUTS = {
    "one device": ("exchange.transport=local",),
    "expert 8": ("mesh.expert=8",),
    "expert 8, all-gather": ("mesh.expert=8", "exchange.transport=all_gather"),
    "expert 4, tensor 2": ("mesh.expert=4", "mesh.tensor=2"),
    "data 2, fsdp 2, expert 2": ("mesh.data=2", "mesh.fsdp=2", "mesh.expert=2"),
}
CASES = [(kind, "expert 4, tensor 2") for kind in KINDS] + [("grouped", name) for name in LAYOUTS]


@functools.cache
def forward(kind: str) -> np.ndarray:
    """Returns logits [rows, length, vocabulary] of whole sequences on one device."""
    config = configured(*WHOLE, *KINDS[kind], "exchange.transport=local")
    parallel, skeleton = parallel_of(config), Skeleton(config)
    tokens = jnp.asarray(texts())[None]
    positions = jnp.broadcast_to(jnp.arange(LENGTH, dtype=jnp.int32), tokens.shape)

    def run(weights):
        model = skeleton.merge(weights)
        streams, _ = model.hidden(tokens, positions, jnp.ones_like(tokens), parallel)
        return logits_of(model, streams, parallel)[0]

    return np.asarray(jax.jit(run)(arrays(skeleton)))


def texts() -> np.ndarray:
    return sequences()["tokens"][:SLOTS]


def on_mesh(array: np.ndarray, mesh, *dims) -> jax.Array:
    return jax.device_put(array, NamedSharding(mesh, PartitionSpec(*dims)))


def decoder(skeleton: Skeleton, parallel: Parallel):
    # As a config for decoding has it: one position is whole on every device of the tensor axis.
    parallel = replace(parallel, tensor=replace(parallel.tensor, sequence="whole"))

    def add(weights, *args, reads: int):
        return decode(skeleton.merge(weights), *args, parallel, reads=reads)

    return jax.jit(add, static_argnames="reads")


FAST = ("expert 8", "sinks", "latent")


@pytest.mark.parametrize(
    ("kind", "layout"),
    [pytest.param(*c, marks=[] if {*c} & {*FAST} else pytest.mark.slow) for c in CASES],
)
def test_prefill_then_decode_equals_a_forward_pass_at_every_position(kind, layout):
    config = configured(*WHOLE, *KINDS[kind], *LAYOUTS[layout])
    parallel, skeleton = parallel_of(config), Skeleton(config)
    mesh, shards = parallel.mesh, parallel.batch_shards
    weights = jax.device_put(arrays(skeleton), skeleton.shardings(mesh))
    cache = empty_cache(abstract_cache(config, mesh, slots=SLOTS, context=LENGTH))

    # Mixed lengths in one batch, from a single token to all but two; the rest is decoded.
    lengths = np.array([1, 2, 3, 4, 5, 6, 3, 1], np.int32)
    rows = np.tile(np.arange(SLOTS // shards, dtype=np.int32), shards)
    padded = np.where(np.arange(LENGTH) < lengths[:, None], texts(), 7).astype(np.int32)
    read = jax.jit(lambda weights, *args: prefill(skeleton.merge(weights), *args, parallel))
    batch = [on_mesh(a[None], mesh, None, BATCH_AXES) for a in (padded, lengths, rows)]
    logits, cache = read(weights, *batch, cache)
    want = forward(kind)
    every = np.arange(SLOTS)
    np.testing.assert_allclose(logits, want[every, lengths - 1], atol=1e-4)

    add = decoder(skeleton, parallel)
    positions = lengths.copy()
    while (positions < LENGTH).any():
        valid = positions < LENGTH
        at = np.minimum(positions, LENGTH - 1)
        tokens = texts()[every, at]
        batch = [on_mesh(a, mesh, BATCH_AXES) for a in (tokens, at.astype(np.int32), valid)]
        # Half of what is kept, as long as no text needs more.
        reads = HALF if at.max() < HALF else LENGTH
        logits, cache = add(weights, *batch, cache, reads=reads)
        np.testing.assert_allclose(np.asarray(logits)[valid], want[every, at][valid], atol=1e-4)
        positions = positions + valid

    # Rows without a token stay as they are.
    before = jax.tree.map(np.asarray, cache)
    nothing = np.zeros(SLOTS, np.int32)
    batch = [on_mesh(a, mesh, BATCH_AXES) for a in (nothing, nothing, nothing > 0)]
    _, cache = add(weights, *batch, cache, reads=LENGTH)
    jax.tree.map(np.testing.assert_array_equal, cache, before)


def test_what_a_cache_holds_beyond_is_not_read():
    config = configured(*WHOLE, *LAYOUTS["one device"])
    parallel, skeleton = parallel_of(config), Skeleton(config)
    empty = abstract_cache(config, parallel.mesh, slots=SLOTS, context=LENGTH)
    cache = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype).at[:, :, HALF:].set(jnp.nan), empty
    )
    first = (texts()[:, 0], np.zeros(SLOTS, np.int32), np.ones(SLOTS, bool))
    add = functools.partial(decoder(skeleton, parallel), arrays(skeleton), *first)
    logits, _ = add(cache, reads=HALF)
    np.testing.assert_allclose(logits, forward("grouped")[:, 0], atol=1e-4)
    logits, _ = add(cache, reads=HALF + 1)
    assert np.isnan(logits).all(), "the rest would show"
