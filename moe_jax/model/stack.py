"""Equal layers stacked on a leading dimension and scanned, all streams side by side.

The scan carries the tuple of streams. Within a layer the streams are independent, so that XLA's
latency-hiding scheduler can put one's communication behind another's compute, in forward and in
backward. Each layer is one `on_device_shards` region.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
from flax import nnx

from moe_jax.config.schema import ModelConfig, PrecisionConfig
from moe_jax.model.block import Block
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import Segment
from moe_jax.moe.exchange.rounds import RECEIVED
from moe_jax.moe.layer import MoeStats
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.params import (
    GATHERED,
    gather,
    gathers_anything,
    layer_specs,
    with_layers_axis,
)
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

Streams = tuple[BatchBSD, ...]
Remat = Literal["none", "full", "dispatch"]


class Unit(nnx.Module):
    """The layers of one repetition of a segment."""

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, segment: Segment, *, rngs: nnx.Rngs
    ):
        self.blocks = nnx.List(Block(model, precision, spec, rngs=rngs) for spec in segment.unit)


class Stack(nnx.Module):
    """`segment.repeats` units whose parameters share arrays with a leading layers dimension."""

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, segment: Segment, *, rngs: nnx.Rngs
    ):
        def parameters(key: jax.Array) -> nnx.State:
            unit = Unit(model, precision, segment, rngs=nnx.Rngs(params=key))
            return nnx.split(unit)[1]

        keys = jax.random.split(rngs.params(), segment.repeats)
        blank = nnx.eval_shape(lambda: Unit(model, precision, segment, rngs=nnx.Rngs(0)))
        state = with_layers_axis(jax.vmap(parameters)(keys))
        self.unit = nnx.merge(nnx.graphdef(blank), state)
        self.segment = segment

    def __call__(
        self,
        streams: Streams,
        positions: tuple[WholeBS, ...],
        segments: tuple[WholeBS, ...],
        parallel: Parallel,
        remat: Remat,
    ) -> tuple[Streams, list[MoeStats]]:
        """Returns the streams after all layers, and each MoE layer's counts per device.

        Every leaf of the counts has leading dimensions [repeats, devices]; the list has one entry
        per MoE layer of the unit.
        """
        graphdef, state = nnx.split(self.unit)
        layer = _layer_on_shards(graphdef, state, parallel, len(streams), remat)

        def step(carry: Streams, layer_state: nnx.State) -> tuple[Streams, list[MoeStats]]:
            return layer(layer_state, carry, positions, segments)

        return jax.lax.scan(step, streams, state)


def _layer_on_shards(
    graphdef: Any, state: nnx.State, parallel: Parallel, streams: int, remat: Remat
) -> Callable[..., Any]:
    def layer(layer_state: nnx.State, xs: Streams, positions: Any, segments: Any) -> Any:
        unit = nnx.merge(graphdef, layer_state)
        totals = []
        for block in unit.blocks:
            run = _on_streams(block, parallel, remat)
            xs, stats = run(xs, positions, segments)
            if block.kind == "moe":
                totals.append(_total(stats))
        return xs, totals

    activations = (parallel.activations,) * streams
    return on_device_shards(
        layer,
        parallel.mesh,
        in_specs=(layer_specs(state, parallel.placement), activations, BATCH, BATCH),
        out_specs=(activations, parallel.per_device),
    )


def _total(stats: list[MoeStats]) -> MoeStats:
    """Sums over streams and adds a leading dimension of 1, which becomes [devices]."""
    return jax.tree.map(lambda *leaves: sum(leaves)[None], *stats)


def _on_streams(block: Block, parallel: Parallel, remat: Remat) -> Callable[..., Any]:
    """Returns (streams, positions, segments) -> (streams, counts): the block on every stream.

    Parameters are gathered once for all streams, and once more for backward: nobody keeps them.
    """
    graphdef, state = nnx.split(block)
    experts = parallel.exchange_spec.transport == "local"

    def run(state: nnx.State, xs: Streams, positions: Any, segments: Any) -> Any:
        whole = gather(state, parallel.placement, experts=experts)
        one = _rematerialised(graphdef, parallel, remat)
        results = [one(whole, *args) for args in zip(xs, positions, segments, strict=True)]
        return tuple(x for x, _ in results), [stats for _, stats in results]

    if gathers_anything(state, parallel.placement, experts=experts):
        run = jax.checkpoint(run, policy=_KEPT[remat], prevent_cse=False)
    return partial(run, state)


def _rematerialised(graphdef: Any, parallel: Parallel, remat: Remat) -> Callable[..., Any]:
    """Returns (state, x, positions, segments) -> (x, counts), such that backward recomputes it.

    Each stream is recomputed by itself: a layer's backward then needs the intermediate values of
    the few streams that are under way, not of all.
    """

    def run(state: nnx.State, x: BatchBSD, positions: WholeBS, segments: WholeBS) -> Any:
        return nnx.merge(graphdef, state)(x, positions, segments, parallel)

    if remat == "none":
        return run
    return jax.checkpoint(run, policy=_KEPT[remat], prevent_cse=False)


#: What backward finds instead of computing it again, by `train.remat`.
_KEPT: dict[Remat, Any] = {
    "none": jax.checkpoint_policies.save_anything_except_these_names(GATHERED),
    "full": None,
    "dispatch": jax.checkpoint_policies.save_only_these_names(RECEIVED),
}
