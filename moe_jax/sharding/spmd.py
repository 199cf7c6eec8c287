"""Runs a function on each device's own shards: the only call of `shard_map`.

The function sees local arrays and may use collectives over every axis of the mesh; the compiler
inserts none by itself. Parameters enter as they are stored. The gradient of one that several
devices hold is summed over them once, when it leaves: not once per use, as the compiler would do
by itself for several streams or loss chunks.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh


def on_device_shards(
    function: Callable[..., Any], mesh: Mesh, *, in_specs: Any, out_specs: Any
) -> Callable[..., Any]:
    """Return `function` mapped over all axes of `mesh`.

    Args:
        function: takes and returns local arrays.
        mesh: a mesh with all of `axes.AXES`.
        in_specs: a PartitionSpec, or a tree of them, per argument.
        out_specs: the same for the result. Over an axis that a spec does not mention, the
            function must return the same everywhere; nothing checks it.
    """
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
