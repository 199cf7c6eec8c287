"""Equal layers stacked on a leading dimension and scanned, all streams side by side.

The scan carries the tuple of streams. Within a layer the streams are independent, so that XLA's
latency-hiding scheduler can put one's communication behind another's compute, in forward and in
backward. Each layer is one `on_batch_shards` region.
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
from moe_jax.shapes import BatchBSD, IdsBS
from moe_jax.sharding.params import specs, with_layers_axis
from moe_jax.sharding.rules import BATCH, shard_spec
from moe_jax.sharding.spmd import on_batch_shards

Streams = tuple[BatchBSD, ...]
#: Name of the scan over layers in compiled programs and profiles.
LAYERS = "layers"
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
        positions: tuple[IdsBS, ...],
        segments: tuple[IdsBS, ...],
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

        with jax.named_scope(LAYERS):
            return jax.lax.scan(step, streams, state)


def _layer_on_shards(
    graphdef: Any, state: nnx.State, parallel: Parallel, streams: int, remat: Remat
) -> Callable[..., Any]:
    gather = parallel.exchange_spec.transport == "local"

    def layer(layer_state: nnx.State, xs: Streams, positions: Any, segments: Any) -> Any:
        unit = nnx.merge(graphdef, layer_state)
        totals = []
        for block in unit.blocks:
            run = _rematerialised(block, parallel, remat)
            results = [run(*args) for args in zip(xs, positions, segments, strict=True)]
            xs = tuple(x for x, _ in results)
            if block.kind == "moe":
                totals.append(_total([stats for _, stats in results]))
        return xs, totals

    per_stream = (BATCH,) * streams
    layer_specs = specs(state, lambda axes: shard_spec(axes[1:], gather_experts=gather))
    return on_batch_shards(
        layer,
        parallel.mesh,
        in_specs=(layer_specs, per_stream, per_stream, per_stream),
        out_specs=(per_stream, BATCH),
    )


def _total(stats: list[MoeStats]) -> MoeStats:
    """Sums over streams and adds a leading dimension of 1, which becomes [devices]."""
    return jax.tree.map(lambda *leaves: sum(leaves)[None], *stats)


def _rematerialised(block: Block, parallel: Parallel, remat: Remat) -> Callable[..., Any]:
    """Returns the block such that backward recomputes it: all, or all but what was received.

    Each stream is recomputed by itself: a layer's backward then needs the intermediate values of
    the few streams that are under way, not of all.
    """

    graphdef, state = nnx.split(block)

    def run(state: nnx.State, x: BatchBSD, positions: IdsBS, segments: IdsBS) -> Any:
        return nnx.merge(graphdef, state)(x, positions, segments, parallel)

    if remat != "none":
        policy = None
        if remat == "dispatch":
            policy = jax.checkpoint_policies.save_only_these_names(RECEIVED)
        run = jax.checkpoint(run, policy=policy, prevent_cse=False)
    return partial(run, state)
