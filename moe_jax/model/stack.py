"""Equal layers stacked on a leading dimension: scanned, or on the stages of a pipeline.

The scan carries the tuple of streams; each layer is one `on_device_shards` region, so that its
parameters' gradients are summed over the devices while the next layer's backward runs. A pipeline
is one region around all layers.
"""

from functools import partial
from typing import Any

import jax
from flax import nnx
from jax.sharding import PartitionSpec
from jaxtyping import Array

from moe_jax.axes import PIPE
from moe_jax.config.model_schema import ModelConfig
from moe_jax.config.schema import PrecisionConfig
from moe_jax.model.block import Block
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import Segment
from moe_jax.model.pipeline import Schedule, run_pipeline
from moe_jax.model.unit import KEPT_OF_GROUP, Ids, Remat, Streams, apply_unit
from moe_jax.moe.layer import MoeStats
from moe_jax.sharding.params import layer_specs, stored_specs, with_gathers, with_layers_axis
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards

#: Name of the layers in compiled programs and profiles.
LAYERS = "layers"


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
        self, streams: Streams, positions: Ids, segments: Ids, parallel: Parallel, remat: Remat
    ) -> tuple[Streams, list[MoeStats]]:
        """Return the streams after all layers, and each MoE layer's counts per device.

        Every leaf of the counts has leading dimensions [repeats, devices]; the list has one entry
        per MoE layer of the unit.
        """
        schedule = parallel.schedule(self.segment.repeats)
        state = with_gathers(
            nnx.state(self.unit),
            parallel.placement,
            experts=parallel.exchange_spec.transport.gathers_experts,
            pipe=schedule is None,
        )
        unit = partial(apply_unit, nnx.graphdef(self.unit), parallel, remat)
        ids = (positions, segments)
        if schedule is None:
            return _scanned(unit, state, streams, ids, parallel)
        return _pipelined(unit, state, streams, ids, parallel, schedule, KEPT_OF_GROUP[remat])


def _scanned(
    unit: Any, state: nnx.State, streams: Streams, ids: tuple[Ids, Ids], parallel: Parallel
) -> tuple[Streams, list[MoeStats]]:
    mapped = on_device_shards(
        unit,
        parallel.mesh,
        in_specs=(layer_specs(state, parallel.placement), parallel.activations, BATCH, BATCH),
        out_specs=(parallel.activations, parallel.per_device()),
    )

    def step(carry: Streams, layer_state: nnx.State) -> tuple[Streams, list[MoeStats]]:
        return mapped(layer_state, carry, *ids)

    with jax.named_scope(LAYERS):
        return jax.lax.scan(step, streams, state)


def _pipelined(
    unit: Any,
    state: nnx.State,
    streams: Streams,
    ids: tuple[Ids, Ids],
    parallel: Parallel,
    schedule: Schedule,
    policy: Any,
) -> tuple[Streams, list[MoeStats]]:
    in_order = parallel.placement.in_order(schedule.layers)

    def local(state: nnx.State, streams: Streams, positions: Ids, segments: Ids) -> Any:
        rows = (streams, positions, segments)
        streams, counts = run_pipeline(unit, policy, state, rows, schedule, in_order)
        return streams, jax.tree.map(lambda x: x[None], counts)

    mapped = on_device_shards(
        local,
        parallel.mesh,
        in_specs=(stored_specs(state, parallel.placement), parallel.activations, BATCH, BATCH),
        out_specs=(
            parallel.activations,
            PartitionSpec(PIPE, None, None, *parallel.per_device(of_a_stage=True)),
        ),
    )
    with jax.named_scope(LAYERS):
        streams, counts = mapped(state, streams, *ids)
    return streams, jax.tree.map(partial(_by_layer, schedule), counts)


def _by_layer(schedule: Schedule, counts: Array) -> Array:
    """[stages, rounds, group, devices, ...] -> [layers, devices, ...], in order."""
    in_turn = counts.swapaxes(0, 1)
    return in_turn.reshape(-1, *counts.shape[3:])[: schedule.layers]
