"""Reads the logical axes of a module's variables: where each is stored, and gathering them for use.

Inside an `on_shards` region variables enter as they are stored. The layers dimension is a scan's or
a pipeline's business and is not looked at here.
"""

from typing import Any

import jax
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from moe_jax.sharding.rules import Placement

LAYERS = "layers"
#: Names of gathered parameters, for rematerialisation policies: backward gathers them again.
GATHERED = "gathered_parameter"


def layer_specs(state: nnx.State, placement: Placement) -> nnx.State:
    """Returns `state` with each array replaced by where one layer of it is stored."""

    def one(variable: nnx.Variable) -> nnx.Variable:
        lead = int(variable.axes[0] == LAYERS)
        spec = placement.stored(variable.axes[lead:], variable.shape[lead:])
        return variable.replace(spec)

    return jax.tree.map(one, state, is_leaf=_is_variable)


def gather(state: nnx.State, placement: Placement, *, experts: bool = False) -> nnx.State:
    """Returns one layer's variables whole, but for what the tensor and expert axes keep split.

    The gradient's way back is a reduce-scatter, so that nobody holds a whole gradient.

    Args:
        state: what a device stores of a layer's variables.
        placement: how they are split.
        experts: gather the experts of all devices too.
    """

    def one(variable: nnx.Variable) -> nnx.Variable:
        axes = tuple(axis for axis in variable.axes if axis != LAYERS)
        value = variable[...]
        for dim, names in placement.gathers(axes, experts=experts):
            value = jax.lax.all_gather(value, names, axis=dim, tiled=True)
            value = checkpoint_name(value, GATHERED)
        return variable.replace(value)

    return jax.tree.map(one, state, is_leaf=_is_variable)


def gathers_anything(state: nnx.State, placement: Placement, *, experts: bool = False) -> bool:
    """Whether `gather` does anything to `state`."""
    leaves = jax.tree.leaves(state, is_leaf=_is_variable)
    return any(placement.gathers(leaf.axes, experts=experts) for leaf in leaves)


def with_layers_axis(state: nnx.State) -> nnx.State:
    """Returns a stacked state whose variables say so in their logical axes."""

    def relabel(variable: nnx.Variable) -> nnx.Variable:
        metadata = variable.get_metadata() | {"axes": (LAYERS, *variable.axes)}
        return type(variable)(variable[...], **metadata)

    return jax.tree.map(relabel, state, is_leaf=_is_variable)


def _is_variable(node: Any) -> bool:
    return isinstance(node, nnx.Variable)


def is_spec(node: Any) -> bool:
    """Whether a node of a tree is a PartitionSpec."""
    return isinstance(node, PartitionSpec)
