"""Runs a function on each device's own slice of the batch: the only call of `shard_map`.

The function sees local arrays and may use collectives over the batch axes; the `tensor` and
`pipe` axes stay with the compiler. Parameters enter whole, and their gradients are summed over
the devices once, when they leave: not once per use, as the compiler would do by itself for
several streams or loss chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from moe_jax.mesh.axes import BATCH_AXES


def on_batch_shards(
    function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Returns `function` mapped over the batch axes of `mesh`.

    Args:
        function: takes and returns local arrays.
        mesh: a mesh with all of `mesh.axes.AXES`.
        in_specs: a PartitionSpec, or a tree of them, per argument.
        out_specs: the same for the result. Every output must be split over all batch axes;
            replicated outputs are not checked.
    """
    # An axis of size 1 has nothing to leave to the compiler, and a region that is manual over all
    # axes keeps reductions plain: XLA's CPU backend aborts on bfloat16 all-reduces of a partially
    # manual region (jaxlib 0.10.2, "Invalid binary instruction opcode copy").
    manual = {axis for axis, size in mesh.shape.items() if size == 1 or axis in BATCH_AXES}
    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=in_specs,
        out_specs=out_specs,
        axis_names=manual,
        check_vma=False,
    )
