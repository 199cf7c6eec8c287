"""The layers of one repetition of a stack, applied to all streams on a device's shards.

Within a layer the streams are independent, so that XLA's latency-hiding scheduler can put one's
communication behind another's compute, in forward and in backward. What backward keeps and what it
computes again is decided here; how repetitions follow each other, in `stack.py`.

JAX's transformations carry arrays, not modules. So layers are divided once, by `Unit.divide`, into
their structure and their variables; scans, regions and checkpoints hand on the variables alone,
which are gathered on the way; and a block is made whole again where it is called, innermost.
"""

from collections.abc import Callable
from functools import partial, reduce
from operator import add
from typing import Any

import jax
from flax import nnx

from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.model.block import Block
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import LayerSpec
from moe_jax.model.remat.kept import kept_of_layer
from moe_jax.moe.layer import MoeStats
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.params import Variables, gather, gathers_anything

Streams = tuple[BatchBSD, ...]
Ids = tuple[WholeBS, ...]


class Unit(nnx.Module):
    """The layers of one repetition of a stack."""

    def __init__(
        self,
        model: ModelConfig,
        precision: PrecisionConfig,
        layers: tuple[LayerSpec, ...],
        *,
        rngs: nnx.Rngs,
    ):
        self.blocks = nnx.List(Block(model, precision, spec, rngs=rngs) for spec in layers)

    def divide(self) -> tuple[tuple[Any, ...], tuple[nnx.State, ...]]:
        """Return the structure of each block, and the variables of each."""
        graphdefs, states = zip(*(nnx.split(block) for block in self.blocks), strict=True)
        return graphdefs, states


def apply_unit(
    graphdefs: tuple[Any, ...],
    parallel: Parallel,
    remat: str,
    states: Variables,
    xs: Streams,
    positions: Ids,
    segments: Ids,
) -> tuple[Streams, list[MoeStats]]:
    """Apply the layers of one unit. Runs inside an `on_device_shards` region.

    Args:
        graphdefs: of the unit's blocks.
        parallel: where this runs.
        remat: `train.remat`, what backward finds of a layer.
        states: the variables of each block as stored, marked by `with_gathers`.
        xs: [batch, seq, d_model] of each stream.
        positions: [batch, seq] of each stream's tokens in their document.
        segments: [batch, seq], the document of each of them.

    Returns:
        The streams, and per MoE layer the counts of all streams, with a leading dimension of 1.
    """
    totals = []
    for graphdef, state in zip(graphdefs, states, strict=True):
        xs, counts = _on_streams(graphdef, parallel, remat, state)(xs, positions, segments)
        if counts[0] is not None:
            totals.append(jax.tree.map(_total, *counts))
    return xs, totals


def _total(*counts: Any) -> Any:
    """Return the sum of the streams' counts, [1, ...]: a device's part of a dimension over them.

    Any: counts that depend on shapes only are constants, which `jax.checkpoint` makes literals.
    """
    return reduce(add, counts)[None]


def _on_streams(
    graphdef: Any, parallel: Parallel, remat: str, state: nnx.State
) -> Callable[..., Any]:
    """Return (streams, positions, segments) -> (streams, counts): a block on every stream.

    Parameters are gathered once for all streams, and once more for backward: nobody keeps them.
    """

    def run(state: nnx.State, xs: Streams, positions: Ids, segments: Ids) -> Any:
        whole = gather(state)
        one = _rematerialised(graphdef, parallel, remat)
        results = [one(whole, *args) for args in zip(xs, positions, segments, strict=True)]
        return tuple(x for x, _ in results), [counts for _, counts in results]

    if gathers_anything(state):
        run = jax.checkpoint(run, policy=kept_of_layer(remat), prevent_cse=False)
    return partial(run, state)


def _rematerialised(graphdef: Any, parallel: Parallel, remat: str) -> Callable[..., Any]:
    """Return (state, x, positions, segments) -> (x, counts), such that backward recomputes it.

    Each stream is recomputed by itself: a layer's backward then needs the intermediate values of
    the few streams that are under way, not of all.
    """

    def run(state: nnx.State, x: BatchBSD, positions: WholeBS, segments: WholeBS) -> Any:
        return nnx.merge(graphdef, state)(x, positions, segments, parallel)

    if remat == "none":
        return run
    return jax.checkpoint(run, policy=kept_of_layer(remat), prevent_cse=False)
