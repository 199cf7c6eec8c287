"""Runs a function on each device's shards of data and of parameters.

Three acts, each built on the one before:

    on_device_shards   maps a function over the mesh and knows nothing of parameters (`spmd.py`)
    run_stored         hands it parameters as they are stored; it gathers them, layer by layer
    run_gathered       hands it a module whose parameters are gathered, for what is used once
"""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from flax import nnx
from jax.sharding import Mesh

from moe_jax.sharding.params import Variables, gather, stored_specs, with_gathers
from moe_jax.sharding.rules import Placement
from moe_jax.sharding.spmd import on_device_shards


@runtime_checkable
class Placed(Protocol):
    """A mesh, and where parameters live on it: `model.parallel.Parallel`, for one."""

    @property
    def mesh(self) -> Mesh:
        """The devices."""
        ...

    @property
    def placement(self) -> Placement:
        """Where each parameter is stored."""
        ...


def run_stored(
    function: Callable[..., Any],
    on: Placed,
    variables: Variables,
    *args: Any,
    in_specs: tuple[Any, ...],
    out_specs: Any,
) -> Any:
    """Run `function(variables, *args)` on each device's shards, gathering nothing.

    Args:
        function: takes and returns local arrays.
        on: where.
        variables: with whole (global) shapes.
        *args: pytrees of arrays with whole shapes.
        in_specs: one PartitionSpec, or tree of them, per argument after the variables.
        out_specs: the same for the result.

    Returns:
        What the function returns, with whole shapes.
    """
    specs = (stored_specs(variables, on.placement), *in_specs)
    mapped = on_device_shards(function, on.mesh, in_specs=specs, out_specs=out_specs)
    return mapped(variables, *args)


def run_gathered(
    function: Callable[..., Any],
    on: Placed,
    module: Any,
    *args: Any,
    in_specs: tuple[Any, ...],
    out_specs: Any,
) -> Any:
    """Gather a module's parameters, then run `function(module, *args)` on each device's shards.

    Args:
        function: takes and returns local arrays; its module (or tuple of them) is whole but for
            what the tensor axis splits.
        on: where.
        module: a module, or tuple of them, that is no stack of layers.
        *args: pytrees of arrays with whole shapes.
        in_specs: one PartitionSpec, or tree of them, per argument after the module.
        out_specs: the same for the result.

    Returns:
        What the function returns, with whole shapes.
    """
    graphdef, state = nnx.split(module)

    def local(state: nnx.State, *args: Any) -> Any:
        return function(nnx.merge(graphdef, gather(state)), *args)

    marked = with_gathers(state, on.placement)
    return run_stored(local, on, marked, *args, in_specs=in_specs, out_specs=out_specs)
