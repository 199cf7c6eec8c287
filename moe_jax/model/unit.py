"""One repetition of a stack's layers, applied to all streams on a device's shards.

Within a layer the streams are independent, so that XLA's latency-hiding scheduler can put one's
communication behind another's compute, in forward and in backward. What backward keeps and what it
computes again is decided here; how repetitions follow each other, in `stack.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import jax
from flax import nnx

from moe_jax.model.block import Block
from moe_jax.model.parallel import Parallel
from moe_jax.model.pipeline import LAYER_INPUT
from moe_jax.moe.exchange.rounds import RECEIVED
from moe_jax.moe.layer import MoeStats
from moe_jax.shapes import BatchBSD, WholeBS
from moe_jax.sharding.params import all_but_gathered, gather, gathers_anything

Streams = tuple[BatchBSD, ...]
Ids = tuple[WholeBS, ...]
Remat = Literal["none", "full", "dispatch"]

_named = jax.checkpoint_policies.save_only_these_names
#: What backward finds of a layer instead of computing it again, by `train.remat`.
_KEPT: dict[Remat, Any] = {"none": all_but_gathered, "full": _named(), "dispatch": _named(RECEIVED)}
#: The same for a group of layers in a pipeline; None keeps everything.
KEPT_OF_GROUP: dict[Remat, Any] = {
    "none": None,
    "full": _named(LAYER_INPUT),
    "dispatch": _named(LAYER_INPUT, RECEIVED),
}


def apply_unit(
    graphdef: Any,
    parallel: Parallel,
    remat: Remat,
    state: nnx.State,
    xs: Streams,
    positions: Ids,
    segments: Ids,
) -> tuple[Streams, list[MoeStats]]:
    """Apply the layers of one unit. Runs inside an `on_device_shards` region.

    Args:
        graphdef: of the unit.
        state: the unit's variables as stored, marked by `with_gathers`.

    Returns:
        The streams, and per MoE layer the counts of all streams, with a leading dimension of 1.
    """
    totals = []
    for block in nnx.merge(graphdef, state).blocks:
        xs, stats = _on_streams(block, parallel, remat)(xs, positions, segments)
        if block.kind == "moe":
            totals.append(jax.tree.map(lambda *leaves: sum(leaves)[None], *stats))
    return xs, totals


def _on_streams(block: Block, parallel: Parallel, remat: Remat) -> Callable[..., Any]:
    """Return (streams, positions, segments) -> (streams, counts): the block on every stream.

    Parameters are gathered once for all streams, and once more for backward: nobody keeps them.
    """
    graphdef, state = nnx.split(block)

    def run(state: nnx.State, xs: Streams, positions: Ids, segments: Ids) -> Any:
        whole = gather(state)
        one = _rematerialised(graphdef, parallel, remat)
        results = [one(whole, *args) for args in zip(xs, positions, segments, strict=True)]
        return tuple(x for x, _ in results), [stats for _, stats in results]

    if gathers_anything(state):
        run = jax.checkpoint(run, policy=_KEPT[remat], prevent_cse=False)
    return partial(run, state)


def _rematerialised(graphdef: Any, parallel: Parallel, remat: Remat) -> Callable[..., Any]:
    """Return (state, x, positions, segments) -> (x, counts), such that backward recomputes it.

    Each stream is recomputed by itself: a layer's backward then needs the intermediate values of
    the few streams that are under way, not of all.
    """

    def run(state: nnx.State, x: BatchBSD, positions: WholeBS, segments: WholeBS) -> Any:
        return nnx.merge(graphdef, state)(x, positions, segments, parallel)

    if remat == "none":
        return run
    return jax.checkpoint(run, policy=_KEPT[remat], prevent_cse=False)
