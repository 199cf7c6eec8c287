"""Equal layers stacked on a leading dimension: scanned, or on the stages of a pipeline.

The scan, which may be unrolled, carries the tuple of streams; each layer is one `on_device_shards`
region, so that its parameters' gradients are summed over the devices while the next layer's
backward runs. A pipeline is one region around all layers, and so is decoding, whose own scan is in
`decoding.py`.
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
from moe_jax.model.parallel import Parallel
from moe_jax.model.pattern import LayerRun
from moe_jax.model.pipeline import Schedule, run_pipeline
from moe_jax.model.remat.kept import kept_of_group
from moe_jax.model.unit import Ids, Streams, Unit, apply_unit
from moe_jax.moe.layer import MoeStats
from moe_jax.scopes import LAYERS
from moe_jax.sharding.params import (
    Variables,
    rounded,
    stored_specs_of_layer,
    with_gathers,
    with_layers_axis,
)
from moe_jax.sharding.regions import run_stored
from moe_jax.sharding.rules import BATCH
from moe_jax.sharding.spmd import on_device_shards


class Stack(nnx.Module):
    """`layers.repeats` units whose parameters share arrays with a leading layers dimension."""

    def __init__(
        self, model: ModelConfig, precision: PrecisionConfig, layers: LayerRun, *, rngs: nnx.Rngs
    ):
        def parameters(key: jax.Array) -> nnx.State:
            unit = Unit(model, precision, layers.unit, rngs=nnx.Rngs(params=key))
            return nnx.split(unit)[1]

        keys = jax.random.split(rngs.params(), layers.repeats)
        blank = nnx.eval_shape(lambda: Unit(model, precision, layers.unit, rngs=nnx.Rngs(0)))
        state = with_layers_axis(jax.vmap(parameters)(keys))
        self.unit = nnx.merge(nnx.graphdef(blank), state)
        self.layers = layers

    def __call__(
        self, streams: Streams, positions: Ids, segments: Ids, parallel: Parallel, remat: str
    ) -> tuple[Streams, list[MoeStats]]:
        """Return the streams after all layers, and each MoE layer's counts per device.

        Args:
            streams: [batch, seq, d_model] each, placed as `parallel.activations`.
            positions: of each stream's tokens in their document, [batch, seq].
            segments: the document of each of them, likewise.
            parallel: where this runs.
            remat: `train.remat`, what backward finds of a layer.

        Returns:
            The streams, and one entry per MoE layer of the unit, whose leaves have leading
            dimensions [repeats, devices].
        """
        schedule = parallel.schedule(self.layers.repeats)
        graphdefs, states = self.divide(parallel, pipe=schedule is None)
        unit = partial(apply_unit, graphdefs, parallel, remat)
        ids = (positions, segments)
        if schedule is None:
            if len(streams) == 1:
                # Several streams' gradients are added up, as a pipeline's are: in full precision.
                states = rounded(states, parallel.placement)
            return _scanned(unit, states, streams, ids, parallel)
        return _pipelined(unit, states, streams, ids, parallel, schedule, kept_of_group(remat))

    def divide(
        self, parallel: Parallel, *, pipe: bool = True
    ) -> tuple[tuple[Any, ...], tuple[nnx.State, ...]]:
        """Return `Unit.divide`, the variables stacked and marked with what a layer gathers.

        Args:
            parallel: where this runs.
            pipe: gather over the pipe axis, as all do that run outside the pipeline.
        """
        graphdefs, states = self.unit.divide()
        states = with_gathers(
            states,
            parallel.placement,
            experts=parallel.exchange_spec.transport.gathers_experts,
            pipe=pipe,
        )
        return graphdefs, states


def _scanned(
    unit: Any, states: Variables, streams: Streams, ids: tuple[Ids, Ids], parallel: Parallel
) -> tuple[Streams, list[MoeStats]]:
    stored = stored_specs_of_layer(states, parallel.placement)
    mapped = on_device_shards(
        unit,
        parallel.mesh,
        in_specs=(stored, parallel.activations, BATCH, BATCH),
        out_specs=(parallel.activations, parallel.per_device()),
    )

    def step(carry: Streams, layer_states: Variables) -> tuple[Streams, list[MoeStats]]:
        return mapped(layer_states, carry, *ids)

    with jax.named_scope(LAYERS):
        return jax.lax.scan(step, streams, states, unroll=not parallel.scan_layers)


def _pipelined(
    unit: Any,
    states: Variables,
    streams: Streams,
    ids: tuple[Ids, Ids],
    parallel: Parallel,
    schedule: Schedule,
    policy: Any,
) -> tuple[Streams, list[MoeStats]]:
    in_order = parallel.placement.in_order(schedule.layers)

    def local(states: Variables, streams: Streams, positions: Ids, segments: Ids) -> Any:
        rows = (streams, positions, segments)
        streams, counts = run_pipeline(unit, policy, states, rows, schedule, in_order)
        return streams, jax.tree.map(lambda x: x[None], counts)

    of_a_stage = parallel.per_device(of_a_stage=True)
    with jax.named_scope(LAYERS):
        streams, counts = run_stored(
            local,
            parallel,
            states,
            streams,
            *ids,
            in_specs=(parallel.activations, BATCH, BATCH),
            out_specs=(parallel.activations, PartitionSpec(PIPE, None, None, *of_a_stage)),
        )
    return streams, jax.tree.map(partial(_by_layer, schedule), counts)


def _by_layer(schedule: Schedule, counts: Array) -> Array:
    """Return [stages, rounds, group, devices, ...] as [layers, devices, ...], in order."""
    in_turn = counts.swapaxes(0, 1)
    return in_turn.reshape(-1, *counts.shape[3:])[: schedule.layers]
