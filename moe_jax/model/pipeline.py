"""Pipeline parallelism: groups of layers on the devices of the pipe axis, microbatches between.

All devices of a stage step together: at tick t, stage p works on item t - p and passes the result
on around the ring. An item is a microbatch on one of its rounds through the stages; with one round
(one virtual stage per device) that is GPipe (Huang et al., 2019), with more it is the interleaved
schedule (Narayanan et al., 2021), whose bubble is shorter:

    ticks = microbatches x rounds + stages - 1,   bubble = (stages - 1) / ticks

Stage 0 keeps one slot per microbatch: first its input, after each round what came back. Backward is
the transposed program, so gradients flow around the ring the other way. Outside the pipeline
(embedding, single leading layers, loss) the pipe axis is one more batch axis, so that no stage
idles there: each device brings its rows and takes as many back.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Int

from moe_jax.axes import PIPE
from moe_jax.sharding.params import Variables, map_stacked

#: (a layer's variables, streams, positions, segments) -> (streams, counts [device, ...])
Layer = Callable[[Variables, Any, Any, Any], tuple[Any, Any]]
#: Name of what enters a layer, for rematerialisation policies.
LAYER_INPUT = "layer_input"


@dataclass(frozen=True)
class Schedule:
    """Who works on what at which tick."""

    stages: int
    rounds: int
    microbatches: int
    #: Layers (repetitions of the stack's unit) in all.
    layers: int

    @property
    def group(self) -> int:
        """Layers of one virtual stage; the last groups may have empty places."""
        return -(-self.layers // (self.stages * self.rounds))

    @property
    def ticks(self) -> int:
        """Steps that all stages take together."""
        return self.microbatches * self.rounds + self.stages - 1

    @property
    def bubble(self) -> float:
        """Share of the ticks at which a device has nothing of its own to do."""
        return (self.stages - 1) / self.ticks

    @property
    def is_full(self) -> bool:
        """Whether every group has as many layers as places."""
        return self.group * self.stages * self.rounds == self.layers


def pipelined(stages: int, rounds: int, microbatches: int, layers: int) -> Schedule | None:
    """Return how a stack of so many repetitions goes through the stages; None where it does not.

    Leading layers that are not repeated are no part of a pipeline.

    Args:
        stages: devices of the pipe axis.
        rounds: groups of layers on each of them (virtual stages).
        microbatches: parts of a stream that follow each other.
        layers: repetitions of the stack's unit.
    """
    if stages == 1 or layers == 1:
        return None
    return Schedule(stages, rounds, microbatches, layers)


def run_pipeline(
    layer: Layer,
    policy: Any,
    state: Variables,
    rows: tuple[Any, Any, Any],
    schedule: Schedule,
    in_order: bool,
) -> tuple[Any, Any]:
    """Send this device's rows through all layers. Runs inside an `on_device_shards` region.

    Args:
        layer: applies one layer, on the devices of one stage.
        policy: what backward finds instead of computing it again; None to wrap nothing.
        state: the stacked layers as stored.
        rows: (streams, positions, segments), trees of [rows, ...] that this device brings.
        schedule: the schedule.
        in_order: whether this device stores the layers it computes (`Placement.in_order`).

    Returns:
        The streams of the same rows after all layers, and counts [rounds, group, ...] of this
        device's layers, summed over microbatches.
    """
    stage = jax.lax.axis_index(PIPE)
    groups = state if in_order else _hand_out(state, schedule, stage)
    run = partial(_group, layer, schedule, groups)
    if policy is not None:
        run = jax.checkpoint(run, policy=policy, prevent_cse=False)
    waiting, positions, segments = (_microbatches(part, schedule) for part in rows)

    def tick(carry: tuple, t: Int[Array, ""]) -> tuple[tuple, None]:
        waiting, received, totals = carry
        item = t - stage
        # Before its first and after its last item a stage repeats one: real tokens, so that
        # routing stays ordinary, whose results nobody keeps.
        busy = (item >= 0) & (item < schedule.microbatches * schedule.rounds)
        item = jnp.clip(item, 0, schedule.microbatches * schedule.rounds - 1)
        turn, index = item // schedule.microbatches, item % schedule.microbatches
        xs = _choose(stage == 0, _at(waiting, index), received)
        xs, counts = run(turn, xs, _at(positions, index), _at(segments, index))
        totals = _add_at(totals, turn, _scaled(counts, busy))
        received = _pass_on(xs, schedule.stages)
        # What arrives before the first item came round is overwritten before anyone reads it.
        slot = jnp.maximum(t - (schedule.stages - 1), 0) % schedule.microbatches
        return (_set_at(waiting, slot, received), received, totals), None

    first = _at(waiting, 0)
    shapes = jax.eval_shape(run, 0, first, _at(positions, 0), _at(segments, 0))[1]
    zeros = jax.tree.map(lambda s: jnp.zeros((schedule.rounds, *s.shape), s.dtype), shapes)
    ticks = jnp.arange(schedule.ticks, dtype=jnp.int32)
    (done, _, totals), _ = jax.lax.scan(tick, (waiting, first, zeros), ticks)
    return _own_rows(_choose(stage == 0, done, _scaled(done, False))), totals


def _group(
    layer: Layer, schedule: Schedule, groups: Variables, turn: Array, xs: Any, *rest: Any
) -> tuple[Any, Any]:
    """Apply the layers of one virtual stage; counts are [group, ...]."""
    first = (turn * schedule.stages + jax.lax.axis_index(PIPE)) * schedule.group
    states = groups
    if schedule.rounds > 1:
        states = jax.tree.map(lambda a: a.reshape(schedule.rounds, -1, *a.shape[1:]), groups)
        states = _at(states, turn)

    def step(xs: Any, slot: tuple[Array, Variables]) -> tuple[Any, Any]:
        place, layer_state = slot
        xs = jax.tree.map(lambda x: checkpoint_name(x, LAYER_INPUT), xs)
        if schedule.is_full:
            return layer(layer_state, xs, *rest)
        return jax.lax.cond(first + place < schedule.layers, layer, _pass, layer_state, xs, *rest)

    def _pass(layer_state: Variables, xs: Any, *rest: Any) -> tuple[Any, Any]:
        counts = jax.eval_shape(layer, layer_state, xs, *rest)[1]
        return xs, jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), counts)

    return jax.lax.scan(step, xs, (jnp.arange(schedule.group, dtype=jnp.int32), states))


def _hand_out(state: Variables, schedule: Schedule, stage: Array) -> Variables:
    """Return the layers of this device's groups, [rounds * group, ...], empty places zero.

    Stored are all layers, each with a part of its embed dimension; one all-to-all turns that into
    some layers with all of it. What has no embed dimension is stored whole and only picked.
    """
    stages, places = schedule.stages, schedule.stages * schedule.rounds * schedule.group

    def one(value: Array, embed: int | None) -> Array:
        pad = [(0, places - schedule.layers)] + [(0, 0)] * (value.ndim - 1)
        shape = (schedule.rounds, stages, schedule.group, *value.shape[1:])
        grid = jnp.pad(value, pad).reshape(shape)
        if embed is None:
            own = jax.lax.dynamic_index_in_dim(grid, stage, 1, keepdims=False)
        else:
            own = jax.lax.all_to_all(grid, PIPE, 1, embed + 3, tiled=True).squeeze(1)
        return own.reshape(-1, *own.shape[2:])

    return map_stacked(one, state)


def _microbatches(tree: Any, schedule: Schedule) -> Any:
    """Gather the rows of all stages, [microbatches, rows, ...]."""

    def one(x: Array) -> Array:
        rows = jax.lax.all_gather(x, PIPE, axis=0, tiled=True)
        return rows.reshape(schedule.microbatches, -1, *x.shape[1:])

    return jax.tree.map(one, tree)


def _own_rows(tree: Any) -> Any:
    """Undo `_microbatches` for what only one stage holds, the others zeros."""

    def one(x: Array) -> Array:
        rows = x.reshape(-1, *x.shape[2:])
        return jax.lax.psum_scatter(rows, PIPE, scatter_dimension=0, tiled=True)

    return jax.tree.map(one, tree)


def _pass_on(tree: Any, stages: int) -> Any:
    """Send to the next stage; the last one's go back to the first."""
    ring = [(p, (p + 1) % stages) for p in range(stages)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, PIPE, ring), tree)


def _at(tree: Any, index: Array | int) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, index, 0, False), tree)


def _set_at(tree: Any, index: Array, values: Any) -> Any:
    return jax.tree.map(
        lambda x, v: jax.lax.dynamic_update_index_in_dim(x, v, index, 0), tree, values
    )


def _add_at(tree: Any, index: Array, values: Any) -> Any:
    return jax.tree.map(lambda x, v: x.at[index].add(v), tree, values)


def _choose(condition: Array, yes: Any, no: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def _scaled(tree: Any, keep: Array | bool) -> Any:
    return jax.tree.map(lambda x: jnp.where(keep, x, jnp.zeros_like(x)), tree)
